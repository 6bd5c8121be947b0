/* See prefix_table.h. */
#include "mem/prefix_table.h"

#include "base/clock.h"
#include "base/siphash.h"
#include "mem/populate.h"

#include <string.h>

#define INDEX_COUNT (2 * PREFIX_COUNT_MAX)
#define INDEX_BYTES (INDEX_COUNT * sizeof(uint64_t))

#define UNIT_BYTES 64
#define UNITS_MAX ((sizeof(struct prefix_entry) + PREFIX_LEN_MAX + UNIT_BYTES - 1) / UNIT_BYTES)
#define ARENA_UNITS (UNITS_MAX * PREFIX_COUNT_MAX * 2)

/* Memory is taken so much at a time. */
#define POPULATE_UNITS 1024

/* After a shortage nobody asks for memory for one to two seconds. */
#define SHORTAGE_S 2

/* Resets that come one upon the other leave a command uncounted. */
#define GENERATION_TRIES 3

/* Of the words of the index. */
#define GENERATION_SHIFT 40
#define GENERATION_MASK ((UINT64_C(1) << 24) - 1)
#define TAG_SHIFT 32

/* Of run_head.prefix_state. */
#define STATE_GENERATION_SHIFT 32

uint64_t
prefix_table_bytes(void)
{
    return INDEX_BYTES + (uint64_t)ARENA_UNITS * UNIT_BYTES;
}

static _Atomic uint64_t *
index_of(const struct segment *segment)
{
    return run_at(segment, segment->run->prefixes_at);
}

static struct prefix_entry *
entry_at(const struct segment *segment, uint64_t word)
{
    uint64_t arena_at = segment->run->prefixes_at + INDEX_BYTES;
    /* A damaged word may name a unit that there is not, or too little behind it for an entry. */
    uint64_t unit = (word & UINT32_MAX) % (ARENA_UNITS - UNITS_MAX + 1);
    return run_at(segment, arena_at + unit * UNIT_BYTES);
}

static uint64_t
generation_of(uint64_t state)
{
    return (state >> STATE_GENERATION_SHIFT & GENERATION_MASK) | 1u;
}

static uint64_t
generation_now(const struct segment *segment)
{
    return generation_of(atomic_load(&segment->run->prefix_state));
}

/* ---- memory --------------------------------------------------------------------------------- */

/* A process that dies in here leaves nothing that another does not do again. */
static bool
take_memory(const struct segment *segment, uint64_t at, uint64_t bytes)
{
    _Atomic uint32_t *retry_at_s = &segment->run->prefix_retry_at_s;
    uint32_t now_s = (uint32_t)(clock_boot_ns() / 1000000000u);
    uint32_t left_s = atomic_load_explicit(retry_at_s, memory_order_relaxed) - now_s;
    if (left_s != 0 && left_s <= SHORTAGE_S) {
        return false;
    }
    if (populate(segment->run_fd, segment->run_base, at, bytes)) {
        return true;
    }
    atomic_store_explicit(retry_at_s, now_s + SHORTAGE_S, memory_order_relaxed);
    return false;
}

static bool
index_has_memory(const struct segment *segment)
{
    struct run_head *run = segment->run;
    if (LIKELY(atomic_load_explicit(&run->prefix_index_present, memory_order_acquire))) {
        return true;
    }
    /* Two processes may do this at once. */
    if (!take_memory(segment, run->prefixes_at, INDEX_BYTES)) {
        return false;
    }
    atomic_store_explicit(&run->prefix_index_present, 1, memory_order_release);
    return true;
}

/* Whether the arena may be touched up to this unit. */
static bool
arena_has_memory(const struct segment *segment, uint64_t units)
{
    struct run_head *run = segment->run;
    uint32_t present = atomic_load_explicit(&run->prefix_units_present, memory_order_acquire);
    if (units <= present) {
        return true;
    }
    uint64_t to = (units + POPULATE_UNITS - 1) / POPULATE_UNITS * POPULATE_UNITS;
    to = to < ARENA_UNITS ? to : ARENA_UNITS;
    uint64_t at = run->prefixes_at + INDEX_BYTES + (uint64_t)present * UNIT_BYTES;
    if (!take_memory(segment, at, (to - present) * UNIT_BYTES)) {
        return false;
    }
    while (present < to &&
           !atomic_compare_exchange_weak(&run->prefix_units_present, &present, (uint32_t)to)) {
    }
    return true;
}

/* ---- places --------------------------------------------------------------------------------- */

/* A filled entry of the arena that no word of the index names yet. */
struct place {
    uint64_t word;  /* 0: none */
    uint64_t end;   /* What prefix_units_taken was raised to, */
    uint32_t units; /* by so many. */
};

/* Counts one more prefix. False: there are too many, or the generation is over. */
static bool
claim_count(struct run_head *run, uint64_t generation)
{
    uint64_t state = atomic_load(&run->prefix_state);
    do {
        if (generation_of(state) != generation || (uint32_t)state >= PREFIX_COUNT_MAX) {
            return false;
        }
    } while (!atomic_compare_exchange_weak(&run->prefix_state, &state, state + 1));
    return true;
}

/* Not if a reset has begun to count anew. */
static void
give_back_count(struct run_head *run, uint64_t generation)
{
    uint64_t state = atomic_load(&run->prefix_state);
    while (generation_of(state) == generation && (uint32_t)state > 0 &&
           !atomic_compare_exchange_weak(&run->prefix_state, &state, state - 1)) {
    }
}

