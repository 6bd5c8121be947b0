/* See cell.h. */
#include "store/cell.h"

void
cells_log(struct store *store, struct shard *shard)
{
    LOG(store, shard, shard->cell_free);
    LOG(store, shard, shard->cell_count);
}

struct ref
cell_take(struct store *store, struct shard *shard)
{
    struct ref cell = {shard->cell_free};
    DCHECK(!ref_is_none(cell));
    _Atomic uint32_t *next = cell_next(store, cell);
    LOG(store, shard, *next);
    shard->cell_free = atomic_load_explicit(next, memory_order_relaxed);
    shard->cell_count++;
    atomic_store_explicit(next, 0, memory_order_relaxed);
    return cell;
}

void
cell_give(struct store *store, struct shard *shard, struct ref cell)
{
    _Atomic uint32_t *next = cell_next(store, cell);
    LOG(store, shard, *next);
    atomic_store_explicit(next, shard->cell_free, memory_order_relaxed);
    shard->cell_free = cell.units;
    shard->cell_count--;
}

struct ref
cell_pop(struct store *store, struct shard *shard)
{
    cells_log(store, shard);
    return cell_take(store, shard);
}

void
cell_push(struct store *store, struct shard *shard, struct ref cell)
{
    cells_log(store, shard);
    cell_give(store, shard, cell);
}

void
cells_make(struct store *store, struct shard *shard, uint8_t *page)
{
    uint32_t bytes = cell_step(store) * CELL_BYTES;
    uint32_t next = shard->cell_free;
    for (uint32_t at = store->superblock->page_bytes; at > 0; at -= bytes) {
        struct ref cell = ref_of(store, page + at - bytes);
        atomic_store_explicit(cell_next(store, cell), next, memory_order_relaxed);
        next = cell.units;
    }
    shard->cell_free = next;
}
