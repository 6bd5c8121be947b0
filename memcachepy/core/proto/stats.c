/* Statistics, made from tables: one line per key, in the order of memcached 1.6.45.
 *
 * Any worker answers for the whole node. Counters are sums over the process slots, items and memory
 * sums over the shards, CPU time the sum of the children that ended and of every live process of
 * the node. */
#include "proto/stats.h"

#include "proto/conn.h"
#include "proto/execute.h"
#include "mem/config_table.h"
#include "mem/logring.h"
#include "store/class_stats.h"
#include "store/dump.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

struct cpu_time {
    uint64_t user_us, system_us;
};

/* All that the general keys are made of. */
struct general {
    const struct superblock *superblock;
    const struct run_head *run;
    const struct segment_settings *settings;
    uint64_t counters[COUNTER_COUNT];
    uint64_t class_sums[CLASS_COUNTER_COUNT];
    struct store_sums sums;
    struct cpu_time cpu;
    uint64_t connection_count;
    uint32_t dumps_running, watchers;
    uint32_t uptime_s;
    uint64_t wall_s;
};

/* ---- CPU time ------------------------------------------------------------------------------- */

static uint64_t
timeval_us(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000u + (uint64_t)time.tv_usec;
}

/* Adds a live process's time from /proc/<pid>/stat; nothing if it has just ended. */
static void
add_process_cpu(struct cpu_time *cpu, int32_t pid)
{
    char path[32];
    char text[1024];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return;
    }
    size_t len = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[len] = '\0';
    /* The second field is the name in parentheses and may hold anything; after it come ten fields
     * and then utime and stime, in ticks. */
    const char *fields = strrchr(text, ')');
    unsigned long user_ticks, system_ticks;
    if (fields == NULL || sscanf(fields + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                                 &user_ticks, &system_ticks) != 2) {
        return;
    }
    uint64_t tick_us = 1000000u / (uint64_t)sysconf(_SC_CLK_TCK);
    cpu->user_us += user_ticks * tick_us;
    cpu->system_us += system_ticks * tick_us;
}

static struct cpu_time
node_cpu(struct store *store)
{
    const struct segment *segment = store_segment(store);
    const struct run_head *run = segment->run;
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    struct cpu_time cpu = {
        timeval_us(own.ru_utime) + atomic_load_explicit(&run->child_user_us, memory_order_relaxed),
        timeval_us(own.ru_stime) +
            atomic_load_explicit(&run->child_system_us, memory_order_relaxed),
    };
    int32_t own_pid = (int32_t)getpid();
    /* Of the node's own: what attached processes do otherwise is nobody's business. */
    for (unsigned i = 0; i < SLOT_WORKER_FIRST + run->boot_settings.worker_count; i++) {
        int32_t pid = atomic_load_explicit(&segment->slots[i].pid, memory_order_relaxed);
        if (pid > 0 && pid != own_pid) {
            add_process_cpu(&cpu, pid);
        }
    }
    return cpu;
}

/* ---- general -------------------------------------------------------------------------------- */

#define U64 "%llu"
#define ULL(number) ((unsigned long long)(number))
#define COUNTER(name) U64, ULL(g->counters[COUNTER_##name])
#define SUM(name) U64, ULL(g->sums.name)
#define ZERO "0"
#define CPU(part) "%llu.%06llu", ULL(g->cpu.part / 1000000u), ULL(g->cpu.part % 1000000u)

#define CLASS_SUM(name) U64, ULL(g->class_sums[CLASS_##name])

/* Buffers belong to workers and not to connections: between two turns all of them are free. */
#define READ_BUFFERS_BYTES (ULL(g->settings->worker_count) * READ_AHEAD_MAX * READ_BUFFER_BYTES)

/* Table pages hold the buckets: what memcached calls hash_bytes. */
#define HASH_BYTES ULL(g->sums.table_pages * g->superblock->page_bytes)

/* X(key, format and value); IF(condition, key, format and value): the groups that memcached shows
 * only where they mean something. */
