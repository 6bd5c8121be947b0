/* The checker: compares everything derived with a walk over the pages. */
#ifndef STORE_CHECK_H
#define STORE_CHECK_H

#include "store/shard.h"

/* Says what does not agree, a sentence a problem. */
typedef void problem_fn(void *context, const char *sentence);

/* Under the lock. Whether every ref, page number and count of the shard's header can be believed: a
 * cheap look, after an undo. */
bool shard_is_plausible(const struct store *store, const struct shard *shard);

/* Under the lock. Returns the number of problems. */
unsigned shard_check(struct store *store, struct shard *shard, problem_fn *problem, void *context);

/* All shards, one lock at a time. */
unsigned store_check(struct store *store, problem_fn *problem, void *context);

#endif
