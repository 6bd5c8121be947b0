/* What `debugitem` does in test builds (-DMEMCACHEPY_DEBUG); see proto/execute_debug.c. */
#include "store/store.h"

#ifdef MEMCACHEPY_DEBUG

#include "store/hashtable.h"
#include "store/pin.h"

bool
store_debug_lock(struct store *store, const struct key *key)
{
    return shard_lock(store, shard_of_key(store, key));
}

void
store_debug_unlock(struct store *store, const struct key *key)
{
    shard_unlock(store, shard_of_key(store, key));
}

/* A small value is copied, so nobody ever refers to one. */
bool
store_debug_ref(struct store *store, const struct key *key)
{
    struct pin pin;
    enum pin_result result = store_pin(store, key, &pin);
    return result == PIN_OK || result == PIN_SMALL;
}

bool
store_debug_unref(struct store *store, const struct key *key)
{
    struct shard *shard = shard_of_key(store, key);
    if (!shard_lock(store, shard)) {
        return false;
    }
    struct table_place place;
    table_find(store, shard, key->bytes, key->len, key->hash, &place);
    uint32_t head_ref = place.bucket != NULL ? place.ref.units : 0;
    shard_unlock(store, shard);
    uint32_t high = atomic_load(&store->held->pin_high);
    for (uint32_t i = 0; head_ref != 0 && i < high; i++) {
        if (atomic_load(&store->held->pins[i].head_ref) == head_ref) {
            return pin_recover(store, store->slot, &store->held->pins[i]);
        }
    }
    return head_ref != 0;
}

#else

typedef int nothing_to_debug; /* A file of C has to hold something. */

#endif