#define GENERAL_LIST(X, IF)                                                                        \
    X(pid, "%d", (int)g->settings->supervisor_pid)                                                 \
    X(uptime, "%u", g->uptime_s)                                                                   \
    X(time, U64, ULL(g->wall_s))                                                                   \
    X(version, PROTOCOL_VERSION)                                                                   \
    X(libevent, "none")                                                                            \
    X(pointer_size, "64")                                                                          \
    X(rusage_user, CPU(user_us))                                                                   \
    X(rusage_system, CPU(system_us))                                                               \
    X(max_connections, "%u", g->settings->conn_limit)                                              \
    X(curr_connections, U64, ULL(g->connection_count))                                             \
    X(total_connections, COUNTER(total_connections))                                               \
    IF(g->settings->maxconns_fast, rejected_connections, COUNTER(rejected_connections))            \
    X(connection_structures, U64, ULL(g->connection_count))                                        \
    X(response_obj_oom, ZERO)                                                                      \
    X(response_obj_count, "%u", g->settings->worker_count)                                         \
    X(response_obj_bytes, U64, ULL(g->settings->worker_count) * OUTPUT_USUAL_BYTES)                \
    X(read_buf_count, "%u", g->settings->worker_count *READ_AHEAD_MAX)                             \
    X(read_buf_bytes, U64, READ_BUFFERS_BYTES)                                                     \
    X(read_buf_bytes_free, U64, READ_BUFFERS_BYTES)                                                \
    X(read_buf_oom, ZERO)                                                                          \
    X(reserved_fds, ZERO)                                                                          \
    X(cmd_get, COUNTER(cmd_get))                                                                   \
    X(cmd_set, COUNTER(cmd_set))                                                                   \
    X(cmd_flush, COUNTER(cmd_flush))                                                               \
    X(cmd_touch, COUNTER(cmd_touch))                                                               \
    X(cmd_meta, COUNTER(cmd_meta))                                                                 \
    X(get_hits, COUNTER(get_hits))                                                                 \
    X(get_misses, COUNTER(get_misses))                                                             \
    X(get_expired, COUNTER(get_expired))                                                           \
    X(get_flushed, COUNTER(get_flushed))                                                           \
    X(delete_misses, COUNTER(delete_misses))                                                       \
    X(delete_hits, COUNTER(delete_hits))                                                           \
    X(incr_misses, COUNTER(incr_misses))                                                           \
    X(incr_hits, COUNTER(incr_hits))                                                               \
    X(decr_misses, COUNTER(decr_misses))                                                           \
    X(decr_hits, COUNTER(decr_hits))                                                               \
    X(cas_misses, COUNTER(cas_misses))                                                             \
    X(cas_hits, COUNTER(cas_hits))                                                                 \
    X(cas_badval, COUNTER(cas_badval))                                                             \
    X(touch_hits, COUNTER(touch_hits))                                                             \
    X(touch_misses, COUNTER(touch_misses))                                                         \
    X(store_too_large, COUNTER(store_too_large))                                                   \
    X(store_no_memory, COUNTER(store_no_memory))                                                   \
    X(auth_cmds, COUNTER(auth_cmds))                                                               \
    X(auth_errors, COUNTER(auth_errors))                                                           \
    IF(g->settings->idle_timeout_s > 0, idle_kicks, COUNTER(idle_kicks))                           \
    X(bytes_read, COUNTER(bytes_read))                                                             \
    X(bytes_written, COUNTER(bytes_written))                                                       \
    X(limit_maxbytes, U64, ULL(atomic_load(&g->settings->memory_limit_bytes)))                     \
    X(accepting_conns, "%d", atomic_load(&g->run->listen_disabled) == 0)                           \
    X(listen_disabled_num, COUNTER(listen_disabled_num))                                           \
    X(time_in_listen_disabled_us, COUNTER(time_in_listen_disabled_us))                             \
    X(threads, "%u", g->settings->worker_count)                                                    \
    X(conn_yields, COUNTER(conn_yields))                                                           \
    X(hash_power_level, SUM(hash_power))                                                           \
    X(hash_bytes, U64, HASH_BYTES)                                                                 \
    X(hash_is_expanding, ZERO)                                                                     \
    IF(g->settings->slab_reassign, slab_reassign_rescues, ZERO)                                    \
    IF(g->settings->slab_reassign, slab_reassign_chunk_rescues, ZERO)                              \
    IF(g->settings->slab_reassign, slab_reassign_inline_reclaim, ZERO)                             \
    IF(g->settings->slab_reassign, slab_reassign_busy_items, ZERO)                                 \
    IF(g->settings->slab_reassign, slab_reassign_busy_deletes, ZERO)                               \
    IF(g->settings->slab_reassign, slab_reassign_busy_nomem, ZERO)                                 \
    IF(g->settings->slab_reassign, slab_reassign_last_busy_status, ZERO)                           \
    IF(g->settings->slab_reassign, slab_reassign_running, ZERO)                                    \
    IF(g->settings->slab_reassign, slabs_moved, COUNTER(slabs_moved))                              \
    IF(atomic_load(&g->settings->lru_crawler), lru_crawler_running, "%u", g->dumps_running)        \
    IF(atomic_load(&g->settings->lru_crawler), lru_crawler_starts, COUNTER(lru_crawler_starts))    \
    IF(g->settings->lru_maintainer, lru_maintainer_juggles, ZERO)                                  \
    X(malloc_fails, ZERO)                                                                          \
    X(log_worker_dropped, COUNTER(log_worker_dropped))                                             \
    X(log_worker_written, COUNTER(log_worker_written))                                             \
    X(log_watcher_skipped, COUNTER(log_watcher_skipped))                                           \
    X(log_watcher_sent, COUNTER(log_watcher_sent))                                                 \
    X(log_watchers, "%u", g->watchers)                                                             \
    X(unexpected_napi_ids, ZERO)                                                                   \
    X(round_robin_fallback, ZERO)                                                                  \
    X(bytes, SUM(bytes))                                                                           \
    X(curr_items, SUM(curr_items))                                                                 \
    X(total_items, SUM(total_items))                                                               \
    X(slab_global_page_pool, SUM(pages_free))                                                      \
    X(expired_unfetched, SUM(expired_unfetched))                                                   \
    X(evicted_unfetched, SUM(evicted_unfetched))                                                   \
    IF(g->settings->lru_maintainer, evicted_active, ZERO)                                          \
    X(evictions, SUM(evictions))                                                                   \
    X(reclaimed, SUM(reclaimed))                                                                   \
    X(crawler_reclaimed, COUNTER(crawler_reclaimed))                                               \
    X(crawler_items_checked, COUNTER(crawler_items_checked))                                       \
    X(lrutail_reflocked, ZERO)                                                                     \
    IF(g->settings->lru_maintainer, moves_to_cold, CLASS_SUM(moves_to_cold))                       \
    IF(g->settings->lru_maintainer, moves_to_warm, ZERO)                                           \
    IF(g->settings->lru_maintainer, moves_within_lru, CLASS_SUM(moves_within_lru))                 \
    IF(g->settings->lru_maintainer, direct_reclaims, SUM(evictions))                               \
    IF(g->settings->lru_maintainer, lru_bumps_dropped, ZERO)

