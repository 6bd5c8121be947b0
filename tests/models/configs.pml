/* Configurations (mem/config_table.c): reads without a lock against changes, and deaths of whoever
 * makes them.
 *
 * Proves: what a reader believes, a value or that there is none, was true at some moment between
 * its first and its last load: never a torn value, never another key's, never a false miss. And a
 * change that was cut off has happened or has not.
 *
 * The world: two entries of two copies, two keys, of which the reader asks for one. A value is two
 * halves. One process has the lock; it may die at any step, and goes on as the next who gets it. One
 * reader makes one attempt, at any time.
 *
 * Order of memory: as in reads.pml. Not covered: sequence numbers that wrap around, of which there
 * are 2^62.
 *
 * -D that must each be found out:
 *   NO_CONFIRM           config_confirm() that always agrees
 *   NO_ACQUIRE_FENCE     config_confirm() without its fence
 *   NO_ACQUIRE_LOAD      view_entry() that loads the state word without acquire
 *   NO_RELEASE_FENCE     fill() without its fence
 *   NO_RELEASE_STORE     publish() without release
 *   SAME_COPY            fill() of the copy that the state word names
 *   SAME_SEQUENCE        a state word that only names the copy, and does not count
 *   FIRST_FREE           place_for() that does not look for the key */

#define OPERATIONS 3
#define DEATHS 1

#define PRESENT 1
#define COPY 2
#define STEP 4 /* of the sequence */

#define MINE 1
#define OTHER 2

/* What others see, and what the process that has the lock has stored. */
byte state[2];
byte stored_state[2];

/* By entry * 2 + copy. */
byte key[4];
byte first[4];
byte second[4];

byte current;  /* what the reader's key has; 0: nothing */
byte possible; /* values, as bits, that the reader may believe */
byte values;   /* numbers them */
byte deaths;

/* Others see what was stored. */
inline reveal(e)
{
    d_step {
        if
        :: state[e] != stored_state[e] -> state[e] = stored_state[e];
            if
            :: (state[e] & PRESENT) && key[e * 2 + (state[e] & COPY) / 2] == MINE ->
                current = first[e * 2 + (state[e] & COPY) / 2];
                possible = possible | (1 << current)
            :: !(state[e] & PRESENT) && mine_at == e + 1 ->
                current = 0;
                possible = possible | 1
            :: else
            fi
        :: else
        fi
    }
}

inline may_die()
{
    if
    :: deaths < DEATHS -> deaths++; goto died
    :: true
    fi
}

/* Nothing orders these stores among each other. */
inline fill(at, new_key, value)
{
    done = 0;
    do
    :: atomic { !(done & 1) -> key[at] = new_key; done = done | 1 }; may_die()
    :: atomic { !(done & 2) -> first[at] = value; done = done | 2 }; may_die()
    :: atomic { !(done & 4) -> second[at] = value; done = done | 4 }; may_die()
#ifdef NO_RELEASE_FENCE
    :: reveal(0); reveal(1)
#endif
    :: done == 7 -> break
    od;
    skip
}

/* What a process stored before it dies or lets go of the lock is seen by whoever comes next. */
inline publish(e, word)
{
    stored_state[e] = word;
#ifndef NO_RELEASE_FENCE
    reveal(e)
#endif
}

proctype writer()
{
    byte left = OPERATIONS;
    byte asked, entry, at, done, word;
    byte mine_at; /* entry + 1 where others see the reader's key */

next:
    skip;
    d_step { asked = 0; entry = 0; at = 0; done = 0; word = 0 };
    do
    :: left == 0 -> goto end
    :: left > 0 -> left--;
        /* Which key, and what with it. */
        if
        :: asked = MINE
        :: asked = OTHER
        fi;
        /* place_for(), under the lock */
        d_step {
            entry = 2;
#ifndef FIRST_FREE
            if
            :: (stored_state[0] & PRESENT) && key[(stored_state[0] & COPY) / 2] == asked -> entry = 0
            :: (stored_state[1] & PRESENT) && key[2 + (stored_state[1] & COPY) / 2] == asked ->
                entry = 1
            :: else
            fi;
#endif
            at = entry; /* 2: it is not there */
            if
            :: entry == 2 && !(stored_state[0] & PRESENT) -> entry = 0
            :: entry == 2 && (stored_state[0] & PRESENT) && !(stored_state[1] & PRESENT) -> entry = 1
            :: else
            fi
        };
        if
        :: entry < 2 ->
            /* config_set() */
            d_step {
                values++;
                word = stored_state[entry];
#ifdef SAME_COPY
                word = (word & ~COPY) | PRESENT;
#else
                word = (word ^ COPY) | PRESENT;
#endif
#ifndef SAME_SEQUENCE
                word = word + STEP;
#endif
                at = entry * 2 + (word & COPY) / 2
            };
#ifdef NO_RELEASE_STORE
            key[at] = asked;
            first[at] = values;
            d_step { if :: asked == MINE -> mine_at = entry + 1 :: else fi };
            publish(entry, word);
            may_die();
            second[at] = values;
#else
            fill(at, asked, values);
            d_step { if :: asked == MINE -> mine_at = entry + 1 :: else fi };
            publish(entry, word);
#endif
            may_die()
        :: at < 2 ->
            /* config_delete() */
            publish(at, (stored_state[at] + STEP) & ~PRESENT);
            d_step { if :: asked == MINE -> mine_at = 0 :: else fi };
            may_die()
        :: else
        fi
    od;

died:
    skip;
    reveal(0);
    reveal(1);
    goto next;

end:
    skip;
    reveal(0);
    reveal(1)
}

/* The bytes of a copy, in any order. */
inline load_bytes(at)
{
    loaded = 0;
    do
    :: !(loaded & 1) -> k = key[at]; loaded = loaded | 1
    :: !(loaded & 2) -> a = first[at]; loaded = loaded | 2
    :: !(loaded & 4) -> b = second[at]; loaded = loaded | 4
#ifdef NO_ACQUIRE_FENCE
    :: again = state[entry]
#endif
    :: loaded == 7 -> break
    od
}

proctype reader()
{
    byte entry, word, again, loaded, k, a, b;

    possible = 1 << current;
    do
    :: entry == 2 ->
        assert(possible & 1);
        break
    :: entry < 2 ->
#ifdef NO_ACQUIRE_LOAD
        /* The bytes may come first, from where the word is guessed to point. */
        again = state[entry];
        load_bytes(entry * 2 + (again & COPY) / 2);
        word = state[entry];
        if
        :: (word & COPY) != (again & COPY) -> break
        :: else
        fi;
#else
        word = state[entry];
        again = word;
#endif
        if
        :: !(word & PRESENT) -> entry++
        :: else ->
#ifndef NO_ACQUIRE_LOAD
            load_bytes(entry * 2 + (word & COPY) / 2);
#endif
#ifndef NO_ACQUIRE_FENCE
            again = state[entry];
#endif
#ifdef NO_CONFIRM
            again = word;
#endif
            if
            :: k != MINE -> entry++
            :: k == MINE && again == word ->
                assert(a == b && (possible & (1 << a)));
                break
            :: else -> break /* It will look again. */
            fi
        fi
    od
}

init {
    atomic {
        run writer();
        run reader()
    }
}
