/* Locks and repair; see shard.h. */
#include "store/shard.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/crash.h"
#include "store/check.h"
#include "store/hashtable.h"
#include "store/rebuild.h"
#include "store/slab.h"

/* A wait is cut into pieces so that the process can be seen to live. */
#define LOCK_WAIT_MS 100
#define LOCK_WAITS_MAX 10

static bool
word_in(uint64_t offset, uint64_t begin, uint64_t end)
{
    return offset >= begin && offset < end;
}

/* Whether a transaction of the shard may have changed the word: no other shard's, no lock and no
 * journal. */
static bool
word_is_loggable(const struct store *store, const struct shard *shard, uint64_t offset,
                 unsigned bytes)
{
    const struct superblock *superblock = store->superblock;
    uint64_t shard_at = (uint64_t)((const uint8_t *)shard - store->base);
    uint64_t word_at = (uint64_t)((const uint8_t *)table_word_at(store, shard) - store->base);
    return offset % bytes == 0 &&
           (word_in(offset, superblock->slots_at, superblock->logs_at) ||
            word_in(offset, shard_at + offsetof(struct shard, open_bucket),
                    shard_at + offsetof(struct shard, journal)) ||
            offset == word_at || word_in(offset, superblock->tables_at, superblock->prefixes_at) ||
            word_in(offset, superblock->pages_at, store->data_end));
}

/* Restores what the transaction changed, newest first. False if the journal makes no sense. */
static bool
journal_undo(struct store *store, struct shard *shard)
{
    struct journal *journal = &shard->journal;
    uint32_t count = atomic_load_explicit(&journal->count, memory_order_relaxed);
    if (count > JOURNAL_WORDS_MAX) {
        return false;
    }
    for (uint32_t i = count; i-- > 0;) {
        const struct journal_word *word = &journal->words[i];
        unsigned bytes = word->at & 1 ? 8 : 4;
        uint64_t offset = word->at & ~UINT64_C(1);
        if (!word_is_loggable(store, shard, offset, bytes)) {
            return false;
        }
        if (bytes == 8) {
            atomic_store_explicit((_Atomic uint64_t *)(store->base + offset), word->old,
                                  memory_order_relaxed);
        } else {
            atomic_store_explicit((_Atomic uint32_t *)(store->base + offset), (uint32_t)word->old,
                                  memory_order_relaxed);
        }
        CRASH_POINT(journal_undo_word);
    }
    journal_commit(shard);
    return true;
}

/* What was undone may have set a table word that is set anew soon: a reader may have begun with it.
 * Before the bucket is reopened. */
static void
renew_table_word(struct store *store, struct shard *shard)
{
    _Atomic uint64_t *word = table_word_at(store, shard);
    atomic_store_explicit(word,
                          atomic_load_explicit(word, memory_order_relaxed) +
                              (UINT64_C(1) << TABLE_GENERATION_SHIFT),
                          memory_order_release);
    STORES_IN_ORDER();
    CRASH_POINT(table_word_renewed);
}

/* Lets readers back to the bucket the dead process was in. */
static bool
reopen_bucket(struct store *store, struct shard *shard)
{
    uint64_t offset = atomic_load_explicit(&shard->open_bucket, memory_order_relaxed);
    if (offset == 0) {
        return true;
    }
    if (offset < store->data_at || offset > store->data_end - sizeof(struct table_bucket) ||
        offset % sizeof(struct table_bucket) != 0) {
        return false;
    }
    struct table_bucket *bucket = (struct table_bucket *)(void *)(store->base + offset);
    uint32_t version = atomic_load_explicit(&bucket->version, memory_order_relaxed);
    if (version & 1) {
        bucket_close(shard, bucket);
    }
    atomic_store_explicit(&shard->open_bucket, 0, memory_order_relaxed);
    return true;
}

void
shard_mend(struct store *store, struct shard *shard)
{
    shard_rebuild(store, shard);
    atomic_fetch_add(&store->superblock->mended_count, 1);
}

/* What three repairs in turn did not survive has words that lead them astray: all but whose its
 * pages are goes. */
static void
give_up(struct store *store, struct shard *shard)
{
    shard_empty(store, shard);
    atomic_store(&store->superblock->emptied_shard, shard_index(store, shard));
    atomic_fetch_add(&store->superblock->emptied_count, 1);
}

/* False: that is not enough. */
static bool
repair_by_journal(struct store *store, struct shard *shard)
{
    if (!journal_undo(store, shard)) {
        return false;
    }
    renew_table_word(store, shard);
    return reopen_bucket(store, shard) && shard_is_plausible(store, shard);
}

static void
shard_repair(struct store *store, struct shard *shard)
{
    uint32_t attempts = shard->repair_attempts;
    attempts = attempts <= REPAIR_ATTEMPTS_MAX ? attempts : 0; /* A word like others. */
    shard->repair_attempts = attempts < REPAIR_ATTEMPTS_MAX ? attempts + 1 : attempts;
    STORES_IN_ORDER();
    bool rebuilding = atomic_load(table_word_at(store, shard)) & TABLE_WORD_REBUILDING;
    if (attempts == REPAIR_ATTEMPTS_MAX) {
        give_up(store, shard);
    } else if (rebuilding) {
        shard_rebuild(store, shard);
    } else if (!repair_by_journal(store, shard)) {
        shard_mend(store, shard);
    }
    CRASH_POINT(shard_repaired);
    reclaim_run(store, shard);
    shard->sums.repairs++;
    STORES_IN_ORDER();
    shard->repair_attempts = 0;
}

