/* See slab.h. */
#include "store/slab.h"

#include "base/check.h"
#include "base/crash.h"
#include "mem/freemap.h"
#include "store/balance.h"
#include "store/drain.h"
#include "store/expiry.h"
#include "store/ghost.h"
#include "store/hashtable.h"
#include "store/policy.h"
#include "store/probation.h"
#include "store/tell.h"

/* Chunks that are looked at in one step of a page's move. */
#define MOVE_STEP_CHUNKS 64

/* The list's head and length are one word of the journal, and so are a free chunk's two words. */
static inline struct logged
free_list_of(struct page *page)
{
    return (struct logged){&page->free_head, 4};
}

static inline struct logged
whole_free_chunk(struct free_chunk *chunk)
{
    return (struct logged){chunk, 8};
}

/* ---- the list of pages with free chunks ----------------------------------------------------- */

static void
partial_add(struct store *store, struct shard *shard, struct class_list *list, uint32_t number)
{
    struct page *page = page_entry(store->segment, number);
    LOG_3(store, shard, page->partial_next, page->partial_prev, list->partial);
    page->partial_next = list->partial;
    page->partial_prev = 0;
    if (list->partial != 0) {
        struct page *next = listed_page(store, list->partial);
        LOG(store, shard, next->partial_prev);
        next->partial_prev = number + 1;
    }
    list->partial = number + 1;
}

static void
partial_remove(struct store *store, struct shard *shard, struct class_list *list, uint32_t number)
{
    struct page *page = page_entry(store->segment, number);
    if (page->partial_next != 0) {
        struct page *next = listed_page(store, page->partial_next);
        LOG(store, shard, next->partial_prev);
        next->partial_prev = page->partial_prev;
    }
    if (page->partial_prev != 0) {
        struct page *prev = listed_page(store, page->partial_prev);
        LOG(store, shard, prev->partial_next);
        prev->partial_next = page->partial_next;
    } else {
        LOG(store, shard, list->partial);
        list->partial = page->partial_next;
    }
}

/* ---- chunks --------------------------------------------------------------------------------- */

bool
slab_chunk_is_ready(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    uint32_t number = shard->classes[class_id].partial - 1;
    if (UNLIKELY(number >= store->page_count_max)) {
        return false;
    }
    const struct page *page = page_entry(store->segment, number);
    uint32_t slot = page->free_head - 1u;
    uint32_t per_page = slab_chunks_per_page(store, class_id);
    if (UNLIKELY(atomic_load_explicit(&page->owner, memory_order_relaxed) !=
                     page_owner(shard_index(store, shard), class_id) ||
                 slot >= per_page)) {
        return false;
    }
    struct free_chunk *chunk = chunk_at(store, number, class_id, slot);
    return LIKELY(state_kind(chunk_state(chunk)) == CHUNK_FREE && chunk->next_slot <= per_page);
}

struct ref
chunk_pop(struct store *store, struct shard *shard, uint32_t class_id)
{
    struct class_list *list = &shard->classes[class_id];
    uint32_t number = list->partial - 1;
    CHECK(number < store->page_count_max);
    struct page *page = page_entry(store->segment, number);
    DCHECK(page->free_head != 0 && page->free_count != 0);
    uint32_t slot = page->free_head - 1u;
    struct free_chunk *chunk =
        (void *)(page_memory(store, number) + slot * slab_chunk_bytes(store, class_id));
    /* A damaged list must not give a chunk away that is in use. */
    CHECK(atomic_load_explicit(&page->owner, memory_order_relaxed) ==
              page_owner(shard_index(store, shard), class_id) &&
          slot < slab_chunks_per_page(store, class_id) &&
          state_kind(chunk_state(chunk)) == CHUNK_FREE);
    journal_log_3(store, shard, free_list_of(page), whole_free_chunk(chunk),
                  LOGGED(list->free_chunks));
    if (page->free_count == slab_chunks_per_page(store, class_id)) {
        LOG(store, shard, list->empty_count);
        LOG(store, shard, shard->empty_pages);
        list->empty_count--;
        shard->empty_pages--;
    }
    page->free_head = (uint16_t)chunk->next_slot;
    page->free_count--;
    list->free_chunks--;
    if (page->free_count == 0) {
        partial_remove(store, shard, list, number);
    }
    CRASH_POINT(chunk_popped);
    return ref_of(store, chunk);
}

