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

/* The slot's process has been reaped: repairs the shards it held, frees its uploads, pins and page.
 */
void store_recover(struct store *store, unsigned slot_index, struct recovery *recovery);

#endif
