/* Unlinking and eviction; see slab.h.
 *
 * The eviction clock of a class is a hand over the class's pages. An item with a count loses one
 * and stays, an item without goes. Under one hold the hand looks at EVICT_STEPS_MAX items, then
 * takes the lowest count it saw. */
#include "base/check.h"
#include "base/crash.h"
#include "store/hashtable.h"
#include "store/slab.h"

#define EVICT_STEPS_MAX 16

/* Chunks that are no item heads are passed over; a chain of a megabyte has a hundred. */
#define EVICT_CHUNKS_MAX 1024

void
sums_remove(struct store *store, struct shard *shard, struct item *item, enum unlink_reason reason)
{
    struct shard_sums *sums = &shard->sums;
    LOG(store, shard, sums->curr_items);
    LOG(store, shard, sums->bytes);
    sums->curr_items--;
    sums->bytes -= item_bytes(item);
    bool fetched = chunk_state(item) & STATE_FETCHED;
    switch (reason) {
    case UNLINK_DELETE:
        break;
    case UNLINK_EVICT:
        LOG(store, shard, sums->evictions);
        sums->evictions++;
        if (!fetched) {
            LOG(store, shard, sums->evicted_unfetched);
            sums->evicted_unfetched++;
        }
        break;
    case UNLINK_RECLAIM:
        LOG(store, shard, sums->reclaimed);
        sums->reclaimed++;
        if (!fetched) {
            LOG(store, shard, sums->expired_unfetched);
            sums->expired_unfetched++;
        }
        break;
    }
}

bool
item_is_pinned(const struct store *store, struct ref ref, const struct held_ref *except)
{
    unsigned slot_count = segment_slot_count(store->segment);
    for (unsigned i = 0; i < slot_count; i++) {
        const struct process_slot *slot = &store->segment->slots[i];
        uint32_t high = atomic_load_explicit(&slot->pin_high, memory_order_acquire);
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
        struct ref freed = {*item_next(item)};
        if (ref_is_none(freed)) {
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
item_unlink(struct store *store, struct shard *shard, struct ref ref, enum unlink_reason reason)
{
    struct table_place place;
    table_find_ref(store, shard, ref, item_hash(store, ref_at(store, ref)), &place);
    CHECK(place.bucket != NULL);
    item_unlink_place(store, shard, &place, reason);
}

struct hand {
    struct store *store;
    struct shard *shard;
    struct class_list *list;
    uint32_t class_id;
};

/* The chunk under the hand; the hand moves on. */
static struct item *
hand_next(const struct hand *hand)
{
    struct class_list *list = hand->list;
    const struct page *page = page_entry(hand->store->segment, list->hand_page - 1);
    if (list->hand_slot >= slab_chunks_per_page(hand->store, hand->class_id)) {
        list->hand_slot = 0;
        list->hand_page = page->class_next;
    }
    uint64_t offset = page_offset(hand->store->superblock, list->hand_page - 1) +
                      (uint64_t)list->hand_slot * slab_chunk_bytes(hand->store, hand->class_id);
    list->hand_slot++;
    return (struct item *)(void *)(hand->store->base + offset);
}

/* Takes one count from an item that readers may be counting up. */
static void
age(struct item *item, uint32_t state)
{
    atomic_compare_exchange_strong_explicit(&item->state, &state, state - (1u << STATE_COUNT_SHIFT),
                                            memory_order_relaxed, memory_order_relaxed);
}

bool
evict_from_class(struct store *store, struct shard *shard, uint32_t class_id)
{
    struct hand hand = {store, shard, &shard->classes[class_id], class_id};
    struct class_list *list = hand.list;
    struct item *lowest = NULL;
    struct item *any_head = NULL;
    uint32_t lowest_count = UINT32_MAX;
    uint32_t items = 0;
    for (uint32_t i = 0; i < EVICT_CHUNKS_MAX && items < EVICT_STEPS_MAX && list->hand_page != 0;
         i++) {
        struct item *item = hand_next(&hand);
        uint32_t state = chunk_state(item);
        if (state_kind(state) == CHUNK_CONT) {
            any_head = ref_at(store, (struct ref){((struct continuation *)(void *)item)->head});
            continue;
        }
        if (state_kind(state) != CHUNK_LIVE) {
            continue;
        }
        items++;
        if (item_is_dead(store, item)) {
            item_unlink(store, shard, ref_of(store, item), UNLINK_RECLAIM);
            if (list->free_chunks > 0) {
                return true;
            }
            continue;
        }
        uint32_t count = state_count(state);
        if (count < lowest_count) {
            lowest = item;
            lowest_count = count;
        }
        if (count == 0) {
            break;
        }
        age(item, state);
    }
    if (lowest == NULL && any_head != NULL && state_kind(chunk_state(any_head)) == CHUNK_LIVE) {
        /* A class of nothing but tails: their items are in another class. */
        lowest = any_head;
    }
    if (lowest != NULL && state_kind(chunk_state(lowest)) == CHUNK_LIVE) {
        item_unlink(store, shard, ref_of(store, lowest), UNLINK_EVICT);
    }
    return list->free_chunks > 0;
}
