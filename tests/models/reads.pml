/* Reads without a lock (store/read.c) against writers, reused and re-cut chunks, splits and merges of
 * the table and the page that it then gives back (store/hashtable.c), what is undone of these, and a
 * rebuild (store/rebuild.c).
 *
 * Proves: what a reader believes, a value or a miss, was true at some moment between its first and
 * its last load: never a torn value, never another key's, never a false miss, never what is undone.
 *
 * The world: one key, two chunks, two buckets of one slot; the key's bucket is 0 before the split
 * and 1 after it. With -DBEGINS_SPLIT the world begins behind the split, with a value. One process is whoever holds the shard's lock; it may die at any step, and goes
 * on as the one who repairs. A value is two halves. One reader makes one attempt, at any time.
 *
 * Order of memory: stores between two fences are made in every order that C11 allows, and so are
 * the reader's loads; the load of a ref comes before the loads through it, as on every machine that
 * Python runs on. Not covered: a machine on which two other processes see two stores in different
 * orders (it would have to be neither x86, ARMv8 nor RISC-V), and numbers that wrap around.
 *
 * -D that must each be found out, some of them with -DBEGINS_SPLIT:
 *   NO_VERSION_CHECK, NO_WORD_CHECK     store_view_confirm() without one of its comparisons
 *   WORD_FIRST                          view_is_current() compares them in any order
 *   NO_RELEASE_FENCE                    bucket_open() without its fence
 *   NO_ACQUIRE_FENCE                    view_is_current() without its fence
 *   MERGE_CLEARS                        merge_apply() writes to the bucket that goes
 *   MERGE_KEEPS_GENERATION              merge_apply() restores a table word that there was before
 *   REPAIR_KEEPS_GENERATION             shard_repair() leaves the table word that was undone to
 *   NO_REBUILD_FENCE                    shard_rebuild() without the fence behind its mark */

#define OPERATIONS 3
#define DEATHS 2

#define LEVEL 1      /* of the table word: the split is done */
#define REBUILDING 2 /* of the table word */
#define GENERATION 4 /* one, of the table word */

#define MINE 1
#define FOREIGN 2

byte word;
byte version[2];
byte slot[2]; /* chunk + 1; 0: none */

/* What lies in the chunks. */
byte key[2];
byte first[2];
byte second[2];

byte current;  /* what the key's value is; 0: none */
byte possible; /* values, as bits, that the reader may believe */

byte stored;  /* numbers the values */
byte deaths;

inline now_is(value)
{
    current = value;
    possible = possible | (1 << value)
}

/* item_write_header() and the copy of the value; or a page that is cut to another class, whose
 * values may look like an item of ours. Nothing orders these stores. */
inline fill(chunk, new_key, new_first, new_second)
{
    done = 0;
    do
    :: atomic { !(done & 1) -> key[chunk] = new_key; done = done | 1 }
    :: atomic { !(done & 2) -> first[chunk] = new_first; done = done | 2 }
    :: atomic { !(done & 4) -> second[chunk] = new_second; done = done | 4 }
    :: done == 7 -> break
    od
}

/* bucket_open(): where a death would be found, then the version. */
inline bucket_open(bucket)
{
    open = bucket + 1;
    may_die();
#ifndef NO_RELEASE_FENCE
    version[bucket]++;
#endif
    may_die()
}

/* Without the fence the version may be seen after what it announces. */
inline late_version(bucket)
{
#ifdef NO_RELEASE_FENCE
    if
    :: !(version[bucket] & 1) -> version[bucket]++
    :: else
    fi
#endif
    skip
}

inline bucket_close()
{
    version[open - 1]++;
    may_die();
    open = 0
}

/* Any process may be killed between any two of its stores. */
inline may_die()
{
    if
    :: deaths < DEATHS -> deaths++; goto repair
    :: true
    fi
}

/* The journal's words that readers look at; see journal.pml for how they are logged. */
inline begin()
{
    d_step {
        old_slot[0] = slot[0];
        old_slot[1] = slot[1];
        old_word = word;
        uncommitted = true
    }
}

inline commit()
{
    uncommitted = false
}

