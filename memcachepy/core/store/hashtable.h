/* A shard's hash table: linear hashing over buckets of one cache line, growing a bucket at a time.
 *
 *   struct table_bucket, 64 bytes
 *
 *    0         4                        16                                   64
 *   | version | tag 0 … tag 11          | ref 0 … ref 11                      |
 *
 * A tag is 8 bits of the hash (24 to 31, so that 32 bits name bucket and tag), never 0; 0 marks a
 * free slot. A full bucket gives its last slot (tag TAG_OVERFLOW) to an overflow bucket of the same
 * form. The version of the first bucket covers its whole chain: odd while a writer is inside, never
 * reset.
 *
 *   table word
 *    63                  41     40       39      32 31          0
 *   | generation           | rebuilding | level    | split point |
 *
 * 2^level + split buckets exist. The generation grows with every merge, repair and rebuild: a
 * reader that finds the word as it was knows that it was never another one meanwhile. Level 0xFF:
 * no table yet. Bucket i lies in table page i / buckets per page; the page numbers stand in the
 * table directory. A reader with an old table word reads old or new buckets, or, in a page that the
 * table has given back, anything: it follows no ref before it has found the word unchanged. Pages
 * of cells are never used for anything else. The words of all shards lie side by side, and so do
 * the first directory entries of all shards, then the second: what every read needs stays in the
 * nearest cache.
 *
 * The width of 12 slots makes 5.3 bytes a slot. With ten items a bucket, overflow buckets and what
 * linear hashing leaves unsplit make it 8.4 to 8.6 bytes an item; one look-up in eight needs a
 * second line. With 12.5 items it was one in five, for 0.6 bytes less.
 *
 * A chain has at most five buckets, 56 items. A bucket that waits to be split holds up to twice the
 * average, 28 items in a full cache; where one comes to a fifth bucket the splits hurry until its
 * turn has come, and it is split long before it is full (tests/core/table.c has the arithmetic). A
 * store into a full chain evicts from it: only an attacker who knows the hash key gets there. So a
 * look-up is bounded, a longer chain is damage, and a split always fits the journal.
 *
 * Splits are made by copy on write. The new bucket, and what is to follow the old one, are filled
 * in cells that nothing links; then the old bucket's slots, the table word and the heads of lists
 * are logged and changed: 12 words and one for each overflow bucket before and after. When items
 * have gone the maintainer merges the last bucket into the one that it came from, by the same
 * means, and the last page of primary buckets goes back to the pool. Pages of cells stay. */
#ifndef STORE_HASHTABLE_H
#define STORE_HASHTABLE_H

#include "store/cell.h"
#include "store/item.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define BUCKET_SLOTS 12
#define TAG_OVERFLOW 0xFF

/* Buckets of the longest chain, the primary one included, and the items that they hold: each but
 * the last gives a slot to the link. */
#define CHAIN_BUCKETS_MAX 5
#define CHAIN_ITEMS_MAX (CHAIN_BUCKETS_MAX * (BUCKET_SLOTS - 1) + 1)

/* Items per bucket above which a bucket is split, times two. */
#define TABLE_LOAD_HALVES 20

/* The same, above which the table's next page is taken from items: a full cache settles below 14.
 * Fewer overflow buckets pay for it, so memory is the same from 13 to 19 (bench/items.py). */
#define TABLE_STEAL_HALVES 27

/* The same, below which the last bucket is merged into the one that it came from. A table that has
 * just grown to hold ten items a bucket shrinks when three of five have gone. */
#define TABLE_SHRINK_HALVES 8

struct table_bucket {
    _Atomic uint32_t version;
    union {
        _Atomic uint8_t tag[BUCKET_SLOTS];
        _Atomic uint32_t tag_word[BUCKET_SLOTS / 4];
    };
    _Atomic uint32_t ref[BUCKET_SLOTS]; /* struct ref */
};
static_assert(sizeof(struct table_bucket) == 64, "layout change: bump SEGMENT_LAYOUT_VERSION");

#define TABLE_WORD_REBUILDING (UINT64_C(1) << 40)
#define TABLE_LEVEL_NONE 0xFFu
#define TABLE_GENERATION_SHIFT 41

static inline uint64_t
table_word_make(uint64_t generation, uint32_t level, uint32_t split)
{
    return generation << TABLE_GENERATION_SHIFT | (uint64_t)level << 32 | split;
}

static inline uint32_t
table_word_level(uint64_t word)
{
    return word >> 32 & 0xFF;
}

static inline uint32_t
table_word_split(uint64_t word)
{
    return (uint32_t)word;
}

static inline uint64_t
table_word_generation(uint64_t word)
{
    return word >> TABLE_GENERATION_SHIFT;
}

/* Number of primary buckets. */
static inline uint32_t
table_bucket_count(uint64_t word)
{
    uint32_t level = table_word_level(word);
    return LIKELY(level != TABLE_LEVEL_NONE) ? (1u << level) + table_word_split(word) : 0;
}

