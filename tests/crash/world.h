/* A segment that is put back into one prepared state again and again, and what its keys hold.
 *
 * Three processes are played: the worker, which is killed; a second one, which repairs or holds
 * something meanwhile; and the judge in the supervisor's slot, which never dies. */
#ifndef TESTS_CRASH_WORLD_H
#define TESTS_CRASH_WORLD_H

#include "settings.h"

#include "base/xxh64.h"
#include "mem/freemap.h"
#include "mem/page.h"
#include "mem/track.h"
#include "store/check.h"
#include "store/flush.h"
#include "store/hashtable.h"
#include "store/rebuild.h"
#include "store/recover.h"
#include "store/slab.h"
#include "store/shrink.h"
#include "store/store.h"
#include "store/sweep.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLOT_VICTIM SLOT_WORKER_FIRST
#define SLOT_SECOND (SLOT_WORKER_FIRST + 1)

/* Two megabytes of pages: more is never populated. */
#define PAGES_MAX 128
#define KEYS_MAX 4000
#define VALUE_MAX 100000

struct fact {
    bool exists;
    uint32_t value_len;
    uint32_t client_flags;
    uint32_t expire_word;
    uint64_t cas;
    uint8_t marks;
    uint64_t value_hash;
};

/* Bytes of the segment at one time. */
struct snapshot {
    uint8_t *bytes;
};

struct world {
    struct segment *segment;
    struct store *victim, *second, *judge;
    unsigned key_count;
    /* What an operation finds in its process: the key, what is to be stored, what is open. */
    struct key key;
    char key_text[32];
    uint8_t *value;
    struct put put;
    struct upload upload;
    struct pin pin;
};

static struct world *
world_open(unsigned megabytes, uint32_t pages, enum eviction_policy policy, uint64_t seed)
{
    struct world *world = calloc(1, sizeof(*world));
    struct segment_settings settings = small_settings((uint64_t)megabytes << 20, 2);
    settings.eviction_policy = policy;
    char sentence[SEGMENT_SENTENCE_MAX];
    if (store_create(&settings, &world->segment, sentence) != SEGMENT_OK) {
        printf("%s\n", sentence);
        exit(2);
    }
    /* The same keys meet in the same buckets each time. */
    CHECK(mprotect(world->segment->superblock->constants, CONSTANTS_BYTES,
                   PROT_READ | PROT_WRITE) == 0);
    world->segment->superblock->hash_key = (struct siphash_key){{seed, ~seed}};
    atomic_store(&world->segment->superblock->pool.effective_count, pages);
    atomic_store(&world->segment->superblock->pool.effective_check, ~pages);
    world->victim = store_open(world->segment, SLOT_VICTIM);
    world->second = store_open(world->segment, SLOT_SECOND);
    world->judge = store_open(world->segment, SLOT_SUPERVISOR);
    world->value = malloc(VALUE_MAX);
    return world;
}

static void
world_close(struct world *world)
{
    store_close(world->victim);
    store_close(world->second);
    store_close(world->judge);
    segment_close(world->segment);
    free(world->value);
    free(world);
}

/* ---- snapshots ------------------------------------------------------------------------------ */

struct range {
    uint8_t *at;
    uint64_t bytes;
};

/* The head of what is tracked, and the bits. */
#define TRACKS_BYTES (TRACK_HEAD_BYTES + (1u << TRACK_SHIFT_MIN) / 8)

#define RANGES 8

/* The parts that the three processes and PAGES_MAX pages can touch. */
static unsigned
ranges(const struct world *world, struct range out[RANGES])
{
    const struct segment *segment = world->segment;
    const struct superblock *data = segment->superblock;
    const struct run_head *run = segment->run;
    uint64_t slots = SLOT_SECOND + 1;
    uint64_t locks = data->shard_count * sizeof(struct shard_lock);
    uint64_t directory = 16 * (uint64_t)data->shard_count * 4;
    uint64_t map = freemap_present_bytes(data->page_count_max) + PAGES_MAX / 8;
    const struct range of[RANGES] = {
        {segment->base, data->held_at + slots * sizeof(struct held_table)},
        {segment->base + data->shards_at, data->tables_at + directory - data->shards_at},
        {segment->base + data->freemap_at, map},
        {segment->base + data->pages_at, PAGES_MAX * sizeof(struct page)},
        {segment->base + data->data_at, (uint64_t)PAGES_MAX << data->page_shift},
        {segment->run_base, run->slots_at + slots * sizeof(struct process_slot)},
        {segment->run_base + run->locks_at, locks},
        {segment->run_base + run->tracks_at, TRACKS_BYTES},
    };
    memcpy(out, of, sizeof(of));
    return RANGES;
}

static void
snapshot_take(struct snapshot *snapshot, const struct world *world)
{
    struct range range[RANGES];
    unsigned count = ranges(world, range);
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        bytes += range[i].bytes;
    }
    snapshot->bytes = malloc(bytes);
    uint8_t *to = snapshot->bytes;
    for (unsigned i = 0; i < count; i++) {
        memcpy(to, range[i].at, range[i].bytes);
        to += range[i].bytes;
    }
}

