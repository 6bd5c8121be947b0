/* What `watch` shows: each process's log ring.
 *
 *   slots' rings, at run_head.logs_at, each of log_ring_bytes:
 *
 *    0        128       256                        one entry is one to three cells, the first with
 *   | header | cell 0  | cell 1  | …              | the head and the beginning of the text
 *
 *    cell:  | stamp | 120 bytes                   |
 *
 * One process writes a ring, over its oldest entries; any number read it, each with a position of
 * its own. The stamp of a cell is its number since the ring began plus one, with the top bit in
 * cells that continue an entry, and 0 while the cell is being written: so a reader knows whether
 * what it copied was one whole entry, and else goes on where it is not overtaken again. `written`
 * moves when an entry is whole: one that a killed process left half is never looked at and is
 * written over by the next process in the slot.
 *
 * A ring has memory only once somebody watches, beside the memory limit. run_head.watched holds
 * what anybody watches; while it is 0 nothing is written anywhere. */
#ifndef MEM_LOGRING_H
#define MEM_LOGRING_H

#include "mem/segment.h"

/* What can be watched; memcached's rawcmds and proxy classes are known and silent. */
enum log_class {
    LOG_FETCHERS = 1,
    LOG_MUTATIONS = 2,
    LOG_EVICTIONS = 4,
    LOG_CONNEVENTS = 8,
    LOG_DELETIONS = 16,
    LOG_SYSEVENTS = 32,
    LOG_SILENT = 64,
};

enum log_kind {
    LOG_ITEM_GET,
    LOG_ITEM_STORE,
    LOG_EVICTION,
    LOG_DELETED,
    LOG_CONN_NEW,
    LOG_CONN_CLOSE,
    LOG_SLAB_MOVE,
    LOG_CRAWL,
};

#define LOG_TEXT_MAX 250

/* An event; which fields mean something depends on its kind. */
struct log_head {
    uint64_t gid;     /* counts the entries of all rings */
    uint64_t time_us; /* system time */
    uint32_t number;  /* counts the entries of this ring */
    int32_t ttl_s;
    uint32_t value_len;
    uint32_t fd_number; /* segment_fd_number() */
    uint32_t idle_s;
    uint8_t kind; /* enum log_kind */
    uint8_t log_class;
    uint8_t status;  /* What came of it, */
    uint8_t command; /* and of which command: as the kind has them. */
    uint8_t class_id;
    uint8_t to_class_id;
    uint8_t fetched;
    uint8_t text_len; /* of the key or the peer's address */
    uint16_t port;
    uint16_t unused;
};
static_assert(sizeof(struct log_head) == 48, "layout change: bump SEGMENT_LAYOUT_VERSION");

struct log_entry {
    struct log_head head;
    uint8_t text[LOG_TEXT_MAX];
};

/* Bytes of one ring in the segment, for a setting of so many. */
uint32_t logring_bytes(uint32_t setting_bytes);

/* Whether anybody watches one of the classes. */
static inline bool
log_is_watched(const struct run_head *run, uint32_t classes)
{
    return UNLIKELY(atomic_load_explicit(&run->watched, memory_order_relaxed) & classes);
}

/* Writes an entry to the process's own ring; gid, time and number are filled in. Nothing happens
 * while the ring has no memory. Async-signal-like safe: no lock, no wait. */
void logring_write(struct segment *segment, struct process_slot *slot, struct log_entry *entry);

/* Gives every process's ring memory that has none. False: there is none to be had. */
bool logring_populate(struct segment *segment) MUST_CHECK;

/* ---- who watches ---------------------------------------------------------------------------- */

/* Watchers of all processes. */
uint32_t logring_watchers(const struct segment *segment);

/* Counts one more watcher in the slot, unless there are WATCHERS_MAX in the node. */
#define WATCHERS_MAX 20
bool logring_add_watcher(struct segment *segment, struct process_slot *slot) MUST_CHECK;
void logring_remove_watcher(struct process_slot *slot);

/* The slot's watchers want these classes from now on. Also mends what a process left that died in
 * the middle of it. */
void logring_watch(struct segment *segment, struct process_slot *slot, uint32_t classes);

/* Has the superblock say what the slots say; see logring_watch(). */
void logring_settle(struct segment *segment);

/* ---- reading -------------------------------------------------------------------------------- */

struct log_position {
    uint64_t cell;   /* the next to be read */
    uint32_t number; /* of the entry that is expected there */
};

/* The ring's end as it is now: only what is written later will be read. */
void logring_begin(const struct segment *segment, unsigned slot_index,
                   struct log_position *position);

enum log_read {
    LOG_READ_ENTRY,
    LOG_READ_END,
};

/* Copies the entry at the position and moves it. *lost grows by the entries that were written over
 * before they could be read. */
enum log_read logring_read(const struct segment *segment, unsigned slot_index,
                           struct log_position *position, struct log_entry *entry,
                           uint64_t *lost) MUST_CHECK;

#endif
