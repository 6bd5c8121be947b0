/* Reads without a lock.
 *
 * A reader loads the shard's table word, then the bucket's version; finds the item and lets the
 * caller copy it; and believes what it copied, a miss too, only if version and table word are
 * unchanged. What it reads meanwhile may be anything another process writes there, so every length
 * is checked against the page before it is used: a chunk never crosses its page. A hit is counted
 * by compare-and-swap from the state word that was read inside the validated section, and is lost
 * if that fails; a plain store would land in whatever the chunk has become. */
#include "base/check.h"
#include "base/siphash.h"
#include "store/hashtable.h"
#include "store/slab.h"
#include "store/store.h"
#include "store/track.h"

/* A reader that keeps meeting writers takes the lock, which also repairs after a dead one. */
#define VIEW_TRIES_MAX 100

void
key_init(struct store *store, struct key *key, const void *bytes, uint32_t len)
{
    DCHECK(len <= KEY_LEN_MAX);
    key->bytes = bytes;
    key->len = len;
    key->database = 0;
    key->hash = siphash13_from(store->hash_begin, bytes, len);
    key->shard_hash = shard_hash_of(key->hash);
}

uint64_t
hash_of_key(const struct store *store, uint32_t database, const void *bytes, uint32_t len)
{
    struct siphash_key hash_key = store->superblock->hash_key;
    hash_key.word[1] ^= database;
    return siphash13(bytes, len, &hash_key);
}

void
key_init_in(struct store *store, struct key *key, uint32_t database, const void *bytes,
            uint32_t len)
{
    CHECK(database < DATABASE_COUNT && len <= KEY_LEN_MAX);
    uint64_t hash = hash_of_key(store, database, bytes, len);
    *key = (struct key){.bytes = bytes,
                        .hash = hash,
                        .shard_hash = shard_hash_of(hash),
                        .len = len,
                        .database = database};
}

static struct table_bucket *
bucket_of_key(const struct store *store, uint32_t index, uint64_t word, uint64_t hash)
{
    return table_word_level(word) == TABLE_LEVEL_NONE
               ? NULL
               : table_bucket_of(store, index, table_bucket_index(word, hash));
}

void
store_prefetch_bucket(struct store *store, const struct key *key)
{
    uint32_t index = shard_index_of_key(store, key);
    uint64_t word = atomic_load_explicit(&store->table_words[index], memory_order_acquire);
    struct table_bucket *bucket = bucket_of_key(store, index, word, key->hash);
    if (bucket != NULL) {
        PREFETCH(bucket);
    }
}

bool
store_prefetch_item(struct store *store, const struct key *key, unsigned links)
{
    uint32_t index = shard_index_of_key(store, key);
    _Atomic uint64_t *word_at = &store->table_words[index];
    uint64_t word = atomic_load_explicit(word_at, memory_order_acquire);
    const struct table_bucket *bucket = bucket_of_key(store, index, word, key->hash);
    for (unsigned i = 0; bucket != NULL; i++) {
        uint32_t matches = bucket_match(bucket, hash_tag(key->hash));
        if (matches != 0) {
            struct ref ref = {
                atomic_load_explicit(&bucket->ref[__builtin_ctz(matches)], memory_order_relaxed)};
            const uint8_t *item = ref_at(store, ref);
            /* Three lines hold the header, a key and a hundred bytes; the machine guesses the rest.
             */
            PREFETCH(item);
            PREFETCH(item + CACHE_LINE_BYTES);
            PREFETCH(item + 2 * CACHE_LINE_BYTES);
            return false;
        }
        bucket = bucket_next(store, bucket);
        if (i == links && bucket != NULL) {
            PREFETCH(bucket);
            return true;
        }
        /* What only seems to be a link leads to memory that may not be there. */
        atomic_thread_fence(memory_order_acquire);
        if (bucket != NULL && atomic_load_explicit(word_at, memory_order_relaxed) != word) {
            return false;
        }
    }
    return false;
}

