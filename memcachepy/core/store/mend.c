/* See mend.h. */
#include "store/mend.h"

#include "mem/lock.h"
#include "mem/logring.h"
#include "mem/track.h"
#include "store/check.h"
#include "store/flush.h"
#include "store/hashtable.h"
#include "store/item.h"
#include "store/shard.h"
#include "store/walk.h"

#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOOKS_MIN 3

/* Of one call: a look costs a cache miss. */
#define LOOKS_MAX 4096

/* Shards that the maintainer looks at every so often. */
#define AUDIT_SHARDS 8
#define AUDIT_EVERY_NS UINT64_C(100000000)
#define HELD_AUDIT_EVERY_NS UINT64_C(1000000000)
#define FLUSH_AUDIT_EVERY_NS UINT64_C(10000000000)

/* ---- locks ---------------------------------------------------------------------------------- */

/* The shards' first, then the page pool's and that of the configurations. */
static struct shared_lock *
lock_numbered(const struct store *store, uint32_t number)
{
    uint32_t shard_count = store->superblock->shard_count;
    return number < shard_count    ? &store->locks[number].lock
           : number == shard_count ? &store->run->growth.grow_lock
                                   : &store->run->configs.lock;
}

static bool
has_thread(int32_t pid, uint32_t thread)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task/%u", (int)pid, thread);
    return thread != 0 && access(path, F_OK) == 0;
}

static bool
is_alive(int32_t pid)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    return pid > 0 && access(path, F_OK) == 0;
}

/* Whether the thread sleeps and could be woken by a signal. No process does while it has the lock
 * of the pool or of the configurations: it waits for the host's memory at most. */
static bool
is_asleep(int32_t pid, uint32_t thread)
{
    char path[64];
    char text[256];
    snprintf(path, sizeof(path), "/proc/%d/task/%u/stat", (int)pid, thread);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    size_t len = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[len] = '\0';
    /* pid (name) state */
    const char *end = strrchr(text, ')');
    return end != NULL && end[1] == ' ' && end[2] == 'S';
}

/* Whether the slot's process, of which the lock names a thread, has the lock. From before it tries
 * a shard's lock until after it has released it, it says which one it wants, so one that says
 * nothing has none, unless it has begun to say so between the looks. */
static bool
is_held_by(const struct process_slot *slot, const struct shared_lock *lock, uint32_t number,
           uint32_t shard_count)
{
    uint32_t word = lock_word(lock);
    uint32_t count = atomic_load(&slot->lock_count);
    if (number >= shard_count) {
        return !is_asleep(atomic_load(&slot->pid), word & FUTEX_TID_MASK);
    }
    bool claims = atomic_load(&slot->wanted_shard) == number + 1 ||
                  atomic_load(&slot->locked_shard) == number + 1;
    return claims || atomic_load(&slot->lock_count) != count || lock_word(lock) != word;
}

/* Whether a live process says that it holds the lock in both of its words, for one of them may be
 * damaged; or says so in one of them and has the thread that the lock names. */
static bool
may_be_held(const struct store *store, uint32_t number, uint32_t word, bool damaged)
{
    uint32_t shard_count = store->superblock->shard_count;
    unsigned slot_count = segment_slot_count(store->segment);
    for (unsigned i = 0; i < slot_count; i++) {
        const struct process_slot *slot = &store->segment->slots[i];
        int32_t pid = atomic_load(&slot->pid);
        if (store->segment->ended[i]) {
            continue;
        }
        if ((atomic_load(&slot->locked_shard) == number + 1 &&
             atomic_load(&slot->wanted_shard) == number + 1 && is_alive(pid)) ||
            (!damaged && has_thread(pid, word & FUTEX_TID_MASK) &&
             is_held_by(slot, lock_numbered(store, number), number, shard_count))) {
            return true;
        }
    }
    return false;
}

/* Its entry in the table; NULL: it has none, and there is no room. */
static unsigned
find_entry(struct lock_mend *mend, uint32_t number)
{
    unsigned i = 0;
    while (i < mend->count && mend->of[i].lock != number) {
        i++;
    }
    if (i == mend->count && i < MEND_COUNT_MAX) {
        mend->of[i].lock = number;
        mend->of[i].looks = 0;
        mend->count++;
    }
    return i;
}

static void
forget(struct lock_mend *mend, uint32_t number)
{
    for (unsigned i = 0; i < mend->count; i++) {
        if (mend->of[i].lock == number) {
            mend->of[i] = mend->of[--mend->count];
            return;
        }
    }
}

/* True: it was mended. */
static bool
look_at_lock(struct store *store, uint32_t number)
{
    struct lock_mend *mend = &store->mend;
    struct shared_lock *lock = lock_numbered(store, number);
    bool damaged = lock_is_damaged(lock);
    uint32_t word = lock_word(lock);
    if (LIKELY(word == 0 && !damaged)) {
        forget(mend, number);
        return false;
    }
    unsigned i = find_entry(mend, number);
    if (i == MEND_COUNT_MAX) {
        return false;
    }
    bool same = mend->of[i].looks != 0 && mend->of[i].word == (word & FUTEX_TID_MASK);
    mend->of[i].looks = same || damaged ? mend->of[i].looks + 1 : 1;
    mend->of[i].word = word & FUTEX_TID_MASK;
    if (may_be_held(store, number, word, damaged)) {
        mend->of[i].looks = 0;
    }
    if (mend->of[i].looks < LOOKS_MIN) {
        return false;
    }
    lock_orphan(lock);
    forget(mend, number);
    return true;
}

