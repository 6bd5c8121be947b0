/* See hashtable.h. Linear hashing: W. Litwin, VLDB 1980. */
#include "store/hashtable.h"

#include "base/check.h"
#include "base/crash.h"
#include "base/span.h"
#include "base/xxh64.h"
#include "mem/populate.h"
#include "store/cell.h"
#include "store/slab.h"

/* A bucket's chain that is longer than this is left unsplit; the journal holds a split of five
 * buckets. */
#define SPLIT_BUCKETS_MAX 5

uint64_t
item_hash(const struct store *store, const struct item *item)
{
    return xxh64(item_key(item, item->bits), item->key_len, store->hash_seed);
}

uint32_t
table_bucket_count(uint64_t word)
{
    uint32_t level = table_word_level(word);
    return level == TABLE_LEVEL_NONE ? 0 : (1u << level) + table_word_split(word);
}

static bool
key_is(const struct item *item, const uint8_t *key, uint32_t key_len)
{
    return item->key_len == key_len && memcmp(item_key(item, item->bits), key, key_len) == 0;
}

static uint64_t
table_word_locked(const struct store *store, const struct shard *shard)
{
    return atomic_load_explicit(table_word_at(store, shard), memory_order_relaxed);
}

static struct table_bucket *
primary_of(const struct store *store, struct shard *shard, uint64_t hash)
{
    uint64_t word = table_word_locked(store, shard);
    return table_word_level(word) == TABLE_LEVEL_NONE
               ? NULL
               : table_bucket_at(store, shard, table_bucket_index(word, hash));
}

void
table_find(const struct store *store, struct shard *shard, const uint8_t *key, uint32_t key_len,
           uint64_t hash, struct table_place *place)
{
    *place = (struct table_place){.primary = primary_of(store, shard, hash), .hash = hash};
    uint8_t tag = hash_tag(hash);
    for (struct table_bucket *bucket = place->primary; bucket != NULL;
         bucket = bucket_next(store, bucket)) {
        for (uint32_t matches = bucket_match(bucket, tag); matches != 0; matches &= matches - 1) {
            unsigned slot = (unsigned)__builtin_ctz(matches);
            struct ref ref = {atomic_load_explicit(&bucket->ref[slot], memory_order_relaxed)};
            struct item *item = ref_at(store, ref);
            if (atomic_load_explicit(&bucket->tag[slot], memory_order_relaxed) == tag &&
                LIKELY(ref_is_in_pages(store, ref)) && key_is(item, key, key_len) &&
                LIKELY(item_header_agrees(item, hash))) {
                place->bucket = bucket;
                place->slot = slot;
                place->item = item;
                place->ref = ref;
                return;
            }
        }
    }
}

void
table_find_ref(const struct store *store, struct shard *shard, struct ref ref, uint64_t hash,
               struct table_place *place)
{
    *place = (struct table_place){.primary = primary_of(store, shard, hash), .hash = hash};
    uint8_t tag = hash_tag(hash);
    for (struct table_bucket *bucket = place->primary; bucket != NULL;
         bucket = bucket_next(store, bucket)) {
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
    }
}

