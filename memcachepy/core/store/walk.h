/* Walking a shard's pages: the checker of the tests and the fallback of repair. */
#ifndef STORE_WALK_H
#define STORE_WALK_H

#include "store/shard.h"

/* Says what does not agree, a sentence a problem. */
typedef void problem_fn(void *context, const char *sentence);

/* Under the lock. A cheap look at the lists' ends after an undo. */
bool shard_is_plausible(const struct store *store, const struct shard *shard);

/* Under the lock. Recomputes table, free chunks, lists and sums from the pages and their directory.
 * Readers take the lock meanwhile. Survives being killed: the next owner starts it again. */
void shard_rebuild(struct store *store, struct shard *shard);

/* Under the lock. Compares everything derived with a walk. Returns the number of problems. */
unsigned shard_check(struct store *store, struct shard *shard, problem_fn *problem, void *context);

/* All shards, one lock at a time. */
unsigned store_check(struct store *store, problem_fn *problem, void *context);
void store_rebuild(struct store *store);

/* Unlinks every dead item of every shard; for a flush epoch about to be used again. */
void store_sweep_dead(struct store *store);

/* After the process of a slot has ended: repairs the shards it held, frees its uploads, pins and
 * page. */
struct recovery {
    uint64_t shards_repaired;
    uint64_t shards_rebuilt;
    uint64_t uploads_freed;
    uint64_t pins_released;
};
void store_recover(struct store *store, unsigned slot_index, struct recovery *recovery);

#endif
