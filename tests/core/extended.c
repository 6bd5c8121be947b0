/* Items with an extension and parts of collections, which this build never writes: planted by hand,
 * as a later build would leave them. Each is named before a segment serves, and no walk frees,
 * moves or misreads one. Also the queue of chains to be freed, and versions that lie in items.
 *
 * Prints "ok"; exits 1 at the first thing wrong. */
#include "expect.h"
#include "settings.h"

#include "base/crash.h"
#include "mem/logring.h"
#include "store/account.h"
#include "store/check.h"
#include "store/drain.h"
#include "store/dump.h"
#include "store/expiry.h"
#include "store/flush.h"
#include "store/hashtable.h"
#include "store/item_walk.h"
#include "store/rebuild.h"
#include "store/recover.h"
#include "store/sweep.h"
#include "store/tell.h"
#include "store/unknown.h"
#include "store/walk.h"
#include "store/write.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEGABYTES 16
#define OTHER (SLOT_WORKER_FIRST + 1)

static struct segment *segment;
static struct store *store;
static uint8_t value[200000];

static void
print_problem(void *context, const char *sentence)
{
    (void)context;
    printf("%s\n", sentence);
}

static void
ignore_problem(void *context, const char *sentence)
{
    (void)context;
    (void)sentence;
}

static struct segment_settings
settings_for(enum eviction_policy policy)
{
    struct segment_settings settings = small_settings((uint64_t)MEGABYTES << 20, 2);
    settings.item_size_min_bytes = 12;
    settings.eviction_policy = policy;
    settings.slab_reassign = true;
    return settings;
}

static void
use(void)
{
    segment_claim_slot(segment, SLOT_WORKER_FIRST);
    store = store_open(segment, SLOT_WORKER_FIRST);
}

static void
begin(enum eviction_policy policy)
{
    char sentence[SEGMENT_SENTENCE_MAX];
    struct segment_settings settings = settings_for(policy);
    EXPECT(store_create(&settings, &segment, sentence) == SEGMENT_OK);
    use();
}

static void
end(void)
{
    store_close(store);
    segment_close(segment);
}

static void
expect_sound(void)
{
    EXPECT(store_check(store, print_problem, NULL) == 0);
}

static struct put
put_of(const char *key, uint32_t value_len)
{
    struct put put = {.mode = PUT_SET, .value = value, .value_len = value_len};
    key_init(store, &put.key, key, (uint32_t)strlen(key));
    return put;
}

/* ---- planting ------------------------------------------------------------------------------- */

/* What was planted, and how it looked. */
struct plant {
    struct key key;
    struct ref ref;
    uint32_t class_id;
    uint32_t bytes; /* of the chunk that are compared; the state word is not */
    uint8_t image[8192];
};

static void
remember(struct plant *plant, struct ref ref, uint32_t bytes)
{
    plant->ref = ref;
    plant->class_id = class_of_ref(store, ref);
    plant->bytes = bytes;
    memcpy(plant->image, ref_at(store, ref), bytes);
}

static void
expect_untouched(const struct plant *plant)
{
    void *chunk = ref_at(store, plant->ref);
    EXPECT(class_of_ref(store, plant->ref) == plant->class_id);
    EXPECT(state_kind(chunk_state(chunk)) == (plant->image[0] & STATE_KIND_MASK));
    EXPECT(memcmp((uint8_t *)chunk + 4, plant->image + 4, plant->bytes - 4) == 0);
}

static bool
is_linked(const struct plant *plant)
{
    struct shard *shard = shard_of_key(store, &plant->key);
    struct table_place place;
    EXPECT(shard_lock(store, shard));
    table_find(store, shard, plant->key.bytes, plant->key.len, plant->key.hash, &place);
    shard_unlock(store, shard);
    return place.bucket != NULL && place.ref.units == plant->ref.units;
}

/* Makes a stored item one with an extension: what lies behind it moves on, the value is shorter by
 * as much, so that no sum changes. */
