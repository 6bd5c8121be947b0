/* What may be evicted under the node's policy. */
#ifndef STORE_POLICY_H
#define STORE_POLICY_H

#include "store/item.h"

static inline enum eviction_policy
policy_of(const struct store *store)
{
    return (enum eviction_policy)store->run->boot_settings.eviction_policy;
}

/* Probation, and a ghost to go with it. */
static inline bool
has_probation(const struct store *store)
{
    return policy_of(store) <= POLICY_S3FIFO_BYTES;
}

/* A miss costs what its value has bytes, and not the same for every value. */
static inline bool
weighs_bytes(const struct store *store)
{
    return policy_of(store) == POLICY_S3FIFO_BYTES;
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

#define COUNT_MAX 3u
#define COUNT_MAX_LFU 7u

static inline bool
is_lfu_policy(const struct store *store)
{
    return policy_of(store) == POLICY_ALLKEYS_LFU || policy_of(store) == POLICY_VOLATILE_LFU;
}

static inline bool
is_random_policy(const struct store *store)
{
    return policy_of(store) == POLICY_ALLKEYS_RANDOM || policy_of(store) == POLICY_VOLATILE_RANDOM;
}

/* Whether a class evicts by its hand, as a clock: it takes counts, and the first item without one
 * goes. Else of some that are drawn the one with the lowest rank goes. */
static inline bool
is_clock_policy(const struct store *store)
{
    switch (policy_of(store)) {
    case POLICY_S3FIFO:
    case POLICY_S3FIFO_BYTES:
    case POLICY_NOEVICTION:
    case POLICY_ALLKEYS_LRU:
    case POLICY_VOLATILE_LRU:
    case POLICY_COUNT:
        return true;
    case POLICY_ALLKEYS_LFU:
    case POLICY_ALLKEYS_RANDOM:
    case POLICY_VOLATILE_LFU:
    case POLICY_VOLATILE_RANDOM:
    case POLICY_VOLATILE_TTL:
        return false;
    }
    return true;
}

/* Of what the hand passes, the lowest goes first: the fewest counts and then the longest idle, or
 * whatever expires next. */
static inline uint32_t
policy_rank(const struct store *store, const struct item *item, uint32_t state)
{
    if (policy_of(store) == POLICY_VOLATILE_TTL) {
        uint32_t word = atomic_load_explicit(&item->expire_word, memory_order_relaxed);
        int64_t left_s = (int64_t)(word >> 1) - (word & 1 ? store->wall_s : store->now_s);
        return left_s > 0 ? (uint32_t)left_s : 0;
    }
    return state_count(state) << (32 - STATE_ACCESS_SHIFT) |
           (STATE_ACCESS_MAX - state_idle_s(store, state));
}

#endif