static inline uint8_t
hash_tag(uint64_t hash)
{
    return (uint8_t)(1 + ((hash >> 24 & 0xFF) * 254 >> 8));
}

static inline uint32_t
table_bucket_index(uint64_t word, uint64_t hash)
{
    uint32_t level = table_word_level(word);
    uint32_t low = (uint32_t)hash & ((1u << level) - 1);
    if (low < table_word_split(word)) {
        low = (uint32_t)hash & ((2u << level) - 1);
    }
    return low;
}

static inline _Atomic uint64_t *
table_word_at(const struct store *store, const struct shard *shard)
{
    return &store->table_words[shard_index(store, shard)];
}

/* Where the number plus one of the table's page stands. */
static inline _Atomic uint32_t *
table_directory_entry(const struct store *store, uint32_t shard_index, uint32_t page_index)
{
    return &store->table_directories[(uint64_t)page_index * (store->shard_mask + 1) + shard_index];
}

/* By the shard's index, which readers have at hand. NULL if the bucket's lies beyond the table's
 * pages, as it may for a word read long ago. */
static inline struct table_bucket *
table_bucket_of(const struct store *store, uint32_t shard_index, uint32_t index)
{
    uint32_t shift = store->page_shift - 6;
    uint32_t page_index = index >> shift;
    if (UNLIKELY(page_index >= store->table_pages_max)) {
        return NULL;
    }
    uint32_t number = atomic_load_explicit(table_directory_entry(store, shard_index, page_index),
                                           memory_order_acquire);
    if (UNLIKELY(number - 1 >= store->page_count_max)) {
        return NULL; /* There is none, or the word is damaged. */
    }
    uint8_t *page = store->base + store->data_at + ((uint64_t)(number - 1) << store->page_shift);
    return (struct table_bucket *)page + (index & ((1u << shift) - 1));
}

static inline struct table_bucket *
table_bucket_at(const struct store *store, const struct shard *shard, uint32_t index)
{
    return table_bucket_of(store, shard_index(store, shard), index);
}

/* Bit i is set if slot i carries the tag. Of the words at the time each was read. */
static inline uint32_t
bucket_match(const struct table_bucket *bucket, uint8_t tag)
{
#if defined(__SSE2__) && !defined(UNDER_TSAN)
    /* The version and the twelve tags are one 16-byte load. */
    __m128i line = _mm_load_si128((const __m128i *)(const void *)bucket);
    __m128i equal = _mm_cmpeq_epi8(line, _mm_set1_epi8((char)tag));
    return (uint32_t)_mm_movemask_epi8(equal) >> 4;
#else
    uint32_t matches = 0;
    uint32_t pattern = tag * 0x01010101u;
    for (unsigned i = 0; i < BUCKET_SLOTS / 4; i++) {
        uint32_t difference =
            atomic_load_explicit(&bucket->tag_word[i], memory_order_relaxed) ^ pattern;
        /* Bit 7 of every byte that is zero, and no other. */
        uint32_t zero = ~(((difference & 0x7F7F7F7Fu) + 0x7F7F7F7Fu) | difference | 0x7F7F7F7Fu);
        /* Gathers bits 7, 15, 23 and 31 into four neighbours. */
        matches |= ((zero >> 7) * 0x10204080u >> 28) << (4 * i);
    }
    return matches;
#endif
}

static ALWAYS_INLINE uint64_t
word_differs(const uint8_t *a, const uint8_t *b)
{
    uint64_t word_a, word_b;
    memcpy(&word_a, a, sizeof(word_a));
    memcpy(&word_b, b, sizeof(word_b));
    return word_a ^ word_b;
}

/* Whether two keys of the same length are the same. Most are short, and a call costs more than they
 * do: two words that overlap compare up to 16 bytes, and four up to 32. */
static inline bool
key_bytes_equal(const uint8_t *a, const uint8_t *b, uint32_t len)
{
    if (UNLIKELY(len < 8 || len > 32)) {
        return memcmp(a, b, len) == 0;
    }
    uint64_t differ = word_differs(a, b) | word_differs(a + len - 8, b + len - 8);
    if (len > 16) {
        differ |= word_differs(a + 8, b + 8) | word_differs(a + len - 16, b + len - 16);
    }
    return differ == 0;
}

/* The table's shape, as the holder of the shard's lock sees it. */
static inline uint64_t
table_word_locked(const struct store *store, const struct shard *shard)
{
    return atomic_load_explicit(table_word_at(store, shard), memory_order_relaxed);
}

/* Fills a slot. The ref first: a reader that sees the tag sees its ref. */
static inline void
bucket_set_slot(struct table_bucket *bucket, unsigned slot, uint8_t tag, uint32_t ref)
{
    atomic_store_explicit(&bucket->ref[slot], ref, memory_order_relaxed);
    atomic_store_explicit(&bucket->tag[slot], tag, memory_order_release);
}