/* The holder has moved on, or is about to let go. Beside the lock, so the look costs nothing. */
static void
clear_stuck(struct shard *shard)
{
    if (UNLIKELY(atomic_load_explicit(&shard->stuck, memory_order_relaxed) != 0)) {
        atomic_store_explicit(&shard->stuck, 0, memory_order_relaxed);
    }
}

/* Before the lock is tried and until after it is released, so that there is no moment in which who
 * has it has not said so. Who waits counts on meanwhile. */
static void
announce(struct store *store, const struct shard *shard)
{
    struct process_slot *slot = store->slot;
    uint32_t count = atomic_load_explicit(&slot->lock_count, memory_order_relaxed);
    atomic_store_explicit(&slot->lock_count, count + 1, memory_order_relaxed);
    atomic_store_explicit(&slot->wanted_shard, shard_index(store, shard) + 1, memory_order_relaxed);
}

static void
renounce(struct store *store)
{
    atomic_store_explicit(&store->slot->wanted_shard, 0, memory_order_relaxed);
}

static void
note_holder(struct store *store, struct shard *shard)
{
    clear_stuck(shard);
    atomic_store_explicit(&store->slot->locked_shard, shard_index(store, shard) + 1,
                          memory_order_relaxed);
}

static bool
lock_result_held(struct store *store, struct shard *shard, enum lock_result result)
{
    switch (result) {
    case LOCK_TIMEOUT:
        renounce(store);
        return false;
    case LOCK_OWNER_DIED:
        note_holder(store, shard);
        shard_repair(store, shard);
        lock_repaired(&shard->lock);
        return true;
    case LOCK_OK:
        note_holder(store, shard);
        return true;
    }
    return false;
}

bool
shard_try_lock(struct store *store, struct shard *shard)
{
    announce(store, shard);
    return lock_result_held(store, shard, lock_try(&shard->lock));
}

/* Whether some process says that it has the lock, in both of its words: one may be damaged. */
static bool
is_claimed(const struct store *store, const struct shard *shard)
{
    uint32_t number = shard_index(store, shard) + 1;
    unsigned slot_count = segment_slot_count(store->segment);
    for (unsigned i = 0; i < slot_count; i++) {
        const struct process_slot *slot = &store->segment->slots[i];
        if (slot != store->slot && atomic_load(&slot->locked_shard) == number &&
            atomic_load(&slot->wanted_shard) == number) {
            return true;
        }
    }
    return false;
}

/* The lock names this thread, which does not have it: damage that no other process can tell from a
 * holder. The shard may be damaged as well. */
static COLD enum lock_result
retake_own(struct store *store, struct shard *shard)
{
    if (!lock_names_caller(&shard->lock) || is_claimed(store, shard)) {
        return LOCK_TIMEOUT;
    }
    lock_orphan(&shard->lock);
    return lock_try(&shard->lock);
}

/* A mark that comes late, when the holder has just moved on, costs those who meet the next holder
 * an error; whoever gets the lock takes it away. */
static enum lock_result
wait_for_holder(struct store *store, struct shard *shard)
{
    enum lock_result result = LOCK_TIMEOUT;
    for (unsigned i = 0; result == LOCK_TIMEOUT && i < LOCK_WAITS_MAX; i++) {
        announce(store, shard);
        COUNT(&store->slot->counters, lock_waits);
        result = lock_acquire(&shard->lock, LOCK_WAIT_MS);
    }
    if (result == LOCK_TIMEOUT) {
        atomic_store_explicit(&shard->stuck, 1, memory_order_relaxed);
    }
    return result;
}

bool
shard_lock(struct store *store, struct shard *shard)
{
    announce(store, shard);
    enum lock_result result = lock_try(&shard->lock);
    if (UNLIKELY(result == LOCK_TIMEOUT) &&
        atomic_load_explicit(&shard->stuck, memory_order_relaxed) == 0) {
        result = wait_for_holder(store, shard);
    }
    if (UNLIKELY(result == LOCK_TIMEOUT)) {
        result = retake_own(store, shard);
    }
    return lock_result_held(store, shard, result);
}

void
shard_unlock(struct store *store, struct shard *shard)
{
    DCHECK(atomic_load(&shard->journal.count) == 0);
    DCHECK(atomic_load(&shard->open_bucket) == 0);
    DCHECK(shard->reclaiming == 0);
    clear_stuck(shard);
    atomic_store_explicit(&store->slot->locked_shard, 0, memory_order_relaxed);
    lock_release(&shard->lock);
    renounce(store);
}

int32_t
store_lock_owner(const struct store *store, uint32_t shard)
{
    return lock_owner(&store->shards[shard].lock);
}