static void
extend(struct plant *plant, const char *text, uint32_t value_len, uint32_t extension,
       int64_t exptime)
{
    uint32_t words = extension & EXTENSION_HAS_CHECKSUM ? 8 : 4;
    struct put put = put_of(text, value_len);
    put.expire = store_expiry(store, exptime);
    EXPECT(store_put(store, &put) == PUT_STORED);
    struct shard *shard = shard_of_key(store, &put.key);
    struct table_place place;
    EXPECT(shard_lock(store, shard));
    table_find(store, shard, put.key.bytes, put.key.len, put.key.hash, &place);
    EXPECT(place.bucket != NULL && !(place.item->bits & ITEM_EXTENDED));
    struct item *item = place.item;
    uint8_t *at = item_key(item);
    memmove(at + words, at, put.key.len + value_len - words);
    memset(at, 0xC5, words);
    item->bits |= ITEM_EXTENDED;
    atomic_store(item_extension_at(item, item->bits), extension);
    item->value_len -= words;
    item->check = item_check_value_extended(put.key.hash, item->value_len, item->key_len,
                                            item->bits, extension);
    EXPECT(head_is_sound(store, item, class_of_ref(store, place.ref)));
    plant->key = put.key;
    remember(plant, place.ref, (uint32_t)item_bytes(item) < 8192 ? (uint32_t)item_bytes(item) : 64);
    shard_unlock(store, shard);
}

/* Stores items of the class, with so many bytes of key and value, until the shard has room for one
 * more. */
static void
make_free_chunk(const struct shard *shard, uint32_t class_id, uint32_t bytes)
{
    struct put put = put_of("p", bytes - 6);
    for (int i = 0; shard->classes[class_id].free_chunks == 0; i++) {
        char text[32];
        EXPECT(i < 10000);
        key_init(store, &put.key, text, (uint32_t)sprintf(text, "p%05d", i));
        EXPECT(store_put(store, &put) == PUT_STORED);
    }
}

/* An item of another database whose key is long, with a checksum. */
static void
plant_long_key(struct plant *plant, const uint8_t *bytes, uint32_t len)
{
    static const uint8_t content[] = "content";
    struct key key;
    key_init_in(store, &key, 3, bytes, len);
    uint32_t class_id = slab_class_of(store, ITEM_HEADER_BYTES + 8 + len + sizeof(content));
    struct shard *shard = shard_of_key(store, &key);
    make_free_chunk(shard, class_id, 8 + len + sizeof(content));
    uint32_t extension = EXTENSION_HAS_CHECKSUM | 3u << EXTENSION_DATABASE_SHIFT |
                         (len & EXTENSION_KEY_LEN_MASK) | 250u << EXTENSION_MS_SHIFT;
    struct table_place place;
    EXPECT(shard_lock(store, shard));
    table_find(store, shard, key.bytes, key.len, key.hash, &place);
    EXPECT(place.bucket == NULL && place.primary != NULL && table_prepare(store, shard));
    struct ref ref = chunk_pop(store, shard, class_id);
    struct item *item = ref_at(store, ref);
    atomic_store(&item->expire_word, 0);
    item->cas = 77;
    item->value_len = sizeof(content);
    item->key_len = (uint8_t)len;
    item->bits = ITEM_EXTENDED;
    item->epoch = epoch_now(store);
    atomic_store(item_extension_at(item, item->bits), extension);
    item->check =
        item_check_value_extended(key.hash, item->value_len, item->key_len, item->bits, extension);
    memcpy(item_key(item), bytes, len);
    memcpy(item_value(item), content, sizeof(content));
    item_publish(store, shard, &place, key.hash, ref, PUBLISH_STORED);
    plant->key = key;
    remember(plant, ref, (uint32_t)item_bytes(item));
    EXPECT(item_key_len(item) == len &&
           (size_t)(item_value(item) - (uint8_t *)item) == ITEM_HEADER_BYTES + 8 + (size_t)len);
    shard_unlock(store, shard);
}

