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

/* Whether the ref leads to where a chunk of a page begins that the shard owns. */
bool ref_is_chunk_of(const struct store *store, struct ref ref, uint32_t shard_number);

/* Whether the chunk is a continuation of the chain that begins at `head`, which leads into a page
 * with chunks. Any word of it may be damaged. */
bool cont_is_of(const struct store *store, struct ref ref, uint32_t head);

/* Where the value begins in the head of a key's chain, and in *room how much of it the chunk holds.
 * NULL: it is not the head of a chain of that key and length, whose state is of one of `kinds`
 * (1 << CHUNK_...). The words are read once each, for another process may write over them. */
uint8_t *chain_head_data(const struct store *store, struct ref head, uint64_t hash,
                         uint32_t value_len, uint32_t kinds, uint32_t *room);

/* Follows a chain; false if it does not hold all of the value. */
bool chain_is_sound(const struct store *store, struct item *head);

#endif
