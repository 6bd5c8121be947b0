/* Everything derived, made anew from the pages: the fallback of repair. */
#ifndef STORE_REBUILD_H
#define STORE_REBUILD_H

#include "store/shard.h"

/* Under the lock. Recomputes table, free chunks, lists and sums from the pages and their directory.
 * Readers take the lock meanwhile. Survives being killed: the next owner starts it again. */
void shard_rebuild(struct store *store, struct shard *shard);

/* The same, but drops all items: believes no word of the shard but whose its pages are. */
void shard_empty(struct store *store, struct shard *shard);

/* All shards, one lock at a time. */
void store_rebuild(struct store *store);

#endif
