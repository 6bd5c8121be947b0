/* See shrink.h. No page has to move: whichever pages are free, or can be emptied, go to the host
 * and become absent in the page directory. The shards give in turn, each the page that it can spare
 * best, so that none is left without. A node that does not evict gives only what is empty. */
#include "store/shrink.h"

#include "store/slab.h"

/* Of one step. */
#define PAGES_PER_STEP 16

/* What a shard needs beside its table: pages for items of some sizes. */
#define SHARD_PAGES_MIN 4

/* Pages of a new shard's table. */
#define TABLE_PAGES_MIN 2

/* Pages that hold no items: they do not go. Read without locks: it may change the next moment. */
static RACY_READ uint64_t
fixed_pages(const struct store *store)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < store->superblock->shard_count; i++) {
        const struct shard *shard = &store->shards[i];
        int64_t fixed = shard->page_count;
        for (uint32_t class_id = 1; class_id <= store->superblock->class_count; class_id++) {
            fixed -= shard->classes[class_id].page_count;
        }
        sum += fixed > TABLE_PAGES_MIN ? (uint64_t)fixed : TABLE_PAGES_MIN;
    }
    return sum;
}

bool
store_set_memory_limit(struct store *store, uint64_t bytes)
{
    uint64_t pages_min =
        fixed_pages(store) + (uint64_t)store->superblock->shard_count * SHARD_PAGES_MIN;
    return bytes >> store->page_shift >= pages_min && pool_set_limit(store->segment, bytes);
}

uint64_t
store_item_size_max(const struct store *store)
{
    uint64_t configured = store->run->boot_settings.item_size_max_bytes;
    uint64_t half = memory_limit_bytes(store) / 2;
    return configured < half ? configured : half;
}

/* Has the next shard in turn that has at least so many pages, and one to spare, put it into the
 * pool. */
static bool
next_shard_gives(struct store *store, uint32_t page_count_min)
{
    for (uint32_t i = 0; i <= store->shard_mask; i++) {
        struct shard *shard = &store->shards[store->shrink_turn++ & store->shard_mask];
        if (!shard_try_lock(store, shard)) {
            continue;
        }
        bool given =
            shard->page_count >= page_count_min && slab_donate_page(store, shard, EVICTED_SHRINK);
        shard_unlock(store, shard);
        if (given) {
            return true;
        }
    }
    return false;
}

/* Those that have more than others first. */
static bool
shard_gives(struct store *store)
{
    uint32_t present = atomic_load(&store->superblock->pool.present_count);
    return next_shard_gives(store, present / (store->shard_mask + 1)) || next_shard_gives(store, 1);
}

bool
store_shrink(struct store *store)
{
    struct segment *segment = store->segment;
    for (unsigned i = 0; i < PAGES_PER_STEP && pool_is_over(segment); i++) {
        uint32_t number = pool_take_surplus(segment, store->held);
        if (number == PAGE_NONE) {
            if (!shard_gives(store)) {
                return false;
            }
        } else if (!pool_drop(segment, store->held, number)) {
            return false;
        }
    }
    return pool_is_over(segment);
}
