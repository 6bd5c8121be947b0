/* Which class of a shard should have more pages, and which can do with fewer.
 *
 * A set of a key that the ghost remembers is a miss that more memory would have saved. Of two
 * classes, a page is worth more to the one whose evicted items come back more often, times the
 * items that fit a page. */
#ifndef STORE_BALANCE_H
#define STORE_BALANCE_H

#include "store/item.h"

/* The ghost was told of an eviction from the class; it knew a key that came back to the class. */
void balance_evicted(struct store *store, struct shard *shard, uint32_t class_id);
void balance_returned(struct shard *shard, uint32_t class_id);

/* Whether the class should get a page of another class rather than evict from its own. */
bool balance_wants_page(const struct store *store, const struct shard *shard, uint32_t class_id);

/* It got one. */
void balance_moved(struct shard *shard, uint32_t class_id);

/* The class that misses a page least, but for those in the set of `tried`; 0: none has any. */
uint32_t balance_donor(const struct store *store, const struct shard *shard, uint64_t tried);

#endif
