/* How a shard's table gets and gives back pages and buckets: splits, merges, and the chains that
 * both build beside the old ones. See hashtable.h. */
#include "store/hashtable.h"

#include "base/check.h"
#include "base/crash.h"
#include "base/span.h"
#include "mem/freemap.h"
#include "mem/populate.h"
#include "store/cell.h"
#include "store/slab.h"

/* Splits an insertion pays for while a bucket with a long chain waits for its turn. */
#define HURRY_STEPS 8

/* ---- pages ---------------------------------------------------------------------------------- */

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
    /* A full cache asks at every store until its table may take a page from items. */
    if (!steal && freemap_is_empty(store->segment) &&
        atomic_load_explicit(&store->held->page_in_flight, memory_order_relaxed) == 0) {
        return false;
    }
    _Atomic uint32_t *entry = table_directory_entry(store, shard_index(store, shard), index);
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
    page_keep(store->held);
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
    page_keep(store->held);
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
table_prepare(struct store *store, struct shard *shard)
{
    if (UNLIKELY(table_word_level(table_word_locked(store, shard)) == TABLE_LEVEL_NONE) &&
        !create_table(store, shard)) {
        return false;
    }
    return LIKELY(cells_are_free(store, shard, CELLS_SPARE)) || add_cell_page(store, shard, true);
}

/* ---- copies of chains ----------------------------------------------------------------------- */

struct chain_entry {
    uint32_t ref;
    uint8_t tag;
};

/* What two chains hold, or are to hold. */
struct entries {
    struct chain_entry entry[2 * CHAIN_ITEMS_MAX];
    unsigned count;
};

/* What is to be a primary bucket's slots; the rest of its chain is in place, linked by nothing. */
struct bucket_image {
    uint8_t tag[BUCKET_SLOTS];
    uint32_t ref[BUCKET_SLOTS];
};

/* Buckets of a chain, in order. */
struct chain {
    struct table_bucket *bucket[CHAIN_BUCKETS_MAX];
    unsigned count;
};

/* False: it is longer than any can be, or there is no bucket in the place of one. */
static bool
chain_read(const struct store *store, struct table_bucket *primary, struct chain *chain)
{
    chain->count = 0;
    for (struct table_bucket *bucket = primary; bucket != NULL;
         bucket = bucket_next(store, bucket)) {
        if (chain->count == CHAIN_BUCKETS_MAX) {
            return false;
        }
        chain->bucket[chain->count++] = bucket;
    }
    return chain->count != 0;
}

/* Calls for every item that a bucket links. */
#define EACH_ENTRY(bucket, entry)                                                                  \
    for (unsigned slot_ = 0; slot_ < BUCKET_SLOTS; slot_++)                                        \
        if (bucket_entry((bucket), slot_, (entry)))

static bool
bucket_entry(const struct table_bucket *bucket, unsigned slot, struct chain_entry *entry)
{
    entry->tag = atomic_load_explicit(&bucket->tag[slot], memory_order_relaxed);
    entry->ref = atomic_load_explicit(&bucket->ref[slot], memory_order_relaxed);
    return entry->tag != 0 && entry->tag != TAG_OVERFLOW;
}

/* Cells for so many entries beside those in the primary. With a tail every bucket has a link, else
 * all but the last. */
static unsigned
cells_for(unsigned entries, bool has_tail)
{
    unsigned last = has_tail ? BUCKET_SLOTS - 1 : BUCKET_SLOTS;
    return entries <= last ? 0 : (entries - last + BUCKET_SLOTS - 2) / (BUCKET_SLOTS - 1);
}

/* Puts the first entries into the image and the rest into cells behind it, the last of which goes
 * on in the tail if there is one. The caller has logged the cells' heads and knows that there are
 * enough. */
