/* See sweep.h. A pass reads the pages' expiry columns (expiry.h) without any lock; only for chunks
 * whose byte is due it takes the shard's lock, for at most a batch of them, and looks at their
 * headers. A byte that was wrong, or whose moment lies beyond a byte's reach, is written anew.
 *
 * `lru_crawler crawl` names classes of which the next pass, begun at once, looks at every chunk. A
 * maintainer that dies meanwhile leaves them named, and the next one begins anew. */
#include "store/sweep.h"

#include "base/check.h"
#include "base/crash.h"
#include "store/expiry.h"
#include "store/flush.h"
#include "store/hashtable.h"
#include "store/tell.h"
#include "store/walk.h"

#include <string.h>

#define PASS_EVERY_S 2

/* Looks and pages of one step: a few milliseconds. */
#define LOOKS_PER_STEP 16384
#define PAGES_PER_STEP 16384

#define BATCH 32
#define LINE_BYTES 16

/* After a longer pause bytes may have come round: then every one that is set is due. A pass that
 * follows in time sees each byte due before that. */
#define GAP_S_MAX (EXPIRY_UNIT_S * EXPIRY_UNITS_DUE / 2)

struct batch {
    uint32_t page_number;
    uint32_t owner;
    unsigned count;
    uint16_t slots[BATCH];
};

/* As the bytes are at that moment; the page may be becoming something else. */
static RACY_READ void
read_line(uint8_t line[LINE_BYTES], const uint8_t *from, uint32_t count)
{
    memcpy(line, from, count);
}

/* Bit i: byte i is due. */
static unsigned
due_of_line(const uint8_t line[LINE_BYTES], uint8_t now, bool all)
{
#if defined(__SSE2__)
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)line);
    __m128i never = _mm_cmpeq_epi8(bytes, _mm_setzero_si128());
    __m128i behind = _mm_sub_epi8(_mm_set1_epi8((char)now), bytes);
    __m128i high = _mm_and_si128(behind, _mm_set1_epi8((char)~(EXPIRY_UNITS_DUE - 1)));
    __m128i due = _mm_cmpeq_epi8(high, _mm_setzero_si128());
    unsigned mask = all ? 0xFFFF : (unsigned)_mm_movemask_epi8(due);
    return mask & ~(unsigned)_mm_movemask_epi8(never);
#else
    unsigned due = 0;
    for (unsigned i = 0; i < LINE_BYTES; i++) {
        bool behind = all || (uint8_t)(now - line[i]) < EXPIRY_UNITS_DUE;
        due |= (unsigned)(line[i] != 0 && behind) << i;
    }
    return due;
#endif
}
static_assert((EXPIRY_UNITS_DUE & (EXPIRY_UNITS_DUE - 1)) == 0, "a power of two");

/* Fills the batch with due slots from *slot on, and moves that. */
static void
collect(const struct store *store, struct batch *batch, uint32_t class_id, uint32_t *slot)
{
    uint32_t count = slab_chunks_per_page(store, class_id);
    const uint8_t *column = (const uint8_t *)expiry_column(store, batch->page_number, class_id);
    uint8_t now = (uint8_t)expiry_units_now(store);
    batch->count = 0;
    while (*slot < count) {
        /* Of the last few the sixteen are read that end with the column: there is always a chunk
         * before. */
        uint32_t at = *slot + LINE_BYTES <= count ? *slot
                      : count < LINE_BYTES        ? 0
                                                  : count - LINE_BYTES;
        uint8_t line[LINE_BYTES] = {0};
        read_line(line, column + at, count - at < LINE_BYTES ? count - at : LINE_BYTES);
        unsigned due = due_of_line(line, now, store->sweep.all);
        if (store->sweep.flushed || store->sweep.crawl >> class_id & 1) {
            due = count < LINE_BYTES ? (1u << count) - 1 : 0xFFFFu;
        }
        due &= 0xFFFFu << (*slot - at);
        for (; due != 0; due &= due - 1) {
            if (batch->count == BATCH) {
                return;
            }
            *slot = at + (uint32_t)__builtin_ctz(due);
            batch->slots[batch->count++] = (uint16_t)(*slot)++;
        }
        *slot = at + LINE_BYTES;
    }
}

static struct item *
item_at_slot(const struct store *store, const struct batch *batch, unsigned i)
{
    return chunk_at(store, batch->page_number, page_owner_kind(batch->owner), batch->slots[i]);
}