/* Whether the bucket was in the table until now. */
static bool
word_is_current(const struct view *view)
{
    /* Pairs with the release fence in release_primary_page(). */
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(view->table_word_at, memory_order_relaxed) == view->table_word;
}

static bool
view_is_current(const struct view *view)
{
    /* Pairs with the release fence in bucket_open(). */
    atomic_thread_fence(memory_order_acquire);
    /* The word last: as long as it is the same, no version began again from zero. */
    return atomic_load_explicit(&view->bucket->version, memory_order_acquire) == view->version &&
           atomic_load_explicit(view->table_word_at, memory_order_relaxed) == view->table_word;
}

/* view_item() for an item with an extension: of such a one the view tells no more than that it is
 * there, in its bits. */
static COLD RACY_READ bool
view_extended(const struct store *store, const struct key *key, const struct item *item,
              uint8_t bits, struct view *view, uint16_t *epoch)
{
    uint32_t page_bytes = 1u << store->page_shift;
    uint64_t offset = (uint64_t)ref_of(store, item).units << store->unit_shift;
    uint32_t in_page = (uint32_t)((offset - store->data_at) & (page_bytes - 1));
    if (in_page + ITEM_HEADER_BYTES + 4 * sizeof(uint32_t) > page_bytes) {
        return false;
    }
    uint32_t extension = item_extension(item, bits);
    uint8_t key_len = item->key_len;
    uint32_t key_offset = item_key_offset(bits, extension);
    if (key_len_of(key_len, extension) != key->len ||
        in_page + key_offset + key->len > page_bytes ||
        memcmp((const uint8_t *)item + key_offset, key->bytes, key->len) != 0 ||
        item->check !=
            item_check_value_extended(key->hash, item->value_len, key_len, bits, extension)) {
        return false;
    }
    view->bits = bits;
    view->expire_word = 0;
    *epoch = epoch_now(store);
    return true;
}

/* Whether the chunk at `ref` holds the key; fills the view if so. Everything read may be torn. */
static RACY_READ bool
view_item(const struct store *store, const struct key *key, struct ref ref, struct view *view,
          uint16_t *epoch)
{
    struct item *item = ref_at(store, ref);
    if (UNLIKELY(!ref_is_in_pages(store, ref))) {
        return false;
    }
    uint32_t state = atomic_load_explicit(&item->state, memory_order_relaxed);
    uint8_t key_len = item->key_len;
    uint8_t bits = item->bits;
    uint32_t key_offset = item_plain_key_offset(bits);
    uint64_t page_bytes = UINT64_C(1) << store->page_shift;
    uint64_t offset = (uint64_t)ref.units << store->unit_shift;
    uint64_t key_end = ((offset - store->data_at) & (page_bytes - 1)) + key_offset + key_len;
    /* Of an item with an extension neither the key nor the check value below is where it seems. */
    if (key_len != key->len || UNLIKELY(key_end > page_bytes) ||
        !key_bytes_equal((uint8_t *)item + key_offset, key->bytes, key_len)) {
        return UNLIKELY(bits & ITEM_EXTENDED) && view_extended(store, key, item, bits, view, epoch);
    }
    view->value = (uint8_t *)item + key_offset + key_len;
    uint32_t value_len = item->value_len;
    view->value_len = value_len;
    /* The check value tells damaged lengths, which would lead into another item, and torn ones. */
    if (UNLIKELY(item->check != item_check_value(key->hash, value_len, key_len, bits) ||
                 (!(bits & ITEM_CHAINED) && key_end + value_len > page_bytes))) {
        return bits & ITEM_EXTENDED && view_extended(store, key, item, bits, view, epoch);
    }
    view->client_flags = item_client_flags(item, bits);
    view->bits = bits;
    view->cas = item->cas;
    view->expire_word = atomic_load_explicit(&item->expire_word, memory_order_relaxed);
    view->state = state;
    view->state_at = &item->state;
    *epoch = item->epoch;
    return true;
}