struct item *
table_find_probationer(const struct store *store, struct shard *shard, uint32_t hash)
{
    uint8_t tag = hash_tag(hash);
    for (struct table_bucket *bucket = primary_of(store, shard, hash); bucket != NULL;
         bucket = bucket_next(store, bucket)) {
        for (uint32_t matches = bucket_match(bucket, tag); matches != 0; matches &= matches - 1) {
            unsigned slot = (unsigned)__builtin_ctz(matches);
            if (atomic_load_explicit(&bucket->tag[slot], memory_order_relaxed) != tag) {
                continue;
            }
            struct ref ref = {atomic_load_explicit(&bucket->ref[slot], memory_order_relaxed)};
            struct item *item = ref_at(store, ref);
            if (LIKELY(ref_is_in_pages(store, ref)) && chunk_state(item) & STATE_PROBATION &&
                (uint32_t)item_hash(store, item) == hash) {
                return item;
            }
        }
    }
    return NULL;
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

/* Makes the version odd, where it is not yet, for the changes that follow. */
static void
version_open(struct table_bucket *bucket)
{
    uint32_t version = atomic_load_explicit(&bucket->version, memory_order_relaxed);
    atomic_store_explicit(&bucket->version, version | 1, memory_order_relaxed);
    /* Pairs with the acquire fence in store_view_confirm(): who sees a change sees the odd version.
     */
    atomic_thread_fence(memory_order_release);
}

void
bucket_open(const struct store *store, struct shard *shard, struct table_bucket *primary)
{
    atomic_store_explicit(&shard->open_bucket, (uint64_t)((uint8_t *)primary - store->base),
                          memory_order_relaxed);
    STORES_IN_ORDER();
    version_open(primary);
    CRASH_POINT(bucket_opened);
}

void
bucket_close(struct shard *shard, struct table_bucket *primary)
{
    uint32_t version = atomic_load_explicit(&primary->version, memory_order_relaxed);
    DCHECK(version & 1);
    /* Pairs with the acquire load in store_view(): who sees the even version sees the changes. */
    atomic_store_explicit(&primary->version, version + 1, memory_order_release);
    STORES_IN_ORDER();
    CRASH_POINT(bucket_closed_not_forgotten);
    atomic_store_explicit(&shard->open_bucket, 0, memory_order_relaxed);
}

static void
log_slot(struct store *store, struct shard *shard, struct table_bucket *bucket, unsigned slot)
{
    LOG(store, shard, bucket->tag_word[slot / 4]);
    LOG(store, shard, bucket->ref[slot]);
}

static void
set_slot(struct table_bucket *bucket, unsigned slot, uint8_t tag, uint32_t ref)
{
    /* The ref first: a tag that is seen has its ref. */
    atomic_store_explicit(&bucket->ref[slot], ref, memory_order_relaxed);
    atomic_store_explicit(&bucket->tag[slot], tag, memory_order_release);
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

/* A free slot of the chain; a full chain gets an overflow bucket. */
static struct table_bucket *
free_slot(struct store *store, struct shard *shard, struct table_bucket *primary, unsigned *slot)
{
    struct table_bucket *bucket = primary;
    for (;;) {
        uint32_t free = bucket_match(bucket, 0);
        while (free != 0) {
            *slot = (unsigned)__builtin_ctz(free);
            if (atomic_load_explicit(&bucket->tag[*slot], memory_order_relaxed) == 0) {
                return bucket;
            }
            free &= free - 1;
        }
        struct table_bucket *next = bucket_next(store, bucket);
        if (next == NULL) {
            break;
        }
        bucket = next;
    }
    struct table_bucket *overflow = overflow_pop(store, shard);
    unsigned last = BUCKET_SLOTS - 1;
    log_slot(store, shard, bucket, last);
    set_slot(overflow, 0, atomic_load_explicit(&bucket->tag[last], memory_order_relaxed),
             atomic_load_explicit(&bucket->ref[last], memory_order_relaxed));
    set_slot(bucket, last, TAG_OVERFLOW, ref_of(store, overflow).units);
    *slot = 1;
    return overflow;
}

void
table_link(struct store *store, struct shard *shard, struct table_bucket *primary, uint64_t hash,
           struct ref ref)
{
    unsigned slot;
    struct table_bucket *bucket = free_slot(store, shard, primary, &slot);
    log_slot(store, shard, bucket, slot);
    set_slot(bucket, slot, hash_tag(hash), ref.units);
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
    set_slot(to, to_slot, atomic_load_explicit(&from->tag[from_slot], memory_order_relaxed),
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
    for (struct table_bucket *next; (next = bucket_next(store, last)) != NULL; last = next) {
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

/* ---- growth --------------------------------------------------------------------------------- */

static uint32_t
buckets_per_page(const struct store *store)
{
    return 1u << (store->page_shift - 6);
}

/* Gives the page in hand to the table and zeroes it; the caller says what for. */
static uint8_t *
adopt_page(struct store *store, struct shard *shard, uint32_t number)
{
    uint8_t *at = store->base + page_offset(store->superblock, number);
    memset(at, 0, store->superblock->page_bytes);
    struct page *page = page_entry(store->segment, number);
    LOG(store, shard, page->owner);
    LOG(store, shard, shard->table_page_count);
    LOG(store, shard, shard->page_count);
    atomic_store_explicit(&page->owner, page_owner(shard_index(store, shard), PAGE_KIND_TABLE),
                          memory_order_release);
    shard->table_page_count++;
    shard->page_count++;
    CRASH_POINT(table_page_adopted);
    return at;
}

/* The directory is sparse: its memory comes with the entries. */
static bool
directory_entry_ready(struct store *store, _Atomic uint32_t *entry)
{
    uint64_t offset = (uint64_t)((uint8_t *)entry - store->base);
    return populate(store->segment->fd, store->base, offset, sizeof(*entry));
}

static bool
add_primary_page(struct store *store, struct shard *shard, bool steal)
{
    uint32_t index = shard->bucket_capacity >> (store->page_shift - 6);
    if (index >= store->table_pages_max) {
        return false;
    }
    _Atomic uint32_t *entry = table_directory_entry(store, shard, index);
    if (!directory_entry_ready(store, entry)) {
        return false;
    }
    uint32_t number = slab_page_for_table(store, shard, steal);
    if (number == PAGE_NONE) {
        return false;
    }
    adopt_page(store, shard, number);
    LOG(store, shard, *entry);
    LOG(store, shard, shard->bucket_capacity);
    atomic_store_explicit(entry, number + 1, memory_order_release);
    shard->bucket_capacity += buckets_per_page(store);
    journal_commit(shard);
    page_keep(store->slot);
    return true;
}

static bool
add_cell_page(struct store *store, struct shard *shard, bool steal)
{
    uint32_t number = slab_page_for_table(store, shard, steal);
    if (number == PAGE_NONE) {
        return false;
    }
    uint8_t *page = adopt_page(store, shard, number);
    LOG(store, shard, shard->cell_free);
    cells_make(store, shard, page);
    journal_commit(shard);
    page_keep(store->slot);
    return true;
}

static bool
create_table(struct store *store, struct shard *shard)
{
    if (shard->bucket_capacity == 0 && !add_primary_page(store, shard, true)) {
        return false;
    }
    uint32_t level = (uint32_t)__builtin_ctz(buckets_per_page(store));
    uint64_t word = table_word_locked(store, shard);
    atomic_store_explicit(table_word_at(store, shard),
                          table_word_make(table_word_generation(word) + 1, level, 0) |
                              (word & TABLE_WORD_REBUILDING),
                          memory_order_release);
    return true;
}

bool
table_is_short(const struct store *store, const struct shard *shard)
{
    return UNLIKELY(table_word_level(table_word_locked(store, shard)) == TABLE_LEVEL_NONE ||
                    !cells_are_free(store, shard, CELLS_SPARE));
}

bool
table_prepare(struct store *store, struct shard *shard)
{
    if (UNLIKELY(table_word_level(table_word_locked(store, shard)) == TABLE_LEVEL_NONE) &&
        !create_table(store, shard)) {
        return false;
    }
    return LIKELY(cells_are_free(store, shard, CELLS_SPARE)) || add_cell_page(store, shard, true);
}

struct chain_entry {
    uint32_t ref;
    uint8_t tag;
    bool moves;
};

struct split {
    struct table_bucket *from, *to;
    struct table_bucket *chain[SPLIT_BUCKETS_MAX];
    unsigned chain_count;
    struct chain_entry entries[SPLIT_BUCKETS_MAX * BUCKET_SLOTS];
    unsigned entry_count;
    unsigned move_count;
};

/* Reads the bucket's chain and decides for each entry; false if the chain is too long. */
static bool
split_plan(struct store *store, struct split *split, uint32_t new_bit)
{
    for (struct table_bucket *bucket = split->from; bucket != NULL;
         bucket = bucket_next(store, bucket)) {
        if (split->chain_count == SPLIT_BUCKETS_MAX) {
            return false;
        }
        split->chain[split->chain_count++] = bucket;
        for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
            uint8_t tag = atomic_load_explicit(&bucket->tag[slot], memory_order_relaxed);
            if (tag == 0 || tag == TAG_OVERFLOW) {
                continue;
            }
            struct ref ref = {atomic_load_explicit(&bucket->ref[slot], memory_order_relaxed)};
            bool moves = (item_hash(store, ref_at(store, ref)) & new_bit) != 0;
            split->entries[split->entry_count++] =
                (struct chain_entry){.ref = ref.units, .tag = tag, .moves = moves};
            split->move_count += moves;
        }
    }
    return true;
}

static unsigned
overflow_buckets_for(unsigned entries)
{
    /* Every bucket but the last gives a slot to the link. */
    return entries <= BUCKET_SLOTS ? 0 : (entries - 2) / (BUCKET_SLOTS - 1);
}

static void
log_bucket(struct store *store, struct shard *shard, struct table_bucket *bucket)
{
    for (unsigned i = 0; i < BUCKET_SLOTS / 4; i++) {
        LOG(store, shard, bucket->tag_word[i]);
    }
    for (unsigned i = 0; i < BUCKET_SLOTS; i += 2) {
        journal_log(store, shard, &bucket->ref[i], 8);
    }
}

/* Writes one side's entries into a bucket that is empty, overflowing as needed. */
static void
split_fill(struct store *store, struct shard *shard, const struct split *split, bool moved,
           struct table_bucket *bucket)
{
    unsigned left = moved ? split->move_count : split->entry_count - split->move_count;
    unsigned slot = 0;
    for (unsigned i = 0; i < split->entry_count; i++) {
        const struct chain_entry *entry = &split->entries[i];
        if (entry->moves != moved) {
            continue;
        }
        if (slot == BUCKET_SLOTS - 1 && left > 1) {
            struct table_bucket *overflow = overflow_pop(store, shard);
            set_slot(bucket, slot, TAG_OVERFLOW, ref_of(store, overflow).units);
            bucket = overflow;
            slot = 0;
        }
        set_slot(bucket, slot++, entry->tag, entry->ref);
        left--;
    }
}

static void
split_apply(struct store *store, struct shard *shard, struct split *split, uint64_t next_word)
{
    bucket_open(store, shard, split->from);
    for (unsigned i = 0; i < split->chain_count; i++) {
        log_bucket(store, shard, split->chain[i]);
    }
    for (unsigned i = 0; i < BUCKET_SLOTS / 4; i++) {
        atomic_store_explicit(&split->from->tag_word[i], 0, memory_order_relaxed);
    }
    for (unsigned i = 1; i < split->chain_count; i++) {
        cell_push(store, shard, ref_of(store, split->chain[i]));
    }
    /* The new bucket is not reachable before the table word says so: it needs no log, but may hold
     * what an earlier attempt left. A reader may have begun when that attempt had set the very word
     * that this one sets, and was not undone yet: its version must not come out the same. A death
     * leaves it odd, out of reach until the next attempt. */
    version_open(split->to);
    uint32_t version = atomic_load_explicit(&split->to->version, memory_order_relaxed);
    memset((uint8_t *)split->to + sizeof(version), 0, sizeof(*split->to) - sizeof(version));
    split_fill(store, shard, split, true, split->to);
    split_fill(store, shard, split, false, split->from);
    atomic_store_explicit(&split->to->version, version + 1, memory_order_release);
    CRASH_POINT(table_split_filled);
    _Atomic uint64_t *word = table_word_at(store, shard);
    LOG(store, shard, *word);
    atomic_store_explicit(word, next_word, memory_order_release);
    CRASH_POINT(table_split_switched);
    journal_commit(shard);
    bucket_close(shard, split->from);
}

static bool
split_next(struct store *store, struct shard *shard, bool steal)
{
    uint64_t word = table_word_locked(store, shard);
    uint32_t level = table_word_level(word);
    uint32_t from = table_word_split(word);
    uint32_t to = from + (1u << level);
    if (level >= 30 || (to >= shard->bucket_capacity && !add_primary_page(store, shard, steal))) {
        return false;
    }
    struct split split = {.from = table_bucket_at(store, shard, from),
                          .to = table_bucket_at(store, shard, to)};
    if (!split_plan(store, &split, 1u << level)) {
        return false;
    }
    unsigned needed = overflow_buckets_for(split.move_count) +
                      overflow_buckets_for(split.entry_count - split.move_count);
    if (!cells_are_free(store, shard, needed)) {
        return add_cell_page(store, shard, steal) && split_next(store, shard, steal);
    }
    bool last = from + 1 == 1u << level;
    split_apply(store, shard, &split,
                table_word_make(table_word_generation(word), last ? level + 1 : level,
                                last ? 0 : from + 1) |
                    (word & TABLE_WORD_REBUILDING));
    return true;
}

void
table_grow(struct store *store, struct shard *shard, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        uint64_t buckets = table_bucket_count(table_word_locked(store, shard));
        if (shard->sums.curr_items * 2 <= buckets * TABLE_LOAD_HALVES) {
            return;
        }
        /* A full cache pays for a larger table only when the chains have become long. */
        bool steal = shard->sums.curr_items * 4 > buckets * TABLE_LOAD_HALVES * 3;
        SPAN_BEGIN(table_grow_step);
        bool split = split_next(store, shard, steal);
        SPAN_END(table_grow_step);
        if (!split) {
            return;
        }
    }
}
