/* Values longer than a chunk; see chain.c. */
#ifndef STORE_CHAIN_H
#define STORE_CHAIN_H

#include "store/item.h"
#include "store/store.h"

/* store_put() for results that are chains; without the lock. */
enum put_result chain_put(struct store *store, struct put *put);

/* Value bytes in the head of a chain, and in a continuation. */
uint32_t chain_head_room(const struct store *store, const struct item *item);
uint32_t chain_cont_room(const struct store *store, struct ref ref);

#endif
