/* A shard: everything that changes with one key, guarded by one lock.
 *
 *   0     sums, class lists   derived from the pages; shard_rebuild() recomputes them
 *         journal             the old value of every word the running transaction has changed
 *         recent              what left, and how (recent.h)
 *
 * Every change is a transaction: log a word, change it, …, commit. A transaction that a dead
 * process left behind is undone by restoring the words, newest first; nothing else needs to know
 * what the process was doing. The bucket that readers look at stays odd until after the commit, so
 * no reader has ever seen what is undone. Chunks are filled before the transaction links them.
 *
 * The lock is robust and process-shared, and lies in the run segment, for it is of no use
 * to a later run.
 *
 * Included by store/ only; the protocol sees store/store.h. */
#ifndef STORE_SHARD_H
#define STORE_SHARD_H

#include "base/check.h"
#include "base/platform.h"
#include "base/siphash.h"
#include "mem/hugepage.h"
#include "mem/lock.h"
#include "mem/page.h"
#include "mem/ref.h"
#include "mem/segment.h"
#include "mem/track.h"
#include "store/store.h"

/* Half of the largest page. */
#define CHUNK_BYTES_MAX (32u << 10)

/* A shard that so many repairs in turn did not survive is emptied. */
#define REPAIR_ATTEMPTS_MAX 3

/* The largest transactions log about 50 today. A tree whose path is copied logs up to 151. */
#define JOURNAL_WORDS_MAX 248

/* The ghost of a shard remembers at most so many pages of fingerprints. */
#define GHOST_PAGES_MAX 64

/* Departures that a shard remembers, a word for each: 0.2 to 0.4 % of the memory that it covers. */
#define RECENT_WORDS 4096

struct journal_word {
    uint64_t at; /* offset in the segment; bit 0: the word has 64 bits and not 32 */
    uint64_t old;
};

struct journal {
    _Atomic uint32_t count; /* 0: nothing to undo */
    uint32_t unused;
    struct journal_word words[JOURNAL_WORDS_MAX];
};

/* Pages of one slab class, and what eviction knows of it. Page numbers plus one. */
struct class_list {
    uint32_t page_count;
    uint32_t empty_count; /* pages without a used chunk */
    uint32_t hand_page;   /* where the eviction hand stands; also the entry to the circle */
    uint32_t hand_slot;
    uint32_t partial; /* first of the pages with free chunks */
    uint32_t free_chunks;
    /* The probation ring (probation.h): refs of its first and last cell, entries in it, and how
     * many of the first cell are gone and of the last are there. */
    uint32_t ring_head, ring_tail;
    uint32_t ring_count;
    uint16_t ring_popped, ring_pushed;
    /* What page moves are decided by (balance.h); not journaled, for they are only estimates. */
    uint32_t swept;      /* items that the hand has passed of late */
    uint32_t evicted;    /* items that made room in the class of late */
    uint32_t unlooked;   /* of them, since the class last compared itself with the others */
    uint32_t item_count; /* items whose head is in the class */
    uint32_t spare[2];
};
static_assert(sizeof(struct class_list) == 64, "layout change: bump SEGMENT_LAYOUT_VERSION");

struct shard_sums {
    uint64_t curr_items;
    uint64_t volatile_items; /* of curr_items, those that will expire */
    uint64_t total_items;
    uint64_t evictions; /* the sum of evicted_by */
    uint64_t evicted_by[EVICTION_REASON_COUNT];
    uint64_t evicted_unfetched;
    uint64_t reclaimed;
    uint64_t expired_unfetched;
    uint64_t repairs;
    uint64_t rebuilds;
};

