/* The run segment: what the processes of a node share while they live, and what no later run needs.
 *
 *   0            run_head          settings, states, shortages, what `stats reset` subtracts
 *   slots_at     process slots     one per process: counters, connections
 *   locks_at     locks             of each shard, a cache line each
 *   logs_at      log rings         one per process, for `watch` (mem/logring.h)
 *   prefixes_at  prefixes          what `stats detail` counts (mem/prefix_table.h)
 *   conns_at     connections       what `stats conns` tells of them (mem/conn_table.h)
 *   configs_at   configurations    what `config get` answers (mem/config_table.h)
 *   tracks_at    tracking          what was changed while items are copied (mem/track.h)
 *
 * A sparse, sealed memfd of its own, made anew with each start of the node. All mutexes are here,
 * so a process that attaches must agree about them: their size and kind are in the fingerprint. */
#ifndef MEM_RUN_SEGMENT_H
#define MEM_RUN_SEGMENT_H

#include "mem/counters.h"
#include "mem/data_segment.h"
#include "mem/lock.h"

#define RUN_MAGIC "MCPYRUN"
#define CONFIG_COUNT_MAX 16
#define SETTING_TEXT_MAX 512

/* What a listener's clients may speak. */
enum binding_protocol { BINDING_AUTO, BINDING_ASCII, BINDING_BINARY, BINDING_COUNT };

extern const char *const binding_names[BINDING_COUNT];

enum node_state { NODE_RUNNING, NODE_DRAINING, NODE_STOPPING };

/* The settings that C needs or `stats settings` shows. [const] after creation except [atomic]: the
 * former are read from run_head.boot_settings, the latter from run_head.settings. */
struct segment_settings {
    _Atomic uint64_t memory_limit_bytes; /* [atomic] */
    uint64_t item_size_max_bytes;
    double growth_factor;
    uint32_t item_size_min_bytes; /* Key, value and client flags of the smallest class. */
    uint32_t conn_limit;
    uint32_t worker_count;
    _Atomic uint32_t requests_per_event; /* [atomic] */
    uint32_t backlog;
    _Atomic uint32_t verbosity; /* [atomic] */
    uint32_t eviction_policy;   /* enum eviction_policy */
    bool cas_enabled;
    _Atomic bool flush_enabled;    /* [atomic] */
    _Atomic bool shutdown_enabled; /* [atomic] */
    bool large_pages;              /* huge pages are a must; else they are asked for */
    bool maxconns_fast; /* who comes beyond conn_limit is answered; else nobody is accepted */
    _Atomic bool dump_enabled;  /* [atomic] cachedump, metadump, mgdump and `stats detail` */
    _Atomic bool watch_enabled; /* [atomic] */
    bool track_sizes;
    bool slab_reassign; /* pages may be moved by command and by the automover */
    bool drop_privileges;
    bool lru_maintainer;
    bool clock_is_fixed;            /* nobody may move the clocks: nodes */
    char prefix_delimiter;          /* ends the prefix of a key that `stats detail` counts by */
    _Atomic bool detail_enabled;    /* [atomic] prefixes are counted */
    _Atomic bool lru_crawler;       /* [atomic] expired items are looked for */
    _Atomic bool lru_segmented;     /* [atomic] */
    _Atomic bool temp_lru;          /* [atomic] */
    _Atomic uint32_t slab_automove; /* [atomic] 0: off, 1: on, 2: at every eviction */
    _Atomic uint32_t slab_automove_window;
    _Atomic double slab_automove_ratio, slab_automove_freeratio;
    _Atomic uint32_t lru_crawler_sleep_us, lru_crawler_tocrawl;
    _Atomic uint32_t hot_lru_pct, warm_lru_pct, temporary_ttl_s;
    _Atomic double hot_max_factor, warm_max_factor;
    uint32_t binding_protocol; /* enum binding_protocol */
    uint32_t idle_timeout_s;   /* 0: none */
    uint32_t worker_logbuf_bytes, watcher_logbuf_bytes;
    uint32_t hashpower_init, tail_repair_time_s, slab_chunk_max_bytes, napi_id_count;
    uint64_t read_buf_limit_bytes;
    char hash_algorithm[16];
    char slab_sizes[SETTING_TEXT_MAX]; /* sizes of chunks, `100-200-300`; "": by growth_factor */
    int32_t tcp_port;                  /* 0: none */
    uint32_t unix_mask;
    int32_t supervisor_pid;
    char unix_socket[SETTING_TEXT_MAX]; /* "" : none */
    char listen[SETTING_TEXT_MAX];      /* "" : all */
};

