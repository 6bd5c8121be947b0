/* See drain.h. */
#include "store/drain.h"

#include "base/check.h"
#include "base/crash.h"
#include "store/expiry.h"
#include "store/hashtable.h"
#include "store/policy.h"
#include "store/slab.h"
#include "store/walk.h"

/* A page to give up is looked for among so many, by the counts of so many of its items. */
#define PAGE_CANDIDATES 8
#define PAGES_PASSED_MAX 64
#define WARMTH_SAMPLES 16
#define TRIES_MAX 1024

/* Pages that turn out to be stuck, one after the other. */
#define PAGES_TRIED_MAX 16

/* Evictions that may happen to hit the page that is being emptied, for one item of it. */
#define CARRY_TRIES_MAX 4

/* What an idle count is worth is a fraction of so many bits. */
#define COUNT_FRACTION_BITS 5

/* The item that a chunk belongs to; NULL for a free chunk. A part of a collection stands for
 * itself: it is no live item, so its page stays. */
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
    case CHUNK_LEAF:
    case CHUNK_BRANCH:
    case CHUNK_STAGED:
        return chunk;
    }
    return NULL;
}

/* Whether an item may go: it is no upload, no pinned value, nothing the policy protects, and
 * nothing that this build does not know. */
static bool
item_may_go(const struct store *store, struct item *item)
{
    return state_kind(chunk_state(item)) == CHUNK_LIVE && !item_is_unknown(store, item) &&
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

bool
drain_begin(struct store *store, struct shard *shard, uint32_t class_id, uint32_t to_class)
{
    const struct class_list *list = &shard->classes[class_id];
    uint32_t tries = list->page_count < TRIES_MAX ? list->page_count : TRIES_MAX;
    uint32_t at = tries == 0 ? 0 : coldest_page(store, list, class_id);
    for (uint32_t i = 0; i < tries; i++) {
        if (page_may_go(store, at - 1, class_id)) {
            page_begin_leaving(store, shard, at - 1, class_id, to_class);
            return true;
        }
        at = listed_page(store, at)->class_next;
    }
    return false;
}

/* Moves an item of one chunk into the class's free chunk. The journal covers all but the expiry
 * column, which may say "look" for nothing. */
static void
item_carry(struct store *store, struct shard *shard, struct item *item, uint32_t class_id)
{
    struct ref from = ref_of(store, item);
    struct table_place place;
    table_find_ref(store, shard, from, item_hash(store, item), &place);
    CHECK(place.bucket != NULL);
    struct ref to = chunk_pop(store, shard, class_id);
    struct item *copy = ref_at(store, to);
    uint32_t generation = chunk_state(copy) & STATE_GENERATION_MASK;
    memcpy((uint8_t *)copy + sizeof(copy->state), (uint8_t *)item + sizeof(item->state),
           (size_t)item_bytes(item) - sizeof(item->state));
    CRASH_POINT(item_copied);
    bucket_open(store, shard, place.primary);
    /* A hit that a reader counts just now may be lost. */
    uint32_t state = chunk_state(item) & ~STATE_GENERATION_MASK;
    atomic_store_explicit(&copy->state, state | generation, memory_order_relaxed);
    expiry_note(store, copy, atomic_load_explicit(&copy->expire_word, memory_order_relaxed));
    table_replace(store, shard, &place, to);
    chunk_push(store, shard, from);
    CRASH_POINT(item_carried);
    journal_commit(shard);
    bucket_close(shard, place.primary);
}

/* Has the policy choose what goes in the place of an item that stays. True: the item is in another
 * page of its class, or is what the policy chose. */
static bool
carry_or_replace(struct store *store, struct shard *shard, struct item *item, uint32_t class_id,
                 enum eviction_reason reason)
{
    const struct class_list *list = &shard->classes[class_id];
    uint32_t before = chunk_state(item);
    if (list->page_count == 1) {
        return false;
    }
    for (unsigned i = 0; i < CARRY_TRIES_MAX && list->free_chunks == 0; i++) {
        bool ignored = evict_from_class(store, shard, class_id, reason);
        (void)ignored; /* What went may have been in the very page. */
        uint32_t now = chunk_state(item);
        if (state_kind(now) != CHUNK_LIVE ||
            (now & STATE_GENERATION_MASK) != (before & STATE_GENERATION_MASK)) {
            return true;
        }
    }
    if (list->free_chunks == 0) {
        return false;
    }
    item_carry(store, shard, item, class_id);
    return true;
}

/* Makes the chunk free. False: what is in it cannot go. */
static bool
chunk_empty(struct store *store, struct shard *shard, void *chunk, uint32_t class_id,
            enum eviction_reason reason)
{
    struct item *item = item_of_chunk(store, chunk);
    if (item == NULL) {
        return true;
    }
    if (state_kind(chunk_state(item)) != CHUNK_LIVE || item_is_unknown(store, item)) {
        return false;
    }
    if (item_is_dead(store, item)) {
        item_unlink(store, shard, ref_of(store, item), UNLINK_RECLAIM);
    } else if (item->bits & ITEM_CHAINED ||
               !carry_or_replace(store, shard, item, class_id, reason)) {
        if (!may_evict(store, item)) {
            return false;
        }
        item_unlink(store, shard, ref_of(store, item), UNLINK_EVICT + reason);
    }
    return true;
}

enum drain_result
drain_step(struct store *store, struct shard *shard, uint32_t chunk_count,
           enum eviction_reason reason)
{
    uint32_t number = leaving_page(store, shard);
    uint32_t class_id = class_of_page(store, number);
    uint32_t end = slab_chunks_per_page(store, class_id);
    uint32_t slot = shard->leaving_slot < end ? shard->leaving_slot : 0;
    bool goes = true;
    store->draining = true;
    for (; goes && slot < end && chunk_count > 0; slot++, chunk_count--) {
        goes = chunk_empty(store, shard, chunk_at(store, number, class_id, slot), class_id, reason);
    }
    store->draining = false;
    shard->leaving_slot = slot;
    if (goes && slot < end) {
        return DRAIN_MORE;
    }
    /* A reader may keep what was unlinked. */
    if (page_entry(store->segment, number)->free_count == end) {
        return DRAIN_EMPTY;
    }
    page_stop_leaving(store, shard);
    return DRAIN_STUCK;
}

uint32_t
drain_page_of_class(struct store *store, struct shard *shard, uint32_t class_id,
                    enum eviction_reason reason)
{
    uint32_t number = leaving_page(store, shard);
    if (number != PAGE_NONE && class_of_page(store, number) != class_id) {
        page_stop_leaving(store, shard);
        number = PAGE_NONE;
    }
    for (unsigned i = 0; i < PAGES_TRIED_MAX; i++) {
        if (number == PAGE_NONE && !drain_begin(store, shard, class_id, class_id)) {
            return PAGE_NONE;
        }
        number = leaving_page(store, shard);
        if (drain_step(store, shard, UINT32_MAX, reason) == DRAIN_EMPTY) {
            return number;
        }
        number = PAGE_NONE;
    }
    return PAGE_NONE;
}
