/* See recover.h. */
#include "store/recover.h"

#include "mem/logring.h"
#include "mem/track.h"
#include "store/item.h"
#include "store/pin.h"
#include "store/shard.h"
#include "store/upload.h"

static void
recover_shard(struct store *store, struct shard *shard, struct recovery *recovery)
{
    uint64_t repairs = shard->sums.repairs;
    uint64_t rebuilds = shard->sums.rebuilds;
    /* A live holder repaired it, or will: only an orphaned lock is ours to take. */
    if (shard_try_lock(store, shard)) {
        recovery->shards_repaired += shard->sums.repairs - repairs;
        recovery->shards_rebuilt += shard->sums.rebuilds - rebuilds;
        shard_unlock(store, shard);
    }
}

/* False: a stopped process has the shard. */
static bool
recover_locked(struct store *store, struct shard *shard, bool suspect, struct recovery *recovery)
{
    /* Another process may be undoing what this one left: its slot means nothing before. */
    uint64_t repairs = shard->sums.repairs;
    uint64_t rebuilds = shard->sums.rebuilds;
    if (!shard_lock(store, shard)) {
        return false;
    }
    if (suspect && shard->sums.rebuilds == rebuilds) {
        shard_mend(store, shard);
    }
    recovery->shards_repaired += shard->sums.repairs - repairs;
    recovery->shards_rebuilt += shard->sums.rebuilds - rebuilds;
    shard_unlock(store, shard);
    return true;
}

/* An earlier recovery in this slot's name may have ended in the middle. False: a stopped process is
 * in the way. */
static bool
recover_own(struct store *store)
{
    if (atomic_load(&store->held->page_in_flight) != 0 &&
        !pool_recover(store->segment, store->held)) {
        return false;
    }
    atomic_store(&store->slot->locked_shard, 0);
    atomic_store(&store->slot->wanted_shard, 0);
    return true;
}

static bool
recover(struct store *store, unsigned slot_index, bool suspect, struct recovery *recovery)
{
    struct process_slot *slot = &store->segment->slots[slot_index];
    struct held_table *held = &store->segment->held[slot_index];
    *recovery = (struct recovery){0};
    if (!recover_own(store)) {
        return false;
    }
    uint32_t locked = atomic_load(&slot->locked_shard);
    if (locked - 1 < store->superblock->shard_count &&
        !recover_locked(store, &store->shards[locked - 1], suspect, recovery)) {
        return false;
    }
    for (uint32_t i = 0; i < store->superblock->shard_count; i++) {
        recover_shard(store, &store->shards[i], recovery);
    }
    bool done = true;
    for (unsigned i = 0; done && i < held_count(&held->upload_high, UPLOAD_COUNT_MAX); i++) {
        bool is_held = atomic_load(&held->uploads[i].head_ref) != 0;
        done = upload_recover(store, slot, &held->uploads[i]);
        recovery->uploads_freed += is_held && done;
    }
    for (unsigned i = 0; done && i < held_count(&held->pin_high, PIN_COUNT_MAX); i++) {
        bool is_held = atomic_load(&held->pins[i].head_ref) != 0;
        done = pin_recover(store, slot, &held->pins[i]);
        recovery->pins_released += is_held && done;
    }
    bool page_recovered = pool_recover(store->segment, held);
    if (!done || !page_recovered) {
        return false; /* The next process would find entries that are not its own. */
    }
    atomic_store(&held->upload_high, 0);
    atomic_store(&held->pin_high, 0);
    atomic_store(&slot->held_bytes, 0);
    atomic_store(&slot->waiters, 0);
    atomic_store(&slot->dumps, 0);
    if (atomic_exchange(&slot->watchers, 0) != 0 || atomic_load(&slot->watch_classes) != 0) {
        logring_watch(store->segment, slot, 0); /* Its watchers' connections went with it. */
    }
    track_recover(store->segment, slot_index);
    atomic_store(&slot->stuck, 0);
    atomic_store(&slot->locked_shard, 0);
    atomic_store(&slot->wanted_shard, 0);
    atomic_store(&slot->serving, 0);
    atomic_store(&slot->pid, 0);
    return true;
}

bool
store_recover(struct store *store, unsigned slot_index, struct recovery *recovery)
{
    return recover(store, slot_index, false, recovery);
}

bool
store_recover_suspect(struct store *store, unsigned slot_index, struct recovery *recovery)
{
    return recover(store, slot_index, true, recovery);
}
