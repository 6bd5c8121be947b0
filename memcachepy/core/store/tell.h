/* What the store itself tells those who `watch`: items that go, pages that move, crawls that end.
 */
#ifndef STORE_TELL_H
#define STORE_TELL_H

#include "mem/logring.h"
#include "store/item.h"

/* Under the shard's lock, while the item is still whole. A process that dies before it has unlinked
 * the item has told of it too early: that costs a line, and nothing else. */
void tell_evicted(struct store *store, const struct item *item);
void tell_deleted(struct store *store, const struct item *item, bool by_meta);

/* 0 is the pool. */
void tell_page_moved(struct store *store, uint32_t from_class, uint32_t to_class);

void tell_crawled(struct store *store, uint32_t elapsed_s, uint64_t examined, uint64_t reclaimed);

#endif