static void
chain_build(struct store *store, struct shard *shard, const struct entries *entries,
            struct ref tail, struct bucket_image *image)
{
    *image = (struct bucket_image){0};
    struct table_bucket *bucket = NULL; /* the image */
    unsigned slot = 0;
    bool has_tail = !ref_is_none(tail);
    for (unsigned i = 0; i < entries->count; i++) {
        const struct chain_entry *entry = &entries->entry[i];
        bool more = has_tail || i + 1 < entries->count;
        if (slot == BUCKET_SLOTS - 1 && more) {
            struct ref cell = cell_take(store, shard);
            struct table_bucket *next = ref_at(store, cell);
            for (unsigned j = 0; j < BUCKET_SLOTS / 4; j++) {
                atomic_store_explicit(&next->tag_word[j], 0, memory_order_relaxed);
            }
            if (bucket == NULL) {
                image->tag[slot] = TAG_OVERFLOW;
                image->ref[slot] = cell.units;
            } else {
                bucket_set_slot(bucket, slot, TAG_OVERFLOW, cell.units);
            }
            bucket = next;
            slot = 0;
        }
        if (bucket == NULL) {
            image->tag[slot] = entry->tag;
            image->ref[slot] = entry->ref;
        } else {
            bucket_set_slot(bucket, slot, entry->tag, entry->ref);
        }
        slot++;
    }
    if (has_tail && bucket == NULL) {
        image->tag[BUCKET_SLOTS - 1] = TAG_OVERFLOW;
        image->ref[BUCKET_SLOTS - 1] = tail.units;
    } else if (has_tail) {
        bucket_set_slot(bucket, BUCKET_SLOTS - 1, TAG_OVERFLOW, tail.units);
    }
}

static void
image_store(struct table_bucket *bucket, const struct bucket_image *image)
{
    for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
        atomic_store_explicit(&bucket->ref[i], image->ref[i], memory_order_relaxed);
    }
    for (unsigned i = 0; i < BUCKET_SLOTS / 4; i++) {
        uint32_t tags;
        memcpy(&tags, &image->tag[4 * i], sizeof(tags));
        atomic_store_explicit(&bucket->tag_word[i], tags, memory_order_relaxed);
    }
}

/* Replaces a chain by its image, and gives its overflow buckets back. Inside a transaction, with
 * the primary open. */
static void
chain_switch(struct store *store, struct shard *shard, const struct chain *chain,
             const struct bucket_image *image)
{
    struct table_bucket *primary = chain->bucket[0];
    for (unsigned i = 0; i < BUCKET_SLOTS / 4; i++) {
        LOG(store, shard, primary->tag_word[i]);
    }
    for (unsigned i = 0; i < BUCKET_SLOTS; i += 2) {
        journal_log(store, shard, &primary->ref[i], 8);
    }
    image_store(primary, image);
    for (unsigned i = 1; i < chain->count; i++) {
        cell_give(store, shard, ref_of(store, chain->bucket[i]));
    }
}

static void
word_switch(struct store *store, struct shard *shard, uint64_t next_word)
{
    _Atomic uint64_t *word = table_word_at(store, shard);
    LOG(store, shard, *word);
    atomic_store_explicit(word, next_word, memory_order_release);
}

/* The table word with another number of buckets. */
static uint64_t
word_resized(uint64_t word, uint32_t level, uint32_t split)
{
    return table_word_make(table_word_generation(word), level, split) |
           (word & TABLE_WORD_REBUILDING);
}

/* ---- growth --------------------------------------------------------------------------------- */

struct split {
    struct table_bucket *to;
    struct chain chain; /* of the bucket that is split */
    struct entries stays, moves;
};

/* Reads the bucket's chain and decides for each entry. False: the chain cannot be. */
static bool
split_plan(const struct store *store, struct table_bucket *from, uint32_t new_bit,
           struct split *split)
{
    split->stays.count = split->moves.count = 0;
    if (!chain_read(store, from, &split->chain)) {
        return false;
    }
    for (unsigned i = 0; i < split->chain.count; i++) {
        struct chain_entry entry;
        EACH_ENTRY(split->chain.bucket[i], &entry)
        {
            struct ref ref = {entry.ref};
            if (UNLIKELY(!ref_is_in_pages(store, ref))) {
                return false;
            }
            bool moves = (item_hash(store, ref_at(store, ref)) & new_bit) != 0;
            struct entries *side = moves ? &split->moves : &split->stays;
            side->entry[side->count++] = entry;
        }
    }
    return true;
}

