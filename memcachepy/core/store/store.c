/* The process's handle, the clock and sums; see store.h. */
#include "store/store.h"

#include "base/check.h"
#include "mem/prefix_table.h"
#include "store/class_stats.h"
#include "store/clocks.h"
#include "store/flush.h"
#include "store/format.h"
#include "store/hashtable.h"
#include "store/held.h"
#include "store/policy.h"
#include "store/slab.h"
#include "store/track.h"

#include <stdlib.h>
#include <string.h>

/* From here to 2^32 an exptime is a negative number that was sent without its sign: libmemcached
 * makes 4294967295 of -1. As moments these lie from 2089 on, which no clock here reaches. */
#define EXPTIME_WRAPPED_MIN INT64_C(0xE0000000)
#define EXPIRED_AT_ONCE 1u /* second 0 of the system clock's count */

static void
map_sizes_to_classes(struct store *store)
{
    const struct superblock *superblock = store->superblock;
    uint32_t class_id = 1;
    for (uint32_t units = 0; units < sizeof(store->class_of_units); units++) {
        while (class_id < superblock->class_count &&
               superblock->chunk_bytes[class_id] < units * 8) {
            class_id++;
        }
        store->class_of_units[units] = (uint8_t)class_id;
    }
}

static void
make_shards(const struct segment *segment)
{
    const struct superblock *superblock = segment->superblock;
    struct shard *shards = segment_at(segment, superblock->shards_at);
    _Atomic uint64_t *words = segment_at(segment, superblock->words_at);
    for (uint32_t i = 0; i < superblock->shard_count; i++) {
        shards[i].index = i;
        atomic_store(&words[i], table_word_make(0, TABLE_LEVEL_NONE, 0));
    }
}

enum segment_status
store_create(const struct segment_settings *settings, struct segment **segment, char *sentence)
{
    struct data_format format;
    store_format(&format);
    enum segment_status status = segment_create(settings, &format, segment, sentence);
    if (status == SEGMENT_OK) {
        make_shards(*segment);
    }
    return status;
}

enum segment_status
store_create_in(int fd, const struct segment_settings *settings, struct segment **segment,
                char *sentence)
{
    struct data_format format;
    store_format(&format);
    enum segment_status status = segment_create_in(fd, settings, &format, segment, sentence);
    if (status == SEGMENT_OK) {
        make_shards(*segment);
    }
    return status;
}

enum segment_status
store_attach(int fd, int run_fd, struct segment **segment, char *sentence)
{
    struct data_format format;
    store_format(&format);
    return segment_attach(fd, run_fd, &format, segment, sentence);
}

struct store *
store_open(struct segment *segment, unsigned slot_index)
{
    struct superblock *superblock = segment->superblock;
    struct store *store = calloc(1, sizeof(*store));
    CHECK(store != NULL);
    store->segment = segment;
    store->superblock = superblock;
    store->run = segment->run;
    store->base = segment->base;
    store->shards = (struct shard *)(void *)(segment->base + superblock->shards_at);
    store->locks = segment->locks;
    store->table_words = (_Atomic uint64_t *)(void *)(segment->base + superblock->words_at);
    store->table_directories = (_Atomic uint32_t *)(void *)(segment->base + superblock->tables_at);
    store->table_pages_max = superblock->table_pages_max;
    store->page_count_max = superblock->page_count_max;
    store->slot = &segment->slots[slot_index];
    store->held = &segment->held[slot_index];
    store->hash_begin = siphash_begin(&superblock->hash_key);
    store->data_at = superblock->data_at;
    store->data_end =
        superblock->data_at + ((uint64_t)superblock->page_count_max << superblock->page_shift);
    store->shard_mask = superblock->shard_count - 1;
    store->unit_shift = superblock->unit_shift;
    store->page_shift = superblock->page_shift;
    store->chunk_bytes_max = superblock->chunk_bytes[superblock->class_count];
    store->counts_by_chance = is_lfu_policy(store);
    store->count_max = store->counts_by_chance ? COUNT_MAX_LFU : COUNT_MAX;
    store->cas_enabled = segment->run->boot_settings.cas_enabled;
    store->random = (uint32_t)superblock->hash_key.word[0] ^ slot_index << 16 ^ 1u << 31;
    store->random |= 1;
    store->own.pid = atomic_load(&store->slot->pid);
    map_sizes_to_classes(store);
    store_tick(store);
    return store;
}