void
stats_general(struct stat_sink *sink, struct store *store)
{
    struct segment_settings settings;
    segment_settings_now(store_segment(store), &settings);
    struct general general = {
        .superblock = store_superblock(store),
        .run = store_run(store),
        .settings = &settings,
        .cpu = node_cpu(store),
        .connection_count = segment_connection_count(store_segment(store)),
        .dumps_running = store_dumps_running(store),
        .watchers = logring_watchers(store_segment(store)),
        .uptime_s = store_uptime_s(store),
        .wall_s = store_wall_s(store),
    };
    const struct general *g = &general;
    store_counters_sum(store, general.counters);
    store_sum(store, &general.sums);
    store_class_counters_sum(store, general.class_sums);
#define X(name, ...) stat_add(sink, #name, __VA_ARGS__);
#define IF(condition, name, ...)                                                                   \
    if (condition) {                                                                               \
        stat_add(sink, #name, __VA_ARGS__);                                                        \
    }
    GENERAL_LIST(X, IF)
#undef IF
#undef X
}

/* ---- settings ------------------------------------------------------------------------------- */

#define YES_NO(condition) ((condition) ? "yes" : "no")
#define TEXT_OR(text, otherwise) ((text)[0] != '\0' ? (text) : (otherwise))

/* X(key, format and value). Mechanisms that memcachepy does without show what describes it best. */
#define SETTINGS_LIST(X)                                                                           \
    X(maxbytes, U64, ULL(atomic_load(&s->memory_limit_bytes)))                                     \
    X(maxconns, "%u", s->conn_limit)                                                               \
    X(tcpport, "%d", s->tcp_port)                                                                  \
    X(udpport, "0")                                                                                \
    X(inter, "%s", TEXT_OR(s->listen, "NULL"))                                                     \
    X(verbosity, "%u", atomic_load_explicit(&s->verbosity, memory_order_relaxed))                  \
    X(oldest, "0")                                                                                 \
    X(evictions, "%s", s->eviction_policy != POLICY_NOEVICTION ? "on" : "off")                     \
    X(domain_socket, "%s", TEXT_OR(s->unix_socket, "NULL"))                                        \
    X(umask, "%o", s->unix_mask)                                                                   \
    X(shutdown_command, "%s", YES_NO(atomic_load(&s->shutdown_enabled)))                           \
    X(growth_factor, "%.2f", s->growth_factor)                                                     \
    X(chunk_size, "%u", s->item_size_min_bytes)                                                    \
    X(num_threads, "%u", s->worker_count)                                                          \
    X(num_threads_per_udp, "0")                                                                    \
    X(stat_key_prefix, "%c", s->prefix_delimiter)                                                  \
    X(detail_enabled, "%s", YES_NO(atomic_load(&s->detail_enabled)))                               \
    X(reqs_per_event, "%u", atomic_load(&s->requests_per_event))                                   \
    X(cas_enabled, "%s", YES_NO(s->cas_enabled))                                                   \
    X(tcp_backlog, "%u", s->backlog)                                                               \
    X(binding_protocol, "%s", binding_names[s->binding_protocol])                                  \
    X(auth_enabled_sasl, "no")                                                                     \
    X(auth_enabled_ascii, "no")                                                                    \
    X(item_size_max, U64, ULL(store_item_size_max(store)))                                         \
    X(maxconns_fast, "%s", YES_NO(s->maxconns_fast))                                               \
    X(hashpower_init, "%u", s->hashpower_init)                                                     \
    X(slab_reassign, "%s", YES_NO(s->slab_reassign))                                               \
    X(slab_automove, "%u", atomic_load(&s->slab_automove))                                         \
    X(slab_automove_ratio, "%.2f", atomic_load(&s->slab_automove_ratio))                           \
    X(slab_automove_window, "%u", atomic_load(&s->slab_automove_window))                           \
    X(slab_chunk_max, "%u", s->slab_chunk_max_bytes)                                               \
    X(lru_crawler, "%s", YES_NO(atomic_load(&s->lru_crawler)))                                     \
    X(lru_crawler_sleep, "%u", atomic_load(&s->lru_crawler_sleep_us))                              \
    X(lru_crawler_tocrawl, "%u", atomic_load(&s->lru_crawler_tocrawl))                             \
    X(tail_repair_time, "%u", s->tail_repair_time_s)                                               \
    X(flush_enabled, "%s", YES_NO(atomic_load(&s->flush_enabled)))                                 \
    X(dump_enabled, "%s", YES_NO(atomic_load(&s->dump_enabled)))                                   \
    X(hash_algorithm, "%s", s->hash_algorithm)                                                     \
    X(lru_maintainer_thread, "%s", YES_NO(s->lru_maintainer))                                      \
    X(lru_segmented, "%s", YES_NO(atomic_load(&s->lru_segmented)))                                 \
    X(hot_lru_pct, "%u", atomic_load(&s->hot_lru_pct))                                             \
    X(warm_lru_pct, "%u", atomic_load(&s->warm_lru_pct))                                           \
    X(hot_max_factor, "%.2f", atomic_load(&s->hot_max_factor))                                     \
    X(warm_max_factor, "%.2f", atomic_load(&s->warm_max_factor))                                   \
    X(temp_lru, "%s", YES_NO(atomic_load(&s->temp_lru)))                                           \
    X(temporary_ttl, "%u", atomic_load(&s->temporary_ttl_s))                                       \
    X(idle_timeout, "%u", s->idle_timeout_s)                                                       \
    X(watcher_logbuf_size, "%u", s->watcher_logbuf_bytes)                                          \
    X(worker_logbuf_size, "%u", s->worker_logbuf_bytes)                                            \
    X(read_buf_mem_limit, U64, ULL(s->read_buf_limit_bytes))                                       \
    X(track_sizes, "%s", YES_NO(s->track_sizes))                                                   \
    X(inline_ascii_response, "no")                                                                 \
    X(num_napi_ids, "%u", s->napi_id_count)                                                        \
    X(memory_file, "(null)")                                                                       \
    X(client_flags_size, "4")                                                                      \
    /* Ours. */                                                                                    \
    X(lru_effect, "none") /* One word: who reads settings may split them at spaces. */             \
    X(eviction_policy, "%s", policy_names[s->eviction_policy])                                     \
    X(large_pages, "%s", YES_NO(s->large_pages))

void
stats_settings(struct stat_sink *sink, struct store *store)
{
    struct segment_settings settings;
    const struct segment_settings *s = &settings;
    segment_settings_now(store_segment(store), &settings);
#define X(name, ...) stat_add(sink, #name, __VA_ARGS__);
    SETTINGS_LIST(X)
#undef X
}

/* ---- our own -------------------------------------------------------------------------------- */

/* X(key, format and value). */
#define OWN_LIST(X)                                                                                \
    X(version, MEMCACHEPY_VERSION)                                                                 \
    X(layout_version, "%u", g->superblock->layout_version)                                         \
    X(reserve_bytes, U64, ULL(g->superblock->bytes))                                               \
    X(page_bytes, "%u", g->superblock->page_bytes)                                                 \
    X(shards, "%u", g->superblock->shard_count)                                                    \
    X(slab_classes, "%u", g->superblock->class_count)                                              \
    X(pages_used, SUM(pages))                                                                      \
    X(pages_free, SUM(pages_free))                                                                 \
    X(pages_limit, SUM(pages_limit))                                                               \
    X(table_pages, SUM(table_pages))                                                               \
    X(table_buckets, SUM(table_buckets))                                                           \
    X(repairs, SUM(repairs))                                                                       \
    X(rebuilds, SUM(rebuilds))                                                                     \
    X(held_bytes, SUM(held_bytes))                                                                 \
    X(attached_processes, "%u", g->attached_count)                                                 \
    X(stuck_processes, "%u", g->stuck_count)                                                       \
    X(waiters, "%u", g->waiters)                                                                   \
    X(accept_failures, COUNTER(accept_failures))                                                   \
    X(read_retries, COUNTER(read_retries))                                                         \
    X(read_locked, COUNTER(read_locked))                                                           \
    X(lock_waits, COUNTER(lock_waits))                                                             \
    X(upload_waits, COUNTER(upload_waits))                                                         \
    X(uploads_aborted, COUNTER(uploads_aborted))                                                   \
    X(cmd_config_get, COUNTER(cmd_config_get))                                                     \
    X(cmd_config_set, COUNTER(cmd_config_set))                                                     \
    X(copied_items, COUNTER(copied_items))                                                         \
    X(copy_map_failures, COUNTER(copy_map_failures))                                               \
    X(curr_config, "%u", g->config_count)                                                          \
    /* Evictions by reason, which add up to all. */                                                \
    X(evicted_probation, SUM(evicted_probation))                                                   \
    X(evicted_main, SUM(evicted_main))                                                             \
    X(evicted_page_move, SUM(evicted_page_move))                                                   \
    X(evicted_donation, SUM(evicted_donation))                                                     \
    X(evicted_table, SUM(evicted_table))                                                           \
    X(evicted_shrink, SUM(evicted_shrink))                                                         \
    X(chain_evictions, SUM(chain_evictions))

struct own {
    const struct superblock *superblock;
    uint64_t counters[COUNTER_COUNT];
    struct store_sums sums;
    uint32_t waiters;
    uint32_t attached_count;
    uint32_t stuck_count;
    uint32_t config_count;
};

/* Whether the supervisor found that the process holds a lock and does not run. */
static bool
is_stuck(const struct process_slot *slot)
{
    return atomic_load_explicit(&slot->stuck, memory_order_relaxed) != 0;
}

static bool
has_process(const struct process_slot *slot)
{
    return atomic_load_explicit(&slot->pid, memory_order_relaxed) != 0;
}

/* Slots from the first on for which the predicate holds. */
static uint32_t
count_slots(const struct segment *segment, unsigned first,
            bool (*predicate)(const struct process_slot *))
{
    uint32_t count = 0;
    for (unsigned i = first; i < segment_slot_count(segment); i++) {
        count += predicate(&segment->slots[i]);
    }
    return count;
}

static unsigned
first_attached(const struct segment *segment)
{
    return SLOT_WORKER_FIRST + segment->run->boot_settings.worker_count;
}

static void
stats_worker(struct stat_sink *sink, const struct process_slot *slot, unsigned worker_index)
{
    char name[32];
    uint64_t assigned = atomic_load_explicit(&slot->conns_assigned, memory_order_relaxed);
    uint64_t closed = atomic_load_explicit(&slot->conns_closed, memory_order_relaxed);
    snprintf(name, sizeof(name), "worker:%u:pid", worker_index);
    stat_add(sink, name, "%d", (int)atomic_load_explicit(&slot->pid, memory_order_relaxed));
    snprintf(name, sizeof(name), "worker:%u:connections", worker_index);
    stat_add(sink, name, U64, ULL(assigned > closed ? assigned - closed : 0));
}

/* Only who is there; the shard only of who is stuck. */
static void
stats_attached(struct stat_sink *sink, const struct process_slot *slot, unsigned index)
{
    char name[32];
    if (!has_process(slot)) {
        return;
    }
    snprintf(name, sizeof(name), "attached:%u:pid", index);
    stat_add(sink, name, "%d", (int)atomic_load_explicit(&slot->pid, memory_order_relaxed));
    uint32_t wanted = atomic_load_explicit(&slot->wanted_shard, memory_order_relaxed);
    if (is_stuck(slot) && wanted != 0) {
        snprintf(name, sizeof(name), "attached:%u:stuck_in_shard", index);
        stat_add(sink, name, "%u", wanted - 1);
    }
}

/* Neither ends the line nor the answer: a configuration may be anything. */
static bool
is_printable(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] < ' ' || text[i] > '~') {
            return false;
        }
    }
    return true;
}

