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
           (word_in(offset, superblock->held_at, superblock->shards_at) ||
            word_in(offset, shard_at + offsetof(struct shard, open_version),
                    shard_at + offsetof(struct shard, journal)) ||
            offset == word_at || word_in(offset, superblock->tables_at, superblock->freemap_at) ||
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
 * Before the version is closed. */
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

/* Whether a version of the shard may lie there: a bucket's in a page of its table, or one that is
 * part of the value of an item with an extension. */
static bool
version_may_be_at(const struct store *store, const struct shard *shard, uint64_t offset)
{
    if (offset % sizeof(uint32_t) != 0 || !word_in(offset, store->data_at, store->data_end)) {
        return false;
    }
    uint32_t number = (uint32_t)((offset - store->data_at) >> store->page_shift);
    uint32_t owner =
        atomic_load_explicit(&page_entry(store->segment, number)->owner, memory_order_relaxed);
    if (owner == page_owner(shard_index(store, shard), PAGE_KIND_TABLE)) {
        return offset % sizeof(struct table_bucket) == 0;
    }
    uint32_t class_id = page_owner_kind(owner);
    if (!page_has_chunks(store->superblock, owner) ||
        page_owner_shard(owner) != shard_index(store, shard)) {
        return false;
    }
    uint64_t in_page = offset - page_offset(store->superblock, number);
    uint32_t slot = (uint32_t)(in_page / slab_chunk_bytes(store, class_id));
    if (slot >= slab_chunks_per_page(store, class_id)) {
        return false;
    }
    struct item *item = chunk_at(store, number, class_id, slot);
    return state_kind(chunk_state(item)) == CHUNK_LIVE && item->bits & ITEM_EXTENDED &&
           in_page % slab_chunk_bytes(store, class_id) >= item_value_offset(item);
}

/* Lets readers back to what the dead process had open. */
static bool
close_version(struct store *store, struct shard *shard)
{
    uint64_t offset = atomic_load_explicit(&shard->open_version, memory_order_relaxed);
    if (offset == 0) {
        return true;
    }
    if (!version_may_be_at(store, shard, offset)) {
        return false;
    }
    _Atomic uint32_t *version = (_Atomic uint32_t *)(void *)(store->base + offset);
    if (atomic_load_explicit(version, memory_order_relaxed) & 1) {
        version_close(shard, version);
    }
    atomic_store_explicit(&shard->open_version, 0, memory_order_relaxed);
    return true;
}

void
shard_mend(struct store *store, struct shard *shard)
{
    shard_rebuild(store, shard);
    atomic_fetch_add(&store->run->mended_count, 1);
}

/* What three repairs in turn did not survive has words that lead them astray: all but whose its
 * pages are goes. */
static void
give_up(struct store *store, struct shard *shard)
{
    shard_empty(store, shard);
    atomic_store(&store->run->emptied_shard, shard_index(store, shard));
    atomic_fetch_add(&store->run->emptied_count, 1);
}

/* False: that is not enough. */
static bool
repair_by_journal(struct store *store, struct shard *shard)
{
    if (!journal_undo(store, shard)) {
        return false;
    }
    renew_table_word(store, shard);
    return close_version(store, shard) && shard_is_plausible(store, shard);
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

bool
shard_reopen(struct store *store, struct shard *shard)
{
    bool is_cut_off = atomic_load(&shard->journal.count) != 0 ||
                      atomic_load(&shard->open_version) != 0 || shard->reclaiming != 0 ||
                      shard->repair_attempts != 0 ||
                      (atomic_load(table_word_at(store, shard)) & TABLE_WORD_REBUILDING) != 0;
    if (is_cut_off) {
        shard_repair(store, shard);
        return true;
    }
    if (!shard_is_plausible(store, shard)) {
        shard_mend(store, shard);
        return true;
    }
    return false;
}

/* The holder has moved on, or is about to let go. Beside the lock, so the look costs nothing. */
static void
clear_stuck(struct shard_lock *lock)
{
    if (UNLIKELY(atomic_load_explicit(&lock->stuck, memory_order_relaxed) != 0)) {
        atomic_store_explicit(&lock->stuck, 0, memory_order_relaxed);
    }
}

/* Before the lock is tried and until after it is released, so that there is no moment in which who
 * has it has not said so. Who waits counts on meanwhile. */
static void
announce(struct store *store, const struct shard *shard)
{
    struct process_slot *slot = store->slot;
    uint32_t count = atomic_load_explicit(&slot->lock_count, memory_order_relaxed);
    uint32_t index = shard_index(store, shard);
    store->lock = &store->locks[index];
    atomic_store_explicit(&slot->lock_count, count + 1, memory_order_relaxed);
    atomic_store_explicit(&slot->wanted_shard, index + 1, memory_order_relaxed);
}

static void
renounce(struct store *store)
{
    atomic_store_explicit(&store->slot->wanted_shard, 0, memory_order_relaxed);
}

static void
note_holder(struct store *store)
{
    struct shard_lock *lock = store->lock;
    clear_stuck(lock);
    atomic_store_explicit(&store->slot->locked_shard, (uint32_t)(lock - store->locks) + 1,
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
        note_holder(store);
        shard_repair(store, shard);
        lock_repaired(&store->lock->lock);
        return true;
    case LOCK_OK:
        note_holder(store);
        return true;
    }
    return false;
}

bool
shard_try_lock(struct store *store, struct shard *shard)
{
    announce(store, shard);
    return lock_result_held(store, shard, lock_try(&store->lock->lock));
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
    if (!lock_names_caller(&store->lock->lock) || is_claimed(store, shard)) {
        return LOCK_TIMEOUT;
    }
    lock_orphan(&store->lock->lock);
    return lock_try(&store->lock->lock);
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
        result = lock_acquire(&store->lock->lock, LOCK_WAIT_MS);
    }
    if (result == LOCK_TIMEOUT) {
        atomic_store_explicit(&store->lock->stuck, 1, memory_order_relaxed);
    }
    return result;
}

bool
shard_lock(struct store *store, struct shard *shard)
{
    announce(store, shard);
    enum lock_result result = lock_try(&store->lock->lock);
    if (UNLIKELY(result == LOCK_TIMEOUT) &&
        atomic_load_explicit(&store->lock->stuck, memory_order_relaxed) == 0) {
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
    DCHECK(atomic_load(&shard->open_version) == 0);
    DCHECK(shard->reclaiming == 0 && shard->reclaiming_last == 0);
    DCHECK(store->lock == &store->locks[shard_index(store, shard)]);
    (void)shard;
    clear_stuck(store->lock);
    atomic_store_explicit(&store->slot->locked_shard, 0, memory_order_relaxed);
    lock_release(&store->lock->lock);
    renounce(store);
}

int32_t
store_lock_owner(const struct store *store, uint32_t shard)
{
    return lock_owner(&store->locks[shard].lock);
}