/* A chunk that names the item as the one it is part of. */
static void
plant_part(struct plant *plant, const struct plant *of, enum chunk_kind kind)
{
    struct shard *shard = shard_of_key(store, &of->key);
    uint32_t class_id = slab_class_of(store, ITEM_HEADER_BYTES + 400);
    make_free_chunk(shard, class_id, 400);
    EXPECT(shard_lock(store, shard));
    struct ref ref = chunk_pop(store, shard, class_id);
    struct collection_part *part = ref_at(store, ref);
    uint32_t generation = chunk_state(part) & STATE_GENERATION_MASK;
    memset((uint8_t *)part + sizeof(*part), 0x3C, 400);
    part->head = of->ref.units;
    atomic_store(&part->state, generation | kind);
    journal_commit(shard);
    remember(plant, ref, 400);
    shard_unlock(store, shard);
}

/* All of them: a leaf in an item, dead in 5 s; a string of another database under a long key; a
 * tree in a chain; and one of each kind of part. */
#define PLANTS 6
static struct plant plants[PLANTS];
static uint8_t long_key[KEY_LEN_MAX];

static void
plant_all(void)
{
    for (uint32_t i = 0; i < sizeof(long_key); i++) {
        long_key[i] = (uint8_t)('a' + i % 23);
    }
    extend(&plants[0], "a leaf", 300, 1u | 1u << EXTENSION_FORM_SHIFT | 500u << EXTENSION_MS_SHIFT,
           5);
    plant_long_key(&plants[1], long_key, sizeof(long_key));
    extend(&plants[2], "a tree", 100, 3u | 2u << EXTENSION_FORM_SHIFT, 0);
    plant_part(&plants[3], &plants[2], CHUNK_LEAF);
    plant_part(&plants[4], &plants[2], CHUNK_BRANCH);
    plant_part(&plants[5], &plants[2], CHUNK_STAGED);
    expect_sound();
}

static void
expect_all_untouched(void)
{
    for (unsigned i = 0; i < PLANTS; i++) {
        expect_untouched(&plants[i]);
    }
    EXPECT(is_linked(&plants[0]) && is_linked(&plants[1]) && is_linked(&plants[2]));
}

/* ---- what is proved ------------------------------------------------------------------------- */

static bool
find_unknown(char *sentence)
{
    bool found = false;
    for (uint32_t i = 0; i <= store->shard_mask && !found; i++) {
        struct shard *shard = &store->shards[i];
        EXPECT(shard_lock(store, shard));
        found = shard_find_unknown(store, shard, sentence);
        shard_unlock(store, shard);
    }
    return found;
}

static void
expect_named(const char *part, const char *another)
{
    char sentence[SEGMENT_SENTENCE_MAX] = "";
    EXPECT(find_unknown(sentence));
    if (strstr(sentence, part) == NULL || strstr(sentence, another) == NULL) {
        printf("%s\n", sentence);
        exit(1);
    }
}

static void
what_is_unknown_is_named(void)
{
    char sentence[SEGMENT_SENTENCE_MAX] = "";
    struct plant item, part;
    static const uint8_t key[300] = "a key of 300 bytes";
    begin(POLICY_S3FIFO);
    struct put put = put_of("plain", 100);
    EXPECT(store_put(store, &put) == PUT_STORED);
    put = put_of("chain", sizeof(value));
    EXPECT(store_put(store, &put) == PUT_STORED);
    EXPECT(!find_unknown(sentence) && sentence[0] == '\0');
    extend(&item, "an item", 100, 2u | 1u << EXTENSION_FORM_SHIFT | 7u << EXTENSION_MS_SHIFT, 0);
    expect_named("needs the feature \"extended items\", which this build does not know",
                 "(type 2, form 1, database 0, 7 ms, a key of 7 bytes)");
    end();
    begin(POLICY_S3FIFO);
    plant_long_key(&item, key, sizeof(key));
    expect_named("needs the feature \"extended items\"",
                 "(type 0, form 0, database 3, 250 ms, a key of 300 bytes, a checksum)");
    end();
    static const struct {
        enum chunk_kind kind;
        const char *feature, *name;
    } kinds[] = {
        {CHUNK_LEAF, "\"collections\"", "is a leaf (kind 5)"},
        {CHUNK_BRANCH, "\"collections\"", "is a branch (kind 6)"},
        {CHUNK_STAGED, "\"commits\"", "is a staged part (kind 7)"},
    };
    for (unsigned i = 0; i < 3; i++) {
        begin(POLICY_S3FIFO);
        /* The first in the order of pages is named, and the part's is there before the item. */
        key_init(store, &item.key, "a tree", 6);
        item.ref = REF_NONE;
        plant_part(&part, &item, kinds[i].kind);
        EXPECT(!find_unknown(sentence));
        extend(&item, "a tree", 100, 1u | 2u << EXTENSION_FORM_SHIFT, 0);
        EXPECT(page_of_ref(store, part.ref) < page_of_ref(store, item.ref));
        ((struct collection_part *)ref_at(store, part.ref))->head = item.ref.units;
        expect_named(kinds[i].feature, kinds[i].name);
        end();
    }
}

