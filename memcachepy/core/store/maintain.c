/* What the maintainer does between requests; see store_maintain() in store.h. */
#include "base/clock.h"
#include "store/clocks.h"
#include "store/mend.h"
#include "store/shard.h"
#include "store/shrink.h"
#include "store/sweep.h"
#include "store/table_shrink.h"

/* Where the clocks stand, for a later run of the same data. */
static void
note_clocks(struct store *store)
{
    if (store->now_ms - store->clocks_noted_ms >= 1000) {
        store->clocks_noted_ms = store->now_ms;
        int64_t node_ns = clocks_node_ns(store->run);
        data_note_clocks(store->superblock, node_ns > 0 ? (uint64_t)node_ns : 0, clock_wall_ns());
    }
}

bool
store_maintain(struct store *store)
{
    store_tick(store);
    note_clocks(store);
    bool shrinks = store_shrink(store);
    pool_raise(store->segment, clock_boot_ns());
    uint64_t now_ns = clock_mono_ns();
    bool grows = pool_grow_ahead(store->segment, &store->ahead, now_ns) ||
                 hugepage_step(store->segment, &store->huge, now_ns);
    bool sweeps = store_sweep(store);
    bool merges = store_shrink_tables(store);
    bool audits = store_audit(store, now_ns);
    return shrinks || grows || sweeps || merges || audits;
}
