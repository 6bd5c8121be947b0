/* Chunks and what lies in them.
 *
 * Every chunk begins with its state word:
 *
 *    31           12 11         8      7           6       5   3 2    0
 *   | last access s | generation | probation | fetched | count | kind |
 *
 * An item in one chunk, and the head of a chain (`next` only with ITEM_CHAINED, the client flags
 * only with ITEM_HAS_FLAGS, the extension only with ITEM_EXTENDED, `|` is a byte boundary):
 *
 *    0       4        8     16          20        21     22      24      28
 *   | state | expire | cas | value_len | key_len | bits | epoch | check | [next] [flags]
 *                                               [extension [checksum]] key value
 *
 * The extension is a word of 32 bits for what most items do without, and `checksum`, which only it
 * announces, a 32-bit checksum of the value:
 *
 *    31   30         29          20 19      16 15           8 7    4 3    0
 *   | 0 | checksum? | milliseconds | database | key_len >> 8 | form | type |
 *
 * This build writes no item with an extension, and knows no type, form or database but 0. A segment
 * that has one is refused before it serves (unknown.h). Where an item with an extension is met all
 * the same, lookups for a write find it and replace or delete it, reads miss it, and walks leave it
 * where it is, dead or alive: none frees or moves what it does not know.
 *
 * A continuation of a chain, and a free chunk:
 *
 *    0       4      8      12                 0       4           8
 *   | state | next | head | value …          | state | next slot |
 *
 * A leaf or a branch of a collection, and either before the commit that it belongs to, is reserved
 * and never written by this build. It names the item whose value it is part of:
 *
 *    0       4      8
 *   | state | head | …
 *
 * Of a live item only the state word, the expiry, the cas and the marks in `bits` change in place;
 * all else is immutable until the item is unlinked. */
#ifndef STORE_ITEM_H
#define STORE_ITEM_H

#include "store/shard.h"

#include <string.h>

#define STATE_KIND_MASK 0x7u

enum chunk_kind {
    CHUNK_FREE,
    CHUNK_LIVE,     /* an item that a bucket refers to */
    CHUNK_CONT,     /* belongs to the item at `head` */
    CHUNK_UPLOAD,   /* head of a chain that is being filled; a held table refers to it */
    CHUNK_DETACHED, /* unlinked, kept for those who pinned it, or being reclaimed */
    /* Parts of a collection: reserved. Kept as long as the item at `head` is. */
    CHUNK_LEAF,
    CHUNK_BRANCH,
    CHUNK_STAGED, /* a leaf or a branch that a commit is about to publish */
};
static_assert(CHUNK_STAGED <= STATE_KIND_MASK, "a kind has three bits");

#define STATE_COUNT_SHIFT 3
#define STATE_COUNT_MASK (7u << STATE_COUNT_SHIFT)
#define STATE_FETCHED (1u << 6)
#define STATE_PROBATION (1u << 7) /* in the probation ring of its class; see probation.h */
#define STATE_GENERATION_ONE (1u << 8)
#define STATE_GENERATION_MASK (0xFu << 8)
#define STATE_ACCESS_SHIFT 12
#define STATE_ACCESS_MAX (UINT32_MAX >> STATE_ACCESS_SHIFT)

#define ITEM_CHAINED 0x1u
#define ITEM_HAS_FLAGS 0x2u
#define ITEM_PINNED 0x4u /* was pinned once: look at the process slots before freeing */

/* Marks of the meta commands: they change under the lock with the bucket open, as the cas does. */
#define ITEM_BINARY_KEY ((unsigned)MARK_BINARY_KEY)
#define ITEM_STALE ((unsigned)MARK_STALE)
#define ITEM_WIN_SENT ((unsigned)MARK_WIN_SENT)
#define ITEM_MARKS (ITEM_BINARY_KEY | ITEM_STALE | ITEM_WIN_SENT)

/* Came from another node, and is shown only as long as nothing speaks against it (store/track.h).
 * Changes as the marks do; what a client stores in its place has it no more. */
#define ITEM_COPIED 0x40u

/* An extension word follows. The last of the bits: what comes next is announced there. */
#define ITEM_EXTENDED 0x80u
#define ITEM_BITS_KNOWN                                                                            \
    (ITEM_CHAINED | ITEM_HAS_FLAGS | ITEM_PINNED | ITEM_MARKS | ITEM_COPIED | ITEM_EXTENDED)
static_assert(ITEM_BITS_KNOWN == 0xFF, "each bit means something");

/* The bits that say where the key lies: const, and covered by the check value. */
#define ITEM_FORM_BITS (ITEM_CHAINED | ITEM_HAS_FLAGS | ITEM_EXTENDED)

/* Without one of these an item is what a reader hopes for. */
#define ITEM_UNUSUAL (ITEM_CHAINED | ITEM_COPIED | ITEM_EXTENDED)