void
chunk_push(struct store *store, struct shard *shard, struct ref ref)
{
    uint32_t number = page_of_ref(store, ref);
    CHECK(number < store->page_count_max);
    struct page *page = page_entry(store->segment, number);
    uint32_t owner = atomic_load_explicit(&page->owner, memory_order_relaxed);
    uint32_t class_id = page_owner_kind(owner);
    struct class_list *list = &shard->classes[class_id];
    struct free_chunk *chunk = ref_at(store, ref);
    CHECK(page_owner_shard(owner) == shard_index(store, shard) &&
          page_kind_is_class(store->superblock, class_id) &&
          state_kind(chunk_state(chunk)) != CHUNK_FREE);
    uint32_t offset = (uint32_t)((uint8_t *)chunk - page_memory(store, number));
    bool leaving = page_is_leaving(shard, number);
    journal_log_3(store, shard, free_list_of(page), whole_free_chunk(chunk),
                  LOGGED(list->free_chunks));
    if (!leaving && page->free_count == 0) {
        partial_add(store, shard, list, number);
    }
    uint32_t state = chunk_state(chunk);
    atomic_store_explicit(&chunk->state,
                          ((state + STATE_GENERATION_ONE) & STATE_GENERATION_MASK) | CHUNK_FREE,
                          memory_order_relaxed);
    chunk->next_slot = page->free_head;
    page->free_head = (uint16_t)(offset / slab_chunk_bytes(store, class_id) + 1);
    page->free_count++;
    if (leaving) {
        CRASH_POINT(leaving_chunk_pushed);
        return;
    }
    list->free_chunks++;
    if (page->free_count == slab_chunks_per_page(store, class_id)) {
        LOG(store, shard, list->empty_count);
        LOG(store, shard, shard->empty_pages);
        list->empty_count++;
        shard->empty_pages++;
    }
    CRASH_POINT(chunk_pushed);
}

/* ---- pages ---------------------------------------------------------------------------------- */

/* Marks every chunk free, so that no walk ever takes old bytes for headers. The page is in hand. */
static void
page_format(struct store *store, uint32_t number, uint32_t class_id)
{
    uint32_t chunk_bytes = slab_chunk_bytes(store, class_id);
    uint32_t count = slab_chunks_per_page(store, class_id);
    uint8_t *at = page_memory(store, number);
    for (uint32_t slot = 0; slot < count; slot++) {
        struct free_chunk *chunk = (void *)(at + slot * chunk_bytes);
        uint32_t generation = (chunk_state(chunk) + STATE_GENERATION_ONE) & STATE_GENERATION_MASK;
        atomic_store_explicit(&chunk->state, generation | CHUNK_FREE, memory_order_relaxed);
        chunk->next_slot = slot + 1 < count ? slot + 2 : 0;
    }
    memset(at + store->superblock->page_bytes - count, 0, count); /* the expiry column */
    struct page *page = page_entry(store->segment, number);
    page->free_head = 1;
    page->free_count = (uint16_t)count;
}

/* Gives the page in hand to the class. Own transaction. */
static void
page_attach(struct store *store, struct shard *shard, uint32_t number, uint32_t class_id)
{
    page_format(store, number, class_id);
    struct class_list *list = &shard->classes[class_id];
    struct page *page = page_entry(store->segment, number);
    LOG(store, shard, page->class_next);
    LOG(store, shard, page->class_prev);
    LOG(store, shard, *list);
    LOG(store, shard, shard->page_count);
    LOG(store, shard, page->owner);
    if (list->hand_page == 0) {
        page->class_next = page->class_prev = number + 1;
        list->hand_page = number + 1;
        list->hand_slot = 0;
    } else {
        /* Behind the hand: the newest page is the last to be swept. */
        struct page *hand = listed_page(store, list->hand_page);
        struct page *before = listed_page(store, hand->class_prev);
        LOG(store, shard, before->class_next);
        LOG(store, shard, hand->class_prev);
        page->class_next = list->hand_page;
        page->class_prev = hand->class_prev;
        before->class_next = number + 1;
        hand->class_prev = number + 1;
    }
    LOG(store, shard, shard->empty_pages);
    shard->empty_pages++;
    list->page_count++;
    list->empty_count++;
    list->free_chunks += page->free_count;
    list->evicted++; /* The class is in use. */
    shard->page_count++;
    partial_add(store, shard, list, number);
    atomic_store_explicit(&page->owner, page_owner(shard_index(store, shard), class_id),
                          memory_order_release);
    CRASH_POINT(page_attached);
    journal_commit(shard);
    page_keep(store->held);
}

