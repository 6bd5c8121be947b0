/* See prefix_table.h. */
#include "mem/prefix_table.h"

#include "base/xxh64.h"
#include "mem/populate.h"

#include <string.h>

#define INDEX_COUNT (2 * PREFIX_COUNT_MAX)
#define INDEX_BYTES (INDEX_COUNT * sizeof(uint64_t))

#define UNIT_BYTES 64
#define UNITS_MAX ((sizeof(struct prefix_entry) + PREFIX_LEN_MAX + UNIT_BYTES - 1) / UNIT_BYTES)
#define ARENA_UNITS (UNITS_MAX * PREFIX_COUNT_MAX * 2)

/* Memory is taken so much at a time. */
#define POPULATE_UNITS 1024

#define GENERATION_SHIFT 40
#define GENERATION_MASK ((UINT64_C(1) << 24) - 1)
#define TAG_SHIFT 32

uint64_t
prefix_table_bytes(void)
{
    return INDEX_BYTES + (uint64_t)ARENA_UNITS * UNIT_BYTES;
}

static _Atomic uint64_t *
index_of(const struct segment *segment)
{
    return segment_at(segment, segment->superblock->prefixes_at);
}

static struct prefix_entry *
entry_at(const struct segment *segment, uint64_t word)
{
    uint64_t arena_at = segment->superblock->prefixes_at + INDEX_BYTES;
    return segment_at(segment, arena_at + (word & UINT32_MAX) * UNIT_BYTES);
}

static bool
index_has_memory(const struct segment *segment)
{
    struct superblock *superblock = segment->superblock;
    if (LIKELY(atomic_load_explicit(&superblock->prefix_index_present, memory_order_acquire))) {
        return true;
    }
    /* Two processes may do this at once. */
    if (!populate(segment->fd, segment->base, superblock->prefixes_at, INDEX_BYTES)) {
        return false;
    }
    atomic_store_explicit(&superblock->prefix_index_present, 1, memory_order_release);
    return true;
}

/* Whether the arena may be touched up to this unit. */
static bool
arena_has_memory(const struct segment *segment, uint64_t units)
{
    struct superblock *superblock = segment->superblock;
    uint32_t present =
        atomic_load_explicit(&superblock->prefix_units_present, memory_order_acquire);
    if (units <= present) {
        return true;
    }
    uint64_t to = (units + POPULATE_UNITS - 1) / POPULATE_UNITS * POPULATE_UNITS;
    to = to < ARENA_UNITS ? to : ARENA_UNITS;
    uint64_t at = superblock->prefixes_at + INDEX_BYTES + (uint64_t)present * UNIT_BYTES;
    if (!populate(segment->fd, segment->base, at, (to - present) * UNIT_BYTES)) {
        return false;
    }
    while (present < to && !atomic_compare_exchange_weak(&superblock->prefix_units_present,
                                                         &present, (uint32_t)to)) {
    }
    return true;
}

/* Makes an entry that no word names yet; returns the word, 0: impossible. */
static uint64_t
make_entry(const struct segment *segment, uint64_t generation, uint64_t hash, const uint8_t *prefix,
           uint32_t len)
{
    struct superblock *superblock = segment->superblock;
    uint32_t units = (uint32_t)((sizeof(struct prefix_entry) + len + UNIT_BYTES - 1) / UNIT_BYTES);
    if (atomic_fetch_add(&superblock->prefix_count, 1) >= PREFIX_COUNT_MAX) {
        atomic_fetch_sub(&superblock->prefix_count, 1);
        return 0;
    }
    uint64_t unit;
    do {
        unit = atomic_fetch_add(&superblock->prefix_units_taken, units) % ARENA_UNITS;
    } while (unit + units > ARENA_UNITS);
    if (!arena_has_memory(segment, unit + units)) {
        return 0;
    }
    uint64_t word = generation << GENERATION_SHIFT | (hash >> 56) << TAG_SHIFT | unit;
    struct prefix_entry *entry = entry_at(segment, word);
    for (unsigned i = 0; i < PREFIX_COUNTERS; i++) {
        atomic_store_explicit(&entry->counts[i], 0, memory_order_relaxed);
    }
    entry->len = (uint8_t)len;
    memcpy(entry->text, prefix, len);
    return word;
}

static bool
is_entry_of(const struct segment *segment, uint64_t word, uint64_t hash, const uint8_t *prefix,
            uint32_t len)
{
    const struct prefix_entry *entry = entry_at(segment, word);
    return (word >> TAG_SHIFT & 0xFF) == hash >> 56 && entry->len == len &&
           memcmp(entry->text, prefix, len) == 0;
}

struct prefix_entry *
prefix_table_find(const struct segment *segment, const uint8_t *prefix, uint32_t len)
{
    if (len > PREFIX_LEN_MAX || !index_has_memory(segment)) {
        return NULL;
    }
    uint64_t generation =
        (atomic_load(&segment->superblock->prefix_generation) & GENERATION_MASK) | 1u;
    uint64_t hash = xxh64(prefix, len, segment->superblock->hash_seed);
    _Atomic uint64_t *index = index_of(segment);
    uint64_t made = 0;
    for (uint32_t i = 0; i < INDEX_COUNT; i++) {
        _Atomic uint64_t *at = &index[(hash + i) % INDEX_COUNT];
        /* Pairs with the release of the exchange that put it there. */
        uint64_t word = atomic_load_explicit(at, memory_order_acquire);
        if (word >> GENERATION_SHIFT != generation) {
            if (made == 0) {
                made = make_entry(segment, generation, hash, prefix, len);
            }
            if (made == 0) {
                return NULL;
            }
            if (atomic_compare_exchange_strong(at, &word, made)) {
                return entry_at(segment, made);
            }
            /* Somebody was faster, maybe with the same prefix: `word` is what is there now. */
        }
        if (word >> GENERATION_SHIFT == generation &&
            is_entry_of(segment, word, hash, prefix, len)) {
            if (made != 0) {
                atomic_fetch_sub(&segment->superblock->prefix_count, 1);
            }
            return entry_at(segment, word);
        }
    }
    return NULL;
}

const struct prefix_entry *
prefix_table_next(const struct segment *segment, uint32_t *at)
{
    const struct superblock *superblock = segment->superblock;
    if (!atomic_load_explicit(&superblock->prefix_index_present, memory_order_acquire)) {
        return NULL;
    }
    uint64_t generation = (atomic_load(&superblock->prefix_generation) & GENERATION_MASK) | 1u;
    while (*at < INDEX_COUNT) {
        uint64_t word = atomic_load_explicit(&index_of(segment)[*at], memory_order_acquire);
        ++*at;
        if (word >> GENERATION_SHIFT == generation) {
            return entry_at(segment, word);
        }
    }
    return NULL;
}

void
prefix_table_reset(const struct segment *segment)
{
    /* By two: a generation is odd, so that zeroed memory is of none. */
    atomic_fetch_add(&segment->superblock->prefix_generation, 2);
    atomic_store(&segment->superblock->prefix_count, 0);
}
