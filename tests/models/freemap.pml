/* Where the free pages are (mem/freemap.c, with take_in_hand(), pool_give_back() and
 * recover_page() of mem/growth.c), with a death anywhere.
 *
 * Proves: a page that is free has its bit at every moment; and once the processes are at rest and
 * the dead are recovered, it has the bits of all summaries above it, so that a search from the top
 * finds it, and no other page has a bit.
 *
 * The world: two pages, bits of one word or (OWN_WORDS) of two; a level 1 of one word with a bit for
 * each of these; a level 2 of one word with one bit. Two workers that take and give, and the
 * supervisor, which recovers and does not die, for the node ends with it.
 *
 * Order of memory: every step here is one load, store or atomic change, and all processes see them
 * in one order, which is what seq_cst gives. The search of a worker goes from the top down and
 * clears what it finds set above a word that is 0. Not covered: shards and their journal, whose part
 * pages.pml is; the maintainer, which is not needed.
 *
 * -D that must each be found out:
 *   FREE_BEFORE_BIT   a page becomes free before its bit is set
 *   NO_LOOK_AGAIN     the bit above is cleared without another look at the word
 *   CLEAR_UNNAMED     a search clears a summary without naming a page
 *   NOT_CONFIRMED     recover_page() does not look at the summaries
 *   UPPER_FIRST       the bits above are set before the one below */

#define PAGES 2
#define WORKERS 2
#define DEATHS 2
#define NOBODY 0

#define SHARD 0
#define FREE 1
#define HAND(worker) (2 + (worker))

#ifdef OWN_WORDS
#define WORD(page) (page)
#define BIT(page) 1
#else
#define WORD(page) 0
#define BIT(page) (1 << (page))
#endif
#define SUMMARY(page) (1 << WORD(page)) /* its bit in level 1 */

byte owner[PAGES];
byte level_0[2];
byte level_1;
bit level_2;

byte in_flight[WORKERS]; /* page + 1 */
bit dead[WORKERS];
byte finished;
byte deaths;

inline may_die()
{
    if
    :: atomic { who < WORKERS && deaths < DEATHS -> deaths++ }; goto death
    :: true
    fi
}

/* ---- the map ---- */

/* summarize() above a word of level 0 that is not 0 */
inline set_above(p)
{
    if
    :: atomic { level_1 & SUMMARY(p) -> skip }
    :: atomic { !(level_1 & SUMMARY(p)) -> skip };
        may_die();
        level_1 = level_1 | SUMMARY(p)
    fi;
    may_die();
    set_top()
}

inline set_top()
{
    if
    :: level_2
    :: !level_2 -> may_die(); level_2 = 1
    fi
}

inline map_set(p)
{
#ifdef UPPER_FIRST
    set_above(p);
    may_die();
    level_0[WORD(p)] = level_0[WORD(p)] | BIT(p)
#else
    level_0[WORD(p)] = level_0[WORD(p)] | BIT(p);
    may_die();
    set_above(p)
#endif
}

/* clear_summaries() above level 0: `others` is what the atomic change returns. */
inline clear_above(p)
{
    atomic {
        level_1 = level_1 & ~SUMMARY(p);
        others = level_1
    };
    may_die();
#ifndef NO_LOOK_AGAIN
    if
    :: level_0[WORD(p)] != 0 -> set_above(p)
    :: level_0[WORD(p)] == 0 ->
#endif
        may_die();
        if
        :: others == 0 -> clear_top(p)
        :: else
        fi
#ifndef NO_LOOK_AGAIN
    fi
#endif
}

inline clear_top(p)
{
    level_2 = 0;
    may_die();
#ifndef NO_LOOK_AGAIN
    if
    :: level_1 != 0 -> set_top()
    :: level_1 == 0
    fi
#endif
}

inline map_clear(p)
{
    atomic {
        level_0[WORD(p)] = level_0[WORD(p)] & ~BIT(p);
        others = level_0[WORD(p)]
    };
    may_die();
    if
    :: others == 0 -> clear_above(p)
    :: else
    fi
}

inline name_page(p)
{
#ifndef CLEAR_UNNAMED
    in_flight[who] = p + 1;
    may_die()
#else
    skip
#endif
}

