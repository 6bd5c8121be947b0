/* Whose a page is (mem/page.c, and page_attach() and page_detach() of store/slab.c), with a death
 * anywhere, of whoever repairs too.
 *
 * Proves: no page has two owners and none is lost; what a process believes to have in hand is in
 * its hand; a page that is free or a shard's has memory; and once the dead are recovered, the
 * pool's count of pages with memory is right. A page that another shard gave stays in the hand of
 * whom it is for, while the one lock is left and the other taken.
 *
 * The world: two pages; a shard, whose lists are one bit a page, with its lock and its journal; the
 * pool with its grow lock; two workers and the supervisor, which recovers (store_recover()) and does
 * not die, for the node ends with it. The locks are robust: who dies leaves them orphaned.
 *
 * Order of memory: every step here is one store or one compare-and-swap, and steps are seen in
 * their order. It is enough: the owner changes hands by compare-and-swap, by the locks, or by a
 * death, and the supervisor has reaped the dead before it looks. Not covered: where free pages are
 * looked for, which freemap.pml is about, and a populate that fails.
 *
 * -D that must each be found out:
 *   NAMELESS_HAND       the owner word says "in hand" without saying in whose
 *   NAME_AFTERWARDS     a page is taken first and named in the slot then
 *   NAME_NOT_DETACHED   page_detach() does not name the page
 *   RECOVER_AT_ONCE     store_recover() does not wait for who undoes the dead one's journal
 *   RECOVER_UNPOPULATED pool_recover() gives back a page whose memory may be gone
 *   DETACH_OVER_HAND    page_detach() with another page in hand */

#define PAGES 2
#define WORKERS 2
#define DEATHS 2
#define NOBODY 0
#define ORPHAN 9

#define FREE 0
#define ABSENT 1
#define SHARD 2
#ifdef NAMELESS_HAND
#define HAND(worker) 3
#else
#define HAND(worker) (3 + (worker))
#endif

byte owner[PAGES];
bit listed[PAGES];  /* in the shard's lists */
bit memory[PAGES];
byte present_count; /* [grow] */

byte in_flight[WORKERS]; /* page + 1 */
bit locked_shard[WORKERS];
bit dead[WORKERS];
byte finished;
byte deaths;

byte shard_lock_of; /* worker + 1, NOBODY, ORPHAN; the supervisor is WORKERS + 1 */
byte grow_lock_of;

/* The journal: its words in the order in which they are logged here. */
byte journal_count;
byte journal_page;
byte journal_owner;
bit journal_listed;

inline may_die()
{
    if
    :: atomic { who < WORKERS && deaths < DEATHS -> deaths++ }; goto death
    :: true
    fi
}

/* ---- locks ---- */

inline journal_undo()
{
    do
    :: journal_count == 2 -> listed[journal_page] = journal_listed; may_die(); journal_count = 1
    :: journal_count == 1 -> owner[journal_page] = journal_owner; may_die(); journal_count = 0
    :: journal_count == 0 -> break
    od
}

inline shard_lock()
{
    if
    :: atomic { shard_lock_of == NOBODY -> shard_lock_of = who + 1 };
        note_holder()
    :: atomic { shard_lock_of == ORPHAN -> shard_lock_of = who + 1 };
        note_holder();
        /* In the code each word is restored and the count set to 0 at the end; the same words again
         * are restored by who comes after a repairer's death. */
        journal_undo()
    fi
}

inline note_holder()
{
    if
    :: who < WORKERS -> may_die(); locked_shard[who] = 1
    :: else
    fi
}

inline shard_unlock()
{
    if
    :: who < WORKERS -> locked_shard[who] = 0; may_die()
    :: else
    fi;
    shard_lock_of = NOBODY
}

/* pool_lock() with pool_repair() */
inline pool_lock()
{
    if
    :: atomic { grow_lock_of == NOBODY -> grow_lock_of = who + 1 }
    :: atomic { grow_lock_of == ORPHAN -> grow_lock_of = who + 1 };
        may_die();
        present_count = (owner[0] != ABSENT) + (owner[1] != ABSENT)
    fi
}