void
store_close(struct store *store)
{
    track_unmap(store->tracks);
    free(store);
}

struct segment *
store_segment(struct store *store)
{
    return store->segment;
}

struct counters *
store_counters(struct store *store)
{
    return &store->slot->counters;
}

struct process_slot *
store_slot(struct store *store)
{
    return store->slot;
}

uint32_t
store_class_id(const struct store *store, uint32_t key_len, uint32_t client_flags,
               uint64_t value_len)
{
    uint64_t bytes =
        item_plain_key_offset(client_flags != 0 ? ITEM_HAS_FLAGS : 0) + key_len + value_len;
    return slab_class_of(store,
                         bytes < store->chunk_bytes_max ? (uint32_t)bytes : store->chunk_bytes_max);
}

/* ---- the clock ------------------------------------------------------------------------------
 * Both clocks count from a base, so that 0 is never now. */

static uint32_t
seconds_since(int64_t now_s, int64_t base_s)
{
    int64_t seconds = now_s - base_s;
    return seconds < 1 ? 1 : seconds > EXPIRE_S_MAX ? EXPIRE_S_MAX : (uint32_t)seconds;
}

static void
read_clocks(struct store *store)
{
    struct clocks clocks = clocks_read(store->run);
    int64_t wall_base_s = (int64_t)store->superblock->wall_base_s;
    store->now_s = seconds_since(clocks.node_ns / NS_PER_S, 0);
    store->now_ms = clocks.node_ns > 0 ? (uint64_t)(clocks.node_ns / NS_PER_MS) : 0;
    store->wall_s = seconds_since(clocks.wall_ns / NS_PER_S, wall_base_s);
    /* From nanoseconds: the two clocks' seconds begin at different moments. */
    store->clocks_apart_s = (clocks.wall_ns - clocks.node_ns) / NS_PER_S - wall_base_s;
}

void
store_tick(struct store *store)
{
    read_clocks(store);
    uint64_t flush = atomic_load_explicit(&store->superblock->flush[0], memory_order_acquire);
    if (UNLIKELY(flush_pending_ms(flush) != 0)) {
        flush_attend(store);
    }
    if (UNLIKELY(store->left.count != 0)) {
        held_release(store);
    }
    uint32_t tracking = atomic_load_explicit(&store->run->tracking, memory_order_acquire);
    if (UNLIKELY(tracking != store->tracking_seen)) {
        track_attend(store, tracking);
    }
}

uint32_t
store_uptime_s(const struct store *store)
{
    return store->now_s;
}

uint64_t
store_wall_s(const struct store *store)
{
    return store->superblock->wall_base_s + store->wall_s;
}

/* A ttl begins now, and the last tick may lie in an earlier second: by less than half of one, while
 * a batch is executed, so the clock has to be asked again only in the other half of the tick's.
 * What is told of the ttl counts from the same second. */
static void
catch_up_with_second(struct store *store)
{
    if (store->now_ms % 1000 >= 500 &&
        clocks_node_ns(store->run) / NS_PER_S != (int64_t)store->now_s) {
        read_clocks(store);
    }
}

struct expiry
store_expiry(struct store *store, int64_t exptime)
{
    if (exptime == 0) {
        return (struct expiry){0};
    }
    if (exptime < 0 || (exptime >= EXPTIME_WRAPPED_MIN && exptime <= UINT32_MAX)) {
        return (struct expiry){EXPIRED_AT_ONCE};
    }
    if (exptime <= RELATIVE_MAX_S) {
        catch_up_with_second(store);
        return (struct expiry){(store->now_s + (uint32_t)exptime) << 1};
    }
    int64_t at_s = exptime - (int64_t)store->superblock->wall_base_s;
    if (at_s <= 0) {
        return (struct expiry){EXPIRED_AT_ONCE};
    }
    return (struct expiry){(uint32_t)(at_s > EXPIRE_S_MAX ? EXPIRE_S_MAX : at_s) << 1 | 1};
}

int64_t
store_ttl_s(const struct store *store, uint32_t expire_word)
{
    if (expire_word == 0) {
        return -1;
    }
    int64_t left_s = (int64_t)(expire_word >> 1) - (expire_word & 1 ? store->wall_s : store->now_s);
    return left_s > 0 ? left_s : 0;
}

