/* See item_walk.h. */
#include "store/item_walk.h"

#include "store/slab.h"
#include "store/walk.h"

/* To pass over a page of another class costs about so much less than to visit one. */
#define PASSES_PER_PAGE 256

enum walk_step { WALK_PASSED, WALK_VISITED, WALK_ENOUGH, WALK_STUCK };

static struct walked_item
describe(const struct store *store, struct item *item)
{
    uint32_t word = atomic_load_explicit(&item->expire_word, memory_order_relaxed);
    return (struct walked_item){
        .key = item_key(item),
        .key_len = item->key_len,
        .key_is_binary = item->bits & ITEM_BINARY_KEY,
        .value_len = item->value_len,
        .bytes = item_bytes(item),
        .expires_at = word == 0 ? 0 : word_system_time(store, word),
    };
}

/* Under the lock of the page's shard. */
static enum walk_step
walk_chunks(const struct store *store, uint32_t number, uint32_t class_id, walked_fn *visit,
            void *context)
{
    for (uint32_t slot = 0; slot < slab_chunks_per_page(store, class_id); slot++) {
        struct item *item = ref_at(store, chunk_ref(store, number, class_id, slot));
        if (state_kind(chunk_state(item)) == CHUNK_LIVE && !item_is_dead(store, item) &&
            !(item->bits & ITEM_EXTENDED)) {
            struct walked_item walked = describe(store, item);
            if (!visit(context, &walked)) {
                return WALK_ENOUGH;
            }
        }
    }
    return WALK_VISITED;
}

static enum walk_step
walk_page(struct store *store, uint32_t number, uint32_t class_id, walked_fn *visit, void *context)
{
    _Atomic uint32_t *owner_at = &page_entry(store->segment, number)->owner;
    uint32_t owner = atomic_load_explicit(owner_at, memory_order_acquire);
    if (!page_has_chunks(store->superblock, owner) ||
        (class_id != 0 && page_owner_kind(owner) != class_id)) {
        return WALK_PASSED;
    }
    struct shard *shard = &store->shards[page_owner_shard(owner)];
    if (!shard_lock(store, shard)) {
        return WALK_STUCK;
    }
    enum walk_step step = WALK_VISITED;
    if (atomic_load(owner_at) == owner) {
        step = walk_chunks(store, number, page_owner_kind(owner), visit, context);
    }
    shard_unlock(store, shard);
    return step;
}

enum walk_result
store_walk_pages(struct store *store, uint32_t class_id, uint32_t *page, uint32_t pages_max,
                 walked_fn *visit, void *context)
{
    uint32_t count = pool_populated(store->segment);
    uint64_t passes_left = (uint64_t)pages_max * PASSES_PER_PAGE;
    while (pages_max > 0 && passes_left > 0 && *page < count) {
        switch (walk_page(store, (*page)++, class_id, visit, context)) {
        case WALK_PASSED:
            passes_left--;
            break;
        case WALK_VISITED:
            pages_max--;
            break;
        case WALK_ENOUGH:
            return WALK_END;
        case WALK_STUCK:
            return WALK_BUSY;
        }
    }
    return *page < count ? WALK_MORE : WALK_END;
}

bool
store_walk_items(struct store *store, uint32_t class_id, walked_fn *visit, void *context)
{
    uint32_t page = 0;
    return store_walk_pages(store, class_id, &page, UINT32_MAX, visit, context) == WALK_END;
}