static void
expect_refused(int fd, const char *part)
{
    char sentence[SEGMENT_SENTENCE_MAX] = "";
    struct segment_settings settings = settings_for(POLICY_S3FIFO);
    struct reopened reopened;
    EXPECT(store_reopen(fd, &settings, &segment, &reopened, sentence) == SEGMENT_FAILED);
    if (strstr(sentence, part) == NULL) {
        printf("%s\n", sentence);
        exit(1);
    }
}

/* By what its head says, and where a shard has to be repaired also by the item itself. */
static void
a_file_that_has_it_is_refused_by_name(void)
{
    char sentence[SEGMENT_SENTENCE_MAX];
    struct segment_settings settings = settings_for(POLICY_S3FIFO);
    FILE *file = tmpfile();
    EXPECT(file != NULL && ftruncate(fileno(file), 64 << 20) == 0);
    EXPECT(store_create_in(fileno(file), &settings, &segment, sentence) == SEGMENT_OK);
    use();
    struct plant item;
    extend(&item, "an item", 100, 2u, 0);
    shard_of_key(store, &item.key)->repair_attempts = 1;
    end();
    expect_refused(fileno(file), "needs the feature \"extended items\", which this build");

    struct superblock *head = aligned_alloc(CACHE_LINE_BYTES, sizeof(*head));
    EXPECT(head != NULL && pread(fileno(file), head, sizeof(*head), 0) == sizeof(*head));
    head->features_needed = 2;
    head->constants_check = data_constants_check(head);
    EXPECT(pwrite(fileno(file), head, sizeof(*head), 0) == sizeof(*head));
    expect_refused(fileno(file), "needs \"extended items\" (feature bit 1)");
    free(head);
    fclose(file);
}

static void
reads_miss_it_and_writes_know_that_it_is_there(void)
{
    begin(POLICY_S3FIFO);
    plant_all();
    for (unsigned i = 0; i < 3; i++) {
        const struct key *key = &plants[i].key;
        struct view view = {0};
        struct pin pin;
        uint64_t number;
        EXPECT(store_view(store, key, &view) == VIEW_MISS);
        if (i == 1) {
            continue; /* No put has so long a key. */
        }
        EXPECT(store_pin(store, key, &pin) == PIN_GONE);
        struct fetch fetch = {.key = *key, .wants_value = true};
        EXPECT(store_fetch(store, &fetch, &view) == FETCH_MISS);
        EXPECT(store_arith(store, key, true, 1, &number) == ARITH_NOT_A_NUMBER);
        struct put put = {.key = *key, .value = value, .value_len = 10, .mode = PUT_ADD};
        EXPECT(store_put(store, &put) == PUT_NOT_STORED);
        put.mode = PUT_APPEND;
        EXPECT(store_put(store, &put) == PUT_NOT_STORED);
        put.value_len = sizeof(value);
        EXPECT(store_put(store, &put) == PUT_NOT_STORED);
        expect_all_untouched();
    }
    /* The same bytes in another database are another key. */
    struct key other;
    key_init_in(store, &other, 2, long_key, sizeof(long_key));
    EXPECT(other.hash != plants[1].key.hash);
    EXPECT(store_delete(store, &other) == DELETE_NOT_FOUND);
    expect_all_untouched();
    struct put put = {.key = plants[0].key, .value = value, .value_len = 20, .mode = PUT_SET};
    EXPECT(store_put(store, &put) == PUT_STORED);
    struct view view = {0};
    EXPECT(store_view(store, &plants[0].key, &view) == VIEW_HIT && view.value_len == 20);
    EXPECT(store_delete(store, &plants[1].key) == DELETE_DONE);
    expect_sound();
    end();
}

