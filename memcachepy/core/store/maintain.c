/* What the maintainer does between requests; see store_maintain() in store.h. */
#include "base/clock.h"
#include "store/mend.h"
#include "store/shard.h"
#include "store/shrink.h"
#include "store/sweep.h"

bool
store_maintain(struct store *store)
{
    store_tick(store);
    bool shrinks = store_shrink(store);
    uint64_t now_ns = clock_mono_ns();
    bool grows = pool_grow_ahead(store->segment, &store->ahead, now_ns) ||
                 hugepage_step(store->segment, &store->huge, now_ns);
    bool sweeps = store_sweep(store);
    bool audits = store_audit(store, now_ns);
    return shrinks || grows || sweeps || audits;
}