/* What the class counts and lists of the page's free chunks. Inside a transaction, with *list
 * logged. */
static void
free_chunks_leave(struct store *store, struct shard *shard, struct class_list *list,
                  uint32_t number, uint32_t class_id)
{
    const struct page *page = page_entry(store->segment, number);
    if (page->free_count == 0) {
        return;
    }
    partial_remove(store, shard, list, number);
    list->free_chunks -= page->free_count;
    if (page->free_count == slab_chunks_per_page(store, class_id)) {
        LOG(store, shard, shard->empty_pages);
        shard->empty_pages--;
        list->empty_count--;
    }
}

void
page_begin_leaving(struct store *store, struct shard *shard, uint32_t number, uint32_t class_id,
                   uint32_t to_class)
{
    struct class_list *list = &shard->classes[class_id];
    DCHECK(leaving_page(store, shard) == PAGE_NONE);
    LOG(store, shard, *list);
    LOG(store, shard, shard->leaving);
    free_chunks_leave(store, shard, list, number, class_id);
    shard->leaving_to = to_class;
    shard->leaving_slot = 0;
    STORES_IN_ORDER();
    shard->leaving = number + 1;
    CRASH_POINT(page_leaving);
    journal_commit(shard);
}

void
page_stop_leaving(struct store *store, struct shard *shard)
{
    uint32_t number = shard->leaving - 1;
    const struct page *page = page_entry(store->segment, number);
    uint32_t class_id = class_of_page(store, number);
    struct class_list *list = &shard->classes[class_id];
    LOG(store, shard, *list);
    LOG(store, shard, shard->leaving);
    shard->leaving = 0;
    if (page->free_count != 0) {
        partial_add(store, shard, list, number);
        list->free_chunks += page->free_count;
    }
    if (page->free_count == slab_chunks_per_page(store, class_id)) {
        LOG(store, shard, shard->empty_pages);
        shard->empty_pages++;
        list->empty_count++;
    }
    CRASH_POINT(page_stays);
    journal_commit(shard);
}

/* Takes a wholly free page out of its class, in hand. Own transaction. */
static void
page_detach(struct store *store, struct shard *shard, uint32_t number)
{
    struct page *page = page_entry(store->segment, number);
    uint32_t class_id = page_owner_kind(atomic_load_explicit(&page->owner, memory_order_relaxed));
    struct class_list *list = &shard->classes[class_id];
    DCHECK(page->free_count == slab_chunks_per_page(store, class_id));
    pool_give_back_any(store->segment, store->held);
    atomic_store_explicit(&store->held->page_in_flight, number + 1, memory_order_relaxed);
    STORES_IN_ORDER();
    LOG(store, shard, *list);
    LOG(store, shard, shard->page_count);
    LOG(store, shard, page->owner);
    if (page_is_leaving(shard, number)) {
        LOG(store, shard, shard->leaving);
        shard->leaving = 0;
    } else {
        free_chunks_leave(store, shard, list, number, class_id);
    }
    struct page *next = listed_page(store, page->class_next);
    struct page *prev = listed_page(store, page->class_prev);
    if (next == page) {
        list->hand_page = 0;
    } else {
        LOG(store, shard, next->class_prev);
        LOG(store, shard, prev->class_next);
        next->class_prev = page->class_prev;
        prev->class_next = page->class_next;
        if (list->hand_page == number + 1) {
            list->hand_page = page->class_next;
            list->hand_slot = 0;
        }
    }
    list->page_count--;
    shard->page_count--;
    atomic_store_explicit(&page->owner, page_owner_in_hand(store->segment, store->held),
                          memory_order_relaxed);
    CRASH_POINT(page_detached);
    journal_commit(shard);
}

/* Releases the page that is leaving if all of it is free. The process that emptied it may have died
 * before it took the page. */
static void
release_leaving(struct store *store, struct shard *shard)
{
    uint32_t number = leaving_page(store, shard);
    if (number != PAGE_NONE && page_entry(store->segment, number)->free_count ==
                                   slab_chunks_per_page(store, class_of_page(store, number))) {
        page_detach(store, shard, number);
        pool_give_back(store->segment, store->held, number);
    }
}

