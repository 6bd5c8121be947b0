/* What shows from outside of what an operation did: figures before and after, and what their
 * difference means. */
#ifndef TESTS_CRASH_PROBE_H
#define TESTS_CRASH_PROBE_H

#include "world.h"

struct probe {
    uint64_t items, evictions, chain_evictions, reclaimed, buckets, table_pages, overflow, cells,
        ghost_pages;
    uint64_t populated, pages_free, pages_absent;
    uint64_t pages[2]; /* of the operation's shard; of all others */
    uint64_t held, rebuilds;
};

static uint64_t
overflow_buckets(const struct store *store, const struct shard *shard)
{
    uint64_t count = 0;
    uint64_t word = atomic_load(table_word_at(store, shard));
    for (uint32_t i = 0; i < table_bucket_count(word); i++) {
        const struct table_bucket *bucket = table_bucket_at(store, shard, i);
        while ((bucket = bucket_next(store, bucket)) != NULL) {
            count++;
        }
    }
    return count;
}

static struct probe
probe_take(struct world *world)
{
    struct probe probe = {0};
    struct store_sums sums;
    store_sum(world->judge, &sums);
    probe.items = sums.curr_items;
    probe.evictions = sums.evictions;
    probe.chain_evictions = sums.chain_evictions;
    probe.reclaimed = sums.reclaimed;
    probe.buckets = sums.table_buckets;
    probe.table_pages = sums.table_pages;
    probe.held = sums.held_bytes;
    probe.rebuilds = sums.rebuilds;
    const struct superblock *superblock = world->segment->superblock;
    probe.populated = atomic_load(&superblock->pool.populated_count);
    for (uint32_t i = 0; i < probe.populated; i++) {
        uint32_t owner = atomic_load(&page_entry(world->segment, i)->owner);
        probe.pages_free += owner == PAGE_FREE;
        probe.pages_absent += owner == PAGE_ABSENT;
    }
    struct shard *own = world->key.len != 0 ? key_shard(world) : NULL;
    for (uint32_t i = 0; i < superblock->shard_count; i++) {
        const struct shard *shard = &world->judge->shards[i];
        probe.overflow += overflow_buckets(world->judge, shard);
        probe.cells += shard->cell_count;
        probe.ghost_pages += shard->ghost_page_count;
        probe.pages[shard != own] += shard->page_count;
    }
    return probe;
}

static bool
pages_add_up(struct world *world)
{
    struct probe probe = probe_take(world);
    uint32_t present = atomic_load(&world->segment->superblock->pool.present_count);
    return freemap_count(world->segment, UINT32_MAX) == probe.pages_free &&
           probe.pages_free + probe.pages[0] + probe.pages[1] == present &&
           present + probe.pages_absent == probe.populated;
}

typedef bool change_fn(const struct probe *before, const struct probe *after);

static bool
evicted(const struct probe *before, const struct probe *after)
{
    return after->evictions > before->evictions;
}

static bool
took_page(const struct probe *before, const struct probe *after)
{
    return after->pages[0] > before->pages[0] && after->table_pages == before->table_pages;
}

static bool
gave_page(const struct probe *before, const struct probe *after)
{
    return after->pages_free > before->pages_free;
}

static bool
grew(const struct probe *before, const struct probe *after)
{
    return after->populated > before->populated;
}

static bool
split(const struct probe *before, const struct probe *after)
{
    return after->buckets > before->buckets && after->table_pages == before->table_pages;
}

static bool
split_chain(const struct probe *before, const struct probe *after)
{
    return split(before, after) && after->overflow < before->overflow;
}

static bool
merged(const struct probe *before, const struct probe *after)
{
    return after->buckets < before->buckets;
}

static bool
gave_table_page(const struct probe *before, const struct probe *after)
{
    return after->table_pages < before->table_pages && gave_page(before, after);
}

static bool
evicted_from_chain(const struct probe *before, const struct probe *after)
{
    return after->chain_evictions > before->chain_evictions;
}

static bool
took_table_page(const struct probe *before, const struct probe *after)
{
    return after->table_pages > before->table_pages && before->table_pages > 0;
}

static bool
took_overflow(const struct probe *before, const struct probe *after)
{
    return after->overflow > before->overflow && after->table_pages == before->table_pages;
}

static bool
took_piece_of_ring(const struct probe *before, const struct probe *after)
{
    return after->cells > before->cells && after->overflow == before->overflow &&
           after->table_pages == before->table_pages && after->buckets == before->buckets;
}

static bool
took_ghost_page(const struct probe *before, const struct probe *after)
{
    return after->ghost_pages > before->ghost_pages;
}

static bool
shrank(const struct probe *before, const struct probe *after)
{
    return after->pages_absent > before->pages_absent && evicted(before, after);
}

static bool
took_from_others(const struct probe *before, const struct probe *after)
{
    return after->pages[1] < before->pages[1] && after->pages[0] > before->pages[0];
}

static bool
reclaimed(const struct probe *before, const struct probe *after)
{
    return after->reclaimed > before->reclaimed;
}

static bool
held_more(const struct probe *before, const struct probe *after)
{
    return after->held > before->held;
}

static bool
rebuilt(const struct probe *before, const struct probe *after)
{
    return after->rebuilds > before->rebuilds;
}

#endif
