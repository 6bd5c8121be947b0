/* The count of a hit (store_view_confirm() in store/read.c): a compare-and-swap of the state word
 * from what was read inside the validated section, at any time after it.
 *
 * Proves: whatever the chunk has become meanwhile, the swap changes nothing but the hit count of a
 * live item. Within fewer reuses than there are generations, and while the page keeps its class, it
 * is the very item that was read (SAME_PAGE, a variant that must hold).
 *
 * What a wrap costs: after as many reuses of the chunk as there are generations (16), all while
 * one reader stands between its last look and its swap, and with the same time of access in the
 * word, or after a page was cut to another class and back, another item gets one hit too many
 * (SAME_PAGE_AND_WRAP finds that).
 *
 * Assumed: a value's four bytes at the place of a state word are not by chance the word that is
 * expected: kind, generation, count and second of the last access, 32 bits (-DBYTES_MAY_MATCH).
 *
 * Here a word has two bits of generation; the steps are those of whoever holds the shard's lock, and
 * one reader's. Nothing here depends on the order of memory: it is one word.
 *
 * -D that must each be found out:
 *   SAME_PAGE_AND_WRAP   the cost above
 *   NO_GENERATION        chunk_push() and page_format() leave the generation alone (with SAME_PAGE)
 *   PLAIN_STORE          the hit is stored and not swapped in
 *   BYTES_MAY_MATCH      the assumption above */

#define GENERATIONS 4

#if defined(SAME_PAGE_AND_WRAP) || defined(NO_GENERATION)
#define SAME_PAGE
#endif
#if defined(SAME_PAGE) && !defined(SAME_PAGE_AND_WRAP)
#define REUSES 3
#else
#define REUSES 5
#endif

mtype = { FREE, LIVE, VALUE }; /* VALUE: bytes of an item that covers this place */

/* The word, and what only the model knows of it. */
mtype kind = LIVE;
byte generation = 0;
byte count = 0;
byte item = 0;

bool linked = true; /* readers find the item */

byte reuses;

inline next_generation()
{
#ifndef NO_GENERATION
    generation = (generation + 1) % GENERATIONS
#else
    skip
#endif
}

/* Under the shard's lock; what a dead process had begun is undone. The time of access is the same
 * throughout: the worst case. */
proctype writer()
{
    byte old_generation, old_count;
    do
    /* Unlinked and freed: chunk_push() */
    :: atomic { kind == LIVE ->
            old_generation = generation;
            old_count = count;
            linked = false;
            kind = FREE;
            count = 0;
            next_generation()
        };
        if
        :: true
        :: d_step { kind = LIVE; generation = old_generation; count = old_count; linked = true }
        fi;
        d_step { old_generation = 0; old_count = 0 }
    /* chunk_pop(), item_publish(); an overwritten item passes its hits on */
    :: atomic { kind == FREE && reuses < REUSES ->
            reuses++;
            kind = LIVE;
            item++;
            if
            :: count = 0
            :: count = 1
            fi
        };
        if
        :: linked = true
        :: d_step { kind = FREE; count = 0 }
        fi
    /* The clock's hand, item_hit_locked() */
    :: atomic { kind == LIVE && count > 0 -> count-- }
    :: atomic { kind == LIVE && count < 3 -> count++ }
#ifndef SAME_PAGE
    /* page_drain(), page_detach(), page_format() to a larger class, and a value in it */
    :: atomic { kind == FREE -> kind = VALUE }
    /* and back: page_format() counts on from what it finds there. */
    :: atomic { kind == VALUE && reuses < REUSES ->
        reuses++;
        kind = FREE;
        count = 0;
        if
        :: generation = 0
        :: generation = 1
        :: generation = 2
        :: generation = 3
        fi }
#endif
    :: reuses == REUSES -> break
    od
}

proctype reader()
{
    byte the_generation, the_count, the_item;
    /* Read and validated: all of it was so at one moment (reads.pml). */
end_nothing_to_read:
    atomic {
        linked && kind == LIVE && count < 3 ->
        the_generation = generation;
        the_count = count;
        the_item = item
    };
    atomic {
#ifdef PLAIN_STORE
        if
        :: true ->
#else
        if
        :: kind == LIVE && generation == the_generation && count == the_count ->
#ifdef BYTES_MAY_MATCH
            skip
        :: kind == VALUE ->
#endif
#endif
            assert(kind == LIVE);
#ifdef SAME_PAGE
            assert(item == the_item);
#endif
            count = the_count + 1
        :: else
        fi
    }
}

init
{
    atomic { run writer(); run reader() }
}