/* [shard] unless marked. */
struct shard {
    alignas(CACHE_LINE_BYTES) _Atomic uint64_t
        open_version;    /* offset of the 32-bit version that is odd: a bucket's */
    uint32_t index;      /* [const] */
    uint32_t reclaiming; /* ref of the first unlinked item whose chunks are to be freed */
    uint32_t page_count; /* of classes and table */
    uint32_t table_page_count;
    uint32_t empty_pages;     /* of all classes together */
    uint32_t cell_free;       /* ref of the first unused cell (cell.h) */
    uint32_t cell_count;      /* cells in use */
    uint32_t bucket_capacity; /* primary buckets that the table's pages hold */
    uint32_t grow_until; /* a hint: buckets there should be, for a chain that has become long */
    uint32_t ghost_page_count;
    uint32_t recent_count;    /* of departures, modulo 2^32 */
    uint32_t repair_attempts; /* repairs begun since one was finished; see shard.c */
    /* A page that is being emptied for another class, some items at a time (drain.h): its number
     * plus one, the class that gets it, and the chunk to go on with, which is only a hint. */
    uint32_t leaving, leaving_to, leaving_slot;
    uint64_t turned_bytes;  /* chunks evicted since the classes' counts were halved */
    uint64_t evicted_bytes; /* chunks of what the classes count as evicted of late */
    uint32_t evicted_from_probation, evicted_from_main; /* of that, items */
    struct shard_sums sums;
    struct class_list classes[SLAB_CLASS_COUNT_MAX];
    uint64_t class_bytes[SLAB_CLASS_COUNT_MAX]; /* header, key and value of every item */
    uint32_t ghost_pages[GHOST_PAGES_MAX];      /* page numbers plus one */
    uint32_t reclaiming_last; /* ref of the last of them; each names the next: see item.h */
    /* What follows is 0 and reserved: for commits over several shards, databases, collections. */
    uint32_t commit;  /* slot + 1 of the process whose commit the shard is joined to */
    uint32_t waiters; /* entries of blocked clients */
    uint32_t unused;
    uint64_t database_items[DATABASE_COUNT], database_volatile[DATABASE_COUNT];
    uint64_t collection_bytes; /* in chunks of leaves and branches */
    uint64_t spare[32];
    alignas(CACHE_LINE_BYTES) struct journal journal;
    uint64_t recent[RECENT_WORDS]; /* see recent.h */
};

/* Where the maintainer's sweep stands; see sweep.c. */
struct sweep_pass {
    bool running;
    bool all;                     /* look at every item that expires, whatever its byte says */
    bool flushed;                 /* look at every chunk: what a flush killed stands in no column */
    uint64_t examined, reclaimed; /* items */
    bool skipped;                 /* a stopped process was in the way of a page */
    uint64_t crawl;               /* look at every chunk of these classes; bit by class id */
    uint16_t epoch;               /* of flushes, when the pass began */
    uint32_t began_s;             /* 0: there was none yet */
    uint32_t next_page;
    int64_t clocks_apart_s;
};

/* What the supervisor remembers of locks that it saw taken; see mend.h. */
#define MEND_COUNT_MAX 64
struct lock_mend {
    uint32_t next_shard, count;
    struct {
        uint32_t lock, word, looks;
    } of[MEND_COUNT_MAX];
};

/* What the maintainer saw of the slots' shares when it looked last. */
struct held_audit {
    uint64_t looked_at_ns;
    struct {
        uint64_t held, sum;
        uint32_t looks;
    } of[SLOT_COUNT];
};

/* What has waited longest in this process for its part of the share; see held.c. */
struct share_wait {
    uint64_t key_hash;
    uint32_t bytes; /* 0: nothing waits */
    uint64_t since_ms, tried_at_ms;
};

#define HELD_COUNT_MAX (PIN_COUNT_MAX + UPLOAD_COUNT_MAX)

/* Pins, and behind them uploads, of the own slot that are to be released; see held.c. */
struct held_left {
    uint32_t count;
    uint32_t next; /* where the next try looks first */
    uint64_t marks[HELD_COUNT_MAX / 64];
};

/* What the words of the own slot are to be; see own.h. */
struct own_words {
    uint32_t looked_at_s;
    int32_t pid;
    uint32_t pin_high, upload_high;
    uint32_t dumps, watchers, watch_classes;
    uint64_t used[HELD_COUNT_MAX / 64]; /* pins, and behind them uploads, that it holds */
};

struct track_mapping;

