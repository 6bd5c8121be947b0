/* The segment: the shared mappings that hold everything the processes of a node share. There are
 * two: what must survive (mem/data_segment.h), and what belongs to a run (mem/run_segment.h).
 *
 * Each is created at its full reserve and sealed against resizing. */
#ifndef MEM_SEGMENT_H
#define MEM_SEGMENT_H

#include "mem/data_segment.h"
#include "mem/run_segment.h"

/* One process's mapping. The object lives in private memory. */
struct segment {
    /* What must survive, */
    uint8_t *base;
    uint64_t bytes;
    int fd;
    struct superblock *superblock;
    struct held_table *held; /* of each slot */
    /* and what belongs to the run. */
    uint8_t *run_base;
    uint64_t run_bytes;
    int run_fd;
    struct run_head *run;
    struct process_slot *slots;
    struct shard_lock *locks; /* of each shard */
    bool is_file;             /* the data lies in one */
    /* Held tables that an earlier run may have left entries in, until store_reopen() is through. */
    uint32_t held_left;
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

#define DATA_NAME "memcachepy"
#define RUN_NAME "memcachepy-run"

/* Creates and maps two sparse, sealed memfds of the reserve, with their metadata populated and
 * initialised. The shards are left zeroed for the store. On failure *segment is untouched and
 * `sentence` (SEGMENT_SENTENCE_MAX bytes) says why. */
enum segment_status segment_create(const struct segment_settings *settings,
                                   const struct data_format *format, struct segment **segment,
                                   char *sentence) MUST_CHECK;

/* The same with the data in a regular file, of which fd is a descriptor for reading and writing; it
 * stays the caller's. The file's size is that of the data, what it held is gone. A file is one
 * node's at a time: it is locked for as long as a process of the node has the descriptor. */
enum segment_status segment_create_in(int fd, const struct segment_settings *settings,
                                      const struct data_format *format, struct segment **segment,
                                      char *sentence) MUST_CHECK;

/* Maps the data that such a file holds, and makes a new run for it; refuses what is no data of this
 * layout, is in use, or does not agree with the settings. The shards are as they were left. */
enum segment_status segment_reopen(int fd, const struct segment_settings *settings,
                                   const struct data_format *format, struct segment **segment,
                                   char *sentence) MUST_CHECK;

/* Maps a segment that another process has created, of which fd and run_fd are descriptors; they
 * stay the caller's. Whatever is not a segment of this layout is refused before anything in it is
 * used. */
enum segment_status segment_attach(int fd, int run_fd, const struct data_format *format,
                                   struct segment **segment, char *sentence) MUST_CHECK;
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

static inline void *
run_at(const struct segment *segment, uint64_t offset)
{
    return segment->run_base + offset;
}

/* Slots in use or used before, those of attached processes last. */
static inline unsigned
segment_slot_count(const struct segment *segment)
{
    const struct run_head *run = segment->run;
    uint32_t high = atomic_load_explicit(&run->attached_high, memory_order_acquire);
    return SLOT_WORKER_FIRST + run->boot_settings.worker_count +
           (high <= ATTACHED_MAX ? high : ATTACHED_MAX);
}

/* Held tables in which entries may be. */
static inline unsigned
segment_held_count(const struct segment *segment)
{
    unsigned count = segment_slot_count(segment);
    return LIKELY(segment->held_left <= count) ? count : segment->held_left;
}

/* Behind the last worker's slot: from SLOT_WORKER_FIRST up to here have connections. */
static inline unsigned
segment_worker_end(const struct segment *segment)
{
    return SLOT_WORKER_FIRST + segment->run->boot_settings.worker_count;
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