/* What node/discovery.py says of itself in a configuration, a line for each name and its value. */
static void
stats_discovery(struct stat_sink *sink, const struct segment *segment)
{
    static const char key[] = "memcachepy:discovery";
    char text[CONFIG_VALUE_LEN_MAX];
    struct config_view view;
    if (config_read(segment, key, sizeof(key) - 1, (uint8_t *)text, &view) != CONFIG_OK) {
        return;
    }
    const char *end = text + view.value_len, *line_end;
    for (const char *line = text; line < end; line = line_end + 1) {
        line_end = memchr(line, '\n', (size_t)(end - line));
        if (line_end == NULL) {
            break;
        }
        const char *blank = memchr(line, ' ', (size_t)(line_end - line));
        if (blank == NULL || blank == line || !is_printable(line, (size_t)(line_end - line))) {
            continue;
        }
        char name[48];
        snprintf(name, sizeof(name), "discovery:%.*s", (int)(blank - line), line);
        stat_add(sink, name, "%.*s", (int)(line_end - blank - 1), blank + 1);
    }
}

void
stats_own(struct stat_sink *sink, struct store *store)
{
    const struct segment *segment = store_segment(store);
    const struct superblock *superblock = segment->superblock;
    struct own own = {.superblock = superblock,
                      .waiters = store_waiters(store),
                      .attached_count = count_slots(segment, first_attached(segment), has_process),
                      .stuck_count = count_slots(segment, 0, is_stuck),
                      .config_count = config_count(segment)};
    const struct own *g = &own;
    store_counters_sum(store, own.counters);
    store_sum(store, &own.sums);
#define X(name, ...) stat_add(sink, #name, __VA_ARGS__);
    OWN_LIST(X)
#undef X
    for (unsigned i = 0; i < segment->run->boot_settings.worker_count && i < WORKERS_MAX; i++) {
        stats_worker(sink, &segment->slots[SLOT_WORKER_FIRST + i], i);
    }
    const struct process_slot *discovery = &segment->slots[SLOT_DISCOVERY];
    if (has_process(discovery)) {
        stat_add(sink, "discovery:pid", "%d", (int)atomic_load(&discovery->pid));
    }
    stats_discovery(sink, segment);
    unsigned first = first_attached(segment);
    for (unsigned i = first; i < segment_slot_count(segment); i++) {
        stats_attached(sink, &segment->slots[i], i - first);
    }
}

