/* Unlinking and eviction; see slab.h.
 *
 * Under S3-FIFO (Yang et al., SOSP 2023) a class evicts from its probation ring while that is
 * longer than it should be, else by the hand. The hand sweeps the class's pages as a clock does: an
 * item with a count loses one and stays, an item without goes. Under one hold it looks at
 * EVICT_STEPS_MAX items, then takes the lowest it saw; under the other policies that is all there
 * is. */
#include "base/check.h"
#include "base/crash.h"
#include "store/balance.h"
#include "store/ghost.h"
#include "store/hashtable.h"
#include "store/policy.h"
#include "store/probation.h"
#include "store/recent.h"
#include "store/slab.h"
#include "store/tell.h"
#include "store/walk.h"

#define EVICT_STEPS_MAX 64
#define SAMPLES 16
#define SAMPLE_BUCKETS_MAX 16
#define EVICT_POPS_MAX 64
#define VOLATILE_LOOKS_MAX 16

/* A count that was not used for so long is lost, one whenever the hand comes by. */
#define LFU_IDLE_S 60

/* Chunks that are no item heads are passed over; a chain of a megabyte has a hundred. */
#define EVICT_CHUNKS_MAX 1024

/* What `stats items` tells of items that were not deleted. */
static void
count_removed(struct store *store, struct item *item, uint32_t class_id, enum unlink_reason reason)
{
    struct class_counters *counters = &store->slot->classes[class_id];
    uint32_t state = chunk_state(item);
    if (reason == UNLINK_RECLAIM) {
        class_counter_add(counters, CLASS_reclaimed, 1);
        class_counter_add(counters, CLASS_expired_unfetched, !(state & STATE_FETCHED));
        return;
    }
    bool expires = atomic_load_explicit(&item->expire_word, memory_order_relaxed) != 0;
    class_counter_add(counters, CLASS_evicted, 1);
    class_counter_add(counters, CLASS_evicted_nonzero, expires);
    class_counter_add(counters, CLASS_evicted_unfetched, !(state & STATE_FETCHED));
    atomic_store_explicit(&counters->evicted_last,
                          (uint64_t)store->now_s << 32 | state_idle_s(store, state),
                          memory_order_relaxed);
}

void
sums_remove(struct store *store, struct shard *shard, struct item *item, enum unlink_reason reason)
{
    struct shard_sums *sums = &shard->sums;
    uint32_t class_id = class_of_ref(store, ref_of(store, item));
    struct class_list *list = &shard->classes[class_id];
    LOG(store, shard, sums->curr_items);
    LOG(store, shard, list->item_count);
    LOG(store, shard, shard->class_bytes[class_id]);
    sums->curr_items--;
    list->item_count--;
    if (atomic_load_explicit(&item->expire_word, memory_order_relaxed) != 0) {
        LOG(store, shard, sums->volatile_items);
        sums->volatile_items--;
    }
    shard->class_bytes[class_id] -= item_bytes(item);
    bool fetched = chunk_state(item) & STATE_FETCHED;
    if (reason == UNLINK_DELETE || reason == UNLINK_REFUSE) {
        return;
    }
    if (reason == UNLINK_RECLAIM) {
        LOG(store, shard, sums->reclaimed);
        sums->reclaimed++;
    } else {
        LOG(store, shard, sums->evictions);
        LOG(store, shard, sums->evicted_by[reason - UNLINK_EVICT]);
        sums->evictions++;
        sums->evicted_by[reason - UNLINK_EVICT]++;
    }
    if (!fetched) {
        uint64_t *unfetched =
            reason == UNLINK_RECLAIM ? &sums->expired_unfetched : &sums->evicted_unfetched;
        LOG(store, shard, *unfetched);
        ++*unfetched;
    }
    count_removed(store, item, class_id, reason);
}

