/* The segment: one shared mapping that holds everything the processes of a node share.
 *
 *   0            superblock        identity, settings, clocks, epochs, slab classes, page pool
 *   slots_at     process slots     one per process: counters, connections, pins, uploads
 *   logs_at      log rings         one per process, for `watch` (mem/logring.h)
 *   shards_at    shards            lock, undo journal, table directory, class lists (store/shard.h)
 *   words_at     table words       of each shard: what readers need of its table's shape
 *   tables_at    table directories page numbers of the shards' hash tables
 *   prefixes_at  prefixes          what `stats detail` counts (mem/prefix_table.h)
 *   conns_at     connections       what `stats conns` tells of them (mem/conn_table.h)
 *   configs_at   configurations    what `config get` answers (mem/config_table.h)
 *   tracks_at    tracking          what was changed while items are copied (mem/track.h)
 *   freemap_at   free map          which pages are free (mem/freemap.h)
 *   pages_at     page directory    owner and free list of each page
 *   data_at      pages             2 MiB aligned; populated in extents as the cache fills
 *
 * The file is created at its full reserve and sealed against resizing. Only populated ranges may be
 * touched: a first touch of a page that the host or a cgroup cannot give is SIGBUS.
 * References are offsets from the segment's start in units (mem/ref.h); no pointer is ever stored.
 */
#ifndef MEM_SEGMENT_H
#define MEM_SEGMENT_H

#include "base/platform.h"
#include "base/siphash.h"
#include "mem/counters.h"
#include "mem/lock.h"

#define SEGMENT_MAGIC "MCPYSEG"
#define SEGMENT_LAYOUT_VERSION 5
#define WORKERS_MAX 64
#define SLOT_SUPERVISOR 0
#define SLOT_ACCEPTOR 1
#define SLOT_MAINTAINER 2
#define SLOT_DISCOVERY 3 /* of a node that a provider tells who the others are; else nobody */
#define SLOT_WORKER_FIRST 4
#define ATTACHED_MAX 256 /* processes outside the node; their slots follow the last worker's */
#define SLOT_COUNT (SLOT_WORKER_FIRST + WORKERS_MAX + ATTACHED_MAX)
#define SLAB_CLASS_COUNT_MAX 64
#define CONFIG_COUNT_MAX 16
#define PIN_COUNT_MAX 1024
#define UPLOAD_COUNT_MAX 1024
#define SETTING_TEXT_MAX 512

/* What goes when memory is full; store/policy.h says how. */
enum eviction_policy {
    POLICY_S3FIFO,
    POLICY_S3FIFO_BYTES,
    POLICY_NOEVICTION,
    POLICY_ALLKEYS_LRU,
    POLICY_ALLKEYS_LFU,
    POLICY_ALLKEYS_RANDOM,
    POLICY_VOLATILE_LRU,
    POLICY_VOLATILE_LFU,
    POLICY_VOLATILE_RANDOM,
    POLICY_VOLATILE_TTL,
    POLICY_COUNT
};

extern const char *const policy_names[POLICY_COUNT];

/* What a listener's clients may speak. */
enum binding_protocol { BINDING_AUTO, BINDING_ASCII, BINDING_BINARY, BINDING_COUNT };

extern const char *const binding_names[BINDING_COUNT];

enum node_state { NODE_RUNNING, NODE_DRAINING, NODE_STOPPING };

/* The settings that C needs or `stats settings` shows. [const] after creation except [atomic]: the
 * former are read from superblock.boot_settings, the latter from superblock.settings. */
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

/* The reference to a chained upload or pin that a process holds. 0: free. [own] */
struct held_ref {
    _Atomic uint32_t head_ref;
    uint32_t bytes;
};

/* One process of the node. [own] the process writes; [sup] the supervisor, after the process's end.
 */
struct process_slot {
    alignas(CACHE_LINE_BYTES) _Atomic int32_t pid; /* [own][sup] 0: nobody */
    _Atomic uint32_t serving;                      /* [own] 1 once in its loop */
    _Atomic uint32_t locked_shard; /* [own] shard index + 1 while it may change that shard */
    _Atomic uint32_t lock_count;   /* [own] tries; who holds a lock for long does not count on */
    _Atomic uint32_t wanted_shard; /* [own] shard index + 1 from before a try to after a release */
    _Atomic uint32_t page_in_flight;        /* [own] page number + 1 between pool and owner */
    _Atomic uint64_t held_bytes;            /* [own] by uploads and pins */
    _Atomic uint32_t waiters;               /* [own] connections that wait for held_bytes */
    _Atomic uint32_t pin_high, upload_high; /* [own] entries of the tables ever used */
    _Atomic uint32_t stuck;                 /* [sup] 1: found holding a lock without running */
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
    struct held_ref pins[PIN_COUNT_MAX];
    struct held_ref uploads[UPLOAD_COUNT_MAX];
};
static_assert(sizeof(struct process_slot) == 27136, "layout change: bump SEGMENT_LAYOUT_VERSION");