/* One process of the node. [own] the process writes; [sup] the supervisor, after the process's end.
 */
struct process_slot {
    alignas(CACHE_LINE_BYTES) _Atomic int32_t pid; /* [own][sup] 0: nobody */
    _Atomic uint32_t serving;                      /* [own] 1 once in its loop */
    _Atomic uint32_t locked_shard; /* [own] shard index + 1 while it may change that shard */
    _Atomic uint32_t lock_count;   /* [own] tries; who holds a lock for long does not count on */
    _Atomic uint32_t wanted_shard; /* [own] shard index + 1 from before a try to after a release */
    _Atomic uint64_t held_bytes;   /* [own] by uploads and pins */
    _Atomic uint32_t waiters;      /* [own] connections that wait for held_bytes */
    _Atomic uint32_t stuck;        /* [sup] 1: found holding a lock without running */
    /* Connections of a worker: passed and closed make the load; see net/acceptor.c. */
    _Atomic uint64_t conns_assigned; /* [acceptor] before the descriptor is sent */
    _Atomic uint64_t conns_sent;     /* [acceptor] after */
    alignas(CACHE_LINE_BYTES) _Atomic uint64_t conns_received; /* [own] */
    _Atomic uint64_t conns_closed;                             /* [own] */
    _Atomic uint32_t dumps; /* [own] connections that are making a dump of keys */
    /* See mem/logring.h. */
    _Atomic uint32_t watchers;      /* [own][sup] connections that watch, */
    _Atomic uint32_t watch_classes; /* [own][sup] and what: enum log_class */
    _Atomic uint32_t log_ready;     /* [atomic] 1: the process's log ring has memory */
    _Atomic uint32_t conn_high; /* [own] entries of the connection table that have memory; kept */
    struct counters counters;   /* [own] kept over respawns */
    alignas(CACHE_LINE_BYTES) struct class_counters classes[SLAB_CLASS_COUNT_MAX]; /* [own] too */
};
static_assert(sizeof(struct process_slot) == 10752, "layout change: bump SEGMENT_LAYOUT_VERSION");

/* Growth of the page pool, and shortages of the host. */
struct growth {
    struct shared_lock grow_lock; /* guards [grow] */
    _Atomic uint32_t grow_stuck;  /* [atomic] 1: who holds the lock was waited for in vain */
    _Atomic uint32_t grow_count;  /* [grow] how often the lock was taken */
    /* A shortage lasts until the whole limit is in force again. */
    _Atomic uint32_t shortage_number;  /* [atomic] shortages that have begun, */
    _Atomic uint32_t recovery_number;  /* [atomic] and those that have ended */
    _Atomic uint32_t recovery_after_s; /* [grow] how long the last of these lasted */
    _Atomic uint32_t raise_wait_s;     /* [grow] from the last failure to the next step */
    _Atomic uint64_t short_since_ns;   /* [grow], read by all: boot-time clock; 0: no shortage */
    _Atomic uint64_t raise_at_ns;      /* [grow], read by all: no step before this moment */
    _Atomic uint64_t raised_at_ns;     /* [grow] the last step; 0: none */
    char shortage_text[384];           /* [grow] */
    _Atomic uint64_t limit_check; /* [grow] complement of the memory limit: damage shows by it */
};

/* Which configurations there are; see mem/config_table.h. */
struct config_words {
    struct shared_lock lock;      /* guards changes; readers need none */
    _Atomic uint32_t lock_count;  /* [configs] how often the lock was taken */
    _Atomic uint32_t stuck_count; /* 1 + that, when somebody waited in vain; 0: never */
    _Atomic uint64_t states[CONFIG_COUNT_MAX]; /* [configs], read by all */
};

