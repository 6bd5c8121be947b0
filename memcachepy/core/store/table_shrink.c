/* See table_shrink.h. A shard whose lock is held is left to the next step. */
#include "store/table_shrink.h"

#include "store/hashtable.h"

/* Under one hold: about a tenth of a millisecond. */
#define MERGES_PER_STEP 64

bool
store_shrink_tables(struct store *store)
{
    for (uint32_t i = 0; i <= store->shard_mask; i++) {
        struct shard *shard = &store->shards[store->table_turn & store->shard_mask];
        if (table_may_shrink(store, shard) && shard_try_lock(store, shard)) {
            bool more = table_shrink(store, shard, MERGES_PER_STEP);
            shard_unlock(store, shard);
            if (more) {
                return true;
            }
        }
        store->table_turn++;
    }
    return false;
}