#define EXTENSION_TYPE_MASK 0xFu
#define EXTENSION_FORM_SHIFT 4
#define EXTENSION_FORM_MASK (0xFu << EXTENSION_FORM_SHIFT)
#define EXTENSION_KEY_LEN_SHIFT 8 /* bits 8 to 15 of the key's length lie where they are in it */
#define EXTENSION_KEY_LEN_MASK (0xFFu << EXTENSION_KEY_LEN_SHIFT)
#define EXTENSION_DATABASE_SHIFT 16
#define EXTENSION_DATABASE_MASK (0xFu << EXTENSION_DATABASE_SHIFT)
#define EXTENSION_MS_SHIFT 20
#define EXTENSION_MS_MASK (0x3FFu << EXTENSION_MS_SHIFT) /* of the expiry; may change in place */
#define EXTENSION_HAS_CHECKSUM (1u << 30)
#define EXTENSION_UNUSED (1u << 31)

/* Longer keys need the extension. */
#define PLAIN_KEY_LEN_MAX UINT8_MAX
static_assert(KEY_LEN_MAX >> EXTENSION_KEY_LEN_SHIFT <= 0xFF, "a key's length fits");

struct item {
    _Atomic uint32_t state;
    _Atomic uint32_t
        expire_word; /* seconds since the segment's base * 2, + 1 if by the system clock */
    uint64_t cas;    /* [shard] */
    uint32_t value_len;
    uint8_t key_len;
    uint8_t bits; /* [shard] ITEM_PINNED, ITEM_MARKS and ITEM_COPIED; the rest const */
    uint16_t epoch;
    uint32_t check;
    uint8_t tail[];
};
#define ITEM_HEADER_BYTES 28u
static_assert(offsetof(struct item, tail) == ITEM_HEADER_BYTES,
              "layout change: bump SEGMENT_LAYOUT_VERSION");
static_assert(offsetof(struct item, key_len) % 4 == 0, "the marks are journaled in its word");

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

/* What a leaf and a branch of a collection begin with. */
struct collection_part {
    _Atomic uint32_t state;
    uint32_t head; /* ref */
};

/* Whether the ref leads into the pages. A word that another process may have damaged is asked for
 * this before it is followed; behind the last page there is room for a header and a key. */
static inline bool
ref_is_in_pages(const struct store *store, struct ref ref)
{
    uint64_t offset = (uint64_t)ref.units << store->unit_shift;
    return offset - store->data_at < store->data_end - store->data_at;
}

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

/* Where the extension lies, and where the key of an item without one does. */
static inline uint32_t
item_plain_key_offset(uint8_t bits)
{
    return ITEM_HEADER_BYTES + (bits & ITEM_CHAINED ? 4u : 0u) + (bits & ITEM_HAS_FLAGS ? 4u : 0u);
}

/* Of an item with ITEM_EXTENDED. */
static inline _Atomic uint32_t *
item_extension_at(const struct item *item, uint8_t bits)
{
    return (_Atomic uint32_t *)(void *)((uint8_t *)item + item_plain_key_offset(bits));
}

/* 0: the item has none. */
static inline uint32_t
item_extension(const struct item *item, uint8_t bits)
{
    return UNLIKELY(bits & ITEM_EXTENDED)
               ? atomic_load_explicit(item_extension_at(item, bits), memory_order_relaxed)
               : 0;
}

static inline uint32_t
item_key_offset(uint8_t bits, uint32_t extension)
{
    uint32_t offset = item_plain_key_offset(bits);
    if (UNLIKELY(bits & ITEM_EXTENDED)) {
        offset += extension & EXTENSION_HAS_CHECKSUM ? 8 : 4;
    }
    return offset;
}

static inline uint8_t *
item_key(const struct item *item)
{
    return (uint8_t *)item + item_key_offset(item->bits, item_extension(item, item->bits));
}

/* At most KEY_LEN_MAX, whatever stands in a damaged item. */
static inline uint32_t
key_len_of(uint8_t key_len, uint32_t extension)
{
    uint32_t len = key_len | (extension & EXTENSION_KEY_LEN_MASK);
    return LIKELY(len <= KEY_LEN_MAX) ? len : KEY_LEN_MAX;
}

static inline uint32_t
item_key_len(const struct item *item)
{
    return UNLIKELY(item->bits & ITEM_EXTENDED)
               ? key_len_of(item->key_len, item_extension(item, item->bits))
               : item->key_len;
}

static inline uint32_t
item_value_offset(const struct item *item)
{
    uint32_t extension = item_extension(item, item->bits);
    return item_key_offset(item->bits, extension) + key_len_of(item->key_len, extension);
}

static inline uint8_t *
item_value(const struct item *item)
{
    return (uint8_t *)item + item_value_offset(item);
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
    if (LIKELY(!(item->bits & ITEM_FORM_BITS))) {
        return (uint64_t)ITEM_HEADER_BYTES + item->key_len + item->value_len;
    }
    if (UNLIKELY(item->bits & ITEM_EXTENDED)) {
        return (uint64_t)item_value_offset(item) + item->value_len;
    }
    return (uint64_t)item_plain_key_offset(item->bits) + item->key_len + item->value_len;
}

