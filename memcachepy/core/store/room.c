/* See room.h. A shard short of pages never holds two locks: it leaves its own, empties a page of
 * another shard, and comes back with the page in hand, where nobody else can take it. */
#include "store/room.h"

#include "store/policy.h"
#include "store/probation.h"
#include "store/walk.h"

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
    /* Free memory that only waits for the host, after the limit was lowered, refuses no store. */
    return policy_of(store) != POLICY_NOEVICTION &&
           pool_take_surplus(store->segment, store->held) != PAGE_NONE;
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

/* What the store that the room is for follows, of what another process may have damaged: behind
 * this, no process can go back. */
static bool
words_are_sound(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    return slab_chunk_is_ready(store, shard, class_id) &&
           probation_is_sound(store, shard, class_id);
}

static enum room_result
room_find(struct store *store, struct shard *shard, uint32_t class_id)
{
    bool changed = false;
    for (uint32_t i = 0; i < ROOM_TRIES_MAX; i++) {
        uint64_t evictions = shard->sums.evictions;
        enum slab_result result = ready_now(store, shard, class_id, &changed);
        switch (result) {
        case SLAB_READY:
            if (LIKELY(words_are_sound(store, shard, class_id))) {
                return changed ? ROOM_CHANGED : ROOM_READY;
            }
            shard_mend(store, shard);
            changed = true;
            continue;
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
        /* What was evicted may be pinned, and its chunks are not free yet: the next may be not. */
        if (!helped && shard->sums.evictions == evictions) {
            break;
        }
    }
    return table_prepare(store, shard) && shard->classes[class_id].free_chunks > 0 ? ROOM_CHANGED
                                                                                   : ROOM_NO_MEMORY;
}

enum room_result
room_make(struct store *store, struct shard *shard, uint32_t class_id)
{
    if (LIKELY(shard->classes[class_id].free_chunks > 0 && !table_is_short(store, shard) &&
               atomic_load_explicit(&store->held->page_in_flight, memory_order_relaxed) == 0 &&
               words_are_sound(store, shard, class_id))) {
        return ROOM_READY;
    }
    enum room_result result = room_find(store, shard, class_id);
    /* Meanwhile others may have freed what the page was for. */
    pool_give_back_any(store->segment, store->held);
    return result;
}

/* The item of a chain that should go first: a dead one, else the lowest by the policy. */
struct victim {
    struct item *item;
    uint32_t rank;
    bool dead;
};

static void
consider(const struct store *store, struct item *item, struct victim *victim)
{
    if (item_is_unknown(store, item)) {
        return;
    }
    if (item_is_dead(store, item)) {
        *victim = (struct victim){.item = item, .dead = true};
        return;
    }
    bool may_go = policy_of(store) != POLICY_NOEVICTION && may_evict(store, item);
    uint32_t rank = policy_rank(store, item, chunk_state(item));
    if (may_go && !victim->dead && (victim->item == NULL || rank < victim->rank)) {
        *victim = (struct victim){.item = item, .rank = rank};
    }
}

bool
chain_evict(struct store *store, struct shard *shard, const struct table_place *place)
{
    if (!chain_is_full(store, place)) {
        return true;
    }
    struct victim victim = {0};
    const struct table_bucket *bucket = place->primary;
    for (unsigned i = 0; bucket != NULL && i < CHAIN_BUCKETS_MAX; i++) {
        for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
            uint8_t tag = atomic_load_explicit(&bucket->tag[slot], memory_order_relaxed);
            struct ref ref = {atomic_load_explicit(&bucket->ref[slot], memory_order_relaxed)};
            if (tag != TAG_OVERFLOW && LIKELY(ref_is_in_pages(store, ref))) {
                consider(store, ref_at(store, ref), &victim);
            }
        }
        bucket = bucket_next(store, bucket);
    }
    if (victim.item != NULL) {
        item_unlink(store, shard, ref_of(store, victim.item),
                    victim.dead ? UNLINK_RECLAIM : UNLINK_EVICT + EVICTED_CHAIN);
    }
    return victim.item != NULL;
}