static void
fill(uint32_t value_len, int count, char letter)
{
    struct put put = put_of("x", value_len);
    for (int i = 0; i < count; i++) {
        char text[32];
        key_init(store, &put.key, text, (uint32_t)sprintf(text, "%c%d", letter, i));
        EXPECT(store_put(store, &put) == PUT_STORED);
        if (i % 4096 == 0) {
            store_tick(store);
        }
    }
}

static uint64_t
sum_of_evictions(void)
{
    struct store_sums sums;
    store_sum(store, &sums);
    return sums.evictions;
}

/* Whatever is stored, of their sizes and of others: hands pass, samples are drawn, pages leave. */
static void
eviction_and_moving_pages_leave_it(enum eviction_policy policy)
{
    begin(policy);
    plant_all();
    fill(290, 100000, 'a');
    expect_all_untouched();
    fill(390, 80000, 'b');
    expect_all_untouched();
    fill(8000, 8000, 'c');
    fill(50, 400000, 'd');
    fill(4200, 8000, 'e');
    fill(150000, 300, 'f');
    expect_all_untouched();
    EXPECT(sum_of_evictions() > 100000);
    for (unsigned i = 0; i < PLANTS; i++) {
        struct ref ref = plants[i].ref;
        struct shard *shard = &store->shards[page_owner_shard(
            atomic_load(&page_entry(segment, page_of_ref(store, ref))->owner))];
        EXPECT(shard_lock(store, shard));
        /* Every page of the class that can go does. */
        for (unsigned j = 0; j < 200; j++) {
            uint32_t number = drain_page_of_class(store, shard, plants[i].class_id, EVICTED_MAIN);
            EXPECT(number != page_of_ref(store, ref));
            if (number == PAGE_NONE) {
                break;
            }
            page_stop_leaving(store, shard);
            EXPECT(slab_reassign_page(store, shard, plants[i].class_id, 0) || j > 0);
        }
        shard_unlock(store, shard);
        expect_all_untouched();
    }
    expect_sound();
    end();
}

/* Of the items of a full chain the dead go first, but not one that is not known. */
static void
a_full_chain_evicts_another(void)
{
    enum { COLLIDING = CHAIN_ITEMS_MAX + 30, LOW_BITS = 0x3FFF };
    static char keys[COLLIDING][16];
    begin(POLICY_S3FIFO);
    unsigned count = 0;
    for (unsigned i = 0; count < COLLIDING; i++) {
        struct key key;
        key_init(store, &key, keys[count], (uint32_t)sprintf(keys[count], "%u", i));
        count += (key.hash & LOW_BITS) == 0x123 && shard_of_key(store, &key) == store->shards;
    }
    struct plant plant;
    extend(&plant, keys[0], 100, 1u, 5);
    atomic_fetch_add(&segment->run->advance_s, 3600);
    store_tick(store);
    uint64_t evictions = 0;
    for (unsigned i = 1; i < COLLIDING; i++) {
        struct put put = put_of(keys[i], 100);
        EXPECT(store_put(store, &put) == PUT_STORED);
        evictions += store->shards->sums.evicted_by[EVICTED_CHAIN];
    }
    EXPECT(evictions > 0);
    expect_untouched(&plant);
    EXPECT(is_linked(&plant));
    expect_sound();
    end();
}

static void
pass_of_sweep(void)
{
    atomic_fetch_add(&segment->run->advance_s, 3600);
    store_tick(store);
    while (store_sweep(store)) {
    }
    while (store->sweep.running) {
        (void)!store_sweep(store);
    }
}

static void
sweeps_leave_it_though_it_is_dead(void)
{
    begin(POLICY_S3FIFO);
    plant_all();
    fill(290, 1000, 'a');
    pass_of_sweep();
    expect_all_untouched();
    EXPECT(item_is_dead(store, ref_at(store, plants[0].ref)));
    EXPECT(store_flush_all(store, 0));
    store_tick(store);
    pass_of_sweep();
    EXPECT(flush_sweep(store, UINT32_MAX));
    expect_all_untouched();
    struct store_sums sums;
    store_sum(store, &sums);
    EXPECT(sums.curr_items == 3);
    expect_sound();
    end();
}

