/* See class_stats.h. What is there is summed over the shards, what happened over the processes. */
#include "store/class_stats.h"

#include "store/policy.h"
#include "store/slab.h"
#include "store/write.h"

#include <string.h>

/* Ages are looked for in so many shards, in so many chunks from the hand on. */
#define AGE_SHARDS_MAX 64
#define AGE_CHUNKS_MAX 16

void
store_count_put(struct store *store, const struct put *put, enum put_result result)
{
    struct item_form form = {
        .key = put->key, .client_flags = put->client_flags, .value_len = put->value_len};
    uint64_t bytes = form_bytes(&form);
    uint32_t class_id = bytes <= store->chunk_bytes_max ? slab_class_of(store, (uint32_t)bytes)
                                                        : store->superblock->class_count;
    struct class_counters *counters = &store->slot->classes[class_id];
    if (result == PUT_NO_MEMORY) {
        class_counter_add(counters, CLASS_outofmemory, 1);
        return;
    }
    class_counter_add(counters, CLASS_cmd_set, 1);
    if (put->mode == PUT_CAS && result == PUT_STORED) {
        class_counter_add(counters, CLASS_cas_hits, 1);
    } else if (put->mode == PUT_CAS && result == PUT_EXISTS) {
        class_counter_add(counters, CLASS_cas_badval, 1);
    }
}

/* Without the lock: the page may be on its way to another class, and then what is read is some
 * chunk's state or none. */
static uint32_t
age_at_hand(const struct store *store, const struct class_list *list, uint32_t class_id)
{
    uint32_t page = *(const volatile uint32_t *)&list->hand_page;
    uint32_t first = *(const volatile uint32_t *)&list->hand_slot;
    uint32_t count = slab_chunks_per_page(store, class_id);
    uint32_t present = pool_populated(store->segment);
    uint32_t age_s = 0;
    if (page == 0 || page > present) {
        return 0;
    }
    for (uint32_t i = 0; i < AGE_CHUNKS_MAX && i < count; i++) {
        uint32_t slot = first + i < count ? first + i : i;
        uint32_t state = chunk_state(chunk_at(store, page - 1, class_id, slot));
        if (state_kind(state) == CHUNK_LIVE) {
            uint32_t idle_s = state_idle_s(store, state);
            age_s = idle_s > age_s ? idle_s : age_s;
        }
    }
    return age_s;
}

static void
add_shard(const struct store *store, const struct shard *shard, bool looks_for_age,
          struct class_stats classes[SLAB_CLASS_COUNT_MAX])
{
    for (uint32_t id = 1; id <= store->superblock->class_count; id++) {
        const struct class_list *list = &shard->classes[id];
        struct class_stats *of = &classes[id];
        if (list->page_count == 0) {
            continue;
        }
        of->pages += list->page_count;
        of->free_chunks += list->free_chunks;
        of->items += list->item_count;
        of->item_bytes += shard->class_bytes[id];
        /* An entry of the ring may be of an item that was deleted. */
        of->probation += list->ring_count < list->item_count ? list->ring_count : list->item_count;
        uint32_t age_s = looks_for_age ? age_at_hand(store, list, id) : 0;
        of->age_s = age_s > of->age_s ? age_s : of->age_s;
    }
}

static void
add_process(const struct store *store, const struct process_slot *slot,
            struct class_counters sums[SLAB_CLASS_COUNT_MAX])
{
    for (uint32_t id = 1; id <= store->superblock->class_count; id++) {
        const struct class_counters *of = &slot->classes[id];
        for (unsigned i = 0; i < CLASS_COUNTER_COUNT; i++) {
            sums[id].value[i] += atomic_load_explicit(&of->value[i], memory_order_relaxed);
        }
        uint64_t last = atomic_load_explicit(&of->evicted_last, memory_order_relaxed);
        if (last > sums[id].evicted_last) {
            sums[id].evicted_last = last;
        }
    }
}

static void
sum_processes(const struct store *store, struct class_counters sums[SLAB_CLASS_COUNT_MAX])
{
    memset(sums, 0, SLAB_CLASS_COUNT_MAX * sizeof(sums[0]));
    unsigned slot_count = segment_slot_count(store->segment);
    for (unsigned i = 0; i < slot_count; i++) {
        add_process(store, &store->segment->slots[i], sums);
    }
}

void
store_class_stats(struct store *store, struct class_stats classes[SLAB_CLASS_COUNT_MAX])
{
    const struct superblock *superblock = store->superblock;
    uint32_t age_step = superblock->shard_count / AGE_SHARDS_MAX + 1;
    struct class_counters sums[SLAB_CLASS_COUNT_MAX];
    memset(classes, 0, SLAB_CLASS_COUNT_MAX * sizeof(classes[0]));
    for (uint32_t i = 0; i < superblock->shard_count; i++) {
        add_shard(store, &store->shards[i], i % age_step == 0, classes);
    }
    sum_processes(store, sums);
    for (uint32_t id = 1; id <= superblock->class_count; id++) {
        const struct class_counters *before = &store->run->class_baseline[id];
        struct class_stats *of = &classes[id];
        of->chunk_bytes = superblock->chunk_bytes[id];
        of->chunks_per_page = superblock->chunks_per_page[id];
        for (unsigned i = 0; i < CLASS_COUNTER_COUNT; i++) {
            of->counters[i] = sums[id].value[i] - atomic_load(&before->value[i]);
        }
        bool evicted_since = sums[id].evicted_last > atomic_load(&before->evicted_last);
        of->evicted_idle_s = evicted_since ? (uint32_t)sums[id].evicted_last : 0;
    }
}

void
store_class_counters_sum(struct store *store, uint64_t totals[CLASS_COUNTER_COUNT])
{
    struct class_counters sums[SLAB_CLASS_COUNT_MAX];
    sum_processes(store, sums);
    for (unsigned i = 0; i < CLASS_COUNTER_COUNT; i++) {
        totals[i] = 0;
        for (uint32_t id = 1; id <= store->superblock->class_count; id++) {
            totals[i] += sums[id].value[i] - atomic_load(&store->run->class_baseline[id].value[i]);
        }
    }
}

void
store_class_stats_reset(struct store *store)
{
    struct class_counters sums[SLAB_CLASS_COUNT_MAX];
    sum_processes(store, sums);
    for (uint32_t id = 1; id <= store->superblock->class_count; id++) {
        struct class_counters *baseline = &store->run->class_baseline[id];
        for (unsigned i = 0; i < CLASS_COUNTER_COUNT; i++) {
            atomic_store(&baseline->value[i], sums[id].value[i]);
        }
        atomic_store(&baseline->evicted_last, sums[id].evicted_last);
    }
}
