/* The data segment: what must survive the processes of a node, and nothing else.
 *
 *   0            superblock        identity, slab classes, clocks, epochs, counts of the page pool
 *   held_at      held tables       one per process: pins, uploads, the page in hand
 *   shards_at    shards            undo journal, class lists, ghost (store/shard.h)
 *   words_at     table words       of each shard: what readers need of its table's shape
 *   tables_at    table directories page numbers of the shards' hash tables
 *   freemap_at   free map          which pages are free (mem/freemap.h)
 *   pages_at     page directory    owner and free list of each page
 *   data_at      pages             2 MiB aligned; populated in extents as the cache fills
 *
 * The offsets follow from the size of the segment and from three numbers in its head (page_shift,
 * unit_shift, shard_count): not from settings, not from the host, not from the build. There is no
 * mutex in it, and no word that only a living process can give a meaning. It lies in a sealed
 * memfd, or in a file that can be closed and opened again; see segment_reopen().
 *
 * Only populated ranges may be touched: a first touch of a page that the host or a cgroup cannot
 * give is SIGBUS. References are offsets from the segment's start in units (mem/ref.h); no pointer
 * is ever stored. */
#ifndef MEM_DATA_SEGMENT_H
#define MEM_DATA_SEGMENT_H

#include "base/platform.h"
#include "base/siphash.h"

#define SEGMENT_MAGIC "MCPYSEG"
#define SEGMENT_LAYOUT_VERSION 6
#define WORKERS_MAX 64
#define SLOT_SUPERVISOR 0
#define SLOT_ACCEPTOR 1
#define SLOT_MAINTAINER 2
#define SLOT_DISCOVERY 3 /* of a node that a provider tells who the others are; else nobody */
#define SLOT_WORKER_FIRST 4
#define ATTACHED_MAX 256 /* processes outside the node; their slots follow the last worker's */
#define SLOT_COUNT (SLOT_WORKER_FIRST + WORKERS_MAX + ATTACHED_MAX)
#define SLAB_CLASS_COUNT_MAX 64
#define PIN_COUNT_MAX 1024
#define UPLOAD_COUNT_MAX 1024
#define DATABASE_COUNT 16 /* only number 0 is in use */

/* Whatever a later release keeps in the data segment without another layout. */
#define SPARE_WORDS 64
#define SPARE_PARTS 4

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

/* The reference to a chained upload or pin that a process holds. 0: free. [own] */
struct held_ref {
    _Atomic uint32_t head_ref;
    uint32_t bytes;
};

/* What the process of a slot holds of the store; the journals of the shards name it by its offset.
 * [own], and after the process's end [sup]. */
struct held_table {
    alignas(CACHE_LINE_BYTES) _Atomic uint32_t
        page_in_flight;                     /* page number + 1 between pool and owner */
    _Atomic uint32_t pin_high, upload_high; /* entries ever used */
    alignas(CACHE_LINE_BYTES) struct held_ref pins[PIN_COUNT_MAX];
    struct held_ref uploads[UPLOAD_COUNT_MAX];
    /* 0 and reserved: for the record of a commit over several shards, of 32 entries of 24 bytes,
     * and the number of the last change that the process has told. */
    uint64_t spare[112];
};
static_assert(sizeof(struct held_table) == 17344, "layout change: bump SEGMENT_LAYOUT_VERSION");

/* The pool of pages, as far as it survives. Which pages are free stands in the page directory, and
 * is found by the free map. [grow]: guarded by growth.grow_lock of the run. */
struct page_pool {
    _Atomic uint32_t populated_count; /* [grow] pages that ever had memory: the ones to look at */
    _Atomic uint32_t present_count;   /* [grow] pages that have it: all of them but the absent */
    _Atomic uint32_t absent_from;     /* [grow], read by all: no page before this one is absent */
    _Atomic uint32_t
        effective_count;     /* [atomic] pages of the limit, less what a shortage took away */
    _Atomic uint32_t cursor; /* [atomic] where the next search for a free page starts */
    /* [grow] The complements of words that no page tells again: damage shows by them. */
    _Atomic uint32_t populated_check, effective_check;
};

/* Where both clocks stood at one moment. */
struct clocks_seen {
    _Atomic uint64_t node_ns; /* the node's, since its base */
    _Atomic uint64_t wall_ns; /* the system's, since 1970 */
};