static void
split_apply(struct store *store, struct shard *shard, const struct split *split, uint64_t next_word)
{
    struct bucket_image stays, moves;
    cells_log(store, shard);
    chain_build(store, shard, &split->moves, REF_NONE, &moves);
    chain_build(store, shard, &split->stays, REF_NONE, &stays);
    /* Not reachable before the table word says so: it needs no log, but may hold what an earlier
     * attempt left, or what was there before a merge. No reader has the word that this one sets:
     * see renew_table_word() and word_shrunk(). The fence pairs with the one in view_is_current():
     * a reader that has a word from before such a merge and sees a change here sees another word.
     */
    atomic_thread_fence(memory_order_release);
    image_store(split->to, &moves);
    CRASH_POINT(table_split_filled);
    struct table_bucket *from = split->chain.bucket[0];
    bucket_open(store, shard, from);
    chain_switch(store, shard, &split->chain, &stays);
    word_switch(store, shard, next_word);
    CRASH_POINT(table_split_switched);
    journal_commit(shard);
    bucket_close(shard, from);
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
    struct split split = {.to = table_bucket_at(store, shard, to)};
    if (UNLIKELY(split.to == NULL ||
                 !split_plan(store, table_bucket_at(store, shard, from), 1u << level, &split))) {
        shard_mend(store, shard);
        return false;
    }
    unsigned needed = cells_for(split.stays.count, false) + cells_for(split.moves.count, false);
    if (!cells_are_free(store, shard, needed)) {
        return add_cell_page(store, shard, steal) && split_next(store, shard, steal);
    }
    bool last = from + 1 == 1u << level;
    split_apply(store, shard, &split,
                word_resized(word, last ? level + 1 : level, last ? 0 : from + 1));
    return true;
}

/* Whether a bucket with a long chain waits for its turn, and that by chance: it is not the lot of a
 * table with few items. */
static bool
is_in_a_hurry(const struct shard *shard, uint64_t word)
{
    uint64_t buckets = table_bucket_count(word);
    return shard->grow_until > buckets &&
           shard->grow_until <= UINT64_C(2) << table_word_level(word) &&
           shard->sums.curr_items * 4 > buckets * TABLE_LOAD_HALVES;
}

void
table_grow(struct store *store, struct shard *shard, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        uint64_t word = table_word_locked(store, shard);
        uint64_t buckets = table_bucket_count(word);
        bool hurries = UNLIKELY(shard->grow_until > buckets) && is_in_a_hurry(shard, word);
        if (LIKELY(shard->sums.curr_items * 2 <= buckets * TABLE_LOAD_HALVES) && !hurries) {
            return;
        }
        if (hurries) {
            steps = HURRY_STEPS;
        }
        /* A full cache pays for a larger table only when the chains have become longer. */
        bool steal = hurries || shard->sums.curr_items * 2 > buckets * TABLE_STEAL_HALVES;
        SPAN_BEGIN(table_grow_step);
        bool split = split_next(store, shard, steal);
        SPAN_END(table_grow_step);
        if (!split) {
            return;
        }
    }
}

/* ---- shrinking ------------------------------------------------------------------------------ */

/* What the table's last bucket and the one that it came from are made into. */
struct merge {
    struct chain chain;    /* of the bucket that stays */
    struct entries merged; /* what that and the last primary link, and */
    struct ref tail;       /* what follows the last primary, as it is; or none */
};

/* The word of a table that has a bucket less. It must not be one that there was before: a reader
 * may have begun with that, and seen what was in force until now. */
static uint64_t
word_shrunk(uint64_t word)
{
    uint32_t level = table_word_level(word);
    uint32_t split = table_word_split(word);
    if (split == 0) {
        level--;
        split = 1u << level;
    }
    return table_word_make(table_word_generation(word) + 1, level, split - 1) |
           (word & TABLE_WORD_REBUILDING);
}

/* False: the two make a chain that is longer than any may be. */
static bool
merge_plan(const struct store *store, struct table_bucket *stays, struct table_bucket *goes,
           struct merge *merge)
{
    struct chain gone;
    merge->merged.count = 0;
    if (!chain_read(store, stays, &merge->chain) || !chain_read(store, goes, &gone)) {
        return false;
    }
    struct chain_entry entry;
    for (unsigned i = 0; i < merge->chain.count; i++) {
        EACH_ENTRY(merge->chain.bucket[i], &entry)
        {
            merge->merged.entry[merge->merged.count++] = entry;
        }
    }
    EACH_ENTRY(goes, &entry)
    {
        merge->merged.entry[merge->merged.count++] = entry;
    }
    merge->tail = gone.count > 1 ? ref_of(store, gone.bucket[1]) : REF_NONE;
    return gone.count + cells_for(merge->merged.count, gone.count > 1) <= CHAIN_BUCKETS_MAX;
}

