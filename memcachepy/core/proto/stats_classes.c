/* `stats items` and `stats slabs`: what is there and what happened, by slab class.
 *
 * memcached's queues are told by ours: hot is probation, cold the main part; warm and temp are
 * empty. */
#include "proto/stats.h"
#include "store/class_stats.h"

#include <stdio.h>

#define ULL(number) ((unsigned long long)(number))
#define COUNT_OF(name) ULL(c->counters[CLASS_##name])
#define ALL_HITS ULL(c->counters[CLASS_hits_to_hot] + c->counters[CLASS_hits_to_cold])

/* X(condition, key, number). */
#define ITEMS_LIST(X)                                                                              \
    X(true, number, ULL(c->items))                                                                 \
    X(segmented, number_hot, ULL(c->probation))                                                    \
    X(segmented, number_warm, 0ull)                                                                \
    X(segmented, number_cold, ULL(c->items - c->probation))                                        \
    X(segmented &&temp, number_temp, 0ull)                                                         \
    X(segmented, age_hot, 0ull)                                                                    \
    X(segmented, age_warm, 0ull)                                                                   \
    X(true, age, ULL(c->age_s))                                                                    \
    X(true, mem_requested, ULL(c->item_bytes))                                                     \
    X(true, evicted, COUNT_OF(evicted))                                                            \
    X(true, evicted_nonzero, COUNT_OF(evicted_nonzero))                                            \
    X(true, evicted_time, ULL(c->evicted_idle_s))                                                  \
    X(true, outofmemory, COUNT_OF(outofmemory))                                                    \
    X(true, tailrepairs, 0ull)                                                                     \
    X(true, reclaimed, COUNT_OF(reclaimed))                                                        \
    X(true, expired_unfetched, COUNT_OF(expired_unfetched))                                        \
    X(true, evicted_unfetched, COUNT_OF(evicted_unfetched))                                        \
    X(segmented, evicted_active, 0ull)                                                             \
    X(true, crawler_reclaimed, COUNT_OF(crawler_reclaimed))                                        \
    X(true, crawler_items_checked, COUNT_OF(crawler_items_checked))                                \
    X(true, lrutail_reflocked, 0ull)                                                               \
    X(segmented, moves_to_cold, COUNT_OF(moves_to_cold))                                           \
    X(segmented, moves_to_warm, 0ull)                                                              \
    X(segmented, moves_within_lru, COUNT_OF(moves_within_lru))                                     \
    X(segmented, direct_reclaims, COUNT_OF(evicted))                                               \
    X(segmented, hits_to_hot, COUNT_OF(hits_to_hot))                                               \
    X(segmented, hits_to_warm, 0ull)                                                               \
    X(segmented, hits_to_cold, COUNT_OF(hits_to_cold))                                             \
    X(segmented, hits_to_temp, 0ull)

/* X(key, number). */
#define SLABS_LIST(X)                                                                              \
    X(chunk_size, ULL(c->chunk_bytes))                                                             \
    X(chunks_per_page, ULL(c->chunks_per_page))                                                    \
    X(total_pages, ULL(c->pages))                                                                  \
    X(total_chunks, chunks)                                                                        \
    X(used_chunks, chunks > c->free_chunks ? chunks - ULL(c->free_chunks) : 0ull)                  \
    X(free_chunks, ULL(c->free_chunks))                                                            \
    X(free_chunks_end, 0ull)                                                                       \
    X(get_hits, ALL_HITS)                                                                          \
    X(cmd_set, COUNT_OF(cmd_set))                                                                  \
    X(delete_hits, COUNT_OF(delete_hits))                                                          \
    X(incr_hits, COUNT_OF(incr_hits))                                                              \
    X(decr_hits, COUNT_OF(decr_hits))                                                              \
    X(cas_hits, COUNT_OF(cas_hits))                                                                \
    X(cas_badval, COUNT_OF(cas_badval))                                                            \
    X(touch_hits, COUNT_OF(touch_hits))

static void
add_number(struct stat_sink *sink, const char *prefix, uint32_t class_id, const char *key,
           unsigned long long number)
{
    char name[64];
    snprintf(name, sizeof(name), "%s%u:%s", prefix, class_id, key);
    stat_add(sink, name, "%llu", number);
}

void
stats_items(struct stat_sink *sink, struct store *store)
{
    const struct superblock *superblock = store_superblock(store);
    const struct run_head *run = store_run(store);
    bool segmented = atomic_load(&run->settings.lru_segmented);
    bool temp = atomic_load(&run->settings.temp_lru);
    struct class_stats classes[SLAB_CLASS_COUNT_MAX];
    store_class_stats(store, classes);
    for (uint32_t class_id = 1; class_id <= superblock->class_count; class_id++) {
        const struct class_stats *c = &classes[class_id];
        if (c->items == 0) {
            continue;
        }
#define X(condition, key, number)                                                                  \
    if (condition) {                                                                               \
        add_number(sink, "items:", class_id, #key, number);                                        \
    }
        ITEMS_LIST(X)
#undef X
    }
}

void
stats_slabs(struct stat_sink *sink, struct store *store)
{
    const struct superblock *superblock = store_superblock(store);
    struct class_stats classes[SLAB_CLASS_COUNT_MAX];
    uint32_t active = 0;
    uint64_t pages = 0;
    store_class_stats(store, classes);
    for (uint32_t class_id = 1; class_id <= superblock->class_count; class_id++) {
        const struct class_stats *c = &classes[class_id];
        unsigned long long chunks = ULL(c->pages) * c->chunks_per_page;
        if (c->pages == 0) {
            continue;
        }
#define X(key, number) add_number(sink, "", class_id, #key, number);
        SLABS_LIST(X)
#undef X
        active++;
        pages += c->pages;
    }
    stat_add(sink, "active_slabs", "%u", active);
    stat_add(sink, "total_malloced", "%llu", ULL(pages * superblock->page_bytes));
}
