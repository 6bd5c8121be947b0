/* Tables that have become too large. */
#ifndef STORE_TABLE_SHRINK_H
#define STORE_TABLE_SHRINK_H

#include "store/store.h"

/* One step, in the maintainer: merges some buckets of one shard's table. True if there is more to
 * do. */
bool store_shrink_tables(struct store *store);

#endif
