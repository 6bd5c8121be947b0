/* See logring.h. */
#include "mem/logring.h"

#include "base/clock.h"
#include "mem/populate.h"

#include <string.h>

#define CELL_BODY_BYTES 120
#define HEAD_TEXT_BYTES (CELL_BODY_BYTES - sizeof(struct log_head))
/* 1 KiB to 1 MiB. */
#define CELLS_MIN 8u
#define CELLS_MAX 8192u

/* Who is overtaken so often finds its writer at full speed. */
#define READ_TRIES_MAX 1024

#define STAMP_CONTINUES (UINT64_C(1) << 63)

struct log_cell {
    _Atomic uint64_t stamp;
    uint8_t body[CELL_BODY_BYTES]; /* [racy] */
};

struct log_ring {
    alignas(128) _Atomic uint64_t written; /* [own] cells of whole entries since the ring began */
    _Atomic uint32_t entries;              /* [own] */
    alignas(128) struct log_cell cells[];
};
static_assert(sizeof(struct log_cell) == 128 && offsetof(struct log_ring, cells) == 128,
              "layout change: bump SEGMENT_LAYOUT_VERSION");

static uint32_t
cell_count(uint32_t setting_bytes)
{
    uint32_t count = CELLS_MIN;
    while (count < CELLS_MAX && count * 2 * sizeof(struct log_cell) <= setting_bytes) {
        count *= 2;
    }
    return count;
}

uint32_t
logring_bytes(uint32_t setting_bytes)
{
    return (uint32_t)round_up(
        sizeof(struct log_ring) + cell_count(setting_bytes) * sizeof(struct log_cell), 4096);
}

static uint32_t
cells_of(const struct segment *segment)
{
    return cell_count(segment->run->boot_settings.worker_logbuf_bytes);
}

static uint64_t
ring_offset(const struct segment *segment, unsigned slot_index)
{
    const struct run_head *run = segment->run;
    return run->logs_at + (uint64_t)slot_index * run->log_ring_bytes;
}

static struct log_ring *
ring_at(const struct segment *segment, unsigned slot_index)
{
    return run_at(segment, ring_offset(segment, slot_index));
}

static bool
is_ready(const struct segment *segment, unsigned slot_index)
{
    /* Pairs with the release in logring_populate(). */
    return atomic_load_explicit(&segment->slots[slot_index].log_ready, memory_order_acquire) != 0;
}

static uint32_t
cells_of_text(uint32_t text_len)
{
    return text_len <= HEAD_TEXT_BYTES
               ? 1
               : 1 + (text_len - (uint32_t)HEAD_TEXT_BYTES + CELL_BODY_BYTES - 1) / CELL_BODY_BYTES;
}

/* ---- writing -------------------------------------------------------------------------------- */

static void
write_cell(struct log_cell *cell, uint64_t stamp, const uint8_t *bytes, size_t len)
{
    atomic_store_explicit(&cell->stamp, 0, memory_order_relaxed);
    /* Pairs with the acquire fence in read_cell(): who saw new bytes sees no old stamp. */
    atomic_thread_fence(memory_order_release);
    memcpy(cell->body, bytes, len);
    atomic_store_explicit(&cell->stamp, stamp, memory_order_release);
}

void
logring_write(struct segment *segment, struct process_slot *slot, struct log_entry *entry)
{
    unsigned slot_index = (unsigned)(slot - segment->slots);
    if (!is_ready(segment, slot_index)) {
        return;
    }
    struct log_ring *ring = ring_at(segment, slot_index);
    uint32_t mask = cells_of(segment) - 1;
    uint64_t at = atomic_load_explicit(&ring->written, memory_order_relaxed);
    uint32_t number = atomic_load_explicit(&ring->entries, memory_order_relaxed);
    entry->head.number = number;
    entry->head.time_us = clock_wall_ns() / 1000;
    entry->head.gid =
        atomic_fetch_add_explicit(&segment->run->log_gid, 1, memory_order_relaxed) + 1;
    const uint8_t *bytes = (const uint8_t *)entry;
    size_t left = sizeof(entry->head) + entry->head.text_len;
    uint64_t continues = 0;
    while (left > 0) {
        size_t len = left < CELL_BODY_BYTES ? left : CELL_BODY_BYTES;
        write_cell(&ring->cells[at & mask], (at + 1) | continues, bytes, len);
        continues = STAMP_CONTINUES;
        bytes += len;
        left -= len;
        at++;
    }
    atomic_store_explicit(&ring->entries, number + 1, memory_order_relaxed);
    /* Pairs with the acquire in logring_read(). */
    atomic_store_explicit(&ring->written, at, memory_order_release);
    COUNT(&slot->counters, log_worker_written);
}

bool
logring_populate(struct segment *segment)
{
    unsigned slot_count = segment_slot_count(segment);
    for (unsigned i = 0; i < slot_count; i++) {
        struct process_slot *slot = &segment->slots[i];
        if (atomic_load(&slot->pid) == 0 || is_ready(segment, i)) {
            continue;
        }
        if (!populate(segment->run_fd, segment->run_base, ring_offset(segment, i),
                      segment->run->log_ring_bytes)) {
            return false;
        }
        atomic_store_explicit(&slot->log_ready, 1, memory_order_release);
    }
    return true;
}

