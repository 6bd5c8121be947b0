/* Cells: 64 bytes of the table's pages that are not primary buckets. Overflow buckets are cells,
 * and the pieces of probation rings. Free cells form a stack through their third word. Under the
 * shard's lock; a reader with an old link may look into any cell, and believes nothing of it. */
#ifndef STORE_CELL_H
#define STORE_CELL_H

#include "store/item.h"

#define CELL_BYTES 64
#define CELLS_SPARE 2 /* what one insertion may need: an overflow bucket and a piece of a ring */

/* Where a free cell keeps the ref of the next: an overflow bucket's first ref. */
#define CELL_NEXT_AT 16

static inline _Atomic uint32_t *
cell_next(const struct store *store, struct ref cell)
{
    return (_Atomic uint32_t *)(void *)((uint8_t *)ref_at(store, cell) + CELL_NEXT_AT);
}

/* Whether at least `count` cells are free. */
static inline bool
cells_are_free(const struct store *store, const struct shard *shard, unsigned count)
{
    struct ref at = {shard->cell_free};
    for (unsigned i = 0; i < count; i++) {
        if (UNLIKELY(!ref_is_in_pages(store, at))) {
            return false; /* There is none, or the word is damaged. */
        }
        if (i + 1 < count) {
            at.units = atomic_load_explicit(cell_next(store, at), memory_order_relaxed);
        }
    }
    return true;
}

/* A ref's unit may be larger than a cell: only every so many cells can be referred to. */
static inline uint32_t
cell_step(const struct store *store)
{
    return store->unit_shift > 6 ? 1u << (store->unit_shift - 6) : 1;
}

/* Inside a transaction. The popped cell's link is zero and logged; the rest is as it was left. */
struct ref cell_pop(struct store *store, struct shard *shard);
/* The cell's words from CELL_NEXT_AT on may be changed; the caller has logged what it cares for. */
void cell_push(struct store *store, struct shard *shard, struct ref cell);

/* The same for several cells in one transaction: the stack's head is logged once, and then one word
 * for each cell. */
void cells_log(struct store *store, struct shard *shard);
struct ref cell_take(struct store *store, struct shard *shard);
void cell_give(struct store *store, struct shard *shard, struct ref cell);

/* Makes a zeroed page into free cells; the caller logs shard->cell_free. */
void cells_make(struct store *store, struct shard *shard, uint8_t *page);

#endif
