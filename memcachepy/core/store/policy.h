/* What may be evicted under the node's policy. */
#ifndef STORE_POLICY_H
#define STORE_POLICY_H

#include "store/item.h"

static inline enum eviction_policy
policy_of(const struct store *store)
{
    return (enum eviction_policy)store->superblock->settings.eviction_policy;
}

/* Probation, and a ghost to go with it. */
static inline bool
has_probation(const struct store *store)
{
    return policy_of(store) == POLICY_S3FIFO;
}

/* Only items that will expire may be evicted. */
static inline bool
is_volatile_policy(const struct store *store)
{
    return policy_of(store) >= POLICY_VOLATILE_LRU;
}

static inline bool
may_evict(const struct store *store, const struct item *item)
{
    return !is_volatile_policy(store) ||
           atomic_load_explicit(&item->expire_word, memory_order_relaxed) != 0;
}

/* Whether the hand samples: takes the lowest rank of what it passes, and lets counts be. */
static inline bool
policy_samples(const struct store *store)
{
    switch (policy_of(store)) {
    case POLICY_S3FIFO:
    case POLICY_NOEVICTION:
    case POLICY_ALLKEYS_LRU:
    case POLICY_VOLATILE_LRU:
    case POLICY_COUNT:
        return false;
    case POLICY_ALLKEYS_LFU:
    case POLICY_ALLKEYS_RANDOM:
    case POLICY_VOLATILE_LFU:
    case POLICY_VOLATILE_RANDOM:
    case POLICY_VOLATILE_TTL:
        return true;
    }
    return false;
}

/* Of what the hand passes, the lowest goes first. */
static inline uint32_t
policy_rank(const struct store *store, const struct item *item, uint32_t state)
{
    (void)item;
    (void)store;
    return state_count(state);
}

#endif
