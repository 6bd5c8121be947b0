/* See hashtable.h. Linear hashing: W. Litwin, VLDB 1980. */
#include "store/hashtable.h"

#include "base/check.h"
#include "base/crash.h"
#include "base/siphash.h"
#include "store/cell.h"
#include "store/slab.h"

static COLD uint64_t
extended_item_hash(const struct store *store, const struct item *item)
{
    uint32_t extension = item_extension(item, item->bits);
    uint32_t database = (extension & EXTENSION_DATABASE_MASK) >> EXTENSION_DATABASE_SHIFT;
    return hash_of_key(store, database, item_key(item), item_key_len(item));
}

uint64_t
item_hash(const struct store *store, const struct item *item)
{
    if (UNLIKELY(item->bits & ITEM_EXTENDED)) {
        return extended_item_hash(store, item);
    }
    return siphash13_from(store->hash_begin,
                          (const uint8_t *)item + item_plain_key_offset(item->bits), item->key_len);
}

static COLD bool
is_extended_item_of_key(const struct item *item, const uint8_t *key, uint32_t key_len,
                        uint64_t hash)
{
    return item_key_len(item) == key_len && memcmp(item_key(item), key, key_len) == 0 &&
           item_header_agrees(item, hash);
}

/* An item with an extension fails the first look: its check value is another one. */
static inline bool
is_item_of_key(const struct item *item, const uint8_t *key, uint32_t key_len, uint64_t hash)
{
    if (item->key_len == key_len &&
        key_bytes_equal((const uint8_t *)item + item_plain_key_offset(item->bits), key, key_len) &&
        LIKELY(item->check == item_check_value(hash, item->value_len, item->key_len, item->bits))) {
        return true;
    }
    return UNLIKELY(item->bits & ITEM_EXTENDED) &&
           is_extended_item_of_key(item, key, key_len, hash);
}

static ALWAYS_INLINE struct table_bucket *
primary_of(const struct store *store, struct shard *shard, uint64_t hash)
{
    uint64_t word = table_word_locked(store, shard);
    return table_word_level(word) == TABLE_LEVEL_NONE
               ? NULL
               : table_bucket_at(store, shard, table_bucket_index(word, hash));
}

/* False: there is no bucket in the place of one, or the chain is longer than any can be. */
static ALWAYS_INLINE bool
find_key(const struct store *store, struct shard *shard, const uint8_t *key, uint32_t key_len,
         uint64_t hash, struct table_place *place)
{
    *place = (struct table_place){.primary = primary_of(store, shard, hash), .hash = hash};
    uint8_t tag = hash_tag(hash);
    unsigned depth = 0;
    for (struct table_bucket *bucket = place->primary; bucket != NULL;
         bucket = bucket_next(store, bucket)) {
        if (UNLIKELY(depth++ == CHAIN_BUCKETS_MAX)) {
            return false;
        }
        for (uint32_t matches = bucket_match(bucket, tag); matches != 0; matches &= matches - 1) {
            unsigned slot = (unsigned)__builtin_ctz(matches);
            struct ref ref = {atomic_load_explicit(&bucket->ref[slot], memory_order_relaxed)};
            struct item *item = ref_at(store, ref);
            if (LIKELY(ref_is_in_pages(store, ref)) &&
                LIKELY(is_item_of_key(item, key, key_len, hash))) {
                place->bucket = bucket;
                place->slot = slot;
                place->item = item;
                place->ref = ref;
                return true;
            }
        }
    }
    place->depth = depth;
    return depth != 0 || table_word_level(table_word_locked(store, shard)) == TABLE_LEVEL_NONE;
}

static COLD void
find_after_mending(struct store *store, struct shard *shard, const uint8_t *key, uint32_t key_len,
                   uint64_t hash, struct table_place *place)
{
    shard_mend(store, shard);
    CHECK(find_key(store, shard, key, key_len, hash, place));
}

void
table_find(struct store *store, struct shard *shard, const uint8_t *key, uint32_t key_len,
           uint64_t hash, struct table_place *place)
{
    if (UNLIKELY(!find_key(store, shard, key, key_len, hash, place))) {
        find_after_mending(store, shard, key, key_len, hash, place);
    }
}

void
table_find_ref(const struct store *store, struct shard *shard, struct ref ref, uint64_t hash,
               struct table_place *place)
{
    *place = (struct table_place){.primary = primary_of(store, shard, hash), .hash = hash};
    uint8_t tag = hash_tag(hash);
    struct table_bucket *bucket = place->primary;
    for (unsigned i = 0; bucket != NULL && i < CHAIN_BUCKETS_MAX; i++) {
        for (uint32_t matches = bucket_match(bucket, tag); matches != 0; matches &= matches - 1) {
            unsigned slot = (unsigned)__builtin_ctz(matches);
            if (atomic_load_explicit(&bucket->tag[slot], memory_order_relaxed) == tag &&
                atomic_load_explicit(&bucket->ref[slot], memory_order_relaxed) == ref.units) {
                place->bucket = bucket;
                place->slot = slot;
                place->item = ref_at(store, ref);
                place->ref = ref;
                return;
            }
        }
        bucket = bucket_next(store, bucket);
    }
}

