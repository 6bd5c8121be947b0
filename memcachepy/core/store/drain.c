/* See drain.h. */
#include "store/drain.h"

#include "store/policy.h"
#include "store/slab.h"

/* A page to give up is looked for among so many, by the counts of so many of its items. */
#define PAGE_CANDIDATES 8
#define PAGES_PASSED_MAX 64
#define WARMTH_SAMPLES 16
#define TRIES_MAX 1024

/* What an idle count is worth is a fraction of so many bits. */
#define COUNT_FRACTION_BITS 5

/* The item that a chunk belongs to; NULL for a free chunk. */
static struct item *
item_of_chunk(const struct store *store, void *chunk)
{
    switch ((enum chunk_kind)state_kind(chunk_state(chunk))) {
    case CHUNK_FREE:
        return NULL;
    case CHUNK_CONT:
        return ref_at(store, (struct ref){((struct continuation *)chunk)->head});
    case CHUNK_LIVE:
    case CHUNK_UPLOAD:
    case CHUNK_DETACHED:
        return chunk;
    }
    return NULL;
}

/* Whether an item may go: it is no upload, no pinned value, and nothing the policy protects. */
static bool
item_may_go(const struct store *store, struct item *item)
{
    return state_kind(chunk_state(item)) == CHUNK_LIVE &&
           (item_is_dead(store, item) || may_evict(store, item));
}

/* Whether everything in the page may go. */
static bool
page_may_go(const struct store *store, uint32_t number, uint32_t class_id)
{
    for (uint32_t slot = 0; slot < slab_chunks_per_page(store, class_id); slot++) {
        struct item *item = item_of_chunk(store, chunk_at(store, number, class_id, slot));
        if (item != NULL && !item_may_go(store, item)) {
            return false;
        }
    }
    return true;
}

/* Evicts everything in the page. False: something in it cannot go; then nothing went, unless a
 * reader keeps what was unlinked. */
static bool
page_drain(struct store *store, struct shard *shard, uint32_t number, uint32_t class_id,
           enum eviction_reason reason)
{
    if (!page_may_go(store, number, class_id)) {
        return false;
    }
    uint32_t count = slab_chunks_per_page(store, class_id);
    store->draining = number + 1;
    for (uint32_t slot = 0; slot < count; slot++) {
        struct item *item = item_of_chunk(store, chunk_at(store, number, class_id, slot));
        if (item != NULL && state_kind(chunk_state(item)) == CHUNK_LIVE) {
            item_unlink(store, shard, ref_of(store, item),
                        item_is_dead(store, item) ? UNLINK_RECLAIM : UNLINK_EVICT + reason);
        }
    }
    store->draining = 0;
    return page_entry(store->segment, number)->free_count == count;
}

/* How often some items of the page were asked for; a count is worth less for every idle minute.
 * UINT32_MAX: one of them cannot go. */
static uint32_t
page_warmth(const struct store *store, uint32_t number, uint32_t class_id)
{
    uint32_t count = slab_chunks_per_page(store, class_id);
    uint32_t step = count / WARMTH_SAMPLES + 1;
    uint32_t warmth = 0;
    for (uint32_t slot = 0; slot < count; slot += step) {
        struct item *item = item_of_chunk(store, chunk_at(store, number, class_id, slot));
        if (item != NULL && !item_may_go(store, item)) {
            return UINT32_MAX;
        }
        if (item != NULL) {
            uint32_t state = chunk_state(item);
            uint32_t minutes = state_idle_s(store, state) / 60;
            warmth += state_count(state) << COUNT_FRACTION_BITS >>
                      (minutes < COUNT_FRACTION_BITS ? minutes : COUNT_FRACTION_BITS);
        }
    }
    return warmth;
}

static struct item *
first_item(const struct store *store, uint32_t at, uint32_t class_id)
{
    return item_of_chunk(store, chunk_at(store, at - 1, class_id, 0));
}

/* The next page of the list, stored plus one. A value of many pages is one candidate and not many:
 * its other pages are passed over. */
static uint32_t
next_candidate(const struct store *store, uint32_t at, uint32_t class_id, bool ahead)
{
    const struct item *item = first_item(store, at, class_id);
    for (unsigned i = 0; i < PAGES_PASSED_MAX; i++) {
        const struct page *page = listed_page(store, at);
        at = ahead ? page->class_next : page->class_prev;
        if (item == NULL || first_item(store, at, class_id) != item) {
            break;
        }
    }
    return at;
}

/* The page, stored plus one, that is coldest of those the hand will come to next and those it saw
 * last. */
static uint32_t
coldest_page(const struct store *store, const struct class_list *list, uint32_t class_id)
{
    uint32_t best = list->hand_page;
    uint32_t lowest = UINT32_MAX;
    uint32_t ahead = list->hand_page;
    uint32_t behind = list->hand_page;
    for (uint32_t i = 0; i < PAGE_CANDIDATES && i < list->page_count && lowest > 0; i++) {
        uint32_t at = i % 2 == 0 ? ahead : behind;
        uint32_t warmth = page_warmth(store, at - 1, class_id);
        if (warmth < lowest) {
            lowest = warmth;
            best = at;
        }
        if (i % 2 == 0) {
            behind = next_candidate(store, behind, class_id, false);
        } else {
            ahead = next_candidate(store, ahead, class_id, true);
        }
    }
    return best;
}

uint32_t
drain_page_of_class(struct store *store, struct shard *shard, uint32_t class_id,
                    enum eviction_reason reason)
{
    const struct class_list *list = &shard->classes[class_id];
    uint32_t tries = list->page_count < TRIES_MAX ? list->page_count : TRIES_MAX;
    uint32_t at = coldest_page(store, list, class_id);
    for (uint32_t i = 0; i < tries && at != 0; i++) {
        uint32_t next = listed_page(store, at)->class_next;
        uint32_t owner = page_owner(shard_index(store, shard), class_id);
        /* Draining frees whole chains, whose empty pages may have gone back to the pool. */
        if (atomic_load(&listed_page(store, at)->owner) != owner) {
            return PAGE_NONE;
        }
        if (page_drain(store, shard, at - 1, class_id, reason)) {
            return at - 1;
        }
        at = next;
    }
    return PAGE_NONE;
}