static void
a_rebuild_keeps_it_and_its_parts(void)
{
    begin(POLICY_S3FIFO);
    plant_all();
    fill(290, 5000, 'a');
    store_rebuild(store);
    expect_all_untouched();
    expect_sound();
    /* Without their item the parts are what a walk tells, and a rebuild frees. */
    EXPECT(store_delete(store, &plants[2].key) == DELETE_DONE);
    EXPECT(store_check(store, ignore_problem, NULL) == 3);
    store_rebuild(store);
    for (unsigned i = 3; i < PLANTS; i++) {
        EXPECT(state_kind(chunk_state(ref_at(store, plants[i].ref))) == CHUNK_FREE);
    }
    expect_untouched(&plants[0]);
    expect_untouched(&plants[1]);
    expect_sound();
    end();
}

/* A damaged bit that only says so makes no item unknown. */
static void
a_damaged_bit_is_damage(void)
{
    begin(POLICY_S3FIFO);
    char sentence[SEGMENT_SENTENCE_MAX];
    struct put put = put_of("damaged", 100);
    EXPECT(store_put(store, &put) == PUT_STORED);
    struct shard *shard = shard_of_key(store, &put.key);
    struct table_place place;
    EXPECT(shard_lock(store, shard));
    table_find(store, shard, put.key.bytes, put.key.len, put.key.hash, &place);
    place.item->bits |= ITEM_EXTENDED;
    shard_unlock(store, shard);
    EXPECT(!find_unknown(sentence));
    struct view view = {0};
    EXPECT(store_view(store, &put.key, &view) == VIEW_MISS);
    EXPECT(store_check(store, ignore_problem, NULL) != 0);
    store_rebuild(store);
    expect_sound();
    EXPECT(store_put(store, &put) == PUT_STORED);
    /* A length that leads far behind the page, in the last chunk as in any other. */
    fill(20, 200000, 'x');
    for (uint32_t number = 0; number < pool_populated(segment); number++) {
        uint32_t owner = atomic_load(&page_entry(segment, number)->owner);
        if (page_has_chunks(store->superblock, owner)) {
            uint32_t class_id = page_owner_kind(owner);
            struct item *item =
                chunk_at(store, number, class_id, slab_chunks_per_page(store, class_id) - 1);
            if (state_kind(chunk_state(item)) == CHUNK_LIVE) {
                item->bits |= ITEM_EXTENDED;
                memset(item->tail, 0xFF, 4);
            }
        }
    }
    EXPECT(!find_unknown(sentence));
    store_rebuild(store);
    expect_sound();
    end();
}

static bool
count_item(void *context, const struct walked_item *item)
{
    (void)item;
    ++*(unsigned *)context;
    return true;
}

static void
dumps_and_walks_leave_it_out(void)
{
    begin(POLICY_S3FIFO);
    plant_all();
    struct put put = put_of("told", 290);
    EXPECT(store_put(store, &put) == PUT_STORED);
    struct dump_cursor cursor = {0};
    static struct dump_item items[DUMP_ITEMS_MAX];
    unsigned count, told = 0, walked = 0;
    while (store_dump(store, &cursor, UINT64_MAX, items, &count) == DUMP_MORE) {
        for (unsigned i = 0; i < count; i++) {
            told += items[i].key[0] != 'p'; /* What made room for the plants. */
            EXPECT(items[i].type == 0 && items[i].database == 0);
        }
    }
    EXPECT(told == 1);
    EXPECT(store_walk_items(store, slab_class_of(store, 290 + 32), count_item, &walked));
    EXPECT(walked == 1);
    struct store_account account;
    EXPECT(store_account(store, &account));
    EXPECT(account.key_bytes >= sizeof(long_key));
    uint64_t sum = 0;
#define X(name) sum += account.name;
    ACCOUNT_PART_LIST(X)
#undef X
    EXPECT(sum == account.pages_bytes);
    end();
}