enum found {
    FOUND,
    FOUND_NOTHING,
    FOUND_CHANGED, /* the view is not current */
    FOUND_DAMAGE,  /* the chain is longer than any can be, unless the view is not current */
};

/* A cell behind an old link may have become part of a probation ring, and the primary bucket's page
 * anything: words are believed to be refs only while the view is current, of the primary while the
 * table word is, for what they refer to may be memory that was never populated. */
static enum found
view_find(const struct store *store, const struct key *key, struct view *view, uint16_t *epoch)
{
    uint8_t tag = hash_tag(key->hash);
    const struct table_bucket *primary = view->bucket;
    const struct table_bucket *bucket = primary;
    for (unsigned i = 0; bucket != NULL; i++) {
        if (UNLIKELY(i == CHAIN_BUCKETS_MAX)) {
            return FOUND_DAMAGE;
        }
        for (uint32_t matches = bucket_match(bucket, tag); matches != 0; matches &= matches - 1) {
            unsigned slot = (unsigned)__builtin_ctz(matches);
            struct ref ref = {atomic_load_explicit(&bucket->ref[slot], memory_order_relaxed)};
            if (UNLIKELY(bucket == primary ? !word_is_current(view) : !view_is_current(view))) {
                return FOUND_CHANGED;
            }
            if (view_item(store, key, ref, view, epoch)) {
                return FOUND;
            }
        }
        const struct table_bucket *next = bucket_next(store, bucket);
        if (next != NULL && !view_is_current(view)) {
            return FOUND_CHANGED;
        }
        bucket = next;
    }
    return FOUND_NOTHING;
}

/* The table seems damaged: the next look is taken under the lock, and one that was is right. */
static COLD bool
look_again(struct store *store, struct view *view)
{
    if (view->locked) {
        shard_mend(store, view->shard);
    }
    view->tries = VIEW_TRIES_MAX;
    return false;
}

static void
view_unlock(struct store *store, struct view *view)
{
    if (view->locked) {
        shard_unlock(store, view->shard);
        view->locked = false;
    }
}

/* Frees an item that a reader found dead, if that can be had without waiting. */
static void
reclaim_dead(struct store *store, const struct key *key, struct view *view)
{
    if (UNLIKELY(store->peeks)) {
        view_unlock(store, view);
        return;
    }
    if (!view->locked && !shard_try_lock(store, view->shard)) {
        return;
    }
    struct table_place place;
    table_find(store, view->shard, key->bytes, key->len, key->hash, &place);
    if (place.bucket != NULL && item_is_dead(store, place.item)) {
        item_unlink_place(store, view->shard, &place, UNLINK_RECLAIM);
    }
    view->locked = false;
    shard_unlock(store, view->shard);
}

/* One look; false if it has to be repeated. */
static bool
view_once(struct store *store, const struct key *key, struct view *view, enum view_result *result)
{
    uint64_t word = atomic_load_explicit(view->table_word_at, memory_order_acquire);
    view->table_word = word;
    if (UNLIKELY(word & TABLE_WORD_REBUILDING) && !view->locked) {
        view->tries = VIEW_TRIES_MAX;
        return false;
    }
    if (UNLIKELY(table_word_level(word) == TABLE_LEVEL_NONE)) {
        *result = VIEW_MISS;
        return true;
    }
    struct table_bucket *bucket =
        table_bucket_of(store, shard_index_of_key(store, key), table_bucket_index(word, key->hash));
    view->bucket = bucket;
    if (UNLIKELY(bucket == NULL)) {
        return view->locked ? look_again(store, view) : false;
    }
    uint32_t version = atomic_load_explicit(&bucket->version, memory_order_acquire);
    view->version = version;
    if (UNLIKELY(version & 1) && !view->locked) {
        cpu_relax();
        return false;
    }
    uint16_t epoch;
    enum found what = view_find(store, key, view, &epoch);
    if (UNLIKELY(what == FOUND_DAMAGE)) {
        return look_again(store, view);
    }
    bool found = what == FOUND;
    bool expired = found && word_is_expired(store, view->expire_word);
    bool flushed = found && epoch_is_flushed(store, epoch);
    if (LIKELY(found && !expired && !flushed && !(view->bits & ITEM_UNUSUAL))) {
        *result = VIEW_HIT;
        return true;
    }
    bool hidden =
        found && (view->bits & ITEM_EXTENDED ||
                  (view->bits & ITEM_COPIED && !copy_is_shown(store, key->bytes, key->len)));
    if (!view->locked && !view_is_current(view)) {
        return false;
    }
    *result = flushed                     ? VIEW_FLUSHED
              : expired                   ? VIEW_EXPIRED
              : !found || hidden          ? VIEW_MISS
              : view->bits & ITEM_CHAINED ? VIEW_HIT_LARGE
                                          : VIEW_HIT;
    return true;
}

