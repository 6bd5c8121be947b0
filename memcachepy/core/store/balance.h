/* Which class of a shard should have more pages, and which can spare one.
 *
 * A class's demand is the number of items that its eviction hand has passed lately, for each page
 * that it has. Pages go from the lowest demand to the highest. When all demands are equal, an item
 * stays for a time proportional to 1 / its size: a page buys as many hits in one class as in any
 * other, if their items are as popular. Under s3fifo-bytes the bytes are counted that the hand has
 * passed; then all items stay equally long, whatever their size, as in one cache without classes.
 *
 * Two demands are only told apart when the difference is more than chance would make it: counts of
 * rare events vary by the square root of themselves. Without that test most moves are moves to and
 * fro. bench/README.md tells what else was tried. */
#ifndef STORE_BALANCE_H
#define STORE_BALANCE_H

#include "store/item.h"

/* The class's hand has passed so many items. */
void balance_swept(struct shard *shard, uint32_t class_id, uint32_t items);

/* An item of the class was evicted: to make room in the class, or because a page leaves it. */
void balance_evicted(struct store *store, struct shard *shard, uint32_t class_id,
                     enum eviction_reason reason);

/* Whether the main part of the shard loses about as many items as fail probation: then most of what
 * one hit lets into it goes again. */
bool balance_main_is_fleeting(const struct shard *shard);

/* Whether a page that is free should go to the class, which has to evict otherwise: not if other
 * classes have more use for it. */
bool balance_deserves_page(const struct store *store, const struct shard *shard, uint32_t class_id);

/* The class that should give a page to this one; 0: none. Costs a look at every class, once in so
 * many evictions of the class. */
uint32_t balance_donor_for(const struct store *store, struct shard *shard, uint32_t class_id);

/* The class with the lowest demand that has pages and is not in the set of `tried`; 0: none. */
uint32_t balance_donor(const struct store *store, const struct shard *shard, uint64_t tried);

#endif
