/* `slabs reassign`: a page moved by hand; see store_reassign() in store.h.
 *
 * Pages belong to shards, so the move happens inside one: the shard that has most pages of the
 * class is asked first, then the others. Each is asked under its own lock, for the time that
 * emptying one page takes. */
#include "store/slab.h"

/* memcached's rule: a class keeps its last page, and one more where any class may be chosen. */
#define PAGES_MIN 2
#define PAGES_MIN_OF_ANY 3

/* Read without the lock: it may change the next moment. */
static RACY_READ uint32_t
pages_of(const struct store *store, uint32_t shard, uint32_t class_id)
{
    return store->shards[shard].classes[class_id].page_count;
}

static uint64_t
pages_of_class(const struct store *store, uint32_t class_id)
{
    uint64_t pages = 0;
    for (uint32_t i = 0; i <= store->shard_mask; i++) {
        pages += pages_of(store, i, class_id);
    }
    return pages;
}

/* Read without the lock, too. */
static RACY_READ bool
has_pages_of_others(const struct shard *shard, uint32_t class_id)
{
    uint32_t others = shard->table_page_count + shard->ghost_page_count;
    return shard->page_count != others + shard->classes[class_id].page_count;
}

/* A class that can spare a page; 0: none. One look at most shards, for there may be a hundred
 * thousand: those that have pages of other classes bring one of these up to the number soon. */
static uint32_t
any_class_but(const struct store *store, uint32_t except)
{
    uint32_t pages[SLAB_CLASS_COUNT_MAX] = {0};
    for (uint32_t i = 0; i <= store->shard_mask; i++) {
        if (!has_pages_of_others(&store->shards[i], except)) {
            continue;
        }
        for (uint32_t class_id = 1; class_id <= store->superblock->class_count; class_id++) {
            pages[class_id] += pages_of(store, i, class_id);
            if (class_id != except && pages[class_id] >= PAGES_MIN_OF_ANY) {
                return class_id;
            }
        }
    }
    return 0;
}

static uint32_t
shard_with_most(const struct store *store, uint32_t class_id)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i <= store->shard_mask; i++) {
        if (pages_of(store, i, class_id) > pages_of(store, best, class_id)) {
            best = i;
        }
    }
    return best;
}

/* From the pool to the shard that has fewest pages of the class. */
static enum reassign_result
adopt(struct store *store, uint32_t to)
{
    uint32_t fewest = 0;
    for (uint32_t i = 1; i <= store->shard_mask; i++) {
        if (pages_of(store, i, to) < pages_of(store, fewest, to)) {
            fewest = i;
        }
    }
    struct shard *shard = &store->shards[fewest];
    if (!shard_lock(store, shard)) {
        return REASSIGN_BUSY;
    }
    bool adopted = slab_adopt_page(store, shard, to);
    shard_unlock(store, shard);
    return adopted ? REASSIGN_DONE : REASSIGN_NO_SPARE;
}

static enum reassign_result
move(struct store *store, uint32_t from, uint32_t to)
{
    enum reassign_result result = REASSIGN_NO_SPARE;
    uint32_t first = shard_with_most(store, from);
    for (uint32_t i = 0; i <= store->shard_mask; i++) {
        struct shard *shard = &store->shards[(first + i) & store->shard_mask];
        if (!shard_lock(store, shard)) {
            result = REASSIGN_BUSY;
            continue;
        }
        bool moved = slab_reassign_page(store, shard, from, to);
        shard_unlock(store, shard);
        if (moved) {
            return REASSIGN_DONE;
        }
    }
    return result;
}

enum reassign_result
store_reassign(struct store *store, int32_t from, int32_t to)
{
    int32_t class_count = (int32_t)store->superblock->class_count;
    if (from == to) {
        return REASSIGN_SAME;
    }
    if (from == -1 && to >= 0 && to <= class_count) {
        from = (int32_t)any_class_but(store, (uint32_t)to);
        from = from == 0 ? -1 : from;
    }
    if (from < 0 || from > class_count || to < 0 || to > class_count) {
        return REASSIGN_BAD_CLASS;
    }
    if (from == 0) {
        return adopt(store, (uint32_t)to);
    }
    if (pages_of_class(store, (uint32_t)from) < PAGES_MIN) {
        return REASSIGN_NO_SPARE;
    }
    return move(store, (uint32_t)from, (uint32_t)to);
}
