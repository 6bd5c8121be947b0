/* Changes of a live item where it lies. */
#ifndef STORE_CHANGE_H
#define STORE_CHANGE_H

#include "store/hashtable.h"
#include "store/store.h"

/* What becomes of it. */
struct item_change {
    uint8_t sets, clears; /* enum item_mark; clears ITEM_COPIED, too: then it is no client's */
    bool sets_cas;
    uint64_t cas;
    bool sets_expire;
    struct expiry expire;
};

/* One transaction with the bucket open, so that readers without the lock see all of it or nothing.
 * Under the lock. */
void item_change(struct store *store, struct shard *shard, const struct table_place *place,
                 const struct item_change *change);

#endif
