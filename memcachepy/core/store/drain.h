/* Emptying a page of a class, so that it can go elsewhere. Under the shard's lock.
 *
 * What the policy would evict next makes room in the class's other pages for what is in this one:
 * an item loses its place only because it is the coldest of its class, not because of its page.
 * Values of several chunks stay where they are and are evicted with the page, and so is everything
 * in a class's only page. */
#ifndef STORE_DRAIN_H
#define STORE_DRAIN_H

#include "store/store.h"

struct shard;

/* Chooses a page of the class that is cold, and begins to empty it, for a class that is noted as
 * shard.leaving_to. A page that cannot go is passed over: it holds an upload, a pinned value, or
 * what the policy protects. False: all of them. No page of the shard may be leaving yet. */
bool drain_begin(struct store *store, struct shard *shard, uint32_t class_id,
                 uint32_t to_class) MUST_CHECK;

enum drain_result {
    DRAIN_EMPTY, /* The page is still the class's, and leaving. */
    DRAIN_MORE,
    DRAIN_STUCK, /* Something in it cannot go any more; the page is the class's as before. */
};

/* Empties at most so many chunks of the page that is leaving. What goes is counted under the
 * reason. */
enum drain_result drain_step(struct store *store, struct shard *shard, uint32_t chunk_count,
                             enum eviction_reason reason) MUST_CHECK;

/* Empties a page of the class at once, and returns its number: it is still the class's, and
 * leaving. PAGE_NONE: none of them can go. */
uint32_t drain_page_of_class(struct store *store, struct shard *shard, uint32_t class_id,
                             enum eviction_reason reason);

#endif
