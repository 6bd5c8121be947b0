/* The hash table at its bounds: growth that never ends, chains that cannot get long, tables that
 * shrink, keys made to collide, and damage.
 *
 * usage: table CASE; prints ok, or the facts that are wrong. */
#include "expect.h"
#include "settings.h"

#include "base/xxh64.h"
#include "mem/segment.h"
#include "store/check.h"
#include "store/hashtable.h"
#include "store/rebuild.h"
#include "store/store.h"
#include "store/table_shrink.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const struct siphash_key fixed_key = {{0x0706050403020100, 0x0F0E0D0C0B0A0908}};

static struct store *
open_store(unsigned megabytes, enum eviction_policy policy)
{
    struct segment_settings settings = small_settings((uint64_t)megabytes << 20, 1);
    settings.item_size_min_bytes = 12;
    settings.eviction_policy = policy;
    struct segment *segment;
    char sentence[SEGMENT_SENTENCE_MAX];
    EXPECT(store_create(&settings, &segment, sentence) == SEGMENT_OK);
    EXPECT(mprotect(segment->superblock->constants, CONSTANTS_BYTES, PROT_READ | PROT_WRITE) == 0);
    segment->superblock->hash_key = fixed_key;
    segment_claim_slot(segment, SLOT_WORKER_FIRST);
    return store_open(segment, SLOT_WORKER_FIRST);
}

static void
close_store(struct store *store)
{
    struct segment *segment = store_segment(store);
    store_close(store);
    segment_close(segment);
}

static const uint8_t value[4096];

static enum put_result
put(struct store *store, const void *bytes, uint32_t len, uint32_t value_len)
{
    struct put put = {.mode = PUT_SET, .value = value, .value_len = value_len};
    key_init(store, &put.key, bytes, len);
    return store_put(store, &put);
}

static bool
has(struct store *store, const void *bytes, uint32_t len)
{
    struct key key;
    struct view view = {0};
    key_init(store, &key, bytes, len);
    while (store_view(store, &key, &view) == VIEW_HIT) {
        if (store_view_confirm(store, &view, VIEW_PEEK)) {
            return true;
        }
    }
    return false;
}

static bool
drop(struct store *store, const void *bytes, uint32_t len)
{
    struct key key;
    key_init(store, &key, bytes, len);
    return store_delete(store, &key) == DELETE_DONE;
}

static void
print_problem(void *context, const char *sentence)
{
    (void)context;
    printf("%s\n", sentence);
}

/* Of all shards. */
struct shape {
    uint64_t items, buckets, capacity, table_pages;
    double load_max; /* items a bucket of the fullest shard */
    unsigned chain_max;
    struct store_sums sums;
};

static struct shape
shape_of(struct store *store)
{
    struct shape shape = {0};
    EXPECT(store_check(store, print_problem, NULL) == 0);
    for (uint32_t i = 0; i <= store->shard_mask; i++) {
        const struct shard *shard = &store->shards[i];
        uint32_t buckets = table_bucket_count(atomic_load(table_word_at(store, shard)));
        for (uint32_t j = 0; j < buckets; j++) {
            unsigned length = 0;
            for (const struct table_bucket *bucket = table_bucket_at(store, shard, j);
                 bucket != NULL; bucket = bucket_next(store, bucket)) {
                length++;
            }
            shape.chain_max = length > shape.chain_max ? length : shape.chain_max;
        }
        double load = buckets == 0 ? 0 : (double)shard->sums.curr_items / buckets;
        shape.load_max = load > shape.load_max ? load : shape.load_max;
        shape.items += shard->sums.curr_items;
        shape.buckets += buckets;
        shape.capacity += shard->bucket_capacity;
        shape.table_pages += shard->table_page_count;
    }
    store_sum(store, &shape.sums);
    return shape;
}

static uint32_t
number_key(char *text, const char *prefix, uint64_t number)
{
    return (uint32_t)sprintf(text, "%s%" PRIu64, prefix, number);
}