void
table_find_probationer(const struct store *store, struct shard *shard, uint32_t hash,
                       struct table_place *place)
{
    uint8_t tag = hash_tag(hash);
    struct table_bucket *bucket = primary_of(store, shard, hash);
    *place = (struct table_place){.primary = bucket};
    for (unsigned i = 0; bucket != NULL && i < CHAIN_BUCKETS_MAX; i++) {
        for (uint32_t matches = bucket_match(bucket, tag); matches != 0; matches &= matches - 1) {
            unsigned slot = (unsigned)__builtin_ctz(matches);
            struct ref ref = {atomic_load_explicit(&bucket->ref[slot], memory_order_relaxed)};
            struct item *item = ref_at(store, ref);
            if (UNLIKELY(!ref_is_in_pages(store, ref)) || !(chunk_state(item) & STATE_PROBATION)) {
                continue;
            }
            uint64_t full_hash = item_hash(store, item);
            if ((uint32_t)full_hash == hash) {
                place->bucket = bucket;
                place->slot = slot;
                place->item = item;
                place->ref = ref;
                place->hash = full_hash;
                return;
            }
        }
        bucket = bucket_next(store, bucket);
    }
}

bool
chain_is_full(const struct store *store, const struct table_place *place)
{
    const struct table_bucket *bucket = place->primary;
    for (unsigned i = 0; bucket != NULL && place->depth == CHAIN_BUCKETS_MAX; i++) {
        if (i == CHAIN_BUCKETS_MAX) {
            return true;
        }
        for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
            if (atomic_load_explicit(&bucket->tag[slot], memory_order_relaxed) == 0) {
                return false;
            }
        }
        bucket = bucket_next(store, bucket);
    }
    return place->depth == CHAIN_BUCKETS_MAX;
}

void
table_condemn(struct store *store, struct shard *shard)
{
    atomic_fetch_or(table_word_at(store, shard), TABLE_WORD_REBUILDING);
    atomic_fetch_add(&store->run->mended_count, 1);
}

void
table_prefetch_bucket(const struct store *store, struct shard *shard, uint32_t hash)
{
    struct table_bucket *bucket = primary_of(store, shard, hash);
    if (bucket != NULL) {
        PREFETCH(bucket);
    }
}

void
table_prefetch_item(const struct store *store, struct shard *shard, uint32_t hash)
{
    struct table_bucket *bucket = primary_of(store, shard, hash);
    uint32_t matches = bucket == NULL ? 0 : bucket_match(bucket, hash_tag(hash));
    if (matches != 0) {
        struct ref ref = {
            atomic_load_explicit(&bucket->ref[__builtin_ctz(matches)], memory_order_relaxed)};
        PREFETCH(ref_at(store, ref));
    }
}

/* Inside a transaction, which its death undoes: a rebuild may wait until then and not longer. */
static COLD void
fail_for_damage(struct store *store, struct shard *shard)
{
    table_condemn(store, shard);
    CHECK(false && "a chain of the hash table is longer than any can be");
}

void
version_open(const struct store *store, struct shard *shard, _Atomic uint32_t *version)
{
    atomic_store_explicit(&shard->open_version, (uint64_t)((uint8_t *)version - store->base),
                          memory_order_relaxed);
    STORES_IN_ORDER();
    uint32_t before = atomic_load_explicit(version, memory_order_relaxed);
    atomic_store_explicit(version, before | 1, memory_order_relaxed);
    /* Pairs with the acquire fence in store_view_confirm(): who sees a change sees the odd version.
     */
    atomic_thread_fence(memory_order_release);
    CRASH_POINT(bucket_opened);
}

void
version_close(struct shard *shard, _Atomic uint32_t *version)
{
    uint32_t before = atomic_load_explicit(version, memory_order_relaxed);
    DCHECK(before & 1);
    /* Pairs with the acquire load in store_view(): who sees the even version sees the changes. */
    atomic_store_explicit(version, before + 1, memory_order_release);
    STORES_IN_ORDER();
    CRASH_POINT(bucket_closed_not_forgotten);
    atomic_store_explicit(&shard->open_version, 0, memory_order_relaxed);
}

static void
log_slot(struct store *store, struct shard *shard, struct table_bucket *bucket, unsigned slot)
{
    LOG_2(store, shard, bucket->tag_word[slot / 4], bucket->ref[slot]);
}

/* A bucket behind another one, with free slots only. */
static struct table_bucket *
overflow_pop(struct store *store, struct shard *shard)
{
    struct table_bucket *bucket = ref_at(store, cell_pop(store, shard));
    for (unsigned i = 0; i < BUCKET_SLOTS / 4; i++) {
        LOG(store, shard, bucket->tag_word[i]);
        atomic_store_explicit(&bucket->tag_word[i], 0, memory_order_relaxed);
    }
    return bucket;
}