/* freemap_next(): from the top down. */
inline find()
{
    page = PAGES;
    if
    :: !level_2
    :: level_2 ->
        may_die();
        if
        :: level_1 & 1 -> page = 0
        :: level_1 & 2 -> page = 1
        :: level_1 == 0 -> name_page(0); clear_top(0); may_die(); in_flight[who] = 0
        fi;
        if
        :: page == PAGES
        :: page < PAGES ->
            may_die();
            if
#ifdef OWN_WORDS
            :: level_0[page] != 0
#else
            :: level_0[0] & 1 -> page = 0
            :: level_0[0] & 2 -> page = 1
#endif
            :: level_0[WORD(page)] == 0 ->
                name_page(page);
                clear_above(page);
                may_die();
                in_flight[who] = 0;
                page = PAGES
            fi
        fi
    fi
}

/* ---- pages ---- */

inline take()
{
    find();
    if
    :: page == PAGES
    :: page < PAGES ->
        may_die();
        in_flight[who] = page + 1;
        may_die();
        if
        :: atomic { owner[page] == FREE -> owner[page] = HAND(who) };
            may_die();
            map_clear(page)
        :: owner[page] != FREE -> in_flight[who] = 0; page = PAGES
        fi
    fi
}

inline give_back(p)
{
    assert(owner[p] == HAND(who));
#ifdef FREE_BEFORE_BIT
    owner[p] = FREE;
    may_die();
    map_set(p);
#else
    map_set(p);
    may_die();
    owner[p] = FREE;
#endif
    may_die();
    in_flight[who] = 0
}

/* ---- processes ---- */

proctype worker(byte who; byte left)
{
    byte page, others;

alive:
    skip;
    do
    :: left == 0 -> break
    /* A page from the pool, for a shard or back. */
    :: left > 0 ->
        left--;
        take();
        may_die();
        if
        :: page < PAGES -> give_back(page)
        :: page < PAGES -> owner[page] = SHARD; may_die(); in_flight[who] = 0
        :: page == PAGES
        fi
    /* A page of a shard, into the pool. */
    :: left > 0 ->
        left--;
        page = PAGES;
        if
        :: owner[0] == SHARD -> page = 0
        :: owner[1] == SHARD -> page = 1
        :: owner[0] != SHARD && owner[1] != SHARD
        fi;
        if
        :: page < PAGES ->
            in_flight[who] = page + 1;
            may_die();
            /* Under the shard's lock. */
            if
            :: atomic { owner[page] == SHARD -> owner[page] = HAND(who) };
                may_die();
                give_back(page)
            :: owner[page] != SHARD -> in_flight[who] = 0
            fi
        :: else
        fi
    od;
    finished++;
    goto end;

death:
    skip;
    d_step { page = 0; others = 0; dead[who] = 1 };
    !dead[who];
    goto alive;
end:
    skip
}

/* recover_page() */
inline recover(slot)
{
    page = in_flight[slot];
    if
    :: page != 0 ->
        page--;
#ifndef NOT_CONFIRMED
        if
        :: level_0[WORD(page)] != 0 -> set_above(page)
        :: level_0[WORD(page)] == 0
        fi;
        if
        :: level_1 != 0 -> set_top()
        :: level_1 == 0
        fi;
#endif
        if
        :: owner[page] == HAND(slot) -> map_set(page); owner[page] = FREE
        :: owner[page] != HAND(slot)
        fi
    :: else
    fi;
    in_flight[slot] = 0;
    page = 0;
    dead[slot] = 0
}

proctype supervisor()
{
    byte who = WORKERS;
    byte page;
    do
    :: dead[0] -> recover(0)
    :: dead[1] -> recover(1)
    :: finished == WORKERS && !dead[0] && !dead[1] -> break
    od;
    skip;
    d_step {
        assert(owner[0] <= FREE && owner[1] <= FREE);
        assert(!(owner[0] == FREE) == !(level_0[WORD(0)] & BIT(0)));
        assert(!(owner[1] == FREE) == !(level_0[WORD(1)] & BIT(1)));
        assert(owner[0] != FREE || (level_2 && (level_1 & SUMMARY(0))));
        assert(owner[1] != FREE || (level_2 && (level_1 & SUMMARY(1))))
    };
    goto end;
death: /* Never: may_die() is for workers. */
    assert(false);
end:
    skip
}

/* In every state. */
active proctype monitor()
{
end:
    atomic {
        (owner[0] == FREE && !(level_0[WORD(0)] & BIT(0))) ||
        (owner[1] == FREE && !(level_0[WORD(1)] & BIT(1))) -> assert(false)
    }
}

init
{
    atomic {
        owner[0] = FREE;
        level_0[WORD(0)] = BIT(0);
        level_1 = SUMMARY(0);
        level_2 = 1;
        owner[1] = SHARD;
        run worker(0, 2);
        run worker(1, 2);
        run supervisor()
    }
}