/* ---- who watches ---------------------------------------------------------------------------- */

static uint32_t
watched_by_all(const struct segment *segment)
{
    uint32_t classes = 0;
    unsigned end = segment_worker_end(segment);
    for (unsigned i = SLOT_WORKER_FIRST; i < end; i++) {
        classes |= atomic_load(&segment->slots[i].watch_classes);
    }
    return classes;
}

uint32_t
logring_watchers(const struct segment *segment)
{
    uint32_t count = 0;
    unsigned end = segment_worker_end(segment);
    for (unsigned i = SLOT_WORKER_FIRST; i < end; i++) {
        count += atomic_load(&segment->slots[i].watchers);
    }
    return count;
}

bool
logring_add_watcher(struct segment *segment, struct process_slot *slot)
{
    atomic_fetch_add(&slot->watchers, 1);
    if (logring_watchers(segment) > WATCHERS_MAX) {
        atomic_fetch_sub(&slot->watchers, 1);
        return false;
    }
    return true;
}

void
logring_remove_watcher(struct process_slot *slot)
{
    atomic_fetch_sub(&slot->watchers, 1);
}

/* Whoever writes the sum looks at the slots again afterwards, and whoever changes a slot looks at
 * the sum afterwards: of two that meet, the one that is through last finds what is to be mended.
 * Each further round is one that another has changed something in. */
void
logring_watch(struct segment *segment, struct process_slot *slot, uint32_t classes)
{
    atomic_store(&slot->watch_classes, classes);
    logring_settle(segment);
}

void
logring_settle(struct segment *segment)
{
    struct run_head *run = segment->run;
    uint32_t watched = atomic_load(&run->watched);
    uint32_t sum;
    while ((sum = watched_by_all(segment)) != watched) {
        if (atomic_compare_exchange_strong(&run->watched, &watched, sum)) {
            watched = sum;
        }
    }
}

/* ---- reading -------------------------------------------------------------------------------- */

/* False: it is another cell by now, or was while it was copied. */
static RACY_READ bool
read_cell(const struct log_cell *cell, uint64_t stamp, uint8_t *bytes, size_t len)
{
    if (atomic_load_explicit(&cell->stamp, memory_order_acquire) != stamp) {
        return false;
    }
    memcpy(bytes, cell->body, len);
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&cell->stamp, memory_order_relaxed) == stamp;
}

/* Copies the entry that begins at a cell; returns its cells, 0 if it is not whole any more. */
static uint32_t
read_entry(const struct log_ring *ring, uint32_t mask, uint64_t at, struct log_entry *entry)
{
    uint8_t *bytes = (uint8_t *)entry;
    uint8_t body[CELL_BODY_BYTES];
    if (!read_cell(&ring->cells[at & mask], at + 1, body, sizeof(body))) {
        return 0;
    }
    memcpy(entry, body, sizeof(body));
    /* No writer makes it so: but whoever reads must not be led out of its buffers by another. */
    if (UNLIKELY(entry->head.text_len > LOG_TEXT_MAX)) {
        return 0;
    }
    uint32_t cells = cells_of_text(entry->head.text_len);
    size_t left = sizeof(entry->head) + entry->head.text_len;
    for (uint32_t i = 1; i < cells; i++) {
        bytes += CELL_BODY_BYTES;
        left -= CELL_BODY_BYTES;
        if (!read_cell(&ring->cells[(at + i) & mask], (at + i + 1) | STAMP_CONTINUES, bytes,
                       left < CELL_BODY_BYTES ? left : CELL_BODY_BYTES)) {
            return 0;
        }
    }
    return cells;
}

void
logring_begin(const struct segment *segment, unsigned slot_index, struct log_position *position)
{
    *position = (struct log_position){0};
    if (is_ready(segment, slot_index)) {
        const struct log_ring *ring = ring_at(segment, slot_index);
        position->cell = atomic_load_explicit(&ring->written, memory_order_acquire);
        position->number = atomic_load_explicit(&ring->entries, memory_order_relaxed);
    }
}

enum log_read
logring_read(const struct segment *segment, unsigned slot_index, struct log_position *position,
             struct log_entry *entry, uint64_t *lost)
{
    if (!is_ready(segment, slot_index)) {
        return LOG_READ_END;
    }
    const struct log_ring *ring = ring_at(segment, slot_index);
    uint32_t count = cells_of(segment);
    for (unsigned i = 0; i < READ_TRIES_MAX; i++) {
        uint64_t written = atomic_load_explicit(&ring->written, memory_order_acquire);
        if (UNLIKELY(position->cell > written)) {
            logring_begin(segment, slot_index, position); /* The word is damaged. */
        }
        if (position->cell >= written) {
            return LOG_READ_END;
        }
        uint32_t cells = read_entry(ring, count - 1, position->cell, entry);
        if (cells != 0) {
            *lost += entry->head.number - position->number;
            position->cell += cells;
            position->number = entry->head.number + 1;
            return LOG_READ_ENTRY;
        }
        /* Overtaken, or in the middle of an entry: on to the next, with half a ring of room. */
        position->cell =
            written - position->cell > count / 2 ? written - count / 2 : position->cell + 1;
    }
    return LOG_READ_END; /* Until the next time. */
}