/* The pool of pages. Which pages are free stands in the page directory, and is found by the free
 * map. */
struct page_pool {
    struct shared_lock grow_lock;     /* guards [grow] */
    _Atomic uint32_t grow_stuck;      /* [atomic] 1: who holds the lock was waited for in vain */
    _Atomic uint32_t grow_count;      /* [grow] how often the lock was taken */
    _Atomic uint32_t populated_count; /* [grow] pages that ever had memory: the ones to look at */
    _Atomic uint32_t present_count;   /* [grow] pages that have it: all of them but the absent */
    _Atomic uint32_t absent_from;     /* [grow], read by all: no page before this one is absent */
    _Atomic uint32_t
        effective_count;     /* [atomic] pages of the limit, less what a shortage took away */
    _Atomic uint32_t cursor; /* [atomic] where the next search for a free page starts */
    /* A shortage lasts until the whole limit is in force again. */
    _Atomic uint32_t shortage_number;  /* [atomic] shortages that have begun, */
    _Atomic uint32_t recovery_number;  /* [atomic] and those that have ended */
    _Atomic uint32_t recovery_after_s; /* [grow] how long the last of these lasted */
    _Atomic uint32_t raise_wait_s;     /* [grow] from the last failure to the next step */
    _Atomic uint64_t short_since_ns;   /* [grow], read by all: boot-time clock; 0: no shortage */
    _Atomic uint64_t raise_at_ns;      /* [grow], read by all: no step before this moment */
    _Atomic uint64_t raised_at_ns;     /* [grow] the last step; 0: none */
    char shortage_text[384];           /* [grow] */
    /* [grow] The complements of words that no page tells again: damage shows by them. */
    _Atomic uint64_t limit_check;
    _Atomic uint32_t populated_check, effective_check;
};

/* Which configurations there are; see mem/config_table.h. */
struct config_words {
    struct shared_lock lock;      /* guards changes; readers need none */
    _Atomic uint32_t lock_count;  /* [configs] how often the lock was taken */
    _Atomic uint32_t stuck_count; /* 1 + that, when somebody waited in vain; 0: never */
    _Atomic uint64_t states[CONFIG_COUNT_MAX]; /* [configs], read by all */
};

/* The [const] part of the superblock. Each process reads its own copy of it: segment_create() and
 * segment_attach() lay a private, read-only page over it, so that no other process can change a
 * size or an offset under a process that has checked it. One system page. */
#if defined(__aarch64__) || defined(__powerpc64__)
#define CONSTANTS_BYTES 65536
#else
#define CONSTANTS_BYTES 4096
#endif