static void
a_log_line_has_the_beginning_of_a_long_key(void)
{
    begin(POLICY_S3FIFO);
    plant_all();
    struct log_position position;
    static struct log_entry entry;
    uint64_t lost = 0;
    EXPECT(logring_populate(segment) && logring_add_watcher(segment, store->slot));
    logring_watch(segment, store->slot, LOG_DELETIONS);
    logring_begin(segment, SLOT_WORKER_FIRST, &position);
    EXPECT(store_delete(store, &plants[1].key) == DELETE_DONE);
    EXPECT(logring_read(segment, SLOT_WORKER_FIRST, &position, &entry, &lost) == LOG_READ_ENTRY);
    EXPECT(entry.head.kind == LOG_DELETED && entry.head.text_len == LOG_TEXT_MAX &&
           memcmp(entry.text, long_key, LOG_TEXT_MAX) == 0);
    end();
}

static void
longer_keys_are_refused_until_they_can_be_stored(void)
{
    begin(POLICY_S3FIFO);
    static char text[KEY_LEN_MAX + 1];
    memset(text, 'k', KEY_LEN_MAX);
    struct put put = put_of("", 10);
    key_init(store, &put.key, text, PLAIN_KEY_LEN_MAX);
    EXPECT(store_put(store, &put) == PUT_STORED);
    key_init(store, &put.key, text, PLAIN_KEY_LEN_MAX + 1);
    EXPECT(store_put(store, &put) == PUT_TOO_LARGE);
    put.value_len = 100000;
    struct upload upload;
    EXPECT(store_upload_begin(store, &put, &upload) == PUT_TOO_LARGE);
    struct key plain, in_0, in_1;
    key_init(store, &plain, text, KEY_LEN_MAX);
    key_init_in(store, &in_0, 0, text, KEY_LEN_MAX);
    key_init_in(store, &in_1, 1, text, KEY_LEN_MAX);
    EXPECT(plain.len == KEY_LEN_MAX && plain.hash == in_0.hash && plain.hash != in_1.hash);
    EXPECT(plain.database == 0 && in_1.database == 1 && plain.shard_hash == in_0.shard_hash);
    struct view view = {0};
    EXPECT(store_view(store, &plain, &view) == VIEW_MISS);
    EXPECT(store_delete(store, &plain) == DELETE_NOT_FOUND);
    end();
}

/* ---- deaths --------------------------------------------------------------------------------- */

typedef void die_fn(struct store *of);