/* ---- growth --------------------------------------------------------------------------------- */

/* A cache that was filled with large values meets small ones: its table must grow by a factor of
 * ten, out of pages that are all taken. */
static void
a_full_cache_settles_below_14_items_a_bucket(void)
{
    struct store *store = open_store(32, POLICY_S3FIFO);
    char key[32];
    for (uint64_t i = 0; i < 50000; i++) {
        EXPECT(put(store, key, number_key(key, "large-", i), 1000) == PUT_STORED);
    }
    for (uint64_t i = 0; i < 1200000; i++) {
        EXPECT(put(store, key, number_key(key, "s", i), 8) == PUT_STORED);
    }
    struct shape shape = shape_of(store);
    EXPECT(shape.sums.evictions > 100000);
    EXPECT(shape.sums.evicted_table > 0);
    EXPECT(shape.load_max <= 14);
    EXPECT(shape.chain_max <= CHAIN_BUCKETS_MAX);
    EXPECT(shape.sums.chain_evictions == 0);
    close_store(store);
}

/* P(X > n) for X of a Poisson distribution. */
static double
poisson_tail(double mean, unsigned n)
{
    double term = 1, tail = 0;
    for (unsigned i = 1; i <= n; i++) {
        term *= mean / i;
    }
    for (unsigned i = n + 1; i < n + 200; i++) {
        term *= mean / i;
        tail += term;
    }
    for (double left = mean; left > 0; left -= 1) { /* times e^-mean */
        tail *= left >= 1 ? 0.36787944117144233 : 1 / (1 + left + left * left / 2);
    }
    return tail;
}

/* Why ordinary keys never fill a chain. A bucket waits for its split with at most twice the average
 * of items. One in ten thousand such buckets comes to a fifth bucket, with 46 items. The splits
 * then hurry, HURRY of them for an item stored: all that wait are split before the shard's items
 * have grown by one for every eight that wait, and the chain would have to get eleven of those. */
static void
ordinary_keys_do_not_fill_a_chain(void)
{
    const double load = 14, hurry = 8;
    double fifth = poisson_tail(2 * load, (CHAIN_BUCKETS_MAX - 1) * (BUCKET_SLOTS - 1) + 1);
    double eleven = poisson_tail(1 / hurry, BUCKET_SLOTS - 2);
    EXPECT(fifth < 2e-3);
    EXPECT(fifth * eleven < 1e-18);
    /* A bucket that does not wait has no more than the average. */
    EXPECT(poisson_tail(load, CHAIN_ITEMS_MAX) < 1e-15);
}

/* Keys of one bucket of a small table, as many as come to a fifth bucket, among others: the splits
 * reach the bucket long before the table would be loaded enough for them. */
static void
a_long_chain_makes_the_splits_hurry(void)
{
    struct store *store = open_store(32, POLICY_S3FIFO);
    char key[32];
    uint64_t number = 0;
    struct shard *shard = &store->shards[0];
    uint32_t first = 1u << (store->page_shift - 6); /* buckets of the first page */
    /* As many as a table holds without a split. */
    while (shard->sums.curr_items * 2 < first * TABLE_LOAD_HALVES) {
        EXPECT(put(store, key, number_key(key, "k", number++), 8) == PUT_STORED);
    }
    EXPECT(table_bucket_count(atomic_load(table_word_at(store, shard))) == first);
    /* Bucket 200 only, until its chain has its fifth bucket. */
    for (unsigned stored = 0; shard->grow_until == 0;) {
        uint32_t len = number_key(key, "k", number++);
        uint64_t hash = siphash13(key, len, &fixed_key);
        if (shard_of_hash(store, hash) == shard && (hash & (first - 1)) == 200) {
            EXPECT(put(store, key, len, 8) == PUT_STORED);
            EXPECT(stored++ < CHAIN_ITEMS_MAX);
        }
    }
    EXPECT(shard->grow_until == first + 201);
    for (unsigned i = 0; i < 26; i++) {
        uint32_t len;
        do {
            len = number_key(key, "k", number++);
        } while (shard_of_hash(store, siphash13(key, len, &fixed_key)) != shard);
        EXPECT(put(store, key, len, 8) == PUT_STORED);
    }
    EXPECT(table_bucket_count(atomic_load(table_word_at(store, shard))) >= first + 201);
    struct shape shape = shape_of(store);
    EXPECT(shape.chain_max <= 4);
    EXPECT(shape.sums.chain_evictions == 0);
    close_store(store);
}