inline pool_unlock()
{
    grow_lock_of = NOBODY
}

/* ---- pages ---- */

/* take_in_hand(), of a page that was seen free. The page is then `in_hand`. */
inline pool_take()
{
    if
    :: owner[0] == FREE -> page = 0
    :: owner[1] == FREE -> page = 1
    :: owner[0] != FREE && owner[1] != FREE -> page = PAGES
    fi;
    if
    :: page < PAGES ->
#ifndef NAME_AFTERWARDS
        in_flight[who] = page + 1;
        may_die();
#endif
        if
        :: atomic { owner[page] == FREE -> owner[page] = HAND(who); in_hand = page + 1 }
        :: owner[page] != FREE
        fi;
        may_die();
        in_flight[who] = in_hand
    :: else
    fi
}

inline pool_give_back(p)
{
    assert(owner[p] == HAND(who) && memory[p]);
    owner[p] = FREE;
    may_die();
    in_flight[who] = 0;
    in_hand = 0
}

/* The journal is written for these, a store at a time. */
inline log_owner(p)
{
    d_step { journal_page = p; journal_owner = owner[p] };
    may_die();
    journal_count = 1;
    may_die()
}

inline log_listed(p)
{
    journal_listed = listed[p];
    may_die();
    journal_count = 2;
    may_die()
}

/* Under the shard's lock, the page in hand. */
inline page_attach(p)
{
    assert(owner[p] == HAND(who) && !listed[p]);
    assert(memory[p]); /* page_format() */
    log_owner(p);
    log_listed(p);
    listed[p] = 1;
    may_die();
    owner[p] = SHARD;
    may_die();
    journal_count = 0;
    may_die();
    in_flight[who] = 0;
    in_hand = 0
}

inline page_detach(p)
{
#ifndef DETACH_OVER_HAND
    /* pool_give_back_any() */
    if
    :: in_hand != 0 -> pool_give_back(in_hand - 1); may_die()
    :: else
    fi;
#endif
#ifndef NAME_NOT_DETACHED
    in_flight[who] = p + 1;
    may_die();
#endif
    log_owner(p);
    log_listed(p);
    listed[p] = 0;
    may_die();
    owner[p] = HAND(who);
    may_die();
    journal_count = 0;
    may_die();
#ifdef NAME_NOT_DETACHED
    in_flight[who] = p + 1;
#endif
    in_hand = p + 1
}

/* The host takes the memory back, if there is more than the limit. */
inline pool_drop(p)
{
    pool_lock();
    may_die();
    if
    :: true ->
        assert(owner[p] == HAND(who));
        memory[p] = 0; /* punch() */
        may_die();
        owner[p] = ABSENT;
        may_die();
        present_count--;
        may_die();
        in_flight[who] = 0;
        in_hand = 0
    :: pool_give_back(p)
    fi;
    may_die();
    pool_unlock()
}

/* populate_absent() */
inline pool_grow()
{
    pool_lock();
    may_die();
    if
    :: owner[0] == ABSENT -> page = 0
    :: owner[1] == ABSENT -> page = 1
    :: owner[0] != ABSENT && owner[1] != ABSENT -> page = PAGES
    fi;
    if
    :: page < PAGES ->
        memory[page] = 1;
        may_die();
        owner[page] = FREE;
        may_die();
        present_count++;
        may_die()
    :: else
    fi;
    pool_unlock()
}

/* ---- processes ---- */