static void
copy_what_differs(uint8_t *to, const uint8_t *from, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += 4096) {
        uint64_t step = bytes - at < 4096 ? bytes - at : 4096;
        if (memcmp(to + at, from + at, step) != 0) {
            memcpy(to + at, from + at, step);
        }
    }
}

/* The same as taking it anew. */
static void
snapshot_renew(struct snapshot *snapshot, const struct world *world)
{
    struct range range[RANGES];
    unsigned count = ranges(world, range);
    uint8_t *to = snapshot->bytes;
    for (unsigned i = 0; i < count; i++) {
        copy_what_differs(to, range[i].at, range[i].bytes);
        to += range[i].bytes;
    }
}

static void
snapshot_restore(const struct snapshot *snapshot, struct world *world)
{
    struct range range[RANGES];
    unsigned count = ranges(world, range);
    const uint8_t *from = snapshot->bytes;
    for (unsigned i = 0; i < count; i++) {
        copy_what_differs(range[i].at, from, range[i].bytes);
        from += range[i].bytes;
    }
}

static void
snapshot_free(struct snapshot *snapshot)
{
    free(snapshot->bytes);
}

/* ---- keys and values ------------------------------------------------------------------------ */

static void
key_make(struct store *store, struct key *key, char text[32], unsigned index)
{
    int len = sprintf(text, "key-%u", index);
    key_init(store, key, text, (uint32_t)len);
}

/* The operation's key is this one; it stays in the world. */
static void
use_key(struct world *world, unsigned index)
{
    key_make(world->victim, &world->key, world->key_text, index);
    if (index >= world->key_count) {
        world->key_count = index + 1;
    }
}

static void
fill_value(struct world *world, uint32_t len, unsigned salt)
{
    for (uint32_t i = 0; i < len; i++) {
        world->value[i] = (uint8_t)(salt * 31 + i * 7 + (i >> 8));
    }
}

/* The operation stores this: a value of the given length under its key. */
static void
use_put(struct world *world, unsigned index, uint32_t value_len, unsigned salt)
{
    use_key(world, index);
    fill_value(world, value_len, salt);
    world->put = (struct put){.key = world->key,
                              .client_flags = index % 3,
                              .expire = store_expiry(world->victim, index % 4 ? 100000 + index : 0),
                              .value = world->value,
                              .value_len = value_len};
}

/* Stores it by the victim's handle, before it is the victim. */
static enum put_result
store_key(struct world *world, unsigned index, uint32_t value_len, unsigned salt)
{
    use_put(world, index, value_len, salt);
    return store_put(world->victim, &world->put);
}

static void
delete_key(struct world *world, unsigned index)
{
    struct key key;
    char text[32];
    key_make(world->victim, &key, text, index);
    (void)!store_delete(world->victim, &key);
}

static uint8_t read_buffer[VALUE_MAX + 4096];

/* The bytes of a chain. False: it is no longer there. */
static bool
read_chain(struct store *store, const struct key *key)
{
    struct pin pin;
    if (store_pin(store, key, &pin) != PIN_OK) {
        return false;
    }
    struct iovec piece;
    size_t at = 0;
    while (store_pin_pieces(store, &pin, &piece, 1) == 1 &&
           at + piece.iov_len <= sizeof(read_buffer)) {
        memcpy(read_buffer + at, piece.iov_base, piece.iov_len);
        at += piece.iov_len;
        store_pin_advance(store, &pin, piece.iov_len);
    }
    store_unpin(store, &pin);
    return true;
}

static struct fact
read_fact(struct store *store, unsigned index)
{
    struct key key;
    char text[32];
    struct fact fact = {0};
    struct view view = {0};
    key_make(store, &key, text, index);
    for (;;) {
        enum view_result result = store_view(store, &key, &view);
        if (result == VIEW_HIT) {
            memcpy(read_buffer, view.value, view.value_len);
            if (!store_view_confirm(store, &view, VIEW_PEEK)) {
                continue;
            }
        } else if (result != VIEW_HIT_LARGE || !read_chain(store, &key)) {
            return fact;
        }
        fact.exists = true;
        fact.value_len = view.value_len;
        fact.client_flags = view.client_flags;
        fact.expire_word = view.expire_word;
        fact.cas = view.cas;
        fact.marks = view.bits & ITEM_MARKS;
        fact.value_hash = xxh64(read_buffer, view.value_len, 0);
        return fact;
    }
}

static bool
facts_equal(const struct fact *a, const struct fact *b)
{
    return a->exists == b->exists && a->value_len == b->value_len &&
           a->client_flags == b->client_flags && a->expire_word == b->expire_word &&
           a->cas == b->cas && a->marks == b->marks && a->value_hash == b->value_hash;
}

static struct fact *
read_facts(struct world *world, struct store *store)
{
    struct fact *facts = calloc(world->key_count + 1, sizeof(*facts));
    for (unsigned i = 0; i < world->key_count; i++) {
        facts[i] = read_fact(store, i);
    }
    return facts;
}

static struct shard *
key_shard(struct world *world)
{
    return shard_of_hash(world->victim, world->key.hash);
}

#endif