/* The [const] part of a segment's head. Each process reads its own copy of it: segment_create() and
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
            uint32_t fingerprint; /* of fields, enums and functions that give the data a meaning */
            /* Bits (data_segment.c): what a reader must know to open the data, and what has been
             * made use of. */
            uint64_t features_needed, features_used;
            uint64_t bytes; /* of the segment */
            uint64_t held_at, shards_at, words_at, tables_at, freemap_at, pages_at, data_at;
            uint64_t spare_at[SPARE_PARTS];
            uint32_t page_bytes, page_shift, unit_shift;
            uint32_t shard_count, table_pages_max;
            uint32_t page_count_max; /* pages the segment holds */
            uint32_t class_count;
            uint32_t
                eviction_policy; /* enum eviction_policy: it gives rings and counts a meaning */
            uint32_t chunk_bytes[SLAB_CLASS_COUNT_MAX];
            uint32_t chunks_per_page[SLAB_CLASS_COUNT_MAX];
            struct siphash_key hash_key; /* of all keys; random */
            uint64_t wall_base_s;        /* moments of the system clock count from here */
            uint64_t constants_check;    /* hash of all of the above */
        };
        uint8_t constants[CONSTANTS_BYTES];
    };
    /* For the next run: of which boot of the host boot_base_ns is, and when the node lived last.
     * The maintainer fills the one of the two pairs that `seen_index` does not name, and then has
     * it name that one. */
    uint8_t boot_id[16];
    _Atomic uint64_t boot_base_ns; /* the node's clock is 0 here; this run's copy: run_head */
    struct clocks_seen seen[2];
    _Atomic uint32_t seen_index;
    _Atomic uint32_t held_high; /* [sup] held tables that ever had memory */
    alignas(CACHE_LINE_BYTES) _Atomic uint64_t last_cas; /* [atomic] */
    /* [atomic] See store/flush.h. By database; there is one. */
    alignas(CACHE_LINE_BYTES) _Atomic uint64_t flush[DATABASE_COUNT];
    _Atomic uint64_t flush_swept; /* [atomic] see store/flush.c */
    alignas(CACHE_LINE_BYTES) struct page_pool pool;
    alignas(CACHE_LINE_BYTES) uint64_t spare[SPARE_WORDS];
};
static_assert(offsetof(struct superblock, constants_check) < CONSTANTS_BYTES,
              "the constants fit one system page");

/* What the layers above keep in the data segment. */
struct data_format {
    size_t shard_bytes;
    uint32_t fingerprint; /* of the structs, enums and functions of those layers */
};

enum segment_status {
    SEGMENT_OK,
    SEGMENT_BAD_SETTING, /* the sentence names the setting, the value and the range */
    SEGMENT_SHORTAGE,    /* host, cgroup or file system too small */
    SEGMENT_FAILED,      /* anything else the system refused */
};

#define SEGMENT_SENTENCE_MAX 384

struct memory_limit;
struct segment_settings;

/* Fills the offsets and counts of a data segment of so many bytes from its page_shift, unit_shift
 * and shard_count. False: there is no room for a page. */
bool data_lay_out(uint64_t bytes, size_t shard_bytes, struct superblock *superblock) MUST_CHECK;

/* Lays the data segment of a node's memfd out: for a host with so much memory and system pages of
 * so many bytes. Fills those fields of *superblock that are [const] and follow from the settings,
 * and zeroes the others. On failure `sentence` (SEGMENT_SENTENCE_MAX bytes) says why. */
enum segment_status data_plan(const struct segment_settings *settings, size_t shard_bytes,
                              const struct memory_limit *host, uint64_t system_page_bytes,
                              struct superblock *superblock, char *sentence) MUST_CHECK;

/* The same for a file of so many bytes, which all is laid out by. */
enum segment_status data_plan_file(uint64_t bytes, const struct segment_settings *settings,
                                   size_t shard_bytes, uint64_t system_page_bytes,
                                   struct superblock *superblock, char *sentence) MUST_CHECK;

/* Refuses a limit that the data has no room for. */
enum segment_status data_check_limit(const struct superblock *superblock,
                                     const struct segment_settings *settings,
                                     char *sentence) MUST_CHECK;

/* Why data of this head and so many bytes, a node's or a file's, must not be used; false if it may.
 */
bool data_refuse(const struct superblock *superblock, uint64_t bytes,
                 const struct data_format *format, bool is_file, char *sentence) MUST_CHECK;

/* What superblock.constants_check is to be. */
uint64_t data_constants_check(const struct superblock *superblock);

/* Fills the head of a new data segment, whose memory is populated and zeroed. */
void data_fill(struct superblock *superblock, const struct superblock *plan,
               const struct data_format *format, const struct segment_settings *settings);

/* Takes memory for all before the pages that `slot_count` processes touch. False: there is none. */
bool data_populate(int fd, uint8_t *base, const struct superblock *plan, size_t shard_bytes,
                   unsigned slot_count) MUST_CHECK;

/* Where the boot-time clock stood when the node's was 0, for a run that begins now. Notes it, and
 * the boot, for the next. */
uint64_t data_begin_clock(struct superblock *superblock);

/* Notes where the clocks stand, once a second. */
void data_note_clocks(struct superblock *superblock, uint64_t node_ns, uint64_t wall_ns);

#endif
