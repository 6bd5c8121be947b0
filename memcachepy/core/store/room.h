/* Finding room for one more item: the only place that leaves the lock to wait for memory. */
#ifndef STORE_ROOM_H
#define STORE_ROOM_H

#include "store/hashtable.h"
#include "store/slab.h"

enum room_result {
    ROOM_READY,     /* a chunk, a table slot: nothing below can fail */
    ROOM_CHANGED,   /* ready now, but the lock was left or items were evicted: look again */
    ROOM_NO_MEMORY, /* the lock is held */
    ROOM_BUSY,      /* the lock was left and could not be had again: it is not held */
};

/* Called with the shard's lock held. */
enum room_result room_make(struct store *store, struct shard *shard, uint32_t class_id) MUST_CHECK;

/* The rest of room_in_chain(). */
bool chain_evict(struct store *store, struct shard *shard, const struct table_place *place);

/* Whether an item can be linked at the place, which was looked up and not changed since; it stays
 * valid. A full chain evicts for it. False: the policy protects all that is in the chain. */
static inline bool MUST_CHECK
room_in_chain(struct store *store, struct shard *shard, const struct table_place *place)
{
    return LIKELY(place->bucket != NULL || place->depth < CHAIN_BUCKETS_MAX) ||
           chain_evict(store, shard, place);
}

#endif
