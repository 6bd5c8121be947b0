/* Which class of a shard should have more pages, and which can do with fewer.
 *
 * A set of a key that the ghost remembers is a miss that more memory would have saved. Of two
 * classes, a page is worth more to the one whose evicted items come back more often, times the
 * items that fit a page. Keys that are stored once and only read never come back; so a class that
 * has turned over lately also takes from one that nothing left and nobody misses. */
#ifndef STORE_BALANCE_H
#define STORE_BALANCE_H

#include "store/item.h"

/* An item was evicted from the class to make room in it; the ghost was told of an eviction from it;
 * the ghost knew a key that came back to it. */
void balance_evicted(struct store *store, struct shard *shard, uint32_t class_id);
void balance_remembered(struct store *store, struct shard *shard, uint32_t class_id);
void balance_returned(struct shard *shard, uint32_t class_id);

/* Whether the class should get a page of another class rather than evict from its own. */
bool balance_wants_page(const struct store *store, const struct shard *shard, uint32_t class_id);

/* It got one. */
void balance_moved(struct shard *shard, uint32_t class_id);

/* The class that misses a page least, but for those in the set of `tried`; 0: none has any. */
uint32_t balance_donor(const struct store *store, const struct shard *shard, uint64_t tried);

#endif
