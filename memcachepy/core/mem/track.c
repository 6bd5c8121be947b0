/* See track.h. */
#include "mem/track.h"

#include "base/crash.h"
#include "mem/populate.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t
track_bytes(void)
{
    return TRACK_HEAD_BYTES + (UINT64_C(1) << TRACK_SHIFT_MAX) / 8;
}

static uint64_t
bytes_of_bits(uint32_t shift)
{
    return (UINT64_C(1) << shift) / 8;
}

/* ---- sessions ------------------------------------------------------------------------------- */

/* What the processes of the node compare with what they saw last. */
static void
show(const struct segment *segment, uint64_t session, uint32_t what)
{
    atomic_store(&segment->run->tracking, (uint32_t)session << 2 | what);
}

/* Who was stopped in an earlier session may be setting one just now: it costs a copy at most. */
static void
clear_bits(_Atomic uint64_t *words, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes / sizeof(words[0]); i++) {
        atomic_store_explicit(&words[i], 0, memory_order_relaxed);
    }
}

enum track_result
track_begin(const struct segment *segment, unsigned slot_index, uint64_t session, uint32_t shift)
{
    struct track_head *head = track_head_of(segment);
    uint64_t head_at = segment->run->tracks_at;
    uint64_t bytes = bytes_of_bits(shift);
    uint32_t nobody = 0;
    if (!atomic_compare_exchange_strong(&head->owner, &nobody, slot_index + 1)) {
        return TRACK_TAKEN;
    }
    if (!populate(segment->run_fd, segment->run_base, head_at, TRACK_HEAD_BYTES + bytes)) {
        atomic_store(&head->owner, 0);
        return TRACK_NO_MEMORY;
    }
    CRASH_POINT(track_owned);
    clear_bits(run_at(segment, head_at + TRACK_HEAD_BYTES), bytes);
    atomic_store(&head->shift, shift);
    atomic_store(&head->session, session);
    CRASH_POINT(track_not_shown);
    show(segment, session, TRACK_CHANGES);
    return TRACK_OK;
}

void
track_accept(const struct segment *segment, const struct track_source *sources, uint32_t count)
{
    struct track_head *head = track_head_of(segment);
    uint64_t session = atomic_load(&head->session);
    atomic_store(&head->copies_session, 0);
    atomic_thread_fence(memory_order_release); /* As a writer of log cells does it. */
    head->source_count = count;
    memcpy(head->sources, sources, count * sizeof(sources[0]));
    atomic_store_explicit(&head->copies_session, session, memory_order_release);
    /* Pairs with the acquire in track_map(). From here to the end a death leaves marked items
     * hidden. */
    atomic_store_explicit(&head->copies, COPIES_CHECKED, memory_order_release);
    CRASH_POINT(track_accepted_not_shown);
    show(segment, session, TRACK_CHANGES | TRACK_COPIES);
}

void
track_renew(const struct segment *segment, uint64_t now_ns)
{
    atomic_store_explicit(&track_head_of(segment)->shown_until_ns, now_ns + TRACK_LEASE_NS,
                          memory_order_relaxed);
}

/* In this order: as long as the node keeps bits, its own copies are what they are to be. */
void
track_end(const struct segment *segment, enum copies_state copies)
{
    struct track_head *head = track_head_of(segment);
    if (atomic_load(&head->copies) == COPIES_CHECKED) {
        atomic_store_explicit(&head->copies, copies, memory_order_release);
    }
    CRASH_POINT(track_copies_ended);
    atomic_store(&head->session, 0);
    CRASH_POINT(track_session_ended);
    atomic_store(&segment->run->tracking, 0);
    CRASH_POINT(track_not_left);
    atomic_store(&head->owner, 0);
}

void
track_spoil(const struct segment *segment)
{
    atomic_store(&track_head_of(segment)->session, 0);
}

void
track_recover(const struct segment *segment, unsigned slot_index)
{
    if (atomic_load(&track_head_of(segment)->owner) == slot_index + 1) {
        track_end(segment, COPIES_DEAD);
    }
}

#define AUDIT_EVERY_NS UINT64_C(1000000000)
#define AUDIT_LOOKS_MIN 3