/* ---- the command ---------------------------------------------------------------------------- */

bool
stats_answer(struct protocol *protocol, struct slice part, struct stat_sink *sink)
{
    if (part.len == 0) {
        stats_general(sink, protocol->store);
    } else if (slice_is(part, "settings")) {
        stats_settings(sink, protocol->store);
    } else if (slice_is(part, "items")) {
        stats_items(sink, protocol->store);
    } else if (slice_is(part, "slabs")) {
        stats_slabs(sink, protocol->store);
    } else if (slice_is(part, "sizes")) {
        stats_sizes(sink, protocol->store);
    } else if (slice_is(part, "conns")) {
        stats_conns(sink, protocol->store);
    } else if (slice_is(part, "memcachepy")) {
        stats_own(sink, protocol->store);
    } else {
        return stats_detail_packet(sink, protocol->store, part);
    }
    return true;
}

void
execute_stats(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    const struct line *line = request->line;
    struct slice part = line->count == 1 ? (struct slice){0} : line->tokens[1];
    struct stat_sink sink;
    if (slice_is(part, "reset")) {
        store_stats_reset(protocol->store);
        OUTPUT_TEXT(&protocol->output, "RESET\r\n");
        return;
    }
    if (slice_is(part, "cachedump")) {
        stats_cachedump_begin(protocol, conn, line);
        return;
    }
    if (slice_is(part, "sizes") && stats_sizes_begin(protocol, conn)) {
        return;
    }
    if (slice_is(part, "detail")) {
        stats_detail(protocol, line);
        return;
    }
    stat_sink_text(&sink, &protocol->output);
    sink.asking = conn->number;
    if (!stats_answer(protocol, part, &sink)) {
        OUTPUT_TEXT(&protocol->output, "ERROR\r\n");
    } else if (stat_end(&sink)) {
        return;
    } else {
        OUTPUT_TEXT(&protocol->output, "SERVER_ERROR out of memory writing stats\r\n");
    }
}
