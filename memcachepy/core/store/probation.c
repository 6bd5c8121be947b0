/* See probation.h. */
#include "store/probation.h"

#include "base/crash.h"
#include "store/cell.h"
#include "store/hashtable.h"
#include "store/slab.h"

#define CELL_NEXT_WORD (CELL_NEXT_AT / 4)

/* Settling lags behind, so that its look-ups are of what was fetched a while ago. */
#define SETTLE_SLACK 8
#define SETTLE_STEPS 2

/* How far ahead of a pop the bucket is fetched, and the item. */
#define AHEAD_BUCKET 6
#define AHEAD_ITEM 3

/* Atomic, for a reader with an old link takes the cell for a bucket. */
static _Atomic uint32_t *
entry_at(const struct store *store, uint32_t cell, uint32_t index)
{
    _Atomic uint32_t *words = ref_at(store, (struct ref){cell});
    return &words[index < CELL_NEXT_WORD ? index : index + 1];
}

uint32_t
probation_target(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    const struct class_list *list = &shard->classes[class_id];
    uint64_t chunks = (uint64_t)list->page_count * slab_chunks_per_page(store, class_id);
    uint64_t target = chunks / PROBATION_PART;
    if (shard->evicted_bytes != 0) {
        uint64_t part_bytes = ((uint64_t)shard->page_count << store->page_shift) / PROBATION_PART;
        uint64_t share = part_bytes * list->evicted / shard->evicted_bytes;
        uint64_t most = list->item_count / 2; /* Long values have many chunks. */
        share = share < most ? share : most;
        target = share > target ? share : target;
    }
    return target == 0 ? 1 : (uint32_t)target;
}

static void
log_ring(struct store *store, struct shard *shard, struct class_list *list)
{
    /* ring_popped and ring_pushed are one word. */
    journal_log_2(store, shard, LOGGED(list->ring_count), (struct logged){&list->ring_popped, 4});
}

static bool
ref_may_be(const struct store *store, uint32_t units)
{
    return units == 0 || ref_is_in_pages(store, (struct ref){units});
}

bool
probation_is_sound(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    const struct class_list *list = &shard->classes[class_id];
    return list->ring_popped < PROBATION_CELL_ENTRIES &&
           list->ring_pushed <= PROBATION_CELL_ENTRIES && ref_may_be(store, list->ring_head) &&
           ref_may_be(store, list->ring_tail) &&
           (list->ring_count == 0 || (list->ring_head != 0 && list->ring_tail != 0));
}

/* What is left of a damaged ring. Its cells are missed by the next look at the shard, which is
 * rebuilt then. */
static COLD void
drop_ring(struct store *store, struct shard *shard, struct class_list *list)
{
    log_ring(store, shard, list);
    LOG(store, shard, list->ring_head);
    LOG(store, shard, list->ring_tail);
    list->ring_count = list->ring_popped = list->ring_pushed = 0;
    list->ring_head = list->ring_tail = 0;
    journal_commit(shard);
}

bool
probation_push(struct store *store, struct shard *shard, uint32_t class_id, uint64_t hash)
{
    struct class_list *list = &shard->classes[class_id];
    bool full = list->ring_tail == 0 || list->ring_pushed == PROBATION_CELL_ENTRIES;
    /* The last cell is for the table. */
    if (full && !cells_are_free(store, shard, CELLS_SPARE)) {
        return false;
    }
    log_ring(store, shard, list);
    if (full) {
        struct ref cell = cell_pop(store, shard);
        LOG(store, shard, list->ring_tail);
        if (list->ring_tail == 0) {
            LOG(store, shard, list->ring_head);
            list->ring_head = cell.units;
            list->ring_popped = 0;
        } else {
            _Atomic uint32_t *next = cell_next(store, (struct ref){list->ring_tail});
            LOG(store, shard, *next);
            atomic_store_explicit(next, cell.units, memory_order_relaxed);
        }
        list->ring_tail = cell.units;
        list->ring_pushed = 0;
    }
    /* Behind the last entry: nothing that a death would have to undo. */
    atomic_store_explicit(entry_at(store, list->ring_tail, list->ring_pushed), (uint32_t)hash,
                          memory_order_relaxed);
    list->ring_pushed++;
    list->ring_count++;
    CRASH_POINT(probation_pushed);
    return true;
}

