/* What other processes have written over, found and mended in the background.
 *
 * Any process that maps the segment may write anywhere in it, by a fault of its own. Words are
 * checked where they are used, and a process that dies of one leaves a shard that is rebuilt. Here
 * is what would otherwise stay: a lock that no process can take any more, a shard whose header
 * makes no sense though no process has died of it, a page that belongs to nobody, a share of
 * uploads and pins that no entry accounts for. */
#ifndef STORE_MEND_H
#define STORE_MEND_H

#include "store/store.h"

/* In the supervisor, once a second. A lock that has been taken for three looks by a thread that
 * does not exist, or whose words make no sense, and that no live process says it holds, becomes one
 * whose owner has died. Returns how many. */
unsigned store_mend_locks(struct store *store);

/* In the maintainer: looks at some shards' headers every 100 ms, and after one was mended at all of
 * every shard. True: more is left. */
bool store_audit(struct store *store, uint64_t now_ns);

#endif