/* A forged or torn header fails this with probability 1 - 2^-32; the hash is keyed by the segment's
 * seed. For an item without an extension. */
static inline uint32_t
item_check_value(uint64_t hash, uint32_t value_len, uint8_t key_len, uint8_t bits)
{
    uint64_t lengths = (uint64_t)value_len << 16 | (uint64_t)key_len << 8 | (bits & ITEM_FORM_BITS);
    return (uint32_t)(((hash ^ lengths) * 0x9E3779B185EBCA87ull) >> 32);
}

/* The same for one with an extension, which is covered but for its milliseconds. */
static inline uint32_t
item_check_value_extended(uint64_t hash, uint32_t value_len, uint8_t key_len, uint8_t bits,
                          uint32_t extension)
{
    uint64_t covered = extension & ~EXTENSION_MS_MASK;
    return item_check_value(hash + (covered + 1) * 0xC2B2AE3D27D4EB4Full, value_len, key_len, bits);
}

/* Whether the lengths are those that the item was stored with. */
static inline bool
item_header_agrees(const struct item *item, uint64_t hash)
{
    if (UNLIKELY(item->bits & ITEM_EXTENDED)) {
        return item->check == item_check_value_extended(hash, item->value_len, item->key_len,
                                                        item->bits,
                                                        item_extension(item, item->bits));
    }
    return item->check == item_check_value(hash, item->value_len, item->key_len, item->bits);
}

/* Of a detached head that waits for its chunks to be freed: the ref of the one behind it. In the
 * place of the expiry, which nothing asks for any more. */
static inline _Atomic uint32_t *
reclaim_next(struct item *item)
{
    return &item->expire_word;
}

/* How many entries of a slot's table are to be looked at. */
static inline uint32_t
held_count(const _Atomic uint32_t *high, uint32_t count_max)
{
    uint32_t count = atomic_load_explicit(high, memory_order_acquire);
    return count < count_max ? count : count_max;
}

/* A moment of the node's clock as system time in seconds; the same whenever it is asked for. */
static inline uint64_t
system_time_at(const struct store *store, int64_t at_s)
{
    at_s += store->clocks_apart_s;
    return store->superblock->wall_base_s + (uint64_t)(at_s > 0 ? at_s : 0);
}

/* When an item with this word, which is not 0, expires: system time in seconds. */
static inline uint64_t
word_system_time(const struct store *store, uint32_t expire_word)
{
    return expire_word & 1 ? store->superblock->wall_base_s + (expire_word >> 1)
                           : system_time_at(store, expire_word >> 1);
}

/* A moment of the system clock is the second that it begins. A relative exptime names the second of
 * the node's clock in which it runs out, and counts to that second's end: it began somewhere within
 * a second, and is never shorter than was asked for. */
static inline bool
word_is_expired(const struct store *store, uint32_t expire_word)
{
    return expire_word != 0 &&
           (expire_word & 1 ? expire_word >> 1 <= store->wall_s : expire_word >> 1 < store->now_s);
}

/* The low bits of the flush word (flush.h). Read anew for every item: a flush that was answered by
 * another process is in force here too. */
static inline uint16_t
epoch_now(const struct store *store)
{
    return (uint16_t)atomic_load_explicit(&store->superblock->flush[0], memory_order_relaxed);
}

static inline bool
epoch_is_flushed(const struct store *store, uint16_t epoch)
{
    return epoch != epoch_now(store);
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
    return (state & ((1u << STATE_ACCESS_SHIFT) - 1)) | store->now_s << STATE_ACCESS_SHIFT;
}

/* Seconds since the item was last asked for, or stored. The field counts modulo twelve days: what
 * was idle for longer is told as less. Its last sixteenth is the future, which a process whose tick
 * is behind another's sees, or one whose clock was set back: told as now. */
static inline uint32_t
state_idle_s(const struct store *store, uint32_t state)
{
    uint32_t idle_s = (store->now_s - (state >> STATE_ACCESS_SHIFT)) & STATE_ACCESS_MAX;
    return idle_s > STATE_ACCESS_MAX - STATE_ACCESS_MAX / 16 ? 0 : idle_s;
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

static inline void
item_state_swap(struct item *item, uint32_t state, uint32_t next)
{
    if (next != state) {
        atomic_compare_exchange_strong_explicit(&item->state, &state, next, memory_order_relaxed,
                                                memory_order_relaxed);
    }
}

/* Counts a hit under the shard's lock; readers may do so at the same time. */
static inline void
item_hit_locked(struct store *store, struct item *item)
{
    uint32_t state = atomic_load_explicit(&item->state, memory_order_relaxed);
    item_state_swap(item, state, state_after_hit(store, state));
}

/* The same for a use that fetches nothing. */
static inline void
item_use_locked(struct store *store, struct item *item)
{
    uint32_t state = atomic_load_explicit(&item->state, memory_order_relaxed);
    uint32_t next = state_after_hit(store, state) & ~STATE_FETCHED;
    item_state_swap(item, state, next | (state & STATE_FETCHED));
}

#endif