/* ---- chains --------------------------------------------------------------------------------- */

#define COLLIDING 70

static char colliding[COLLIDING][32];

/* Keys whose hashes have a dozen bits and more in common, for one who knows the hash's key. */
static void
make_colliding_keys(const struct store *store)
{
    uint64_t number = 0;
    for (unsigned found = 0; found < COLLIDING;) {
        uint32_t len = number_key(colliding[found], "c", number++);
        uint64_t hash = siphash13(colliding[found], len, &fixed_key);
        found += (hash & 0xFFF) == 0x234 && shard_of_hash(store, hash) == store->shards;
    }
}

static void
a_full_chain_evicts(void)
{
    struct store *store = open_store(32, POLICY_S3FIFO);
    make_colliding_keys(store);
    for (unsigned i = 0; i < COLLIDING; i++) {
        EXPECT(put(store, colliding[i], (uint32_t)strlen(colliding[i]), 8) == PUT_STORED);
        EXPECT(has(store, colliding[i], (uint32_t)strlen(colliding[i])));
    }
    struct shape shape = shape_of(store);
    EXPECT(shape.chain_max == CHAIN_BUCKETS_MAX);
    EXPECT(shape.items == CHAIN_ITEMS_MAX);
    EXPECT(shape.sums.chain_evictions == COLLIDING - CHAIN_ITEMS_MAX);
    EXPECT(shape.sums.evictions == COLLIDING - CHAIN_ITEMS_MAX);
    /* What is there already may be stored again. */
    uint64_t evictions = shape.sums.evictions;
    EXPECT(put(store, colliding[COLLIDING - 1], (uint32_t)strlen(colliding[COLLIDING - 1]), 8) ==
           PUT_STORED);
    EXPECT(shape_of(store).sums.evictions == evictions);
    /* A rebuild puts it in order again and loses nothing. */
    store_rebuild(store);
    EXPECT(shape_of(store).items == CHAIN_ITEMS_MAX);
    close_store(store);
}

static void
a_full_chain_refuses_where_nothing_may_be_evicted(void)
{
    struct store *store = open_store(32, POLICY_NOEVICTION);
    make_colliding_keys(store);
    for (unsigned i = 0; i < COLLIDING; i++) {
        EXPECT(put(store, colliding[i], (uint32_t)strlen(colliding[i]), 8) ==
               (i < CHAIN_ITEMS_MAX ? PUT_STORED : PUT_NO_MEMORY));
    }
    uint32_t len = (uint32_t)strlen(colliding[COLLIDING - 1]);
    struct arith arith = {.increment = true, .delta = 1, .creates = true};
    key_init(store, &arith.key, colliding[COLLIDING - 1], len);
    EXPECT(store_arith_with(store, &arith) == ARITH_NO_MEMORY);
    for (unsigned i = 0; i < CHAIN_ITEMS_MAX; i++) {
        EXPECT(has(store, colliding[i], (uint32_t)strlen(colliding[i])));
    }
    EXPECT(shape_of(store).sums.evictions == 0);
    /* One that goes makes room for another. */
    EXPECT(drop(store, colliding[0], (uint32_t)strlen(colliding[0])));
    EXPECT(put(store, colliding[COLLIDING - 1], len, 8) == PUT_STORED);
    close_store(store);
}

/* ---- keys that collide under every seed of XXH64 --------------------------------------------- */