static void
die_in(die_fn *act)
{
    pid_t pid = fork();
    if (pid == 0) {
        segment_claim_slot(segment, OTHER);
        struct store *of = store_open(segment, OTHER);
        act(of);
        raise(SIGKILL);
    }
    int status;
    EXPECT(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    struct recovery recovery;
    EXPECT(store_recover(store, OTHER, &recovery));
}

/* Where a version may lie in a value. */
static _Atomic uint32_t *
word_in_value(const struct store *of, struct ref ref)
{
    uint8_t *at = item_value(ref_at(of, ref));
    return (_Atomic uint32_t *)(void *)(at + (8 - (uintptr_t)at % 8));
}

static struct ref named;

static void
die_with_an_open_version(struct store *of)
{
    struct shard *shard = &of->shards[page_owner_shard(
        atomic_load(&page_entry(of->segment, page_of_ref(of, named))->owner))];
    EXPECT(shard_lock(of, shard));
    version_open(of, shard, word_in_value(of, named));
}

/* A store that damage made: the version is in a plain item, which has none. */
static void
die_with_a_damaged_open_version(struct store *of)
{
    struct shard *shard = &of->shards[page_owner_shard(
        atomic_load(&page_entry(of->segment, page_of_ref(of, named))->owner))];
    EXPECT(shard_lock(of, shard));
    shard->open_version = (uint64_t)((uint8_t *)word_in_value(of, named) - of->base);
}

static void
an_open_version_in_an_item_is_closed(void)
{
    begin(POLICY_S3FIFO);
    plant_all();
    struct store_sums sums;
    store_sum(store, &sums);
    uint64_t rebuilds = sums.rebuilds;
    named = plants[2].ref;
    _Atomic uint32_t *version = word_in_value(store, named);
    atomic_store(version, 40);
    die_in(die_with_an_open_version);
    EXPECT(atomic_load(version) == 42);
    store_sum(store, &sums);
    EXPECT(sums.rebuilds == rebuilds);
    expect_sound();
    struct put put = put_of("plain", 100);
    EXPECT(store_put(store, &put) == PUT_STORED);
    struct view view = {0};
    EXPECT(store_view(store, &put.key, &view) == VIEW_HIT);
    named = ref_of(store, view.state_at);
    atomic_store(word_in_value(store, named), 41);
    die_in(die_with_a_damaged_open_version);
    EXPECT(atomic_load(word_in_value(store, named)) == 41);
    store_sum(store, &sums);
    EXPECT(sums.rebuilds == rebuilds + 1);
    expect_sound();
    end();
}

#define CHAINS 5

/* Unlinks chains of one shard and frees none. */
static void
die_with_a_queue(struct store *of)
{
    struct shard *shard = NULL;
    unsigned queued = 0;
    struct ref refs[CHAINS];
    for (int i = 0; queued < CHAINS; i++) {
        char text[32];
        struct key key;
        key_init(of, &key, text, (uint32_t)sprintf(text, "chain%d", i));
        if (shard == NULL) {
            shard = shard_of_key(of, &key);
            EXPECT(shard_lock(of, shard));
        }
        if (shard_of_key(of, &key) != shard) {
            continue;
        }
        struct table_place place;
        table_find(of, shard, key.bytes, key.len, key.hash, &place);
        EXPECT(place.bucket != NULL && place.item->bits & ITEM_CHAINED);
        bucket_open(of, shard, place.primary);
        sums_remove(of, shard, place.item, UNLINK_DELETE);
        table_unlink(of, shard, &place);
        item_discard(of, shard, place.ref);
        journal_commit(shard);
        bucket_close(shard, place.primary);
        refs[queued++] = place.ref;
    }
    EXPECT(shard->reclaiming == refs[0].units && shard->reclaiming_last == refs[CHAINS - 1].units);
    for (unsigned i = 0; i + 1 < CHAINS; i++) {
        EXPECT(atomic_load(reclaim_next(ref_at(of, refs[i]))) == refs[i + 1].units);
    }
    /* What waits is nothing that a checker complains of. */
    EXPECT(shard_is_plausible(of, shard) && shard_check(of, shard, print_problem, NULL) == 0);
}

static void
a_queue_of_chains_is_freed_after_a_death(void)
{
    begin(POLICY_S3FIFO);
    struct put put = put_of("", 100000);
    for (int i = 0; i < 100; i++) {
        char text[32];
        key_init(store, &put.key, text, (uint32_t)sprintf(text, "chain%d", i));
        EXPECT(store_put(store, &put) == PUT_STORED);
    }
    struct store_account before, after;
    EXPECT(store_account(store, &before));
    die_in(die_with_a_queue);
    expect_sound();
    EXPECT(store_account(store, &after));
    EXPECT(after.items == before.items - CHAINS && after.unlinked_bytes == 0);
    struct store_sums sums;
    store_sum(store, &sums);
    EXPECT(sums.rebuilds == 0 && sums.repairs == 1);
    end();
}

int
main(void)
{
    memset(value, 'v', sizeof(value));
    what_is_unknown_is_named();
    a_file_that_has_it_is_refused_by_name();
    reads_miss_it_and_writes_know_that_it_is_there();
    static const enum eviction_policy policies[] = {POLICY_S3FIFO, POLICY_ALLKEYS_LRU,
                                                    POLICY_ALLKEYS_LFU, POLICY_ALLKEYS_RANDOM};
    for (unsigned i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        eviction_and_moving_pages_leave_it(policies[i]);
    }
    a_full_chain_evicts_another();
    sweeps_leave_it_though_it_is_dead();
    a_rebuild_keeps_it_and_its_parts();
    a_damaged_bit_is_damage();
    dumps_and_walks_leave_it_out();
    a_log_line_has_the_beginning_of_a_long_key();
    longer_keys_are_refused_until_they_can_be_stored();
    an_open_version_in_an_item_is_closed();
    a_queue_of_chains_is_freed_after_a_death();
    printf("ok\n");
    return 0;
}
