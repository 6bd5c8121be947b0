/* What was changed while items are copied from node to node, and which copies may be shown.
 *
 * For a change of the cluster's list, a process that is attached to all of its nodes copies the
 * items whose home changes. Each of these nodes tracks meanwhile:
 *
 *   run_head.tracks_at
 *    0                       16384
 *   | head                  | 2^shift bits, one or more keys to a bit                     |
 *
 * Whoever changes a key, or deletes it, present or not, first sets its bit, under the shard's lock
 * (store/track.h). The bit is found by a hash without a seed, so it is the same one in every node.
 * Bits are only ever set: two keys that share one cost a copy, and never show one.
 *
 * A copied item is marked, and a marked item is shown only if none of the nodes that copies come
 * from has its key's bit set. The readers of one node therefore map the tracking of the others, of
 * which the head says where they are, and nothing has to be told from node to node when a key
 * changes: who writes to the old home is heard at once in the new one. A reader that cannot map
 * one, or finds that it is of another session, takes every marked item for absent.
 *
 * Deaths. The process that leads the change is the owner, by its slot. When it ends before it has
 * said what becomes of the copies, store_recover() ends the session: as a source the node shows so
 * by a session of 0, which hides all copies of it wherever they are; as a target it keeps its
 * marked items hidden, until the next session has removed them. A node that restarts has other
 * memory, and does not know of the session: so copies are shown only for as long as the owner says
 * every TRACK_LEASE_NS at least that it has looked at all nodes, and a node that joins a cluster
 * serves no earlier than TRACK_OUTLIVED_NS after it has its ports, when nobody shows what the last
 * node of these ports has given. A stopped owner hides them too.
 *
 * The bits take memory beside the memory limit with the first session, 2^shift / 8 bytes, and keep
 * it for the next: a process that was stopped for long may still set one. */
#ifndef MEM_TRACK_H
#define MEM_TRACK_H

#include "mem/segment.h"

#define TRACK_HEAD_BYTES 16384
#define TRACK_HEAD_PRESENT_BYTES 4096 /* what has memory before the first session */
#define TRACK_SHIFT_MIN 16
#define TRACK_SHIFT_MAX 27
#define TRACK_SOURCES_MAX 400
#define TRACK_LEASE_NS UINT64_C(200000000)

/* And the time that the kernel takes to close what a killed node had open, of which the owner may
 * look at one after another has the port. */
#define TRACK_OUTLIVED_NS (TRACK_LEASE_NS + UINT64_C(20000000))

/* Of run_head.tracking, below a number that changes with each session. */
#define TRACK_CHANGES 1u /* the bits are kept */
#define TRACK_COPIES 2u  /* and copies may come: the sources can be mapped */

enum copies_state {
    COPIES_OWN,     /* Marks mean nothing. */
    COPIES_CHECKED, /* Marked items are shown if nothing speaks against them. */
    COPIES_DEAD,    /* Marked items are hidden. */
};

/* Where a node's tracking is: in the file that a process has open as this descriptor. */
struct track_source {
    int32_t pid;
    int32_t fd;
    uint64_t device, inode; /* what the file must be, for numbers come back as others */
    uint64_t tracks_at;
    uint32_t shift;
    uint32_t unused;
};

struct track_head {
    _Atomic uint64_t session; /* [atomic] read by other nodes; 0: what is here may not be all */
    _Atomic uint64_t shown_until_ns; /* [owner] of the monotonic clock */
    _Atomic uint64_t copies_session; /* [owner] 0 while the sources are being written */
    _Atomic uint32_t owner;          /* [atomic] slot + 1; 0: no session */
    _Atomic uint32_t copies;         /* [owner][sup] enum copies_state */
    _Atomic uint32_t shift;          /* [owner] before the session */
    uint32_t source_count;           /* [owner] while copies are not checked, */
    uint32_t epoch;                  /* of flushes, that copies get: a later one is theirs, too */
    uint32_t unused;
    struct track_source sources[TRACK_SOURCES_MAX]; /* [owner] likewise */
};
static_assert(sizeof(struct track_source) == 40 && sizeof(struct track_head) <= TRACK_HEAD_BYTES,
              "layout change: bump SEGMENT_LAYOUT_VERSION");

/* Bytes of the part of the segment. */
uint64_t track_bytes(void);

static inline struct track_head *
track_head_of(const struct segment *segment)
{
    return run_at(segment, segment->run->tracks_at);
}

/* A word of the bits, by the key's hash without a seed, and the bit in it. */
static inline _Atomic uint64_t *
track_word(const struct track_head *head, uint32_t shift, uint64_t hash, uint64_t *bit)
{
    /* A shift that is none is damage: all keys then share a bit. */
    uint64_t number =
        shift - TRACK_SHIFT_MIN <= TRACK_SHIFT_MAX - TRACK_SHIFT_MIN ? hash >> (64 - shift) : 0;
    *bit = UINT64_C(1) << (number & 63);
    return (_Atomic uint64_t *)(void *)((uint8_t *)(uintptr_t)head + TRACK_HEAD_BYTES) +
           (number >> 6);
}

enum track_result {
    TRACK_OK,
    TRACK_TAKEN,     /* Another process leads a change. */
    TRACK_NO_MEMORY, /* The host or its cgroup has none for the bits. */
};

/* Makes the slot's process the owner and begins to keep the bits, all of them clear. Changes that
 * were under way may not be seen: look at store_track(). */
enum track_result track_begin(const struct segment *segment, unsigned slot_index, uint64_t session,
                              uint32_t shift) MUST_CHECK;

/* From now on this session's copies may come, from these. By the owner, of a node whose copies are
 * its own. */
void track_accept(const struct segment *segment, const struct track_source *sources,
                  uint32_t count);

/* Nobody need wait for the owner, if this comes in time again. */
void track_renew(const struct segment *segment, uint64_t now_ns);

/* What was seen at the last look for an owner that does not exist. */
struct track_audit {
    uint64_t looked_at_ns;
    uint32_t owner, looks;
};

/* In the maintainer: ends a session whose owner is no process for some seconds, for the words of
 * the head may be damaged; no other could begin one. True: it has. */
bool track_audit(const struct segment *segment, struct track_audit *audit, uint64_t now_ns);

/* The node's copies, if it has some, are from now on `copies`, and nothing is tracked. By the
 * owner.
 */
void track_end(const struct segment *segment, enum copies_state copies);

/* Something was changed that no bit tells, as by a flush. By anybody. */
void track_spoil(const struct segment *segment);

/* For the slot of a process that has ended. */
void track_recover(const struct segment *segment, unsigned slot_index);

/* ---- in the processes that read copies ------------------------------------------------------ */

/* The mapped tracking of the sources of a session. */
struct track_mapping {
    uint64_t session;
    uint32_t count;
    struct {
        const struct track_head *head;
        uint64_t bytes;
        uint32_t shift;
    } of[TRACK_SOURCES_MAX];
};

/* NULL: one cannot be mapped, or no copies come. */
struct track_mapping *track_map(const struct segment *segment) MUST_CHECK;
void track_unmap(struct track_mapping *mapping);

/* Where others find this process's segment. False if the descriptor is of no use. */
bool track_source_of(const struct segment *segment, struct track_source *source) MUST_CHECK;

#endif
