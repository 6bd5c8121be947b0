/* Giving memory back to the host after the limit was lowered; see store_set_memory_limit(). */
#ifndef STORE_SHRINK_H
#define STORE_SHRINK_H

#include "store/store.h"

/* A bounded step, of about a millisecond: gives free pages to the host, and where there are none
 * has a shard empty some. True: there is more to do, call again soon. For one process at a time. */
bool store_shrink(struct store *store) MUST_CHECK;

#endif
