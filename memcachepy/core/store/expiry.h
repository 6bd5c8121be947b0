/* The expiry column: one byte for each chunk at the end of its page, so that the sweep for dead
 * items need not look at their headers.
 *
 * The byte is the moment, in units of two seconds modulo 256, at which the item's header is worth a
 * look: when it expires, or as far ahead as a byte reaches. 0: never. A byte may say "look" for
 * nothing, it never says "never" about an item that expires. */
#ifndef STORE_EXPIRY_H
#define STORE_EXPIRY_H

#include "base/crash.h"
#include "store/slab.h"

#define EXPIRY_UNIT_S 2u
#define EXPIRY_UNITS_AHEAD 220u /* a byte is at most so far ahead, */
#define EXPIRY_UNITS_DUE 32u    /* and due while it is less than so far behind. */

static inline uint32_t
expiry_units_now(const struct store *store)
{
    return store->now_s / EXPIRY_UNIT_S;
}

/* The byte for an item with this expiry. */
static inline uint8_t
expiry_byte(const struct store *store, uint32_t expire_word)
{
    if (expire_word == 0) {
        return 0;
    }
    /* The first second in which word_is_expired(). */
    int64_t at_s = expire_word & 1 ? (int64_t)(expire_word >> 1) + store->now_s - store->wall_s
                                   : (int64_t)(expire_word >> 1) + 1;
    int64_t now = expiry_units_now(store);
    int64_t units = (at_s + EXPIRY_UNIT_S - 1) / EXPIRY_UNIT_S;
    units = units < now ? now : units > now + EXPIRY_UNITS_AHEAD ? now + EXPIRY_UNITS_AHEAD : units;
    uint8_t byte = (uint8_t)units;
    return byte != 0 ? byte : 1;
}

static inline _Atomic uint8_t *
expiry_column(const struct store *store, uint32_t page_number, uint32_t class_id)
{
    return (_Atomic uint8_t *)(store->base + page_offset(store->superblock, page_number) +
                               store->superblock->page_bytes -
                               slab_chunks_per_page(store, class_id));
}

/* An item's own byte. */
static inline _Atomic uint8_t *
expiry_byte_of(const struct store *store, const struct item *item)
{
    struct ref ref = ref_of(store, item);
    uint32_t number = page_of_ref(store, ref);
    uint32_t class_id = class_of_ref(store, ref);
    uint32_t in_page = (uint32_t)((uint64_t)((const uint8_t *)item - store->base) -
                                  page_offset(store->superblock, number));
    return &expiry_column(store, number, class_id)[in_page / slab_chunk_bytes(store, class_id)];
}

/* Under the shard's lock, before the item is linked. An item that never expires leaves what the
 * byte says about its chunk's last user: the sweep will look, and correct it. */
static inline void
expiry_note(const struct store *store, const struct item *item, uint32_t expire_word)
{
    if (expire_word != 0) {
        atomic_store_explicit(expiry_byte_of(store, item), expiry_byte(store, expire_word),
                              memory_order_relaxed);
    }
}

/* Changes a live item's expiry inside a transaction; expiry_note() it once more after the commit.
 * Whoever dies in between leaves the nearer moment in the column. */
static inline void
expiry_set(struct store *store, struct shard *shard, struct item *item, uint32_t expire_word)
{
    uint32_t old = atomic_load_explicit(&item->expire_word, memory_order_relaxed);
    if (old == 0 || expire_word < old) {
        expiry_note(store, item, expire_word);
    }
    LOG(store, shard, shard->sums.volatile_items);
    LOG(store, shard, item->expire_word);
    shard->sums.volatile_items += (uint64_t)(expire_word != 0) - (uint64_t)(old != 0);
    atomic_store_explicit(&item->expire_word, expire_word, memory_order_relaxed);
}

/* The same as a transaction. */
static inline void
expiry_change(struct store *store, struct shard *shard, struct item *item, uint32_t expire_word)
{
    expiry_set(store, shard, item, expire_word);
    CRASH_POINT(expiry_changed);
    journal_commit(shard);
    expiry_note(store, item, expire_word);
}

#endif
