/* Finding room for one more item: the only place that leaves the lock to wait for memory. */
#ifndef STORE_ROOM_H
#define STORE_ROOM_H

#include "store/slab.h"

enum room_result {
    ROOM_READY,     /* a chunk, a table slot: nothing below can fail */
    ROOM_CHANGED,   /* ready now, but the lock was left or items were evicted: look again */
    ROOM_NO_MEMORY, /* the lock is held */
    ROOM_BUSY,      /* the lock was left and could not be had again: it is not held */
};

/* Called with the shard's lock held. */
enum room_result room_make(struct store *store, struct shard *shard, uint32_t class_id) MUST_CHECK;

#endif