/* One process's handle; store_open() fills it. */
struct store {
    struct segment *segment;
    struct superblock *superblock;
    struct run_head *run;
    uint8_t *base;
    struct shard *shards;
    struct shard_lock *locks;            /* of each shard, */
    struct shard_lock *lock;             /* and of the one that was tried last */
    _Atomic uint64_t *table_words;       /* of each shard */
    _Atomic uint32_t *table_directories; /* see hashtable.h */
    struct process_slot *slot;
    struct held_table *held;         /* of the own slot */
    struct siphash_state hash_begin; /* under the segment's key */
    uint64_t data_at, data_end;
    uint32_t shard_mask;
    uint32_t unit_shift;
    uint32_t page_shift;
    uint32_t chunk_bytes_max;
    uint32_t count_max;    /* highest hit count of an item under the policy */
    bool counts_by_chance; /* not every hit raises the count */
    bool cas_enabled;
    uint32_t random; /* never 0 */
    uint32_t table_pages_max;
    uint32_t page_count_max;
    /* As of the last tick. */
    uint32_t now_s;         /* seconds of the node's clock since the segment's base */
    uint64_t now_ms;        /* the same in milliseconds */
    uint32_t wall_s;        /* seconds of the system clock since the segment's base */
    int64_t clocks_apart_s; /* that less the node's; changes only when somebody steps a clock */
    bool peeks;             /* Who looks leaves no trace. */
    uint32_t tracking_seen; /* run_head.tracking, as of the last tick */
    struct track_mapping *tracks; /* of the nodes that copies come from; NULL: there are none */
    bool draining;                /* the page that is leaving stays though it becomes empty */
    uint32_t shrink_turn;         /* the shard that gives a page next */
    struct share_wait wait;
    struct held_left left;
    struct own_words own;
    uint32_t table_turn;      /* the shard whose table shrinks next */
    uint64_t clocks_noted_ms; /* for a later run; by the maintainer */
    struct sweep_pass sweep;
    struct pool_ahead ahead;
    struct hugepage_pass huge;
    struct lock_mend mend;
    struct pool_audit pool_audit;
    struct held_audit held_audit;
    struct track_audit track_audit;
    uint32_t audit_turn; /* the shard that the maintainer looks at next */
    uint64_t audited_at_ns;
    uint32_t audit_mends;       /* the count of mended shards that the last full check was for */
    uint32_t audit_next;        /* the shard to be checked in full next */
    uint16_t audit_epoch;       /* the flush that it was done for last, */
    uint64_t audit_flush_at_ns; /* and when */
    uint8_t class_of_units[CHUNK_BYTES_MAX / 8 + 1]; /* class by size in 8 bytes, rounded up */
};

/* Counts for a slab class in the process's own slot. What is counted within a transaction that is
 * undone because the process died stays counted: one event too many for a death. */