/* Fetches what the pops after this one will look at. */
static void
look_ahead(struct store *store, struct shard *shard, const struct class_list *list)
{
    static const uint32_t distances[] = {AHEAD_BUCKET, AHEAD_ITEM};
    for (unsigned i = 0; i < 2; i++) {
        uint32_t index = list->ring_popped + distances[i];
        uint32_t cell = list->ring_head;
        if (distances[i] >= list->ring_count) {
            continue;
        }
        if (index >= PROBATION_CELL_ENTRIES) {
            index -= PROBATION_CELL_ENTRIES;
            cell = atomic_load_explicit(cell_next(store, (struct ref){cell}), memory_order_relaxed);
            if (UNLIKELY(!ref_is_in_pages(store, (struct ref){cell}))) {
                return;
            }
        }
        uint32_t hash = atomic_load_explicit(entry_at(store, cell, index), memory_order_relaxed);
        if (i == 0) {
            table_prefetch_bucket(store, shard, hash);
        } else {
            table_prefetch_item(store, shard, hash);
        }
    }
}

struct item *
probation_pop(struct store *store, struct shard *shard, uint32_t class_id,
              struct table_place *place)
{
    struct class_list *list = &shard->classes[class_id];
    DCHECK(list->ring_count > 0);
    if (UNLIKELY(!probation_is_sound(store, shard, class_id))) {
        drop_ring(store, shard, list);
        return NULL;
    }
    look_ahead(store, shard, list);
    uint32_t hash = atomic_load_explicit(entry_at(store, list->ring_head, list->ring_popped),
                                         memory_order_relaxed);
    table_find_probationer(store, shard, hash, place);
    log_ring(store, shard, list);
    list->ring_popped++;
    list->ring_count--;
    bool last = list->ring_count == 0;
    if (last || list->ring_popped == PROBATION_CELL_ENTRIES) {
        struct ref cell = {list->ring_head};
        LOG(store, shard, list->ring_head);
        list->ring_head = atomic_load_explicit(cell_next(store, cell), memory_order_relaxed);
        list->ring_popped = 0;
        if (last) {
            LOG(store, shard, list->ring_tail);
            list->ring_head = list->ring_tail = 0;
        }
        cell_push(store, shard, cell);
    }
    CRASH_POINT(probation_popped);
    journal_commit(shard);
    /* An item that was stored anew with another size has its entry there. */
    return place->bucket != NULL && class_of_ref(store, place->ref) == class_id ? place->item
                                                                                : NULL;
}

void
probation_end(struct item *item, uint32_t kept)
{
    uint32_t state = atomic_load_explicit(&item->state, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(
        &item->state, &state, state & (kept | ~(STATE_PROBATION | STATE_COUNT_MASK)),
        memory_order_relaxed, memory_order_relaxed)) {
    }
}

void
probation_settle(struct store *store, struct shard *shard, uint32_t class_id)
{
    const struct class_list *list = &shard->classes[class_id];
    uint64_t chunks = (uint64_t)list->page_count * slab_chunks_per_page(store, class_id);
    /* No target is below this part. */
    uint64_t least = (chunks + SETTLE_SLACK * PROBATION_PART) * (list->free_chunks > 0 ? 1 : 2);
    if (LIKELY((uint64_t)list->ring_count * PROBATION_PART <= least)) {
        return;
    }
    uint32_t most = probation_target(store, shard, class_id) + SETTLE_SLACK;
    /* A full class shortens its ring when it evicts; but deletes may always make room before that.
     */
    most = list->free_chunks > 0 ? most : 2 * most;
    for (unsigned i = 0; i < SETTLE_STEPS && list->ring_count > most; i++) {
        struct table_place place;
        struct item *item = probation_pop(store, shard, class_id, &place);
        if (item != NULL) {
            probation_end(item, STATE_COUNT_MASK);
            CLASS_COUNT(store, class_id, moves_to_cold);
        }
    }
}
