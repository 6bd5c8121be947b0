/* What happens to a whole shard: flushes, growth of the table, pages on their way, the maintainer's
 * work. */
#ifndef TESTS_CRASH_OPERATIONS_MEMORY_H
#define TESTS_CRASH_OPERATIONS_MEMORY_H

#include "operations_text.h"

/* ---- flush_all ------------------------------------------------------------------------------ */

static bool
run_flush_all(struct world *world)
{
    store_flush_all(world->victim, 0);
    return true;
}

static bool
run_flush_all_later(struct world *world)
{
    store_flush_all(world->victim, 100000);
    return true;
}

/* So many flushes since the dead items of one were swept that the next helps with that. */
static void
prepare_flush_all_sweep(struct world *world)
{
    atomic_store(&world->segment->superblock->flush[0], 0x7FFF);
    store_a_few(world);
}

static bool
run_flush_all_sweep(struct world *world)
{
    store_flush_all(world->victim, 0);
    return flush_sweep(world->victim, UINT32_MAX);
}

/* ---- table ---------------------------------------------------------------------------------- */

static bool
run_merge(struct world *world)
{
    struct shard *shard = key_shard(world);
    if (!shard_lock(world->victim, shard)) {
        return false;
    }
    (void)table_shrink(world->victim, shard, 1);
    shard_unlock(world->victim, shard);
    return true;
}

/* The bucket of the key's shard that is merged next goes on in an overflow bucket. */
static bool
last_bucket_has_overflow(struct world *world)
{
    const struct shard *shard = key_shard(world);
    uint64_t word = atomic_load(table_word_at(world->judge, shard));
    return bucket_next(world->judge,
                       table_bucket_at(world->judge, shard, table_bucket_count(word) - 1)) != NULL;
}

/* The bucket that is merged has an overflow bucket, which goes on in the other's chain. */
static void
prepare_merge_chain(struct world *world)
{
    store_until(world, 0, 1, split);
    store_some(world, world->key_count - 1, 1, 1);
    const struct shard *shard = key_shard(world);
    uint64_t word = atomic_load(table_word_at(world->judge, shard));
    uint32_t last = table_bucket_count(word) - 1;
    unsigned count = world->key_count;
    for (unsigned i = 0; i < count; i++) {
        struct key key;
        char text[32];
        key_make(world->victim, &key, text, i);
        if (table_bucket_index(word, key.hash) != last && i % 4 != 0) {
            delete_key(world, i);
        }
    }
    for (unsigned index = count; !last_bucket_has_overflow(world); index++) {
        struct key key;
        char text[32];
        key_make(world->victim, &key, text, index);
        if (shard_of_hash(world->victim, key.hash) == shard &&
            table_bucket_index(word, key.hash) == last) {
            store_some(world, index, 1, 1);
        }
    }
    use_key(world, 0);
}

static void
prepare_nothing(struct world *world)
{
    use_put(world, 0, SMALL, 99);
}

static void
prepare_split(struct world *world)
{
    store_until(world, 0, SMALL, split);
}

/* Keys of one bucket, as many as its chain can have; the operation's is the next. */
static void
prepare_chain_full(struct world *world)
{
    unsigned index = 0;
    for (unsigned found = 0; found <= CHAIN_ITEMS_MAX; index++) {
        struct key key;
        char text[32];
        key_make(world->victim, &key, text, index);
        if ((key.hash & 0xFF) != 0x34 ||
            shard_of_hash(world->victim, key.hash) != world->victim->shards) {
            continue;
        }
        if (found++ < CHAIN_ITEMS_MAX) {
            (void)!store_key(world, index, SMALL, index);
        } else {
            use_put(world, index, SMALL, 99);
        }
    }
}

static void
prepare_table_page(struct world *world)
{
    store_until(world, 0, 1, took_table_page);
}

/* The bucket that is split has an overflow bucket, which is given back. */
static void
prepare_split_chain(struct world *world)
{
    store_until(world, 0, SMALL, split_chain);
}

/* The table has split twenty buckets, and then most items went. */
static void
prepare_merge(struct world *world)
{
    store_until(world, 0, 1, split);
    store_some(world, world->key_count - 1, 250, 1);
    for (unsigned i = 0; i < world->key_count; i++) {
        if (i % 4 != 0) {
            delete_key(world, i);
        }
    }
    use_key(world, 0);
}

/* Of the merges, the one with which a page goes. */
static void
prepare_table_page_release(struct world *world)
{
    prepare_merge(world);
    for (bool found = false; !found;) {
        struct snapshot snapshot;
        snapshot_take(&snapshot, world);
        struct probe before = probe_take(world);
        (void)run_merge(world);
        struct probe after = probe_take(world);
        found = gave_table_page(&before, &after);
        if (found) {
            snapshot_restore(&snapshot, world);
        } else if (!merged(&before, &after)) {
            printf("no table page was given back\n");
            exit(2);
        }
        snapshot_free(&snapshot);
    }
}

