/* What the maintainer does between requests; see store_maintain() in store.h. */
#include "store/shrink.h"

bool
store_maintain(struct store *store)
{
    store_tick(store);
    return store_shrink(store);
}
