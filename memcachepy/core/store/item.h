/* Chunks and what lies in them.
 *
 * Every chunk begins with its state word:
 *
 *    31            18 17        8      7           6       5   3 2    0
 *   | last access /8s | generation | probation | fetched | count | kind |
 *
 * An item in one chunk, and the head of a chain (`next` only with ITEM_CHAINED, the client flags
 * only with ITEM_HAS_FLAGS, `|` is a byte boundary):
 *
 *    0       4          8     16          20        21     22      24      28
 *   | state | expire   | cas | value_len | key_len | bits | epoch | check | [next] [flags] key
 * value
 *
 * A continuation of a chain, and a free chunk:
 *
 *    0       4      8      12                 0       4           8
 *   | state | next | head | value …          | state | next slot |
 *
 * Of a live item only the state word and the expiry change in place; all else is immutable until
 * the item is unlinked. */
#ifndef STORE_ITEM_H
#define STORE_ITEM_H

#include "store/shard.h"

#include <string.h>

enum chunk_kind {
    CHUNK_FREE,
    CHUNK_LIVE,     /* an item that a bucket refers to */
    CHUNK_CONT,     /* belongs to the item at `head` */
    CHUNK_UPLOAD,   /* head of a chain that is being filled; a process slot refers to it */
    CHUNK_DETACHED, /* unlinked, kept for those who pinned it, or being reclaimed */
};

#define STATE_KIND_MASK 0x7u
#define STATE_COUNT_SHIFT 3
#define STATE_COUNT_MASK (7u << STATE_COUNT_SHIFT)
#define STATE_FETCHED (1u << 6)
#define STATE_PROBATION (1u << 7) /* in the probation ring of its class; see probation.h */
#define STATE_GENERATION_ONE (1u << 8)
#define STATE_GENERATION_MASK (0x3FFu << 8)
#define STATE_ACCESS_SHIFT 18
#define STATE_ACCESS_UNIT_S 8

#define ITEM_CHAINED 0x1u
#define ITEM_HAS_FLAGS 0x2u
#define ITEM_PINNED 0x4u /* was pinned once: look at the process slots before freeing */

struct item {
    _Atomic uint32_t state;
    _Atomic uint32_t
        expire_word; /* seconds since the segment's base * 2, + 1 if by the system clock */
    uint64_t cas;
    uint32_t value_len;
    uint8_t key_len;
    uint8_t bits; /* [shard] ITEM_PINNED; the rest const */
    uint16_t epoch;
    uint32_t check;
    uint8_t tail[];
};
#define ITEM_HEADER_BYTES 28u
static_assert(offsetof(struct item, tail) == ITEM_HEADER_BYTES,
              "layout change: bump SEGMENT_LAYOUT_VERSION");

struct free_chunk {
    _Atomic uint32_t state;
    uint32_t next_slot; /* + 1 */
};

struct continuation {
    _Atomic uint32_t state;
    uint32_t next; /* ref */
    uint32_t head; /* ref */
    uint8_t data[];
};
#define CONTINUATION_HEADER_BYTES 12u

static inline uint32_t
state_kind(uint32_t state)
{
    return state & STATE_KIND_MASK;
}

static inline uint32_t
state_count(uint32_t state)
{
    return (state & STATE_COUNT_MASK) >> STATE_COUNT_SHIFT;
}

static inline uint32_t
chunk_state(void *chunk)
{
    return atomic_load_explicit((_Atomic uint32_t *)chunk, memory_order_relaxed);
}

/* The optional words and the key lie at fixed places behind the header. */
static inline uint32_t
item_key_offset(uint8_t bits)
{
    return ITEM_HEADER_BYTES + (bits & ITEM_CHAINED ? 4u : 0u) + (bits & ITEM_HAS_FLAGS ? 4u : 0u);
}

static inline uint8_t *
item_key(const struct item *item, uint8_t bits)
{
    return (uint8_t *)item + item_key_offset(bits);
}

static inline uint32_t *
item_next(struct item *item)
{
    return (uint32_t *)item->tail;
}

static inline uint32_t
item_client_flags(const struct item *item, uint8_t bits)
{
    uint32_t flags = 0;
    if (bits & ITEM_HAS_FLAGS) {
        memcpy(&flags, item->tail + (bits & ITEM_CHAINED ? 4 : 0), sizeof(flags));
    }
    return flags;
}

/* Header, key and value: what `bytes` in stats counts. */
static inline uint64_t
item_bytes(const struct item *item)
{
    return (uint64_t)item_key_offset(item->bits) + item->key_len + item->value_len;
}

/* A forged or torn header fails this with probability 1 - 2^-32; the hash is keyed by the segment's
 * seed. */
static inline uint32_t
item_check_value(uint64_t hash, uint32_t value_len, uint8_t key_len, uint8_t bits)
{
    uint64_t lengths = (uint64_t)value_len << 16 | (uint64_t)key_len << 8 |
                       (bits & (ITEM_CHAINED | ITEM_HAS_FLAGS));
    return (uint32_t)(((hash ^ lengths) * 0x9E3779B185EBCA87ull) >> 32);
}

static inline bool
word_is_expired(const struct store *store, uint32_t expire_word)
{
    return expire_word != 0 && expire_word >> 1 <= (expire_word & 1 ? store->wall_s : store->now_s);
}

/* Read anew for every item: a flush that was answered by another process is in force here too. */
static inline uint16_t
epoch_now(const struct store *store)
{
    return (uint16_t)atomic_load_explicit(&store->superblock->flush, memory_order_relaxed);
}

static inline bool
epoch_is_flushed(const struct store *store, uint16_t epoch)
{
    return epoch != epoch_now(store) || store->all_flushed;
}

static inline bool
item_is_dead(const struct store *store, const struct item *item)
{
    return word_is_expired(store, atomic_load_explicit(&item->expire_word, memory_order_relaxed)) ||
           epoch_is_flushed(store, item->epoch);
}

static inline uint32_t
state_touched(const struct store *store, uint32_t state)
{
    uint32_t access = store->now_s / STATE_ACCESS_UNIT_S;
    return (state & ((1u << STATE_ACCESS_SHIFT) - 1)) | access << STATE_ACCESS_SHIFT;
}

/* G. Marsaglia, Xorshift RNGs, 2003. */
static inline uint32_t
random_next(struct store *store)
{
    uint32_t x = store->random;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return store->random = x;
}

/* Under the LFU policies a count stands for four times as many hits as the one before: R. Morris,
 * Counting large numbers of events in small registers, 1978. */
static inline bool
hit_is_counted(struct store *store, uint32_t state)
{
    return !store->counts_by_chance ||
           (random_next(store) & ((1u << 2 * state_count(state)) - 1)) == 0;
}

/* The state after one more hit; the same value once nothing would change. */
static inline uint32_t
state_after_hit(struct store *store, uint32_t state)
{
    uint32_t touched = state_touched(store, state) | STATE_FETCHED;
    if (UNLIKELY(!hit_is_counted(store, state))) {
        return touched;
    }
    return state_count(state) < store->count_max ? touched + (1u << STATE_COUNT_SHIFT) : touched;
}

/* Counts a hit under the shard's lock; readers may do so at the same time. */
static inline void
item_hit_locked(struct store *store, struct item *item)
{
    uint32_t state = atomic_load_explicit(&item->state, memory_order_relaxed);
    uint32_t next = state_after_hit(store, state);
    if (next != state) {
        atomic_compare_exchange_strong_explicit(&item->state, &state, next, memory_order_relaxed,
                                                memory_order_relaxed);
    }
}

#endif