enum view_result
store_view(struct store *store, const struct key *key, struct view *view)
{
    uint32_t index = shard_index_of_key(store, key);
    view->shard = &store->shards[index];
    view->table_word_at = &store->table_words[index];
    enum view_result result = VIEW_BUSY;
    for (;;) {
        if (UNLIKELY(view->tries >= VIEW_TRIES_MAX) && !view->locked) {
            COUNT(&store->slot->counters, read_locked);
            if (!shard_lock(store, view->shard)) {
                return VIEW_BUSY;
            }
            view->locked = true;
        }
        if (LIKELY(view_once(store, key, view, &result))) {
            break;
        }
        view->tries++;
        COUNT(&store->slot->counters, read_retries);
    }
    switch (result) {
    case VIEW_HIT:
        return result;
    case VIEW_EXPIRED:
    case VIEW_FLUSHED:
        reclaim_dead(store, key, view);
        return result;
    case VIEW_MISS:
    case VIEW_HIT_LARGE:
    case VIEW_BUSY:
        view_unlock(store, view);
        return result;
    }
    return result;
}

/* The class by its size, which is at hand, and not by its page, which is not. */
static inline void
count_get(struct store *store, const struct view *view, uint32_t state)
{
    uint32_t bytes = (uint32_t)(view->value - (const uint8_t *)view->state_at) + view->value_len;
    class_counter_add(&store->slot->classes[slab_class_of(store, bytes)],
                      CLASS_hits_to_cold + !!(state & STATE_PROBATION), 1);
}

enum view_result
store_peek(struct store *store, const struct key *key, struct view *view)
{
    store->peeks = true;
    enum view_result result = store_view(store, key, view);
    store->peeks = false;
    return result;
}

bool
store_view_confirm(struct store *store, struct view *view, enum view_bump bump)
{
    if (!view->locked && UNLIKELY(!view_is_current(view))) {
        view->tries++;
        COUNT(&store->slot->counters, read_retries);
        return false;
    }
    uint32_t state = view->state;
    if (bump & VIEW_COUNT) {
        count_get(store, view, state);
    }
    if (bump & VIEW_BUMP) {
        uint32_t next = state_after_hit(store, state);
        if (next != state) {
            atomic_compare_exchange_strong_explicit(view->state_at, &state, next,
                                                    memory_order_relaxed, memory_order_relaxed);
        }
    }
    view_unlock(store, view);
    return true;
}

bool
view_was_fetched(const struct view *view)
{
    return view->state & STATE_FETCHED;
}

uint32_t
view_idle_s(const struct store *store, const struct view *view)
{
    return state_idle_s(store, view->state);
}

uint32_t
view_class_id(const struct store *store, const struct view *view)
{
    uint32_t class_id = class_of_ref(store, ref_of(store, view->state_at));
    return class_id <= store->superblock->class_count ? class_id : 0;
}

uint64_t
view_item_bytes(const struct view *view, const struct key *key)
{
    return (uint64_t)item_plain_key_offset(view->bits) + key->len + view->value_len;
}
