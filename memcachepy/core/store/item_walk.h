/* A walk over the living items by pages: the order in which they lie, and the fastest way to all of
 * them. For `stats sizes` and `stats cachedump`; dump.h is for walks that have to be exact while
 * everything moves. Items with an extension (item.h) are left out. */
#ifndef STORE_ITEM_WALK_H
#define STORE_ITEM_WALK_H

#include "store/store.h"

/* An item; its key lies in the store and may be looked at within the call. */
struct walked_item {
    const uint8_t *key;
    uint32_t key_len;
    bool key_is_binary; /* it came in base64 */
    uint32_t value_len;
    uint64_t bytes;      /* header, key and value */
    uint64_t expires_at; /* system time in seconds; 0: never */
};

/* Called under a shard's lock: must not wait. False: no more. */
typedef bool walked_fn(void *context, const struct walked_item *item);

enum walk_result {
    WALK_MORE,
    WALK_END,  /* All pages were visited, or the visitor had enough. */
    WALK_BUSY, /* A stopped process holds a shard. */
};

/* Visits the items of the next `pages_max` pages of a class, or of all when class_id is 0. *page
 * begins with 0 and is moved. Holds one shard's lock at a time, for one page. An item that is
 * stored anew meanwhile may be met twice, or not at all. */
enum walk_result store_walk_pages(struct store *store, uint32_t class_id, uint32_t *page,
                                  uint32_t pages_max, walked_fn *visit, void *context) MUST_CHECK;

/* The same for all pages at once. False: a stopped process holds a shard. */
bool store_walk_items(struct store *store, uint32_t class_id, walked_fn *visit,
                      void *context) MUST_CHECK;

#endif
