/* Cleaning up after a process that has ended. */
#ifndef STORE_RECOVER_H
#define STORE_RECOVER_H

#include "store/store.h"

struct recovery {
    uint64_t shards_repaired;
    uint64_t shards_rebuilt;
    uint64_t uploads_freed;
    uint64_t pins_released;
};

/* The slot's process has ended: repairs the shards it held, frees its uploads, pins and page, and
 * then the slot. False: a stopped process has got hold of what is to be repaired or freed. Not all
 * is done then, the slot must not be used, and the caller tries again. */
bool store_recover(struct store *store, unsigned slot_index, struct recovery *recovery);

/* The same for a process that died of a fault, or was killed because it went round in circles: the
 * shard it had is rebuilt, for its words may have led there. */
bool store_recover_suspect(struct store *store, unsigned slot_index, struct recovery *recovery);

#endif