/* A lane of XXH64 forgets a flipped top bit if its next word takes it back; the sign of that
 * depends on the seed, but one of the two always fits: of three pairs of words two give the same
 * lane. */
#define LANES 12
#define FLOOD_KEYS 531441 /* 3^12 */
#define FLOOD_KEY_LEN 192

static uint64_t lane_pairs[LANES][3][2];

static void
make_lane_pairs(void)
{
    const uint64_t prime_1 = 0x9E3779B185EBCA87ull, prime_2 = 0xC2B2AE3D27D4EB4Full;
    uint64_t inverse = prime_2; /* modulo 2^64, by Newton */
    for (unsigned i = 0; i < 6; i++) {
        inverse *= 2 - prime_2 * inverse;
    }
    uint64_t d = (prime_1 << 30) * inverse;
    uint64_t random = 88172645463325252ull;
    for (unsigned i = 0; i < LANES; i++) {
        uint64_t word[2];
        for (unsigned j = 0; j < 2; j++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            word[j] = random;
        }
        for (unsigned j = 0; j < 3; j++) {
            lane_pairs[i][j][0] = word[0] ^ (j == 0 ? 0 : UINT64_C(1) << 63);
            lane_pairs[i][j][1] = word[1] + (j == 0 ? 0 : j == 1 ? UINT64_MAX - d + 1 : d);
        }
    }
}

static void
make_flood_key(uint32_t number, uint64_t words[FLOOD_KEY_LEN / 8])
{
    for (unsigned lane = 0; lane < LANES; lane++) {
        const uint64_t *pair = lane_pairs[lane][number % 3];
        number /= 3;
        words[lane / 4 * 8 + lane % 4] = pair[0];
        words[lane / 4 * 8 + 4 + lane % 4] = pair[1];
    }
}