proctype writer()
{
    byte left = OPERATIONS;
    byte old_slot[2];
    byte old_word;
    bool uncommitted;
    byte open; /* shard->open_version + 1 */
    byte done, chunk, bucket;

next:
    skip;
    d_step { done = 0; chunk = 0; bucket = 0; old_slot[0] = 0; old_slot[1] = 0; old_word = 0 };
    do
    :: left == 0 -> goto end

    /* store_put() */
    :: left > 0 -> left--;
        bucket = word & LEVEL;
        chunk = (slot[bucket] == 1 -> 1 : 0);
        begin();
        stored++;
        fill(chunk, MINE, stored, stored);
        may_die();
        bucket_open(bucket);
        slot[bucket] = chunk + 1;
        late_version(bucket);
        may_die();
        atomic { commit(); now_is(stored) };
        may_die();
        bucket_close()

    /* store_delete(), eviction */
    :: left > 0 && current != 0 -> left--;
        bucket = word & LEVEL;
        begin();
        bucket_open(bucket);
        slot[bucket] = 0;
        late_version(bucket);
        may_die();
        atomic { commit(); now_is(0) };
        may_die();
        bucket_close()

    /* The free chunk becomes part of something else; its bytes are a client's. */
    :: left > 0 -> left--;
        bucket = word & LEVEL;
        chunk = (slot[bucket] == 1 -> 1 : 0);
        if
        :: fill(chunk, MINE, 6, 6)
        :: fill(chunk, FOREIGN, 7, 7)
        fi

    /* split_apply() */
    :: left > 0 && !(word & LEVEL) -> left--;
        begin();
        slot[1] = old_slot[0];
        may_die();
        bucket_open(0);
        slot[0] = 0;
        may_die();
        word = word | LEVEL;
        late_version(0);
        may_die();
        commit();
        may_die();
        bucket_close()

    /* merge_apply() */
    :: left > 0 && (word & LEVEL) -> left--;
        begin();
        bucket_open(0);
        slot[0] = old_slot[1];
        may_die();
#ifdef MERGE_CLEARS
        slot[1] = 0;
        may_die();
#endif
#ifdef MERGE_KEEPS_GENERATION
        word = word & ~LEVEL;
#else
        word = (word & ~LEVEL) + GENERATION;
#endif
        late_version(0);
        may_die();
        commit();
        may_die();
        bucket_close();
        /* release_primary_page(): the page is anything, and one of zeroes when it comes back. */
        if
        :: true
        :: slot[1] = 2 - chunk; version[1] = 0; slot[1] = 0
        fi

    /* store_rebuild() */
    :: left > 0 -> left--; goto rebuild
    od;
    goto next;

    /* shard_repair() */
repair:
    if
    :: word & REBUILDING -> goto rebuild
    :: else
    fi;
    if
    :: uncommitted ->
        /* Newest first; here each word is changed once. */
        if
        :: word != old_word -> word = old_word; may_die()
        :: else
        fi;
        slot[1] = (old_word & LEVEL -> old_slot[1] : slot[1]);
        may_die();
        slot[0] = old_slot[0];
        may_die();
        commit()
    :: else
    fi;
#ifndef REPAIR_KEEPS_GENERATION
    word = word + GENERATION;
    may_die();
#endif
    if
    :: open != 0 && (version[open - 1] & 1) -> bucket_close()
    :: else -> open = 0
    fi;
    goto next;

    /* shard_rebuild(): what lives is told by the chunks. */
rebuild:
    done = 0;
#ifndef NO_REBUILD_FENCE
    word = word | REBUILDING;
#endif
    may_die();
    do
    :: atomic { !(done & 1) -> slot[0] = 0; done = done | 1 }
    :: atomic { !(done & 2) -> slot[1] = 0; done = done | 2 }
    :: done == 3 -> break
    od;
    word = word | REBUILDING;
    may_die();
    version[0] = (version[0] | 1) + 1;
    may_die();
    version[1] = (version[1] | 1) + 1;
    may_die();
    word = ((word & ~LEVEL) + GENERATION) | REBUILDING;
    may_die();
    if
    :: current != 0 ->
        chunk = (key[0] == MINE && first[0] == current && second[0] == current -> 0 : 1);
        slot[0] = chunk + 1
    :: else
    fi;
    may_die();
    word = word & ~REBUILDING;
    open = 0;
    uncommitted = false;
    goto next;

end:
    skip
}

proctype reader()
{
    byte the_word, the_version, ref, bucket;
    byte the_key, the_first, the_second;
    byte seen;
    byte result;
    bool same_version, same_word;

    /* view_once() */
    atomic { the_word = word; possible = 1 << current };
    if
    :: the_word & REBUILDING -> goto locked
    :: else
    fi;
    bucket = the_word & LEVEL;
    the_version = version[bucket];
    if
    :: the_version & 1 -> goto locked
    :: else
    fi;

    do
    :: atomic { !(seen & 1) -> ref = slot[bucket]; seen = seen | (ref == 0 -> 15 : 1) }
    :: atomic { (seen & 1) && !(seen & 2) -> the_key = key[ref - 1]; seen = seen | 2 }
    :: atomic { (seen & 1) && !(seen & 4) -> the_first = first[ref - 1]; seen = seen | 4 }
    :: atomic { (seen & 1) && !(seen & 8) -> the_second = second[ref - 1]; seen = seen | 8 }
    /* store_view_confirm() */
#ifdef NO_ACQUIRE_FENCE
#define ALL_COPIED true
#else
#define ALL_COPIED ((seen & 15) == 15)
#endif
    :: atomic { ALL_COPIED && !(seen & 16) ->
        same_version = version[bucket] == the_version; seen = seen | 16 }
#ifdef WORD_FIRST
#define VERSION_SEEN true
#else
#define VERSION_SEEN (seen & 16)
#endif
    :: atomic { ALL_COPIED && VERSION_SEEN && !(seen & 32) ->
        same_word = word == the_word; seen = seen | 32 }
    :: seen == 63 -> break
    od;

    if
#ifdef NO_VERSION_CHECK
    :: same_word ->
#else
#ifdef NO_WORD_CHECK
    :: same_version ->
#else
    :: same_version && same_word ->
#endif
#endif
        d_step {
            result = 0;
            if
            :: ref != 0 && the_key == MINE ->
                assert(the_first == the_second); /* torn */
                result = the_first
            :: else
            fi;
            assert(possible & (1 << result))
        }
    :: else
    fi;

locked:
    skip
}

init
{
    atomic {
#ifdef BEGINS_SPLIT
        word = LEVEL;
        version[1] = 2;
        slot[1] = 1;
        key[0] = MINE;
        first[0] = 5;
        second[0] = 5;
        current = 5;
#endif
        possible = 1 << current;
        run writer();
        run reader()
    }
}
