/* Walking the pages: what the checker, the rebuild and the sweep have in common. */
#ifndef STORE_WALK_H
#define STORE_WALK_H

#include "store/item.h"

/* Calls the visitor for every page that belongs to the shard. Under the shard's lock. */
typedef void page_fn(void *context, uint32_t number, uint32_t kind);
void each_page(const struct store *store, const struct shard *shard, page_fn *visit, void *context);

struct ref chunk_ref(const struct store *store, uint32_t number, uint32_t class_id, uint32_t slot);

/* Whether an upload or a pin of any process refers to the head. */
bool slot_refers(const struct store *store, struct ref head);

/* Whether a live item's header agrees with its check value and its chunk. */
bool head_is_sound(const struct store *store, struct item *item, uint32_t class_id);

/* Whether a live item is sound and has an extension: of a type, form or database that this build
 * does not know. No walk frees or moves it, dead or alive; a damaged one is treated as any other.
 */
bool item_is_sound_and_unknown(const struct store *store, const struct item *item);

static inline bool
item_is_unknown(const struct store *store, const struct item *item)
{
    return UNLIKELY(item->bits & ITEM_EXTENDED) && item_is_sound_and_unknown(store, item);
}

/* Whether a chunk of the kinds LEAF, BRANCH and STAGED names an item of its shard that may have
 * parts. */
bool part_is_sound(const struct store *store, const void *chunk);

/* Whether a slot's ref, which may be damaged, leads to the head of a chain. Under the lock of the
 * shard that owns its page. */
bool held_head_is_sound(const struct store *store, struct ref head);

/* Follows a chain; false if it does not hold all of the value. */
bool chain_is_sound(const struct store *store, struct item *head);

#endif