/* Under the shard's lock. */
static void
look_at(struct store *store, struct shard *shard, const struct batch *batch)
{
    struct counters *counters = &store->slot->counters;
    uint64_t hashes[BATCH];
    bool dead[BATCH]; /* decided once: a flush may come in between */
    _Atomic uint32_t *owner = &page_entry(store->segment, batch->page_number)->owner;
    for (unsigned i = 0; i < batch->count; i++) {
        PREFETCH(item_at_slot(store, batch, i));
    }
    for (unsigned i = 0; i < batch->count; i++) {
        struct item *item = item_at_slot(store, batch, i);
        dead[i] = state_kind(chunk_state(item)) == CHUNK_LIVE && item_is_dead(store, item) &&
                  !item_is_unknown(store, item);
        if (dead[i]) {
            hashes[i] = item_hash(store, item);
            table_prefetch_bucket(store, shard, (uint32_t)hashes[i]);
        }
    }
    struct class_counters *of_class = &store->slot->classes[page_owner_kind(batch->owner)];
    _Atomic uint8_t *column =
        expiry_column(store, batch->page_number, page_owner_kind(batch->owner));
    for (unsigned i = 0; i < batch->count; i++) {
        struct item *item = item_at_slot(store, batch, i);
        uint32_t expire_word = atomic_load_explicit(&item->expire_word, memory_order_relaxed);
        bool live = state_kind(chunk_state(item)) == CHUNK_LIVE;
        counter_add(counters, COUNTER_crawler_items_checked, live);
        class_counter_add(of_class, CLASS_crawler_items_checked, live);
        store->sweep.examined += live;
        if (dead[i]) {
            COUNT(counters, crawler_reclaimed);
            class_counter_add(of_class, CLASS_crawler_reclaimed, 1);
            store->sweep.reclaimed++;
            item_unlink_hashed(store, shard, ref_of(store, item), hashes[i], UNLINK_RECLAIM);
            CRASH_POINT(swept_item);
            /* The last of its page: that may be another shard's by now. */
            if (atomic_load(owner) != batch->owner) {
                return;
            }
        }
        /* Not before the item is gone: a process that dies in between leaves one that is found. */
        atomic_store_explicit(&column[batch->slots[i]],
                              live && !dead[i] ? expiry_byte(store, expire_word) : 0,
                              memory_order_relaxed);
    }
}

/* Returns how many headers it looked at. */
static uint32_t
sweep_page(struct store *store, uint32_t number)
{
    uint32_t looks = 0;
    struct batch batch = {
        .page_number = number,
        .owner =
            atomic_load_explicit(&page_entry(store->segment, number)->owner, memory_order_acquire),
    };
    uint32_t slot = 0;
    while (page_has_chunks(store->superblock, batch.owner)) {
        collect(store, &batch, page_owner_kind(batch.owner), &slot);
        if (batch.count == 0) {
            break;
        }
        struct shard *shard = &store->shards[page_owner_shard(batch.owner)];
        if (!shard_lock(store, shard)) {
            store->sweep.skipped = true;
            break;
        }
        bool same = atomic_load(&page_entry(store->segment, number)->owner) == batch.owner;
        if (same) {
            look_at(store, shard, &batch);
            looks += batch.count;
        }
        shard_unlock(store, shard);
        if (!same) {
            break;
        }
    }
    return looks;
}

static void
begin_pass(struct store *store)
{
    struct sweep_pass *pass = &store->sweep;
    int64_t clocks_apart_s = (int64_t)store->wall_s - (int64_t)store->now_s;
    int64_t stepped_s = clocks_apart_s - pass->clocks_apart_s;
    pass->all = pass->began_s == 0 || store->now_s - pass->began_s > GAP_S_MAX || stepped_s > 1 ||
                stepped_s < -1;
    uint16_t epoch = epoch_now(store);
    pass->flushed = flush_left_items(store);
    pass->skipped = false;
    pass->epoch = epoch;
    pass->clocks_apart_s = clocks_apart_s;
    pass->began_s = store->now_s;
    pass->examined = pass->reclaimed = 0;
    pass->crawl = atomic_load(&store->run->crawl_classes);
    pass->next_page = 0;
    pass->running = true;
}

/* Of what a flush killed nothing is left now. A crawl is over with the first pass that began after
 * it was asked for. */
static void
end_pass(struct store *store)
{
    struct sweep_pass *pass = &store->sweep;
    pass->running = false;
    if (pass->flushed && !pass->skipped) {
        flush_swept(store, pass->epoch);
    }
    if (pass->crawl != 0) {
        atomic_store(&store->run->crawl_classes, 0);
    }
    if (pass->crawl != 0 && log_is_watched(store->run, LOG_SYSEVENTS)) {
        tell_crawled(store, store->now_s - pass->began_s, pass->examined, pass->reclaimed);
    }
}

bool
store_sweep(struct store *store)
{
    struct sweep_pass *pass = &store->sweep;
    if (!pass->running) {
        if (pass->began_s != 0 && store->now_s - pass->began_s < PASS_EVERY_S &&
            atomic_load(&store->run->crawl_classes) == 0) {
            return false;
        }
        begin_pass(store);
    }
    uint32_t count = pool_populated(store->segment);
    uint32_t looks = 0;
    for (uint32_t i = 0; i < PAGES_PER_STEP && looks < LOOKS_PER_STEP; i++) {
        if (pass->next_page >= count) {
            end_pass(store);
            return false;
        }
        looks += sweep_page(store, pass->next_page++);
    }
    return true;
}
