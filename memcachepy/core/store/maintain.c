/* What the maintainer does between requests; see store_maintain() in store.h. */
#include "store/shrink.h"
#include "store/sweep.h"

bool
store_maintain(struct store *store)
{
    store_tick(store);
    bool shrinks = store_shrink(store);
    bool sweeps = store_sweep(store);
    return shrinks || sweeps;
}