void
slab_release_page(struct store *store, struct shard *shard, uint32_t page_number)
{
    bool leaving = page_is_leaving(shard, page_number);
    if (UNLIKELY(shard->leaving != 0) && !store->draining) {
        release_leaving(store, shard);
    }
    if (leaving) {
        return;
    }
    uint32_t class_id = class_of_page(store, page_number);
    if (page_entry(store->segment, page_number)->free_count ==
            slab_chunks_per_page(store, class_id) &&
        shard->classes[class_id].empty_count > 1) {
        page_detach(store, shard, page_number);
        pool_give_back(store->segment, store->held, page_number);
    }
}

/* While the shard is being rebuilt, items that are not linked yet cannot be unlinked. */
static bool
may_evict_any(const struct store *store, const struct shard *shard)
{
    return policy_of(store) != POLICY_NOEVICTION &&
           !(is_volatile_policy(store) && shard->sums.volatile_items == 0) &&
           !(atomic_load_explicit(table_word_at(store, shard), memory_order_relaxed) &
             TABLE_WORD_REBUILDING);
}

/* A wholly free page of the class, still in the class; PAGE_NONE: none. With a reason, one is
 * emptied for it. */
static uint32_t
class_free_page(struct store *store, struct shard *shard, uint32_t class_id,
                const enum eviction_reason *reason)
{
    struct class_list *list = &shard->classes[class_id];
    uint32_t per_page = slab_chunks_per_page(store, class_id);
    if (list->empty_count > 0) {
        for (uint32_t at = list->partial; at != 0; at = listed_page(store, at)->partial_next) {
            if (listed_page(store, at)->free_count == per_page) {
                return at - 1;
            }
        }
    }
    return reason == NULL ? PAGE_NONE : drain_page_of_class(store, shard, class_id, *reason);
}

/* Takes an empty page from a class of this shard, in hand. */
static uint32_t
take_empty_page(struct store *store, struct shard *shard, uint32_t except_class)
{
    uint32_t class_count = store->superblock->class_count;
    for (uint32_t class_id = 1; shard->empty_pages > 0 && class_id <= class_count; class_id++) {
        if (class_id == except_class || shard->classes[class_id].empty_count == 0) {
            continue;
        }
        uint32_t number = class_free_page(store, shard, class_id, NULL);
        if (number != PAGE_NONE) {
            page_detach(store, shard, number);
            COUNT(&store->slot->counters, slabs_moved);
            return number;
        }
    }
    return ghost_release_page(store, shard);
}

static void
note_page_move(struct store *store, uint32_t from_class, uint32_t to_class)
{
    COUNT(&store->slot->counters, slabs_moved);
    if (log_is_watched(store->run, LOG_SYSEVENTS)) {
        tell_page_moved(store, from_class, to_class);
    }
}

/* Takes a page from a class of this shard, in hand, with what is in it: from the class that needs
 * it least. */
static uint32_t
take_used_page(struct store *store, struct shard *shard, uint32_t except_class,
               enum eviction_reason reason)
{
    uint64_t tried = UINT64_C(1) << except_class;
    uint32_t class_id;
    while ((class_id = balance_donor(store, shard, tried)) != 0) {
        tried |= UINT64_C(1) << class_id;
        uint32_t number = class_free_page(store, shard, class_id, &reason);
        if (number != PAGE_NONE) {
            page_detach(store, shard, number);
            if (reason == EVICTED_PAGE_MOVE) {
                note_page_move(store, class_id, except_class);
            }
            COUNT(&store->slot->counters, slabs_moved);
            return number;
        }
        /* Chains that went may have filled the pool. */
        number = pool_take(store->segment, store->held);
        if (number != PAGE_NONE) {
            return number;
        }
    }
    return PAGE_NONE;
}

uint32_t
slab_page_for_other(struct store *store, struct shard *shard, enum eviction_reason reason)
{
    uint32_t number = take_empty_page(store, shard, 0);
    if (number == PAGE_NONE && may_evict_any(store, shard)) {
        number = take_used_page(store, shard, 0, reason);
    }
    return number;
}

uint32_t
slab_page_for_table(struct store *store, struct shard *shard, bool steal)
{
    uint32_t number = pool_take(store->segment, store->held);
    if (number == PAGE_NONE && steal && !pool_can_grow(store->segment)) {
        number = slab_page_for_other(store, shard, EVICTED_TABLE);
    }
    return number;
}

bool
slab_donate_page(struct store *store, struct shard *shard, enum eviction_reason reason)
{
    uint32_t number = slab_page_for_other(store, shard, reason);
    if (number == PAGE_NONE) {
        return false;
    }
    pool_give_back(store->segment, store->held, number);
    return true;
}