/* Nothing of the bucket that goes is written, its overflow buckets neither: a reader with the old
 * table word may be in it, and finds the word changed; or finds it unchanged, and nothing else,
 * when all this was undone. */
static void
merge_apply(struct store *store, struct shard *shard, const struct merge *merge, uint64_t next_word)
{
    struct bucket_image image;
    cells_log(store, shard);
    chain_build(store, shard, &merge->merged, merge->tail, &image);
    CRASH_POINT(table_merge_filled);
    struct table_bucket *stays = merge->chain.bucket[0];
    bucket_open(store, shard, stays);
    chain_switch(store, shard, &merge->chain, &image);
    word_switch(store, shard, next_word);
    CRASH_POINT(table_merge_switched);
    journal_commit(shard);
    bucket_close(shard, stays);
}

static bool
merge_last(struct store *store, struct shard *shard)
{
    uint64_t word = table_word_locked(store, shard);
    uint64_t next_word = word_shrunk(word);
    struct merge merge;
    if (!merge_plan(store, table_bucket_at(store, shard, table_word_split(next_word)),
                    table_bucket_at(store, shard, table_bucket_count(next_word)), &merge)) {
        return false;
    }
    unsigned needed = cells_for(merge.merged.count, !ref_is_none(merge.tail));
    if (!cells_are_free(store, shard, needed)) {
        return false;
    }
    shard->grow_until = 0;
    merge_apply(store, shard, &merge, next_word);
    return true;
}

/* Gives the last page of primary buckets to the pool, if the table does not need it. */
static bool
release_primary_page(struct store *store, struct shard *shard)
{
    uint64_t word = table_word_locked(store, shard);
    uint32_t per_page = buckets_per_page(store);
    if (table_bucket_count(word) + per_page > shard->bucket_capacity) {
        return false;
    }
    uint32_t index = (shard->bucket_capacity >> (store->page_shift - 6)) - 1;
    _Atomic uint32_t *entry = table_directory_entry(store, shard_index(store, shard), index);
    uint32_t number = atomic_load_explicit(entry, memory_order_relaxed) - 1;
    CHECK(number < store->page_count_max);
    struct page *page = page_entry(store->segment, number);
    CHECK(atomic_load_explicit(&page->owner, memory_order_relaxed) ==
          page_owner(shard_index(store, shard), PAGE_KIND_TABLE));
    pool_give_back_any(store->segment, store->held);
    atomic_store_explicit(&store->held->page_in_flight, number + 1, memory_order_relaxed);
    STORES_IN_ORDER();
    LOG(store, shard, *entry);
    LOG(store, shard, shard->bucket_capacity);
    LOG(store, shard, shard->table_page_count);
    LOG(store, shard, shard->page_count);
    LOG(store, shard, page->owner);
    /* Readers that have looked at a bucket in the page had a table word of an earlier generation.
     * Pairs with the acquire fence in word_is_current(): one that sees what the page is used for
     * sees that the word is another. */
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(entry, 0, memory_order_relaxed);
    shard->bucket_capacity -= per_page;
    shard->table_page_count--;
    shard->page_count--;
    atomic_store_explicit(&page->owner, page_owner_in_hand(store->segment, store->held),
                          memory_order_relaxed);
    CRASH_POINT(table_page_released);
    journal_commit(shard);
    pool_give_back(store->segment, store->held, number);
    return true;
}

/* The first page stays. */
static bool
has_too_many_buckets(const struct store *store, const struct shard *shard)
{
    uint64_t buckets = table_bucket_count(table_word_locked(store, shard));
    return buckets > buckets_per_page(store) &&
           shard->sums.curr_items * 2 < buckets * TABLE_SHRINK_HALVES;
}

RACY_READ bool
table_may_shrink(const struct store *store, const struct shard *shard)
{
    return has_too_many_buckets(store, shard) &&
           !(table_word_locked(store, shard) & TABLE_WORD_REBUILDING);
}

bool
table_shrink(struct store *store, struct shard *shard, unsigned steps)
{
    for (unsigned i = 0; i < steps && has_too_many_buckets(store, shard); i++) {
        if (!merge_last(store, shard)) {
            return false;
        }
        (void)release_primary_page(store, shard);
    }
    return has_too_many_buckets(store, shard);
}