/* Whether there is such an owner, or none and nothing that would need one. */
static bool
owner_is_possible(const struct segment *segment, uint32_t owner)
{
    if (owner == 0) {
        return atomic_load(&segment->run->tracking) == 0 &&
               atomic_load(&track_head_of(segment)->copies) != COPIES_CHECKED;
    }
    return owner - 1 < segment_slot_count(segment) &&
           atomic_load(&segment->slots[owner - 1].pid) != 0;
}

bool
track_audit(const struct segment *segment, struct track_audit *audit, uint64_t now_ns)
{
    if (now_ns - audit->looked_at_ns < AUDIT_EVERY_NS) {
        return false;
    }
    audit->looked_at_ns = now_ns;
    uint32_t owner = atomic_load(&track_head_of(segment)->owner);
    if (LIKELY(owner_is_possible(segment, owner))) {
        audit->looks = 0;
        return false;
    }
    audit->looks = owner == audit->owner ? audit->looks + 1 : 1;
    audit->owner = owner;
    if (audit->looks < AUDIT_LOOKS_MIN) {
        return false;
    }
    track_end(segment, COPIES_DEAD);
    audit->looks = 0;
    return true;
}

/* ---- the other nodes' ----------------------------------------------------------------------- */

bool
track_source_of(const struct segment *segment, struct track_source *source)
{
    struct stat file;
    if (fstat(segment->run_fd, &file) != 0) {
        return false;
    }
    *source = (struct track_source){
        .pid = (int32_t)getpid(),
        .fd = segment->run_fd,
        .device = file.st_dev,
        .inode = file.st_ino,
        .tracks_at = segment->run->tracks_at,
        .shift = atomic_load(&track_head_of(segment)->shift),
    };
    return true;
}

/* NULL: it cannot be had. */
static const struct track_head *
map_source(const struct track_source *source, uint64_t bytes)
{
    if (source->shift - TRACK_SHIFT_MIN > TRACK_SHIFT_MAX - TRACK_SHIFT_MIN) {
        return NULL;
    }
    char path[64];
    struct stat file;
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", source->pid, source->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return NULL;
    }
    void *at = MAP_FAILED;
    if (fstat(fd, &file) == 0 && (uint64_t)file.st_dev == source->device &&
        (uint64_t)file.st_ino == source->inode && bytes <= (uint64_t)file.st_size &&
        source->tracks_at <= (uint64_t)file.st_size - bytes) {
        at = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, (off_t)source->tracks_at);
    }
    close(fd);
    return at == MAP_FAILED ? NULL : at;
}

struct track_mapping *
track_map(const struct segment *segment)
{
    const struct track_head *head = track_head_of(segment);
    if (atomic_load_explicit(&head->copies, memory_order_acquire) != COPIES_CHECKED) {
        return NULL;
    }
    struct track_mapping *mapping = calloc(1, sizeof(*mapping));
    if (mapping == NULL) {
        return NULL;
    }
    /* Sessions are no number twice: who finds the same one before and after has read its sources.
     */
    mapping->session = atomic_load_explicit(&head->copies_session, memory_order_acquire);
    uint32_t count = head->source_count;
    while (mapping->count < count && count <= TRACK_SOURCES_MAX) {
        const struct track_source source = head->sources[mapping->count];
        uint64_t bytes = TRACK_HEAD_BYTES + bytes_of_bits(source.shift & 63);
        const struct track_head *mapped = map_source(&source, bytes);
        if (mapped == NULL) {
            track_unmap(mapping);
            return NULL;
        }
        mapping->of[mapping->count].head = mapped;
        mapping->of[mapping->count].bytes = bytes;
        mapping->of[mapping->count].shift = source.shift;
        mapping->count++;
    }
    atomic_thread_fence(memory_order_acquire);
    if (mapping->session == 0 || mapping->count != count ||
        atomic_load_explicit(&head->copies_session, memory_order_relaxed) != mapping->session) {
        track_unmap(mapping);
        return NULL;
    }
    return mapping;
}

void
track_unmap(struct track_mapping *mapping)
{
    for (uint32_t i = 0; mapping != NULL && i < mapping->count; i++) {
        munmap((void *)(uintptr_t)mapping->of[i].head, mapping->of[i].bytes);
    }
    free(mapping);
}
