/* See room.h. A shard short of pages never holds two locks: it leaves its own, empties a page of
 * another shard, and comes back with the page in hand, where nobody else can take it. */
#include "store/room.h"

#include "store/hashtable.h"

/* Growth may be used up by other writers, and the table may need a page too; then it is tried
 * again, but not for ever. */
#define ROOM_TRIES_MAX 64

static bool
donate_locked(struct store *store, struct shard *donor)
{
    bool given = slab_page_for_other(store, donor, EVICTED_DONATION) != PAGE_NONE;
    shard_unlock(store, donor);
    return given;
}

/* Takes a page of another shard in hand: of one that is free to be asked if there is one, else of
 * any that can give. A different one comes first at each turn. */
static bool
take_from_other(struct store *store, const struct shard *for_shard, uint32_t turn)
{
    uint32_t count = store->superblock->shard_count;
    for (unsigned pass = 0; pass < 2; pass++) {
        bool waits = pass == 1;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t index = (shard_index(store, for_shard) + 1 + turn + i) & store->shard_mask;
            struct shard *donor = &store->shards[index];
            if (donor == for_shard ||
                !(waits ? shard_lock(store, donor) : shard_try_lock(store, donor))) {
                continue;
            }
            if (donate_locked(store, donor)) {
                return true;
            }
        }
    }
    return false;
}

static enum slab_result
ready_now(struct store *store, struct shard *shard, uint32_t class_id, bool *changed)
{
    enum slab_result result = slab_ensure(store, shard, class_id, changed);
    if (result != SLAB_READY) {
        return result;
    }
    /* Preparing may take a page for the table, and with it items that were looked up. */
    *changed |= table_is_short(store, shard);
    if (table_prepare(store, shard)) {
        /* It may have been the very page that the chunk was in. */
        return shard->classes[class_id].free_chunks > 0
                   ? SLAB_READY
                   : slab_ensure(store, shard, class_id, changed);
    }
    return pool_can_grow(store->segment) ? SLAB_GROW : SLAB_DONOR;
}

static enum room_result
room_find(struct store *store, struct shard *shard, uint32_t class_id)
{
    bool changed = false;
    for (uint32_t i = 0; i < ROOM_TRIES_MAX; i++) {
        enum slab_result result = ready_now(store, shard, class_id, &changed);
        switch (result) {
        case SLAB_READY:
            return changed ? ROOM_CHANGED : ROOM_READY;
        case SLAB_GROW:
        case SLAB_DONOR:
            break;
        }
        changed = true;
        shard_unlock(store, shard);
        bool helped = result == SLAB_GROW ? pool_grow(store->segment) || true
                                          : take_from_other(store, shard, i);
        if (!shard_lock(store, shard)) {
            return ROOM_BUSY;
        }
        if (!helped) {
            break;
        }
    }
    return table_prepare(store, shard) && shard->classes[class_id].free_chunks > 0 ? ROOM_CHANGED
                                                                                   : ROOM_NO_MEMORY;
}

enum room_result
room_make(struct store *store, struct shard *shard, uint32_t class_id)
{
    enum room_result result = room_find(store, shard, class_id);
    /* Meanwhile others may have freed what the page was for. */
    pool_give_back_any(store->segment, store->slot);
    return result;
}
