/* What each process counts, as one table: the field, its name in `stats`, and its order.
 *
 * A process adds to its own slot only, without synchronisation beyond relaxed stores; whoever
 * answers `stats` sums over the slots. Names are memcached's where memcached has the counter. */
#ifndef MEM_COUNTERS_H
#define MEM_COUNTERS_H

#include "base/platform.h"

/* X(name) */
#define COUNTER_LIST(X)                                                                            \
    X(total_connections)                                                                           \
    X(rejected_connections)                                                                        \
    X(cmd_get)                                                                                     \
    X(cmd_set)                                                                                     \
    X(cmd_flush)                                                                                   \
    X(cmd_touch)                                                                                   \
    X(cmd_meta)                                                                                    \
    X(get_hits)                                                                                    \
    X(get_misses)                                                                                  \
    X(get_expired)                                                                                 \
    X(get_flushed)                                                                                 \
    X(delete_misses)                                                                               \
    X(delete_hits)                                                                                 \
    X(incr_misses)                                                                                 \
    X(incr_hits)                                                                                   \
    X(decr_misses)                                                                                 \
    X(decr_hits)                                                                                   \
    X(cas_misses)                                                                                  \
    X(cas_hits)                                                                                    \
    X(cas_badval)                                                                                  \
    X(touch_hits)                                                                                  \
    X(touch_misses)                                                                                \
    X(store_too_large)                                                                             \
    X(store_no_memory)                                                                             \
    X(auth_cmds)                                                                                   \
    X(auth_errors)                                                                                 \
    X(idle_kicks)                                                                                  \
    X(bytes_read)                                                                                  \
    X(bytes_written)                                                                               \
    X(listen_disabled_num)                                                                         \
    X(time_in_listen_disabled_us)                                                                  \
    X(conn_yields)                                                                                 \
    X(slabs_moved)                                                                                 \
    X(lru_crawler_starts)                                                                          \
    X(crawler_reclaimed)                                                                           \
    X(crawler_items_checked)                                                                       \
    X(log_worker_dropped)                                                                          \
    X(log_worker_written)                                                                          \
    X(log_watcher_skipped)                                                                         \
    X(log_watcher_sent)                                                                            \
    X(accept_failures)                                                                             \
    X(read_retries)                                                                                \
    X(read_locked)                                                                                 \
    X(lock_waits)                                                                                  \
    X(upload_waits)                                                                                \
    X(uploads_aborted)                                                                             \
    X(cmd_config_get)                                                                              \
    X(cmd_config_set)                                                                              \
    X(copied_items)                                                                                \
    X(copy_map_failures)

enum counter_id {
#define X(name) COUNTER_##name,
    COUNTER_LIST(X)
#undef X
        COUNTER_COUNT
};

/* One process's counters; [own] the process in the slot writes, everybody reads. */
struct counters {
    _Atomic uint64_t value[COUNTER_COUNT];
};

/* X(name): what is counted for each slab class besides, of the class of the item in question; a
 * chain's is that of its head. The first eight fill a cache line: they move with requests. */
#define CLASS_COUNTER_LIST(X)                                                                      \
    X(hits_to_cold) /* gets of settled items */                                                    \
    X(hits_to_hot)  /* and of those in probation */                                                \
    X(cmd_set)                                                                                     \
    X(delete_hits)                                                                                 \
    X(incr_hits)                                                                                   \
    X(decr_hits)                                                                                   \
    X(cas_hits)                                                                                    \
    X(cas_badval)                                                                                  \
    X(touch_hits)                                                                                  \
    X(evicted)                                                                                     \
    X(evicted_nonzero)                                                                             \
    X(evicted_unfetched)                                                                           \
    X(outofmemory)                                                                                 \
    X(reclaimed)                                                                                   \
    X(expired_unfetched)                                                                           \
    X(crawler_reclaimed)                                                                           \
    X(crawler_items_checked)                                                                       \
    X(moves_to_cold)                                                                               \
    X(moves_within_lru)

enum class_counter_id {
#define X(name) CLASS_##name,
    CLASS_COUNTER_LIST(X)
#undef X
        CLASS_COUNTER_COUNT
};

/* One process's counters of one slab class; [own] as above. */
struct class_counters {
    _Atomic uint64_t value[CLASS_COUNTER_COUNT];
    /* When the latest eviction was, in seconds, and in the low half for how long nobody had asked
     * for what went. */
    _Atomic uint64_t evicted_last;
};
static_assert(CLASS_hits_to_hot == CLASS_hits_to_cold + 1, "found by adding");

/* Of a word that only this process writes. */
static inline void
own_add(_Atomic uint64_t *own, uint64_t amount)
{
    uint64_t value = atomic_load_explicit(own, memory_order_relaxed);
    atomic_store_explicit(own, value + amount, memory_order_relaxed);
}

static inline void
class_counter_add(struct class_counters *counters, enum class_counter_id id, uint64_t amount)
{
    own_add(&counters->value[id], amount);
}

static inline void
counter_add(struct counters *counters, enum counter_id id, uint64_t amount)
{
    own_add(&counters->value[id], amount);
}

#define COUNT(counters, name) counter_add((counters), COUNTER_##name, 1)

extern const char *const counter_names[COUNTER_COUNT];

#endif
