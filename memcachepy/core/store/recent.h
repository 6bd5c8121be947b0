/* Why a key is not there: what left a shard lately, and how.
 *
 * A ring of words in the shard, one for each item that left, the newest over the oldest:
 *
 *    63                   32 31              6      5       4        0
 *   | low bits of the hash  | when, seconds  | fetched |  departure   |
 *
 * Written under the shard's lock by whoever unlinks, before the transaction: a process that dies in
 * between leaves word of an item that is still there, and the item is looked at first. Never
 * journaled and no truth: a word that is lost, or written twice, costs one answer of `explain`.
 * Neighbouring words are written one after the other, so a departure seldom costs a cache line. */
#ifndef STORE_RECENT_H
#define STORE_RECENT_H

#include "store/slab.h"

/* How an item left. X(departure, name) */
#define DEPARTURE_LIST(X)                                                                          \
    X(DELETED, deleted)                                                                            \
    X(REFUSED, refused) /* a set that was too large, or found no memory, removed it */             \
    X(EXPIRED, expired)                                                                            \
    X(FLUSHED, flushed)

enum departure {
    DEPARTED_NOT, /* no word */
#define X(departure, name) DEPARTED_##departure,
    DEPARTURE_LIST(X)
#undef X
        DEPARTED_EVICTED, /* + enum eviction_reason */
    DEPARTURE_COUNT = DEPARTED_EVICTED + EVICTION_REASON_COUNT
};

extern const char *const departure_names[DEPARTURE_COUNT];

/* Under the lock, before the item is unlinked. */
void recent_note(const struct store *store, struct shard *shard, const struct item *item,
                 uint64_t hash, enum unlink_reason reason);

enum explain_result {
    EXPLAIN_STORED,
    EXPLAIN_EXPIRED, /* dead, but its memory is not reclaimed yet */
    EXPLAIN_FLUSHED, /* the same */
    EXPLAIN_GONE,
    EXPLAIN_UNKNOWN, /* not there, and nothing is remembered */
    EXPLAIN_BUSY,    /* somebody else works in the shard: ask again */
};

struct explanation {
    uint32_t shard;
    uint32_t remembers_s; /* how far back the shard's ring reaches */
    bool in_ghost;        /* the ghost knows it, or one of a few thousand times another key */
    /* STORED, EXPIRED, FLUSHED */
    uint64_t cas;
    uint64_t bytes; /* header, key and value */
    uint32_t value_len;
    uint32_t client_flags;
    uint32_t class_id;
    uint32_t hits;     /* as eviction counts them */
    int64_t ttl_s;     /* -1: never expires; of an expired item, how long ago it was */
    uint32_t access_s; /* since the last access */
    bool in_probation;
    bool is_chained;
    bool is_stale; /* invalidated, and not renewed yet */
    /* GONE */
    enum departure departure;
    uint32_t ago_s;
    /* STORED to GONE */
    bool fetched; /* was asked for since it was stored */
};

/* Where the key is, or why it is not. Waits for nobody and leaves no trace. */
enum explain_result store_explain(struct store *store, const struct key *key,
                                  struct explanation *explanation) MUST_CHECK;

#endif