/* A chain has come to its last bucket. If that waits to be split, the splits hurry until they are
 * there. No transaction: what is lost or doubled is a hint. */
static COLD void
hurry_to(const struct store *store, struct shard *shard, uint64_t hash)
{
    uint64_t word = table_word_locked(store, shard);
    uint32_t unsplit_end = 1u << table_word_level(word);
    uint32_t index = table_bucket_index(word, hash);
    uint32_t until = unsplit_end + index + 1;
    if (index >= table_word_split(word) && index < unsplit_end && until > shard->grow_until) {
        shard->grow_until = until;
    }
}

/* A free slot of the chain, which a full bucket's chain gets by an overflow bucket; how deep in the
 * chain it lies. */
static struct table_bucket *
free_slot(struct store *store, struct shard *shard, struct table_bucket *primary, unsigned *slot,
          unsigned *depth)
{
    struct table_bucket *bucket = primary;
    for (*depth = 1;; ++*depth) {
        uint32_t free = bucket_match(bucket, 0);
        while (free != 0) {
            *slot = (unsigned)__builtin_ctz(free);
            if (atomic_load_explicit(&bucket->tag[*slot], memory_order_relaxed) == 0) {
                return bucket;
            }
            free &= free - 1;
        }
        struct table_bucket *next = bucket_next(store, bucket);
        if (UNLIKELY(*depth == CHAIN_BUCKETS_MAX)) {
            fail_for_damage(store, shard);
        }
        if (next == NULL) {
            ++*depth;
            break;
        }
        bucket = next;
    }
    struct table_bucket *overflow = overflow_pop(store, shard);
    unsigned last = BUCKET_SLOTS - 1;
    log_slot(store, shard, bucket, last);
    bucket_set_slot(overflow, 0, atomic_load_explicit(&bucket->tag[last], memory_order_relaxed),
                    atomic_load_explicit(&bucket->ref[last], memory_order_relaxed));
    bucket_set_slot(bucket, last, TAG_OVERFLOW, ref_of(store, overflow).units);
    *slot = 1;
    return overflow;
}

void
table_link(struct store *store, struct shard *shard, struct table_bucket *primary, uint64_t hash,
           struct ref ref)
{
    unsigned slot, depth;
    struct table_bucket *bucket = free_slot(store, shard, primary, &slot, &depth);
    log_slot(store, shard, bucket, slot);
    bucket_set_slot(bucket, slot, hash_tag(hash), ref.units);
    if (UNLIKELY(depth == CHAIN_BUCKETS_MAX)) {
        hurry_to(store, shard, hash);
    }
    CRASH_POINT(table_linked);
}

void
table_replace(struct store *store, struct shard *shard, const struct table_place *place,
              struct ref ref)
{
    LOG(store, shard, place->bucket->ref[place->slot]);
    atomic_store_explicit(&place->bucket->ref[place->slot], ref.units, memory_order_release);
    CRASH_POINT(table_replaced);
}

static void
clear_slot(struct store *store, struct shard *shard, struct table_bucket *bucket, unsigned slot)
{
    LOG(store, shard, bucket->tag_word[slot / 4]);
    atomic_store_explicit(&bucket->tag[slot], 0, memory_order_release);
}

static void
copy_slot(struct store *store, struct shard *shard, struct table_bucket *to, unsigned to_slot,
          const struct table_bucket *from, unsigned from_slot)
{
    log_slot(store, shard, to, to_slot);
    bucket_set_slot(to, to_slot, atomic_load_explicit(&from->tag[from_slot], memory_order_relaxed),
                    atomic_load_explicit(&from->ref[from_slot], memory_order_relaxed));
}

static uint32_t
used_slots(const struct table_bucket *bucket)
{
    return ~bucket_match(bucket, 0) & ((1u << BUCKET_SLOTS) - 1);
}

/* A hole is filled from the end of the chain, and a bucket there with one entry left gives it up: a
 * table that changes all the time would keep its longest chains otherwise. */
void
table_unlink(struct store *store, struct shard *shard, const struct table_place *place)
{
    struct table_bucket *before = NULL;
    struct table_bucket *last = place->primary;
    unsigned depth = 1;
    for (struct table_bucket *next; (next = bucket_next(store, last)) != NULL; last = next) {
        if (UNLIKELY(depth++ == CHAIN_BUCKETS_MAX)) {
            fail_for_damage(store, shard);
        }
        before = last;
    }
    if (last == place->bucket) {
        clear_slot(store, shard, last, place->slot);
    } else {
        unsigned slot = (unsigned)(31 - __builtin_clz(used_slots(last)));
        copy_slot(store, shard, place->bucket, place->slot, last, slot);
        clear_slot(store, shard, last, slot);
    }
    uint32_t left = used_slots(last);
    DCHECK(before == NULL || left != 0);
    if (before != NULL && (left & (left - 1)) == 0) {
        copy_slot(store, shard, before, BUCKET_SLOTS - 1, last, (unsigned)__builtin_ctz(left));
        cell_push(store, shard, ref_of(store, last));
    }
    CRASH_POINT(table_unlinked);
}
