/* Opening the data that the processes of an earlier run have left in a file, however they ended.
 *
 * What a process's death leaves to the next owner of a lock, the end of all of them leaves to this:
 * each shard is repaired as after a death, then what the processes held is released, as for a dead
 * one. It may be cut off at any instruction, too, and is done again then. */
#include "store/format.h"
#include "store/pin.h"
#include "store/shard.h"
#include "store/store.h"
#include "store/unknown.h"
#include "store/upload.h"

/* False: a shard that had to be repaired has what this build does not know; the sentence names it.
 */
static bool
reopen_shards(struct store *store, struct reopened *reopened, char *sentence)
{
    bool all_known = true;
    for (uint32_t i = 0; i <= store->shard_mask && all_known; i++) {
        struct shard *shard = &store->shards[i];
        uint64_t repairs = shard->sums.repairs;
        uint64_t rebuilds = shard->sums.rebuilds;
        CHECK(shard_try_lock(store, shard)); /* It is a new lock that no other process knows. */
        if (shard_reopen(store, shard)) {
            all_known = !shard_find_unknown(store, shard, sentence);
        }
        shard_unlock(store, shard);
        reopened->shards_repaired += shard->sums.repairs - repairs;
        reopened->shards_rebuilt += shard->sums.rebuilds - rebuilds;
    }
    return all_known;
}

/* After the shards: undoing a journal may bring an entry back. */
static bool
release_table(struct store *store, struct held_table *held, struct reopened *reopened)
{
    bool done = true;
    for (uint32_t i = 0; i < held_count(&held->upload_high, UPLOAD_COUNT_MAX); i++) {
        bool is_held = atomic_load(&held->uploads[i].head_ref) != 0;
        done &= upload_recover(store, store->slot, &held->uploads[i]);
        reopened->uploads_freed += is_held;
    }
    for (uint32_t i = 0; i < held_count(&held->pin_high, PIN_COUNT_MAX); i++) {
        bool is_held = atomic_load(&held->pins[i].head_ref) != 0;
        done &= pin_recover(store, store->slot, &held->pins[i]);
        reopened->pins_released += is_held;
    }
    done &= pool_recover(store->segment, held);
    if (done) {
        atomic_store(&held->upload_high, 0);
        atomic_store(&held->pin_high, 0);
    }
    return done;
}

enum segment_status
store_reopen(int fd, const struct segment_settings *settings, struct segment **segment,
             struct reopened *reopened, char *sentence)
{
    struct data_format format;
    store_format(&format);
    *reopened = (struct reopened){0};
    enum segment_status status = segment_reopen(fd, settings, &format, segment, sentence);
    if (status != SEGMENT_OK) {
        return status;
    }
    segment_claim_slot(*segment, SLOT_SUPERVISOR);
    struct store *store = store_open(*segment, SLOT_SUPERVISOR);
    if (!reopen_shards(store, reopened, sentence)) {
        store_close(store);
        segment_close(*segment);
        *segment = NULL;
        return SEGMENT_FAILED;
    }
    for (uint32_t i = 0; i < (*segment)->held_left; i++) {
        CHECK(release_table(store, &(*segment)->held[i], reopened));
    }
    (*segment)->held_left = 0;
    atomic_store(&store->superblock->held_high, segment_slot_count(*segment));
    atomic_store(&store->slot->held_bytes, 0);
    store_stats_reset(store); /* What was counted before is none of this run's. */
    store_close(store);
    atomic_store(&(*segment)->slots[SLOT_SUPERVISOR].pid, 0);
    return SEGMENT_OK;
}