bool
item_is_pinned(const struct store *store, struct ref ref, const struct held_ref *except)
{
    unsigned slot_count = segment_slot_count(store->segment);
    for (unsigned i = 0; i < slot_count; i++) {
        const struct process_slot *slot = &store->segment->slots[i];
        uint32_t high = held_count(&slot->pin_high, PIN_COUNT_MAX);
        for (uint32_t j = 0; j < high; j++) {
            const struct held_ref *pin = &slot->pins[j];
            if (atomic_load_explicit(&pin->head_ref, memory_order_relaxed) == ref.units &&
                pin != except) {
                return true;
            }
        }
    }
    return false;
}

void
item_discard(struct store *store, struct shard *shard, struct ref ref)
{
    struct item *item = ref_at(store, ref);
    if (!(item->bits & ITEM_CHAINED)) {
        chunk_push(store, shard, ref);
        return;
    }
    LOG(store, shard, item->state);
    uint32_t state = chunk_state(item);
    atomic_store_explicit(&item->state, (state & ~STATE_KIND_MASK) | CHUNK_DETACHED,
                          memory_order_relaxed);
    if (!(item->bits & ITEM_PINNED) || !item_is_pinned(store, ref, NULL)) {
        DCHECK(shard->reclaiming == 0);
        LOG(store, shard, shard->reclaiming);
        shard->reclaiming = ref.units;
    }
}

void
reclaim_run(struct store *store, struct shard *shard)
{
    while (shard->reclaiming != 0) {
        struct ref head = {shard->reclaiming};
        struct item *item = ref_at(store, head);
        /* What follows may be damaged: a chunk of another chain is not this one's to free. */
        if (UNLIKELY(!ref_is_in_pages(store, head) ||
                     state_kind(chunk_state(item)) != CHUNK_DETACHED)) {
            shard->reclaiming = 0;
            return;
        }
        struct ref freed = {*item_next(item)};
        if (ref_is_none(freed) || UNLIKELY(!cont_is_of(store, freed, head.units))) {
            LOG(store, shard, shard->reclaiming);
            shard->reclaiming = 0;
            freed = head;
        } else {
            struct continuation *continuation = ref_at(store, freed);
            LOG(store, shard, *item_next(item));
            *item_next(item) = continuation->next;
        }
        chunk_push(store, shard, freed);
        CRASH_POINT(chain_chunk_freed);
        journal_commit(shard);
        slab_release_empty(store, shard, page_of_ref(store, freed));
    }
}

void
item_unlink_place(struct store *store, struct shard *shard, const struct table_place *place,
                  enum unlink_reason reason)
{
    bool chained = place->item->bits & ITEM_CHAINED;
    recent_note(store, shard, place->item, place->hash, reason);
    if (reason >= UNLINK_EVICT && log_is_watched(store->superblock, LOG_EVICTIONS)) {
        tell_evicted(store, place->item);
    }
    bucket_open(store, shard, place->primary);
    sums_remove(store, shard, place->item, reason);
    table_unlink(store, shard, place);
    item_discard(store, shard, place->ref);
    journal_commit(shard);
    bucket_close(shard, place->primary);
    if (chained) {
        reclaim_run(store, shard);
    } else {
        slab_release_empty(store, shard, page_of_ref(store, place->ref));
    }
}

void
item_unlink_hashed(struct store *store, struct shard *shard, struct ref ref, uint64_t hash,
                   enum unlink_reason reason)
{
    struct table_place place;
    table_find_ref(store, shard, ref, hash, &place);
    if (UNLIKELY(place.bucket == NULL)) {
        table_condemn(store, shard);
    }
    CHECK(place.bucket != NULL);
    /* What has had its chance in the main part and lost it comes back as a new key does. */
    if (reason >= UNLINK_EVICT && reason != UNLINK_EVICT + EVICTED_MAIN && has_probation(store)) {
        ghost_remember(store, shard, hash);
    }
    item_unlink_place(store, shard, &place, reason);
}

void
item_unlink(struct store *store, struct shard *shard, struct ref ref, enum unlink_reason reason)
{
    item_unlink_hashed(store, shard, ref, item_hash(store, ref_at(store, ref)), reason);
}