bool
slab_reassign_page(struct store *store, struct shard *shard, uint32_t from, uint32_t to)
{
    const enum eviction_reason reason = EVICTED_PAGE_MOVE;
    uint32_t number =
        class_free_page(store, shard, from, may_evict_any(store, shard) ? &reason : NULL);
    if (number == PAGE_NONE) {
        return false;
    }
    page_detach(store, shard, number);
    note_page_move(store, from, to);
    if (to == 0) {
        pool_give_back(store->segment, store->held, number);
    } else {
        page_attach(store, shard, number, to);
    }
    return true;
}

bool
slab_adopt_page(struct store *store, struct shard *shard, uint32_t class_id)
{
    uint32_t number = pool_take(store->segment, store->held);
    if (number == PAGE_NONE) {
        return false;
    }
    page_attach(store, shard, number, class_id);
    return true;
}

/* The ghost grows with the number of items, a page now and then. */
static void
grow_ghost(struct store *store, struct shard *shard)
{
    if (has_probation(store) && UNLIKELY(ghost_is_short(store, shard))) {
        uint32_t number = slab_page_for_other(store, shard, EVICTED_TABLE);
        if (number != PAGE_NONE) {
            ghost_adopt_page(store, shard, number);
        }
    }
}

/* Moves a page to the class that should have one more, a step at a time: begins if this class
 * should, and goes on whichever class asks. */
static void
move_page_step(struct store *store, struct shard *shard, uint32_t class_id)
{
    if (leaving_page(store, shard) == PAGE_NONE) {
        uint32_t donor = balance_donor_for(store, shard, class_id);
        if (donor == 0 || !drain_begin(store, shard, donor, class_id)) {
            return;
        }
    }
    uint32_t number = leaving_page(store, shard);
    uint32_t from = class_of_page(store, number);
    uint32_t to = shard->leaving_to;
    if (drain_step(store, shard, MOVE_STEP_CHUNKS, EVICTED_PAGE_MOVE) == DRAIN_EMPTY) {
        page_detach(store, shard, number);
        note_page_move(store, from, to);
        page_attach(store, shard, number, to);
    }
}

/* Whether a page may be had that no item is in. To be asked first: what the class deserves is a
 * look at every class. */
static bool
page_may_be_free(const struct store *store, const struct shard *shard)
{
    return !freemap_is_empty(store->segment) || shard->empty_pages > 0 ||
           atomic_load_explicit(&store->held->page_in_flight, memory_order_relaxed) != 0 ||
           ghost_has_spare_page(store, shard);
}

enum slab_result
slab_ensure(struct store *store, struct shard *shard, uint32_t class_id, bool *evicted)
{
    struct class_list *list = &shard->classes[class_id];
    if (LIKELY(list->free_chunks > 0)) {
        return SLAB_READY;
    }
    uint32_t number = PAGE_NONE;
    bool can_grow = pool_can_grow(store->segment);
    if (can_grow || !may_evict_any(store, shard) ||
        (page_may_be_free(store, shard) && balance_deserves_page(store, shard, class_id))) {
        number = pool_take(store->segment, store->held);
        if (number == PAGE_NONE && can_grow) {
            return SLAB_GROW;
        }
        if (number == PAGE_NONE) {
            number = take_empty_page(store, shard, class_id);
        }
    }
    if (number != PAGE_NONE) {
        page_attach(store, shard, number, class_id);
        return SLAB_READY;
    }
    *evicted = true;
    if (!may_evict_any(store, shard)) {
        return SLAB_DONOR;
    }
    grow_ghost(store, shard);
    move_page_step(store, shard, class_id);
    uint32_t leaving = leaving_page(store, shard);
    if (leaving != PAGE_NONE && list->page_count == 1 &&
        class_of_page(store, leaving) == class_id) {
        page_stop_leaving(store, shard);
    }
    if (list->free_chunks > 0 || evict_from_class(store, shard, class_id, EVICTED_MAIN)) {
        return SLAB_READY;
    }
    number = pool_take(store->segment, store->held);
    if (number == PAGE_NONE) {
        number = take_empty_page(store, shard, class_id);
    }
    if (number == PAGE_NONE) {
        number = take_used_page(store, shard, class_id, EVICTED_PAGE_MOVE);
    }
    if (number == PAGE_NONE) {
        return list->free_chunks > 0 ? SLAB_READY : SLAB_DONOR;
    }
    page_attach(store, shard, number, class_id);
    return SLAB_READY;
}