proctype worker(byte who; byte left)
{
    byte page, in_hand;

alive:
    skip;
    do
    :: left == 0 && in_hand == 0 -> break
    :: left > 0 && in_hand == 0 -> left--; pool_grow()
    /* slab_ensure(): from the pool, into the shard */
    :: left > 0 && in_hand == 0 -> left--;
        shard_lock();
        may_die();
        pool_take();
        may_die();
        if
        :: in_hand != 0 -> page_attach(in_hand - 1)
        :: else
        fi;
        may_die();
        shard_unlock()
    /* slab_page_for_other(), slab_release_empty(): a page of the shard, in hand behind the lock */
    :: left > 0 -> left--;
        shard_lock();
        may_die();
        if
        :: listed[0] -> page_detach(0)
        :: listed[1] -> page_detach(1)
        :: !listed[0] && !listed[1]
        fi;
        may_die();
        shard_unlock()
    /* room_make() comes back with it, */
    :: in_hand != 0 ->
        may_die();
        shard_lock();
        may_die();
        page_attach(in_hand - 1);
        may_die();
        shard_unlock()
    /* or without need of it. */
    :: in_hand != 0 -> may_die(); pool_give_back(in_hand - 1)
    /* store_shrink() */
    :: left > 0 && in_hand == 0 -> left--; pool_take()
    :: in_hand != 0 -> may_die(); pool_drop(in_hand - 1)
    od;
    finished++;
    goto end;

death:
    skip;
    d_step {
        if
        :: shard_lock_of == who + 1 -> shard_lock_of = ORPHAN
        :: else
        fi;
        if
        :: grow_lock_of == who + 1 -> grow_lock_of = ORPHAN
        :: else
        fi;
        page = 0;
        in_hand = 0;
        dead[who] = 1
    };
    !dead[who];
    goto alive;
end:
    skip
}

/* store_recover(), pool_recover() */
inline recover(slot)
{
    if
#ifndef RECOVER_AT_ONCE
    :: locked_shard[slot] -> shard_lock(); shard_unlock()
    :: !locked_shard[slot] && shard_lock_of == ORPHAN -> shard_lock(); shard_unlock()
    :: !locked_shard[slot] && shard_lock_of != ORPHAN
#else
    :: shard_lock_of == ORPHAN -> shard_lock(); shard_unlock()
    :: shard_lock_of != ORPHAN
#endif
    fi;
    pool_lock();
    page = in_flight[slot];
    if
    :: page != 0 ->
#ifdef NAMELESS_HAND
        the_owner = owner[page - 1];
        elsewhere = in_flight[1 - slot] == page;
        if
        :: the_owner == HAND(slot) && !elsewhere ->
#else
        if
        :: owner[page - 1] == HAND(slot) ->
#endif
#ifndef RECOVER_UNPOPULATED
            memory[page - 1] = 1; /* populate() */
#endif
            assert(memory[page - 1]);
            owner[page - 1] = FREE
        :: else
        fi
    :: else
    fi;
    in_flight[slot] = 0;
    pool_unlock();
    locked_shard[slot] = 0;
    page = 0;
    dead[slot] = 0
}

proctype supervisor()
{
    byte who = WORKERS;
    byte page;
#ifdef NAMELESS_HAND
    byte the_owner;
    bool elsewhere;
#endif
    do
    :: dead[0] -> recover(0)
    :: dead[1] -> recover(1)
    :: finished == WORKERS && !dead[0] && !dead[1] -> break
    od;
    skip;
    d_step {
        assert(shard_lock_of == NOBODY && grow_lock_of == NOBODY && journal_count == 0);
        assert(owner[0] <= SHARD && owner[1] <= SHARD);
        assert(listed[0] == (owner[0] == SHARD) && listed[1] == (owner[1] == SHARD));
        assert((memory[0] || owner[0] == ABSENT) && (memory[1] || owner[1] == ABSENT));
        assert(present_count == (owner[0] != ABSENT) + (owner[1] != ABSENT))
    };
    goto end;
death: /* Never: may_die() is for workers. */
    assert(false);
end:
    skip
}

init
{
    atomic {
        owner[0] = FREE;
        memory[0] = 1;
        owner[1] = SHARD;
        listed[1] = 1;
        memory[1] = 1;
        present_count = 2;
        run worker(0, 2);
        run worker(1, 1);
        run supervisor()
    }
}
