/* Emptying a page of a class, so that it can go elsewhere. Under the shard's lock. */
#ifndef STORE_DRAIN_H
#define STORE_DRAIN_H

#include "store/store.h"

struct shard;

/* Evicts everything in a page of the class that is cold, and returns its number: it is still the
 * class's. A page that cannot go is passed over: it holds an upload, a pinned value, or what the
 * policy protects. PAGE_NONE: all of them. */
uint32_t drain_page_of_class(struct store *store, struct shard *shard, uint32_t class_id,
                             enum eviction_reason reason);

#endif