#define CLASS_COUNT(store, class_id, name)                                                         \
    class_counter_add(&(store)->slot->classes[class_id], CLASS_##name, 1)

/* What of a key's hash chooses its shard. */
static inline uint32_t
shard_hash_of(uint64_t hash)
{
    return (uint32_t)(hash >> 40);
}

/* Of the hash of a key that is at hand only as an item's: today the shard's hash is a part of it.
 */
static inline struct shard *
shard_of_hash(const struct store *store, uint64_t hash)
{
    return &store->shards[shard_hash_of(hash) & store->shard_mask];
}

static inline uint32_t
shard_index_of_key(const struct store *store, const struct key *key)
{
    return key->shard_hash & store->shard_mask;
}

static inline struct shard *
shard_of_key(const struct store *store, const struct key *key)
{
    return &store->shards[shard_index_of_key(store, key)];
}

/* The hash of a key in its database. */
uint64_t hash_of_key(const struct store *store, uint32_t database, const void *bytes, uint32_t len);

/* Changed by store_set_memory_limit(), at any moment. */
static inline uint64_t
memory_limit_bytes(const struct store *store)
{
    return atomic_load_explicit(&store->run->settings.memory_limit_bytes, memory_order_relaxed);
}

/* Without a look into the shard, which readers never touch. */
static inline uint32_t
shard_index(const struct store *store, const struct shard *shard)
{
    return (uint32_t)(shard - store->shards);
}

static inline void *
ref_at(const struct store *store, struct ref ref)
{
    return store->base + ((uint64_t)ref.units << store->unit_shift);
}

static inline struct ref
ref_of(const struct store *store, const void *at)
{
    return (struct ref){
        (uint32_t)((uint64_t)((const uint8_t *)at - store->base) >> store->unit_shift)};
}

static inline uint32_t
page_of_ref(const struct store *store, struct ref ref)
{
    return (uint32_t)((((uint64_t)ref.units << store->unit_shift) - store->data_at) >>
                      store->page_shift);
}

/* ---- transactions (shard.c) ----------------------------------------------------------------- */

/* Orders stores as the machine executes them: all that a crash of this process can disturb. */
#define STORES_IN_ORDER() atomic_signal_fence(memory_order_seq_cst)

/* Writes the word into the journal, where it does not count yet. `at` lies in the segment, aligned
 * to its size. */
static inline void
journal_write(const struct store *store, struct journal_word *word, void *at, unsigned bytes)
{
    uint64_t offset = (uint64_t)((uint8_t *)at - store->base);
    /* Atomic, for a reader may be counting a hit in a state word just now. */
    if (bytes == 8) {
        word->at = offset | 1;
        word->old = atomic_load_explicit((_Atomic uint64_t *)at, memory_order_relaxed);
    } else {
        word->at = offset;
        word->old = atomic_load_explicit((_Atomic uint32_t *)at, memory_order_relaxed);
    }
}

static inline uint32_t
journal_count(const struct shard *shard)
{
    return atomic_load_explicit(&shard->journal.count, memory_order_relaxed);
}

/* The words that were written count; from here on they may be changed. */
static inline void
journal_set_count(struct shard *shard, uint32_t count)
{
    DCHECK(count <= JOURNAL_WORDS_MAX);
    STORES_IN_ORDER();
    atomic_store_explicit(&shard->journal.count, count, memory_order_relaxed);
    STORES_IN_ORDER();
}

/* Logs a word before it is changed. */
static inline void
journal_log(const struct store *store, struct shard *shard, void *at, unsigned bytes)
{
    uint32_t count = journal_count(shard);
    journal_write(store, &shard->journal.words[count], at, bytes);
    journal_set_count(shard, count + 1);
}

/* A struct is logged as the 32- or 64-bit words that it is made of. */
static inline void
journal_log_words(const struct store *store, struct shard *shard, void *at, size_t bytes)
{
    if (bytes <= 8) {
        journal_log(store, shard, at, (unsigned)bytes);
        return;
    }
    for (size_t i = 0; i < bytes; i += 4) {
        journal_log(store, shard, (uint8_t *)at + i, 4);
    }
}

#define LOG(store, shard, lvalue) journal_log_words((store), (shard), &(lvalue), sizeof(lvalue))

/* A word that is logged together with others. */
struct logged {
    void *at;
    unsigned bytes;
};
#define LOGGED(lvalue) ((struct logged){&(lvalue), sizeof(lvalue)})

/* Logs two words, or three: they count together, for less than one after the other. */
static ALWAYS_INLINE void
journal_log_2(const struct store *store, struct shard *shard, struct logged a, struct logged b)
{
    uint32_t count = journal_count(shard);
    struct journal_word *word = &shard->journal.words[count];
    journal_write(store, word, a.at, a.bytes);
    journal_write(store, word + 1, b.at, b.bytes);
    journal_set_count(shard, count + 2);
}

static ALWAYS_INLINE void
journal_log_3(const struct store *store, struct shard *shard, struct logged a, struct logged b,
              struct logged c)
{
    uint32_t count = journal_count(shard);
    struct journal_word *word = &shard->journal.words[count];
    journal_write(store, word, a.at, a.bytes);
    journal_write(store, word + 1, b.at, b.bytes);
    journal_write(store, word + 2, c.at, c.bytes);
    journal_set_count(shard, count + 3);
}

#define LOG_2(store, shard, a, b) journal_log_2((store), (shard), LOGGED(a), LOGGED(b))
#define LOG_3(store, shard, a, b, c)                                                               \
    journal_log_3((store), (shard), LOGGED(a), LOGGED(b), LOGGED(c))

static inline uint32_t
journal_room(const struct shard *shard)
{
    return JOURNAL_WORDS_MAX - journal_count(shard);
}

static inline void
journal_commit(struct shard *shard)
{
    STORES_IN_ORDER();
    atomic_store_explicit(&shard->journal.count, 0, memory_order_relaxed);
    STORES_IN_ORDER();
}

/* ---- locking (shard.c) ---------------------------------------------------------------------- */

/* Takes the shard's lock, repairing it when its owner died. False: a process that is stopped holds
 * it; after about a second of waiting, or at once when somebody has waited for it that long already
 * and it still holds it. */
bool shard_lock(struct store *store, struct shard *shard) MUST_CHECK;
bool shard_try_lock(struct store *store, struct shard *shard) MUST_CHECK;

void shard_unlock(struct store *store, struct shard *shard);

/* Under the lock, of a shard that the processes of an earlier run have left: repairs it, and
 * returns true, if one of them was in the middle of something. */
bool shard_reopen(struct store *store, struct shard *shard);

/* Under the lock: rebuilds a shard whose words have proved to be damaged, and counts it. */
void shard_mend(struct store *store, struct shard *shard);

#endif