/* ---- statistics ----------------------------------------------------------------------------- */

static void
sum_shards(struct store *store, struct store_sums *sums)
{
    for (uint32_t i = 0; i < store->superblock->shard_count; i++) {
        /* Read without the lock: a statistic may be a moment old. */
        const struct shard *shard = &store->shards[i];
        const struct shard_sums *of = &shard->sums;
        sums->curr_items += of->curr_items;
        sums->total_items += of->total_items;
        for (uint32_t class_id = 1; class_id <= store->superblock->class_count; class_id++) {
            sums->bytes += shard->class_bytes[class_id];
        }
        sums->evictions += of->evictions;
#define X(reason, name) sums->name += of->evicted_by[EVICTED_##reason];
        EVICTION_REASON_LIST(X)
#undef X
        sums->evicted_unfetched += of->evicted_unfetched;
        sums->reclaimed += of->reclaimed;
        sums->expired_unfetched += of->expired_unfetched;
        sums->pages += shard->page_count;
        sums->table_pages += shard->table_page_count;
        sums->ghost_pages += shard->ghost_page_count;
        sums->table_buckets += table_bucket_count(atomic_load(table_word_at(store, shard)));
        sums->repairs += of->repairs;
        sums->rebuilds += of->rebuilds;
    }
}

/* X(name): what `stats reset` zeroes of the shards' sums. */
#define RESET_SUM_LIST(X)                                                                          \
    X(total_items)                                                                                 \
    X(evictions)                                                                                   \
    X(evicted_probation)                                                                           \
    X(evicted_main)                                                                                \
    X(evicted_page_move)                                                                           \
    X(evicted_donation)                                                                            \
    X(evicted_table)                                                                               \
    X(evicted_shrink)                                                                              \
    X(chain_evictions)                                                                             \
    X(evicted_unfetched)                                                                           \
    X(reclaimed)                                                                                   \
    X(expired_unfetched)

enum reset_sum {
#define X(name) RESET_##name,
    RESET_SUM_LIST(X)
#undef X
};

void
store_sum(struct store *store, struct store_sums *sums)
{
    const struct page_pool *pool = &store->superblock->pool;
    *sums = (struct store_sums){0};
    sum_shards(store, sums);
#define X(name) sums->name -= atomic_load(&store->run->sum_baseline[RESET_##name]);
    RESET_SUM_LIST(X)
#undef X
    sums->pages_limit = atomic_load(&pool->effective_count);
    sums->pages_free = sums->pages_limit > sums->pages ? sums->pages_limit - sums->pages : 0;
    while (UINT64_C(1) << (sums->hash_power + 1) <= sums->table_buckets) {
        sums->hash_power++;
    }
    unsigned slot_count = segment_slot_count(store->segment);
    for (unsigned i = 0; i < slot_count; i++) {
        sums->held_bytes += atomic_load(&store->segment->slots[i].held_bytes);
    }
}

static void
sum_counters(struct store *store, uint64_t sums[COUNTER_COUNT])
{
    memset(sums, 0, COUNTER_COUNT * sizeof(sums[0]));
    unsigned slot_count = segment_slot_count(store->segment);
    for (unsigned i = 0; i < slot_count; i++) {
        for (unsigned j = 0; j < COUNTER_COUNT; j++) {
            sums[j] += atomic_load_explicit(&store->segment->slots[i].counters.value[j],
                                            memory_order_relaxed);
        }
    }
}

void
store_counters_sum(struct store *store, uint64_t sums[COUNTER_COUNT])
{
    sum_counters(store, sums);
    for (unsigned j = 0; j < COUNTER_COUNT; j++) {
        sums[j] -= atomic_load(&store->run->counter_baseline[j]);
    }
}

void
store_stats_reset(struct store *store)
{
    uint64_t counters[COUNTER_COUNT];
    sum_counters(store, counters);
    for (unsigned j = 0; j < COUNTER_COUNT; j++) {
        atomic_store(&store->run->counter_baseline[j], counters[j]);
    }
    struct store_sums sums = {0};
    sum_shards(store, &sums);
#define X(name) atomic_store(&store->run->sum_baseline[RESET_##name], sums.name);
    RESET_SUM_LIST(X)
#undef X
    store_class_stats_reset(store);
    prefix_table_reset(store->segment);
}