struct superblock {
    union {
        struct {
            char magic[8];
            uint32_t layout_version;
            uint32_t fingerprint; /* of struct sizes and the libc's mutex: another build must not
                                     attach */
            uint64_t reserve_bytes;
            uint64_t slots_at, logs_at, shards_at, words_at, tables_at, prefixes_at, conns_at,
                configs_at, tracks_at, freemap_at, pages_at, data_at;
            uint32_t page_bytes, page_shift, unit_shift;
            uint32_t log_ring_bytes;
            uint32_t shard_count, table_pages_max;
            uint32_t class_count;
            uint32_t page_count_max; /* pages the reserve holds */
            uint32_t chunk_bytes[SLAB_CLASS_COUNT_MAX];
            uint32_t chunks_per_page[SLAB_CLASS_COUNT_MAX];
            struct siphash_key hash_key;        /* of all keys; random */
            uint64_t wall_base_s, boot_base_ns; /* clocks; see store.c */
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
    alignas(CACHE_LINE_BYTES) _Atomic uint64_t last_cas; /* [atomic] */
    alignas(CACHE_LINE_BYTES) _Atomic uint64_t flush;    /* [atomic] see store/flush.h */
    /* Beside what every request looks at. */
    _Atomic uint32_t watched;        /* [atomic] classes that some process's connections watch */
    _Atomic uint32_t tracking;       /* [atomic] 0: nobody copies items; else see mem/track.h */
    _Atomic uint64_t share_reserved; /* [atomic] see store/held.c */
    _Atomic uint64_t flush_swept;    /* [atomic] see store/flush.c */
    alignas(CACHE_LINE_BYTES) _Atomic uint64_t log_gid; /* [atomic] of the last log entry */
    alignas(CACHE_LINE_BYTES) struct page_pool pool;
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

/* One process's mapping. The object lives in private memory. */
struct segment {
    uint8_t *base;
    uint64_t bytes;
    int fd;
    struct superblock *superblock;
    struct process_slot *slots;
    bool attached; /* by a process outside the node, in a cgroup of its own */
    /* That cgroup has no memory for the pool: it is not asked again before this moment of the
     * boot-time clock. 0: it may be asked. */
    uint64_t grow_again_at_ns;
    uint32_t grow_wait_s;
    /* The supervisor's own account of attached processes' slots: the shared words may be damaged.
     */
    uint32_t attached_high;
    bool attached_open[ATTACHED_MAX];
    /* Slots whose process has ended and which are not recovered yet: what they say of locks counts
     * no more. In the supervisor only. */
    bool ended[SLOT_COUNT];
    struct segment_settings *own_settings; /* those that only the supervisor changes */
};

enum segment_status {
    SEGMENT_OK,
    SEGMENT_BAD_SETTING, /* the sentence names the setting, the value and the range */
    SEGMENT_SHORTAGE,    /* host, cgroup or file system too small */
    SEGMENT_FAILED,      /* anything else the system refused */
};

#define SEGMENT_SENTENCE_MAX 384

struct memory_limit;

/* Lays a segment out for a host with so much memory and system pages of so many bytes: fills those
 * fields of *superblock that are [const] and follow from the settings, and zeroes the others. On
 * failure `sentence` (SEGMENT_SENTENCE_MAX bytes) says why. */
enum segment_status segment_lay_out(const struct segment_settings *settings, size_t shard_bytes,
                                    const struct memory_limit *host, uint64_t system_page_bytes,
                                    struct superblock *superblock, char *sentence) MUST_CHECK;

/* Creates and maps a sparse, sealed memfd of the reserve, with its metadata populated and
 * initialised. The shards, of shard_bytes each, are left zeroed for the store. On failure *segment
 * is untouched and `sentence` (SEGMENT_SENTENCE_MAX bytes) says why. */
enum segment_status segment_create(const struct segment_settings *settings, size_t shard_bytes,
                                   struct segment **segment, char *sentence) MUST_CHECK;

/* Maps a segment that another process has created, of which fd is a descriptor; it stays the
 * caller's. Whatever is not a segment of this very build's layout is refused before anything in it
 * is used. */
enum segment_status segment_attach(int fd, size_t shard_bytes, struct segment **segment,
                                   char *sentence) MUST_CHECK;
void segment_close(struct segment *segment);

/* The number under which `stats conns` and `watch` name a descriptor of a process: unique over the
 * node. The acceptor's, that is the listening sockets, are numbered as they are. */
static inline uint32_t
segment_fd_number(unsigned slot_index, int fd)
{
    unsigned process = slot_index == SLOT_ACCEPTOR ? 0 : slot_index - SLOT_WORKER_FIRST + 1;
    return process << 20 | (uint32_t)fd;
}

static inline void *
segment_at(const struct segment *segment, uint64_t offset)
{
    return segment->base + offset;
}

/* Slots in use or used before, those of attached processes last. */
static inline unsigned
segment_slot_count(const struct segment *segment)
{
    const struct superblock *superblock = segment->superblock;
    uint32_t high = atomic_load_explicit(&superblock->attached_high, memory_order_acquire);
    return SLOT_WORKER_FIRST + superblock->boot_settings.worker_count +
           (high <= ATTACHED_MAX ? high : ATTACHED_MAX);
}

/* Behind the last worker's slot: from SLOT_WORKER_FIRST up to here have connections. */
static inline unsigned
segment_worker_end(const struct segment *segment)
{
    return SLOT_WORKER_FIRST + segment->superblock->boot_settings.worker_count;
}

/* Claims a slot for this process: pid, no lock, no pins, not serving. Counters stay. */
void segment_claim_slot(struct segment *segment, unsigned slot_index);

/* Claims a free slot for a process outside the node. False: none is free, or no memory for one
 * more; the sentence (SEGMENT_SENTENCE_MAX bytes) says which. In the supervisor only. */
bool segment_open_attached(struct segment *segment, int32_t pid, unsigned *slot_index,
                           char *sentence) MUST_CHECK;

/* The slot that segment_open_attached() gave out is free again. In the supervisor only. */
void segment_close_attached(struct segment *segment, unsigned slot_index);

/* Remembers the settings that only the supervisor changes, as they are now. */
void segment_note_settings(struct segment *segment);

/* Copies the settings: those that are [atomic] as they are now, all others as of the segment's
 * creation, for the shared copy of them may be damaged. */
void segment_settings_now(const struct segment *segment, struct segment_settings *settings);

/* Writes again what only the supervisor says in the shared part, should another process have
 * written over it. */
void segment_reassert(struct segment *segment);

/* Connections that workers hold or are about to receive. */
uint64_t segment_connection_count(const struct segment *segment);

#endif