static int
compare_hashes(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

/* The hash under this seed that most of the keys have; how many. */
static uint64_t
most_frequent(uint64_t seed, unsigned *count)
{
    uint64_t *hashes = malloc(FLOOD_KEYS * sizeof(*hashes));
    uint64_t words[FLOOD_KEY_LEN / 8];
    for (uint32_t i = 0; i < FLOOD_KEYS; i++) {
        make_flood_key(i, words);
        hashes[i] = xxh64(words, sizeof(words), seed);
    }
    qsort(hashes, FLOOD_KEYS, sizeof(*hashes), compare_hashes);
    uint64_t best = 0;
    unsigned run = 0;
    *count = 0;
    for (uint32_t i = 0; i < FLOOD_KEYS; i++) {
        run = i > 0 && hashes[i] == hashes[i - 1] ? run + 1 : 1;
        if (run > *count) {
            *count = run;
            best = hashes[i];
        }
    }
    free(hashes);
    return best;
}

static void
keys_that_collide_under_every_seed_of_xxh64_are_spread(void)
{
    make_lane_pairs();
    unsigned count;
    most_frequent(0x123456789ABCDEFull, &count);
    EXPECT(count == 4096);
    uint64_t hash = most_frequent(1, &count);
    EXPECT(count == 4096);
    struct store *store = open_store(32, POLICY_S3FIFO);
    uint64_t words[FLOOD_KEY_LEN / 8];
    for (uint32_t i = 0; i < FLOOD_KEYS; i++) {
        make_flood_key(i, words);
        if (xxh64(words, sizeof(words), 1) == hash) {
            EXPECT(put(store, words, sizeof(words), 8) == PUT_STORED);
        }
    }
    struct shape shape = shape_of(store);
    EXPECT(shape.items == 4096);
    EXPECT(shape.chain_max <= 2);
    EXPECT(shape.sums.evictions == 0);
    close_store(store);
}

/* ---- shrinking ------------------------------------------------------------------------------ */

static void
a_table_shrinks_with_its_items(void)
{
    struct store *store = open_store(64, POLICY_S3FIFO);
    char key[32];
    const uint64_t many = 400000, few = 4000;
    for (uint64_t i = 0; i < many; i++) {
        EXPECT(put(store, key, number_key(key, "k", i), 8) == PUT_STORED);
    }
    struct shape full = shape_of(store);
    EXPECT(full.items == many);
    EXPECT(!store_shrink_tables(store));
    for (uint64_t i = few; i < many; i++) {
        EXPECT(drop(store, key, number_key(key, "k", i)));
    }
    EXPECT(shape_of(store).capacity == full.capacity);
    unsigned steps = 1;
    while (store_shrink_tables(store)) {
        EXPECT(steps++ < 10000);
    }
    struct shape small = shape_of(store);
    EXPECT(small.items == few);
    uint64_t shards = store->shard_mask + 1;
    uint64_t per_page = 1u << (store->page_shift - 6);
    EXPECT(small.buckets < full.buckets / 4);
    EXPECT(small.capacity < small.buckets + 2 * per_page * shards);
    EXPECT(small.table_pages + (full.capacity - small.capacity) / per_page == full.table_pages);
    for (uint64_t i = 0; i < many; i++) {
        EXPECT(has(store, key, number_key(key, "k", i)) == (i < few));
    }
    /* It grows as before, and neither again at once: it does not go back and forth. */
    for (uint64_t i = 0; i < many; i++) {
        EXPECT(put(store, key, number_key(key, "k", i), 8) == PUT_STORED);
        if (i % 1000 == 0) {
            EXPECT(!store_shrink_tables(store) || i < many / 2);
        }
    }
    struct shape again = shape_of(store);
    EXPECT(again.items == many);
    EXPECT(again.load_max <= 14);
    close_store(store);
}

/* ---- damage --------------------------------------------------------------------------------- */

/* Has a bucket go on in itself. */
static void
tie(struct store *store, const char *text)
{
    struct key key;
    key_init(store, &key, text, (uint32_t)strlen(text));
    struct shard *shard = shard_of_hash(store, key.hash);
    uint64_t word = atomic_load(table_word_at(store, shard));
    struct table_bucket *bucket = table_bucket_at(store, shard, table_bucket_index(word, key.hash));
    atomic_store(&bucket->ref[BUCKET_SLOTS - 1], ref_of(store, bucket).units);
    atomic_store(&bucket->tag[BUCKET_SLOTS - 1], TAG_OVERFLOW);
}

static void
a_chain_that_is_a_circle_costs_a_rebuild(void)
{
    struct store *store = open_store(32, POLICY_S3FIFO);
    char key[32];
    for (uint64_t i = 0; i < 1000; i++) {
        EXPECT(put(store, key, number_key(key, "k", i), 8) == PUT_STORED);
    }
    tie(store, "absent");
    EXPECT(!has(store, "absent", 6));
    EXPECT(shape_of(store).sums.rebuilds == 1);
    tie(store, "absent");
    EXPECT(put(store, "absent", 6, 8) == PUT_STORED);
    struct shape shape = shape_of(store);
    EXPECT(shape.sums.rebuilds == 2);
    EXPECT(shape.items == 1001);
    for (uint64_t i = 0; i < 1000; i++) {
        EXPECT(has(store, key, number_key(key, "k", i)));
    }
    close_store(store);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
#define CASE(name) {#name, name}
    CASE(a_full_cache_settles_below_14_items_a_bucket),
    CASE(ordinary_keys_do_not_fill_a_chain),
    CASE(a_long_chain_makes_the_splits_hurry),
    CASE(a_full_chain_evicts),
    CASE(a_full_chain_refuses_where_nothing_may_be_evicted),
    CASE(keys_that_collide_under_every_seed_of_xxh64_are_spread),
    CASE(a_table_shrinks_with_its_items),
    CASE(a_chain_that_is_a_circle_costs_a_rebuild),
};

int
main(int argc, char **argv)
{
    for (unsigned i = 0; argc == 2 && i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (strcmp(argv[1], cases[i].name) == 0) {
            cases[i].run();
            puts("ok");
            return 0;
        }
    }
    return 2;
}