unsigned
store_mend_locks(struct store *store)
{
    struct lock_mend *mend = &store->mend;
    uint32_t shard_count = store->superblock->shard_count;
    uint32_t looks = shard_count < LOOKS_MAX ? shard_count : LOOKS_MAX;
    unsigned mended = 0;
    /* Those that were seen taken first, so that each call is one look at them. */
    uint32_t seen[MEND_COUNT_MAX];
    unsigned seen_count = mend->count;
    for (unsigned i = 0; i < seen_count; i++) {
        seen[i] = mend->of[i].lock;
    }
    for (unsigned i = 0; i < seen_count; i++) {
        mended += look_at_lock(store, seen[i]);
    }
    for (uint32_t i = 0; i < looks + 2; i++) {
        uint32_t number =
            i < looks ? mend->next_shard++ & store->shard_mask : shard_count + (i - looks);
        bool was_seen = false;
        for (unsigned j = 0; j < seen_count; j++) {
            was_seen |= seen[j] == number;
        }
        mended += !was_seen && look_at_lock(store, number);
    }
    return mended;
}

/* ---- shards --------------------------------------------------------------------------------- */

static void
ignore(void *context, const char *sentence)
{
    (void)context;
    (void)sentence;
}

/* Whether what a flush killed is gone by now, and the shards were not checked since. */
static bool
was_flushed(struct store *store, uint64_t now_ns)
{
    uint16_t epoch = epoch_now(store);
    if (LIKELY(epoch == store->audit_epoch) || flush_left_items(store) ||
        now_ns - store->audit_flush_at_ns < FLUSH_AUDIT_EVERY_NS) {
        return false;
    }
    store->audit_epoch = epoch;
    store->audit_flush_at_ns = now_ns;
    return true;
}

/* Where one word was damaged others may be that show in no header: once a shard was mended all are
 * checked in full, one at a time, and again while that finds something. So they are after a flush,
 * when there is least to be looked at: it leaves no damage. True: more is left. */
static bool
check_one_in_full(struct store *store, uint64_t now_ns)
{
    const struct run_head *run = store->run;
    uint32_t mends = atomic_load(&run->mended_count) + atomic_load(&run->emptied_count);
    if (mends != store->audit_mends || was_flushed(store, now_ns)) {
        store->audit_mends = mends;
        store->audit_next = store->superblock->shard_count;
    }
    if (store->audit_next == 0) {
        return false;
    }
    struct shard *shard = &store->shards[store->audit_next - 1];
    if (shard_try_lock(store, shard)) {
        store->audit_next--;
        if (shard_check(store, shard, ignore, NULL) != 0) {
            shard_mend(store, shard);
        }
        shard_unlock(store, shard);
    }
    return store->audit_next != 0;
}

/* ---- shares --------------------------------------------------------------------------------- */

/* Of the entries that lead to a value of as many bytes; others are damaged. Without a lock. */
static RACY_READ uint64_t
sum_of_table(const struct store *store, const struct held_ref *entries, uint32_t count)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct ref head = {atomic_load(&entries[i].head_ref)};
        uint32_t bytes = *(const volatile uint32_t *)&entries[i].bytes;
        if (!ref_is_none(head) && held_head_is_sound(store, head) &&
            ((const struct item *)ref_at(store, head))->value_len == bytes) {
            sum += bytes;
        }
    }
    return sum;
}

/* A share that its entries do not account for, look after look, while it does not move: uploads
 * and readers would wait for it for ever. */
static void
audit_held(struct store *store, uint64_t now_ns)
{
    struct held_audit *audit = &store->held_audit;
    if (now_ns - audit->looked_at_ns < HELD_AUDIT_EVERY_NS) {
        return;
    }
    audit->looked_at_ns = now_ns;
    unsigned slot_count = segment_slot_count(store->segment);
    for (unsigned i = 0; i < slot_count; i++) {
        struct process_slot *slot = &store->segment->slots[i];
        const struct held_table *table = &store->segment->held[i];
        uint64_t held = atomic_load(&slot->held_bytes);
        uint64_t sum =
            sum_of_table(store, table->pins, held_count(&table->pin_high, PIN_COUNT_MAX)) +
            sum_of_table(store, table->uploads, held_count(&table->upload_high, UPLOAD_COUNT_MAX));
        bool same = held != sum && audit->of[i].held == held && audit->of[i].sum == sum;
        audit->of[i].looks = same ? audit->of[i].looks + 1 : 0;
        audit->of[i].held = held;
        audit->of[i].sum = sum;
        if (audit->of[i].looks >= LOOKS_MIN) {
            (void)atomic_compare_exchange_strong(&slot->held_bytes, &held, sum);
            audit->of[i].looks = 0;
        }
    }
}

bool
store_audit(struct store *store, uint64_t now_ns)
{
    if (now_ns - store->audited_at_ns < AUDIT_EVERY_NS) {
        return check_one_in_full(store, now_ns);
    }
    store->audited_at_ns = now_ns;
    audit_held(store, now_ns);
    logring_settle(store->segment);
    if (track_audit(store->segment, &store->track_audit, now_ns)) {
        atomic_fetch_add(&store->run->mended_count, 1);
    }
    if (pool_audit(store->segment, store->held, &store->pool_audit, now_ns)) {
        atomic_fetch_add(&store->run->mended_count, 1);
    }
    for (unsigned i = 0; i < AUDIT_SHARDS && i <= store->shard_mask; i++) {
        struct shard *shard = &store->shards[store->audit_turn++ & store->shard_mask];
        if (shard_try_lock(store, shard)) {
            if (UNLIKELY(!shard_is_plausible(store, shard))) {
                shard_mend(store, shard);
            }
            shard_unlock(store, shard);
        }
    }
    return check_one_in_full(store, now_ns);
}