struct run_head {
    union {
        struct {
            char magic[8];
            uint32_t layout_version;
            uint32_t fingerprint; /* of struct sizes and of the mutex */
            uint64_t bytes;       /* of the segment */
            uint64_t data_check;  /* constants_check of the data that it is for */
            uint64_t slots_at, locks_at, logs_at, prefixes_at, conns_at, configs_at, tracks_at;
            uint64_t boot_base_ns; /* the node's clock is 0 here; see store/clocks.h */
            uint32_t log_ring_bytes;
            bool data_is_file; /* the data lies in a file, which cannot be sealed */
            /* As of creation. Only the fields that are not [atomic] are to be read here. */
            struct segment_settings boot_settings;
            uint64_t constants_check; /* hash of all of the above, for a process that attaches */
        };
        uint8_t constants[CONSTANTS_BYTES];
    };
    /* [atomic] See store/clocks.h; for simulations and tests. */
    _Atomic int64_t advance_s, wall_step_s;
    _Atomic uint64_t
        paused_at_ns; /* [atomic] test builds only: where the boot-time clock stands still */
    _Atomic uint32_t node_state;      /* [atomic] enum node_state */
    _Atomic uint32_t listen_disabled; /* [acceptor] 1: nobody is accepted, conn_limit is reached */
    _Atomic uint32_t attached_high;   /* [sup] slots of attached processes ever used */
    _Atomic uint64_t crawl_classes;   /* [atomic] bit by class: to be looked through; see sweep.c */
    _Atomic uint64_t child_user_us, child_system_us; /* [sup] of reaped children */
    /* [atomic] Shards that were damaged: rebuilt, and emptied because that failed; and the last of
     * these, for the supervisor's log. */
    _Atomic uint32_t mended_count, emptied_count, emptied_shard;
    /* What every request looks at. */
    alignas(CACHE_LINE_BYTES) _Atomic uint32_t
        watched;                     /* [atomic] classes that some process's connections watch */
    _Atomic uint32_t tracking;       /* [atomic] 0: nobody copies items; else see mem/track.h */
    _Atomic uint64_t share_reserved; /* [atomic] see store/held.c */
    alignas(CACHE_LINE_BYTES) _Atomic uint64_t log_gid; /* [atomic] of the last log entry */
    alignas(CACHE_LINE_BYTES) struct growth growth;
    alignas(CACHE_LINE_BYTES) struct segment_settings settings;
    alignas(CACHE_LINE_BYTES) struct config_words configs;
    /* See mem/prefix_table.h. [atomic] */
    _Atomic uint64_t prefix_state, prefix_units_taken;
    _Atomic uint32_t prefix_units_present, prefix_index_present, prefix_retry_at_s;
    /* What `stats reset` subtracts. [atomic] */
    _Atomic uint64_t counter_baseline[COUNTER_COUNT];
    _Atomic uint64_t sum_baseline[16];
    struct class_counters class_baseline[SLAB_CLASS_COUNT_MAX];
};
static_assert(offsetof(struct run_head, constants_check) < CONSTANTS_BYTES,
              "the constants fit one system page");

/* Lays a run segment out, for data of so many shards and system pages of so many bytes: fills the
 * offsets and zeroes the other fields. */
void run_plan(const struct segment_settings *settings, uint32_t shard_count,
              uint64_t system_page_bytes, struct run_head *run);

/* Why the run of this head and a file of so many bytes must not be used; false if it may. */
bool run_refuse(const struct run_head *run, uint64_t bytes, char *sentence) MUST_CHECK;

/* What run_head.constants_check is to be. */
uint64_t run_constants_check(const struct run_head *run);

/* Fills the head of a new run, whose memory is populated and zeroed, and makes its locks. The plan
 * has what does not follow from the settings. */
void run_fill(struct run_head *run, const struct run_head *plan,
              const struct superblock *superblock, const struct segment_settings *settings);

/* Takes memory for all that the processes of a node touch from the beginning. False: there is none.
 */
bool run_populate(int fd, uint8_t *base, const struct run_head *plan, uint32_t shard_count,
                  unsigned slot_count) MUST_CHECK;

#endif