/* The chunk under the class's hand; the hand moves on. */
static struct item *
hand_next(const struct store *store, struct class_list *list, uint32_t class_id)
{
    const struct page *page = page_entry(store->segment, list->hand_page - 1);
    if (list->hand_slot >= slab_chunks_per_page(store, class_id)) {
        list->hand_slot = 0;
        list->hand_page = page->class_next;
    }
    return chunk_at(store, list->hand_page - 1, class_id, list->hand_slot++);
}

/* Takes one count from an item that readers may be counting up. */
static void
age(struct item *item, uint32_t state)
{
    atomic_compare_exchange_strong_explicit(&item->state, &state, state - (1u << STATE_COUNT_SHIFT),
                                            memory_order_relaxed, memory_order_relaxed);
}

/* What the hand has seen so far. */
struct sweep {
    struct item *lowest; /* who goes if nobody is without a count */
    uint32_t lowest_rank;
    struct item *last_resort; /* an item in probation, or of another class whose tail is here */
    bool spares_probation;    /* the class's ring will come to them */
    uint32_t passed;          /* items that were looked at and are not in probation */
};

/* Looks at an item in the hand's way or drawn. True: it goes. */
static bool
consider(struct store *store, struct item *item, struct sweep *sweep)
{
    uint32_t state = chunk_state(item);
    if (state & STATE_PROBATION && sweep->spares_probation) {
        sweep->last_resort = item;
        return false;
    }
    sweep->passed++;
    uint32_t rank = is_random_policy(store) ? random_next(store) : policy_rank(store, item, state);
    if (rank <= sweep->lowest_rank) {
        sweep->lowest = item;
        sweep->lowest_rank = rank;
    }
    bool clock = is_clock_policy(store);
    if (state_count(state) == 0) {
        return clock;
    }
    if (clock || state_idle_s(store, state) > LFU_IDLE_S) {
        age(item, state);
        CLASS_COUNT(store, class_of_ref(store, ref_of(store, item)), moves_within_lru);
    }
    return false;
}

/* An item that the policy has chosen goes. */
static void
evict_item(struct store *store, struct shard *shard, uint32_t class_id, struct item *item,
           enum eviction_reason reason)
{
    item_unlink(store, shard, ref_of(store, item), UNLINK_EVICT + reason);
    balance_evicted(store, shard, class_id, reason);
}

/* Moves the hand until an item is gone. */
static void
evict_by_hand(struct store *store, struct shard *shard, uint32_t class_id,
              enum eviction_reason reason)
{
    struct class_list *list = &shard->classes[class_id];
    struct sweep sweep = {.lowest_rank = UINT32_MAX, .spares_probation = list->ring_count > 0};
    uint32_t items = 0;
    for (uint32_t i = 0; i < EVICT_CHUNKS_MAX && items < EVICT_STEPS_MAX && list->hand_page != 0;
         i++) {
        struct item *item = hand_next(store, list, class_id);
        uint32_t kind = state_kind(chunk_state(item));
        if (kind == CHUNK_CONT) {
            /* A class of nothing but tails: their items are in another class. */
            item = ref_at(store, (struct ref){((struct continuation *)(void *)item)->head});
            if (state_kind(chunk_state(item)) == CHUNK_LIVE && may_evict(store, item)) {
                sweep.last_resort = item;
            }
            continue;
        }
        if (kind != CHUNK_LIVE) {
            continue;
        }
        if (item_is_dead(store, item)) {
            item_unlink(store, shard, ref_of(store, item), UNLINK_RECLAIM);
            if (list->free_chunks > 0) {
                return;
            }
            continue;
        }
        if (!may_evict(store, item)) {
            continue;
        }
        items++;
        if (consider(store, item, &sweep)) {
            break;
        }
    }
    struct item *victim = sweep.lowest != NULL ? sweep.lowest : sweep.last_resort;
    /* What was reclaimed above may have been the very item. */
    if (victim != NULL && state_kind(chunk_state(victim)) == CHUNK_LIVE) {
        evict_item(store, shard, class_id, victim, reason);
        /* That a page leaves is no demand of the class's own, but what it has to pass over then is.
         */
        sweep.passed -= reason != EVICTED_MAIN && sweep.passed > 0;
    }
    balance_swept(shard, class_id, sweep.passed);
}

