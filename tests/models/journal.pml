/* Transactions, undone after a death (store/shard.h, store/shard.c), with readers at the same time.
 *
 * Proves: whoever is killed at whatever store, a writer or one who repairs, what the next holder of
 * the lock finds is the state before the transaction or after it, whole; readers believe nothing
 * that is not committed, or that is undone; and no bucket stays open.
 *
 * The world: three words of a shard, of which word 0 is what readers look at (a bucket's slot); a
 * transaction changes up to three of them, one of them perhaps twice, each after logging it
 * (journal_log()): publishing, unlinking, splitting and moving pages are all that. One process
 * stands for all who hold the lock, one after another: where one dies, the next begins with the
 * repair. One reader makes one attempt, at any time.
 *
 * Order of memory: the stores of a process are seen in their order, which is what its death leaves:
 * it is killed between two instructions, and its stores have STORES_IN_ORDER() against the
 * compiler. What a reader on another core may see beside that is proved in reads.pml.
 *
 * -D that must each be found out:
 *   COUNT_BEFORE_WORD     the journal's length grows before its word is there
 *   CHANGE_BEFORE_LOG     a word is changed and logged then
 *   OLDEST_FIRST          words are restored in the order in which they were logged
 *   UNDO_FORGETS          the journal is emptied before its words are restored
 *   CLOSE_BEFORE_COMMIT   readers are let back before the commit
 *   REOPEN_BEFORE_UNDO    and so by whoever repairs
 *   OPEN_UNNAMED          the version becomes odd before open_version says whose
 *   FORGET_BEFORE_CLOSE   open_version is cleared before the version is even */

#define WORDS 3
#define CHANGES 3
#define TRANSACTIONS 2
#define DEATHS 2

byte words[WORDS];
byte version;     /* of the one bucket */
bool open_version; /* named in the shard */

byte count; /* of the journal */
byte at[CHANGES];
byte old[CHANGES];

/* What only the model knows. */
byte committed[WORDS];
byte possible; /* values of word 0, as bits, that the reader may believe */
byte deaths;

/* The next who takes the lock is told of it. */
inline may_die()
{
    if
    :: deaths < DEATHS -> deaths++; goto repair
    :: true
    fi
}

inline journal_log(w)
{
#ifdef COUNT_BEFORE_WORD
    count++;
    may_die();
    at[count - 1] = w;
    may_die();
    old[count - 1] = words[w];
#else
    at[count] = w;
    may_die();
    old[count] = words[w];
    may_die();
    count++;
#endif
    may_die()
}

#define next_value ((words[w] + 1) % 8)

inline change(w)
{
#ifdef CHANGE_BEFORE_LOG
    words[w] = next_value;
    may_die();
    journal_log(w)
#else
    journal_log(w);
    words[w] = next_value;
    may_die()
#endif
}

inline journal_commit()
{
    atomic {
        count = 0;
        committed[0] = words[0];
        committed[1] = words[1];
        committed[2] = words[2];
        possible = possible | (1 << words[0])
    };
    may_die()
}

inline bucket_open()
{
#ifdef OPEN_UNNAMED
    version++;
    may_die();
    open_version = true;
#else
    open_version = true;
    may_die();
    version++;
#endif
    may_die()
}

inline bucket_close()
{
#ifdef FORGET_BEFORE_CLOSE
    open_version = false;
    may_die();
    version++;
#else
    version++;
    may_die();
    open_version = false;
#endif
    may_die()
}

inline journal_undo()
{
#ifdef UNDO_FORGETS
    i = count;
    count = 0;
    may_die();
#else
    i = count;
#endif
#ifdef OLDEST_FIRST
    changes = i;
    i = 0;
    do
    :: i < changes -> words[at[i]] = old[i]; i++; may_die()
    :: i == changes -> break
    od;
    changes = 0;
#else
    do
    :: i > 0 -> i--; words[at[i]] = old[i]; may_die()
    :: i == 0 -> break
    od;
#endif
    i = 0;
    count = 0;
    may_die()
}

inline reopen_version()
{
    if
    :: open_version && (version & 1) -> bucket_close()
    :: open_version && !(version & 1) -> open_version = false; may_die()
    :: !open_version
    fi
}

proctype holder()
{
    byte left = TRANSACTIONS;
    byte i, changes;

    do
    :: left == 0 -> break
    :: left > 0 -> left--;
        /* Some transactions begin before the bucket is opened: chunk_pop() in write_small(). */
        if
        :: changes++; change(1)
        :: true
        fi;
        bucket_open();
        do
        :: changes < CHANGES -> changes++;
            if
            :: change(0)
            :: change(1)
            :: change(2)
            fi
        :: changes > 0 -> break
        od;
#ifdef CLOSE_BEFORE_COMMIT
        bucket_close();
        journal_commit();
#else
        journal_commit();
        bucket_close();
#endif
        changes = 0;
        goto locked;

        /* shard_repair() */
repair:
        changes = 0;
        i = 0;
#ifdef REOPEN_BEFORE_UNDO
        reopen_version();
        journal_undo();
#else
        journal_undo();
        reopen_version();
#endif
locked:
        assert(count == 0 && !open_version && !(version & 1));
        assert(words[0] == committed[0] && words[1] == committed[1] && words[2] == committed[2])
    od
}

/* view_once(), store_view_confirm() */
proctype reader()
{
    byte the_version, value;

    atomic { the_version = version; possible = 1 << committed[0] };
    if
    :: the_version & 1
    :: else ->
        value = words[0];
        if
        :: version == the_version -> assert(possible & (1 << value))
        :: else
        fi
    fi
}

init
{
    atomic {
        possible = 1;
        run holder();
        run reader()
    }
}