/* The overflow bucket behind a bucket; NULL at the end of the chain or for a ref that cannot be
 * one. */
static inline struct table_bucket *
bucket_next(const struct store *store, const struct table_bucket *bucket)
{
    if (LIKELY(atomic_load_explicit(&bucket->tag[BUCKET_SLOTS - 1], memory_order_relaxed) !=
               TAG_OVERFLOW)) {
        return NULL;
    }
    uint64_t offset =
        (uint64_t)atomic_load_explicit(&bucket->ref[BUCKET_SLOTS - 1], memory_order_relaxed)
        << store->unit_shift;
    /* A link that is being replaced may be an item's ref. */
    if (offset < store->data_at || offset > store->data_end - sizeof(struct table_bucket) ||
        offset % sizeof(struct table_bucket) != 0) {
        return NULL;
    }
    return (struct table_bucket *)(store->base + offset);
}

/* A place in the table, found under the lock. */
struct table_place {
    struct table_bucket *primary; /* NULL: the shard has no table yet */
    struct table_bucket *bucket;  /* where the item is; NULL: not there */
    unsigned slot;
    struct item *item;
    struct ref ref;
    uint64_t hash;  /* what was looked up */
    unsigned depth; /* not there: how many buckets the chain has */
};

/* ---- under the shard's lock (hashtable.c) --------------------------------------------------- */

/* Finds the key's item, dead or alive. Outside a transaction: a chain that cannot be is damage, and
 * the shard is rebuilt first. */
void table_find(struct store *store, struct shard *shard, const uint8_t *key, uint32_t key_len,
                uint64_t hash, struct table_place *place);

/* Finds the place of a linked item. */
void table_find_ref(const struct store *store, struct shard *shard, struct ref ref, uint64_t hash,
                    struct table_place *place);

/* Whether the chain, in which the key was not found, can link nothing more. */
bool chain_is_full(const struct store *store, const struct table_place *place);

/* Whether table_prepare() has to find a page. */
static inline bool
table_is_short(const struct store *store, const struct shard *shard)
{
    return UNLIKELY(table_word_level(table_word_locked(store, shard)) == TABLE_LEVEL_NONE ||
                    !cells_are_free(store, shard, CELLS_SPARE));
}

/* Makes the table able to take one more link: a first page, an overflow bucket at hand. False: no
 * page is free for it. */
bool table_prepare(struct store *store, struct shard *shard) MUST_CHECK;

/* Makes a version odd, so that readers of what it covers wait, and even again. There is one open
 * version in a shard at a time. */
void version_open(const struct store *store, struct shard *shard, _Atomic uint32_t *version);
void version_close(struct shard *shard, _Atomic uint32_t *version);

/* Between bucket_open() and bucket_close() readers of the bucket wait; open before the first change
 * of a transaction that links or unlinks, close after its commit. */
static inline void
bucket_open(const struct store *store, struct shard *shard, struct table_bucket *primary)
{
    version_open(store, shard, &primary->version);
}

static inline void
bucket_close(struct shard *shard, struct table_bucket *primary)
{
    version_close(shard, &primary->version);
}

/* Inside a transaction, with the primary open. table_link() needs a slot: see room_in_chain(). */
void table_link(struct store *store, struct shard *shard, struct table_bucket *primary,
                uint64_t hash, struct ref ref);
void table_replace(struct store *store, struct shard *shard, const struct table_place *place,
                   struct ref ref);
void table_unlink(struct store *store, struct shard *shard, const struct table_place *place);

/* Has the next owner of the lock rebuild the shard: the caller met damage and is about to fail. */
void table_condemn(struct store *store, struct shard *shard);

/* Splits at most `steps` buckets if the table is loaded enough, more of them while a bucket with a
 * long chain waits. Own transactions. */
void table_grow(struct store *store, struct shard *shard, unsigned steps);

/* Whether the table has many more buckets than its items need. Read without the lock: it may change
 * the next moment. */
bool table_may_shrink(const struct store *store, const struct shard *shard);

/* Merges at most `steps` buckets of such a table, and gives pages that it no longer needs to the
 * pool. Own transactions. False: nothing is left to do, or nothing can be done now. */
bool table_shrink(struct store *store, struct shard *shard, unsigned steps);

/* Finds the item in probation whose key's hash has these low 32 bits; place->bucket is NULL if it
 * is gone or promoted. */
void table_find_probationer(const struct store *store, struct shard *shard, uint32_t hash,
                            struct table_place *place);

/* Fetches its bucket, then the item: for a look at it soon. */
void table_prefetch_bucket(const struct store *store, struct shard *shard, uint32_t hash);
void table_prefetch_item(const struct store *store, struct shard *shard, uint32_t hash);

/* The hash of a linked item's key. */
uint64_t item_hash(const struct store *store, const struct item *item);

#endif