/* Considers the class's items among those of a bucket; returns how many there were. */
static uint32_t
consider_bucket(struct store *store, const struct table_bucket *bucket, uint32_t class_id,
                struct sweep *sweep)
{
    uint32_t items = 0;
    for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
        uint8_t tag = atomic_load_explicit(&bucket->tag[slot], memory_order_relaxed);
        struct ref ref = {atomic_load_explicit(&bucket->ref[slot], memory_order_relaxed)};
        if (tag == 0 || tag == TAG_OVERFLOW || class_of_ref(store, ref) != class_id) {
            continue;
        }
        struct item *item = ref_at(store, ref);
        if (item_is_dead(store, item) || may_evict(store, item)) {
            items++;
            consider(store, item, sweep);
        }
    }
    return items;
}

/* Draws from all of the shard: the next in a page were stored at about the same time. A class that
 * has too few of the shard's items is left to the hand. */
static void
evict_by_sample(struct store *store, struct shard *shard, uint32_t class_id,
                enum eviction_reason reason)
{
    struct sweep sweep = {.lowest_rank = UINT32_MAX};
    uint32_t count = table_bucket_count(atomic_load(table_word_at(store, shard)));
    uint32_t items = 0;
    uint32_t samples = is_random_policy(store) ? 1 : SAMPLES;
    for (unsigned i = 0; i < SAMPLE_BUCKETS_MAX && items < samples && count != 0; i++) {
        const struct table_bucket *bucket =
            table_bucket_at(store, shard, random_next(store) % count);
        for (unsigned j = 0; bucket != NULL && j < CHAIN_BUCKETS_MAX; j++) {
            items += consider_bucket(store, bucket, class_id, &sweep);
            bucket = bucket_next(store, bucket);
        }
    }
    if (sweep.lowest != NULL && item_is_dead(store, sweep.lowest)) {
        item_unlink(store, shard, ref_of(store, sweep.lowest), UNLINK_RECLAIM);
    } else if (sweep.lowest != NULL) {
        evict_item(store, shard, class_id, sweep.lowest, reason);
        balance_swept(shard, class_id, reason == EVICTED_MAIN);
    }
}

/* Ends the probation of the oldest: it stays if it was asked for, else it goes. Where the main part
 * is fleeting one request is not enough: it often belongs to the same burst as the set. */
static void
evict_probationer(struct store *store, struct shard *shard, uint32_t class_id,
                  enum eviction_reason reason)
{
    struct item *item = probation_pop(store, shard, class_id);
    if (item == NULL) {
        return;
    }
    if (item_is_dead(store, item)) {
        item_unlink(store, shard, ref_of(store, item), UNLINK_RECLAIM);
    } else if (state_count(chunk_state(item)) > (balance_main_is_fleeting(shard) ? 1 : 0)) {
        probation_end(item, 0);
        CLASS_COUNT(store, class_id, moves_to_cold);
    } else {
        evict_item(store, shard, class_id, item,
                   reason == EVICTED_MAIN ? EVICTED_PROBATION : reason);
    }
}

bool
evict_from_class(struct store *store, struct shard *shard, uint32_t class_id,
                 enum eviction_reason reason)
{
    struct class_list *list = &shard->classes[class_id];
    for (unsigned i = 0; i < EVICT_POPS_MAX && list->free_chunks == 0; i++) {
        if (list->ring_count < probation_target(store, shard, class_id)) {
            break;
        }
        evict_probationer(store, shard, class_id, reason);
    }
    if (list->free_chunks == 0 && !is_clock_policy(store)) {
        evict_by_sample(store, shard, class_id, reason);
    }
    /* Where the policy protects most items one look at some of them may find none that may go. */
    unsigned looks = is_volatile_policy(store) ? VOLATILE_LOOKS_MAX : shard->leaving != 0 ? 2 : 1;
    for (unsigned i = 0; i < looks && list->free_chunks == 0; i++) {
        evict_by_hand(store, shard, class_id, reason);
    }
    return list->free_chunks > 0;
}
