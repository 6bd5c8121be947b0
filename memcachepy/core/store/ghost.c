/* See ghost.h. */
#include "store/ghost.h"

#include "base/crash.h"
#include "store/slab.h"

#include <string.h>

#define SET_WAYS 16

struct ghost_set {
    uint16_t fingerprint[SET_WAYS]; /* 0: none */
};

static uint32_t
sets_per_page(const struct store *store)
{
    return store->superblock->page_bytes / (uint32_t)sizeof(struct ghost_set);
}

static uint16_t
fingerprint_of(uint64_t hash)
{
    uint16_t fingerprint = (uint16_t)(hash >> 24);
    return fingerprint != 0 ? fingerprint : 1;
}

/* The page of one that has pages 0 to count - 1. */
static uint32_t
page_index(uint32_t mixed, uint32_t count)
{
    uint32_t mask = UINT32_MAX >> __builtin_clz(count);
    uint32_t index = mixed & mask;
    return index < count ? index : index & mask >> 1;
}

static struct ghost_set *
set_of(const struct store *store, const struct shard *shard, uint64_t hash)
{
    if (shard->ghost_page_count == 0) {
        return NULL;
    }
    uint64_t mixed = hash * 0x9E3779B185EBCA87ull;
    uint32_t index = page_index((uint32_t)(mixed >> 32), shard->ghost_page_count);
    uint32_t set = (uint32_t)(mixed >> 48) & (sets_per_page(store) - 1);
    return (struct ghost_set *)(void *)page_memory(store, shard->ghost_pages[index] - 1) + set;
}

bool
ghost_is_short(const struct store *store, const struct shard *shard)
{
    uint64_t room = (uint64_t)shard->ghost_page_count * sets_per_page(store) * SET_WAYS;
    return shard->ghost_page_count < GHOST_PAGES_MAX &&
           shard->sums.curr_items > room + (shard->ghost_page_count == 0 ? 0 : room / 8);
}

void
ghost_adopt_page(struct store *store, struct shard *shard, uint32_t number)
{
    uint8_t *at = page_memory(store, number);
    uint32_t count = shard->ghost_page_count;
    if (count == 0) {
        memset(at, 0, store->superblock->page_bytes);
    } else {
        uint32_t from = page_index(count, count);
        memcpy(at, page_memory(store, shard->ghost_pages[from] - 1), store->superblock->page_bytes);
    }
    struct page *page = page_entry(store->segment, number);
    LOG(store, shard, shard->ghost_page_count);
    LOG(store, shard, shard->ghost_pages[count]);
    LOG(store, shard, shard->page_count);
    LOG(store, shard, page->owner);
    shard->ghost_pages[count] = number + 1;
    shard->ghost_page_count = count + 1;
    shard->page_count++;
    atomic_store_explicit(&page->owner, page_owner(shard_index(store, shard), PAGE_KIND_GHOST),
                          memory_order_release);
    CRASH_POINT(ghost_page_adopted);
    journal_commit(shard);
    page_keep(store->held);
}

bool
ghost_has_spare_page(const struct store *store, const struct shard *shard)
{
    uint32_t count = shard->ghost_page_count;
    uint64_t per_page = (uint64_t)sets_per_page(store) * SET_WAYS;
    return count != 0 && shard->sums.curr_items * 2 <= (count - 1) * per_page;
}

uint32_t
ghost_release_page(struct store *store, struct shard *shard)
{
    if (!ghost_has_spare_page(store, shard)) {
        return PAGE_NONE;
    }
    uint32_t count = shard->ghost_page_count;
    pool_give_back_any(store->segment, store->held);
    uint32_t number = shard->ghost_pages[count - 1] - 1;
    struct page *page = page_entry(store->segment, number);
    atomic_store_explicit(&store->held->page_in_flight, number + 1, memory_order_relaxed);
    STORES_IN_ORDER();
    LOG(store, shard, shard->ghost_page_count);
    LOG(store, shard, shard->page_count);
    LOG(store, shard, page->owner);
    shard->ghost_page_count = count - 1;
    shard->page_count--;
    atomic_store_explicit(&page->owner, page_owner_in_hand(store->segment, store->held),
                          memory_order_relaxed);
    CRASH_POINT(ghost_page_released);
    journal_commit(shard);
    return number;
}

void
ghost_remember(struct store *store, struct shard *shard, uint64_t hash)
{
    struct ghost_set *set = set_of(store, shard, hash);
    if (set != NULL) {
        memmove(&set->fingerprint[1], &set->fingerprint[0],
                (SET_WAYS - 1) * sizeof(set->fingerprint[0]));
        set->fingerprint[0] = fingerprint_of(hash);
    }
}

bool
ghost_recall(struct store *store, struct shard *shard, uint64_t hash)
{
    struct ghost_set *set = set_of(store, shard, hash);
    uint16_t fingerprint = fingerprint_of(hash);
    for (unsigned i = 0; set != NULL && i < SET_WAYS; i++) {
        if (set->fingerprint[i] == fingerprint) {
            memmove(&set->fingerprint[i], &set->fingerprint[i + 1],
                    (SET_WAYS - 1 - i) * sizeof(set->fingerprint[0]));
            set->fingerprint[SET_WAYS - 1] = 0;
            return true;
        }
    }
    return false;
}

bool
ghost_knows(const struct store *store, const struct shard *shard, uint64_t hash)
{
    const struct ghost_set *set = set_of(store, shard, hash);
    for (unsigned i = 0; set != NULL && i < SET_WAYS; i++) {
        if (set->fingerprint[i] == fingerprint_of(hash)) {
            return true;
        }
    }
    return false;
}

void
ghost_prefetch(const struct store *store, const struct shard *shard, uint64_t hash)
{
    const struct ghost_set *set = set_of(store, shard, hash);
    if (set != NULL) {
        PREFETCH(set);
    }
}