static void
prepare_overflow(struct world *world)
{
    store_until(world, 0, SMALL, took_overflow);
}

static void
prepare_piece_of_ring(struct world *world)
{
    store_until(world, 0, SMALL, took_piece_of_ring);
}

static void
prepare_rebuild(struct world *world)
{
    store_a_few(world);
}

static bool
run_rebuild(struct world *world)
{
    store_rebuild(world->victim);
    return true;
}

/* ---- pages and eviction --------------------------------------------------------------------- */

static void
prepare_page_attach(struct world *world)
{
    store_until(world, 20, MEDIUM, took_page);
}

static void
prepare_evict(struct world *world)
{
    store_until(world, 0, MEDIUM, evicted);
}

/* Most of what the hand meets first has been read. */
static void
prepare_evict_read(struct world *world)
{
    prepare_evict(world);
    struct key own = world->key;
    for (unsigned i = 0; i + 1 < world->key_count; i += i % 5 == 3 ? 2 : 1) {
        key_make(world->victim, &world->key, world->key_text, i);
        (void)!(run_get(world) && run_get(world));
    }
    world->key = own;
    key_make(world->victim, &world->key, world->key_text, world->key_count - 1);
}

static void
prepare_ghost_page(struct world *world)
{
    store_until(world, 0, MEDIUM, took_ghost_page);
}

static void
prepare_evict_chain(struct world *world)
{
    store_until(world, 0, CHAIN, evicted);
}

/* Everything belongs to the class of medium values; a small one is the first of its class. */
static void
prepare_steal_page(struct world *world)
{
    prepare_evict(world);
    use_put(world, world->key_count, 300, 99);
}

/* All pages are the other shard's. */
static void
prepare_donation(struct world *world)
{
    struct key key;
    char text[32];
    struct probe before = probe_take(world), after = before;
    unsigned index = 0;
    while (!evicted(&before, &after)) {
        key_make(world->victim, &key, text, index);
        if (shard_of_hash(world->victim, key.hash) != world->victim->shards) {
            (void)!store_key(world, index, MEDIUM, index);
        }
        index++;
        after = probe_take(world);
    }
    do {
        use_put(world, index++, SMALL, 99);
    } while (key_shard(world) != world->victim->shards);
}

/* ---- what the maintainer does --------------------------------------------------------------- */

/* Expired items among others. */
static void
prepare_sweep(struct world *world)
{
    store_a_few(world);
    for (unsigned i = 3; i < 20; i += 5) {
        use_put(world, i, i == 18 ? CHAIN : SMALL, 98);
        world->put.expire = store_expiry(world->victim, -1);
        (void)!store_put(world->victim, &world->put);
    }
}

static bool
run_sweep(struct world *world)
{
    while (store_sweep(world->victim)) {
    }
    return true;
}

/* The limit is lowered by two pages below what is used. */
static void
prepare_shrink(struct world *world)
{
    prepare_evict(world);
    struct probe probe = probe_take(world);
    uint64_t pages = probe.pages[0] + probe.pages[1] - 2;
    if (!store_set_memory_limit(world->victim, pages << world->victim->page_shift)) {
        printf("the limit was refused\n");
        exit(2);
    }
}

static bool
run_shrink(struct world *world)
{
    while (store_shrink(world->victim)) {
    }
    return true;
}

/* `slabs reassign` of a full page. */
static bool
run_reassign(struct world *world)
{
    uint32_t from = store_class_id(world->victim, world->put.key.len, 0, world->put.value_len);
    return store_reassign(world->victim, (int32_t)from, (int32_t)from + 1) == REASSIGN_DONE;
}

/* Several pages of one class, a third of it free, so that what is in a page finds room in the
 * others. */
static void
prepare_carry(struct world *world)
{
    uint32_t bytes = world->segment->superblock->page_bytes;
    for (unsigned i = 0; i * MEDIUM < 3 * bytes; i++) {
        (void)!store_key(world, i, MEDIUM, i);
    }
    for (unsigned i = 0; i < world->key_count; i += 3) {
        delete_key(world, i);
    }
    use_put(world, 1, MEDIUM, 99);
}

/* A page's items are carried to others of the class, and the page goes to the pool. */
static bool
run_carry(struct world *world)
{
    uint32_t from = store_class_id(world->victim, world->put.key.len, 0, world->put.value_len);
    return store_reassign(world->victim, (int32_t)from, 0) == REASSIGN_DONE;
}

/* A page that nobody has goes to a class that has none. */
static bool
run_adopt(struct world *world)
{
    uint32_t to = store_class_id(world->victim, 10, 0, NEARLY_A_CHUNK);
    return store_reassign(world->victim, 0, (int32_t)to) == REASSIGN_DONE;
}

#endif