/* Takes place->units of the arena, which have memory; they are taken only if there is some, so that
 * a shortage does not drive the arena round. */
static bool
take_units(const struct segment *segment, struct place *place, uint64_t *unit)
{
    _Atomic uint64_t *units_taken = &segment->run->prefix_units_taken;
    uint64_t taken = atomic_load(units_taken);
    do {
        uint64_t begin = taken;
        if (begin % ARENA_UNITS + place->units > ARENA_UNITS) {
            begin += ARENA_UNITS - begin % ARENA_UNITS;
        }
        *unit = begin % ARENA_UNITS;
        place->end = begin + place->units;
        if (!arena_has_memory(segment, *unit + place->units)) {
            return false;
        }
    } while (!atomic_compare_exchange_weak(units_taken, &taken, place->end));
    return true;
}

/* Of a process that dies between here and the index, one of the prefixes that may be counted and
 * the units are lost until the next reset. */
static bool
make_entry(const struct segment *segment, uint64_t generation, uint64_t hash, const uint8_t *prefix,
           uint32_t len, struct place *place)
{
    struct run_head *run = segment->run;
    uint64_t unit;
    place->units = (uint32_t)((sizeof(struct prefix_entry) + len + UNIT_BYTES - 1) / UNIT_BYTES);
    if (!claim_count(run, generation)) {
        return false;
    }
    if (!take_units(segment, place, &unit)) {
        give_back_count(run, generation);
        return false;
    }
    place->word = generation << GENERATION_SHIFT | (hash >> 56) << TAG_SHIFT | unit;
    struct prefix_entry *entry = entry_at(segment, place->word);
    for (unsigned i = 0; i < PREFIX_COUNTERS; i++) {
        atomic_store_explicit(&entry->counts[i], 0, memory_order_relaxed);
    }
    entry->len = (uint8_t)len;
    memcpy(entry->text, prefix, len);
    return true;
}

/* Gives back a place that was not needed; its units only if they are the last that were taken. */
static void
give_back(struct run_head *run, uint64_t generation, const struct place *place)
{
    uint64_t end = place->end;
    if (place->word != 0) {
        give_back_count(run, generation);
        (void)!atomic_compare_exchange_strong(&run->prefix_units_taken, &end, end - place->units);
    }
}

/* ---- the index ------------------------------------------------------------------------------ */

static bool
is_entry_of(const struct segment *segment, uint64_t word, uint64_t hash, const uint8_t *prefix,
            uint32_t len)
{
    const struct prefix_entry *entry = entry_at(segment, word);
    return (word >> TAG_SHIFT & 0xFF) == hash >> 56 && entry->len == len &&
           memcmp(entry->text, prefix, len) == 0;
}

/* False: the generation is over. Else *entry is the prefix's, NULL if it cannot be counted. */
static bool
find_in_generation(const struct segment *segment, uint64_t generation, const uint8_t *prefix,
                   uint32_t len, struct prefix_entry **entry)
{
    uint64_t hash = siphash13(prefix, len, &segment->superblock->hash_key);
    _Atomic uint64_t *index = index_of(segment);
    struct place place = {0};
    *entry = NULL;
    for (uint32_t i = 0; i < INDEX_COUNT; i++) {
        _Atomic uint64_t *at = &index[(hash + i) % INDEX_COUNT];
        /* Pairs with the release of the exchange that put it there: who reads a word of a newer
         * generation sees below that its own is over, and replaces none. */
        uint64_t word = atomic_load_explicit(at, memory_order_acquire);
        while (word >> GENERATION_SHIFT != generation) {
            if (generation_now(segment) != generation) {
                give_back(segment->run, generation, &place);
                return false;
            }
            if (place.word == 0 && !make_entry(segment, generation, hash, prefix, len, &place)) {
                return generation_now(segment) == generation;
            }
            if (atomic_compare_exchange_strong(at, &word, place.word)) {
                *entry = entry_at(segment, place.word);
                return true;
            }
            /* Somebody was faster, maybe with the same prefix: `word` is what is there now. */
        }
        if (is_entry_of(segment, word, hash, prefix, len)) {
            *entry = entry_at(segment, word);
            break;
        }
    }
    give_back(segment->run, generation, &place);
    return true;
}

struct prefix_entry *
prefix_table_find(const struct segment *segment, const uint8_t *prefix, uint32_t len)
{
    struct prefix_entry *entry;
    if (len > PREFIX_LEN_MAX || !index_has_memory(segment)) {
        return NULL;
    }
    for (unsigned i = 0; i < GENERATION_TRIES; i++) {
        if (find_in_generation(segment, generation_now(segment), prefix, len, &entry)) {
            return entry;
        }
    }
    return NULL;
}

const struct prefix_entry *
prefix_table_next(const struct segment *segment, uint32_t *at)
{
    const struct run_head *run = segment->run;
    if (!atomic_load_explicit(&run->prefix_index_present, memory_order_acquire)) {
        return NULL;
    }
    uint64_t generation = generation_now(segment);
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
    _Atomic uint64_t *at = &segment->run->prefix_state;
    uint64_t state = atomic_load(at);
    uint64_t next;
    do {
        /* By two: a generation is odd, so that zeroed memory is of none. */
        next = ((state >> STATE_GENERATION_SHIFT) + 2) << STATE_GENERATION_SHIFT;
    } while (!atomic_compare_exchange_weak(at, &state, next));
}
