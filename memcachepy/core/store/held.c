/* See held.h. */
#include "store/held.h"

#include "base/check.h"
#include "store/item.h"
#include "store/pin.h"
#include "store/upload.h"
#include "store/walk.h"

/* Uploads and pins together hold at most this part of the memory limit. */
#define HELD_PART 8

/* How often the lowest of those who ask looks whether the others have stepped back. */
#define ASK_TRIES_MAX 16

struct shard *
shard_of_ref(const struct store *store, struct ref ref)
{
    if (!ref_is_in_pages(store, ref)) {
        return NULL;
    }
    const struct page *page = page_entry(store->segment, page_of_ref(store, ref));
    uint32_t owner = atomic_load_explicit(&page->owner, memory_order_relaxed);
    return page_has_chunks(store->superblock, owner) ? &store->shards[page_owner_shard(owner)]
                                                     : NULL;
}

/* What is held in all slots but `slot`, and in those before it. */
static uint64_t
held_by_others(const struct store *store, const struct process_slot *slot, uint64_t *before)
{
    uint64_t sum = 0;
    unsigned slot_count = segment_slot_count(store->segment);
    for (unsigned i = 0; i < slot_count; i++) {
        const struct process_slot *other = &store->segment->slots[i];
        if (other == slot) {
            *before = sum;
        } else {
            sum += atomic_load(&other->held_bytes);
        }
    }
    return sum;
}

/* ---- turns ----------------------------------------------------------------------------------
 * Smaller values would pass a large one for ever. What has waited for RESERVE_AFTER_MS without
 * being let in reserves its part: others leave room for it. There is one reservation, and what has
 * waited longer takes it over. It is renewed with each try and lapses when none comes for a while,
 * so that of a process that is stopped or dead none stays.
 *
 *    63  62      54 53            36 35              18 17             0
 *   |   | slot + 1 | bytes / 4096   | waits since      | renewed at     |   both in units of 16 ms
 *
 * The one that has waited longest in each process is in its own memory (struct share_wait). */

#define RESERVE_AFTER_MS 100
#define RESERVATION_MS 200
#define AHEAD_MS_MAX 5000

#define RESERVED_PART_SHIFT 12
#define MOMENT_SHIFT 4
#define MOMENT_MASK UINT64_C(0x3FFFF)
static_assert(SLOT_COUNT < 1 << 9, "a slot's number fits");

static uint64_t
moment_of_ms(uint64_t ms)
{
    return ms >> MOMENT_SHIFT & MOMENT_MASK;
}

static uint64_t
reservation_make(const struct store *store)
{
    uint64_t slot = (uint64_t)(store->slot - store->segment->slots) + 1;
    uint64_t parts = ((uint64_t)store->wait.bytes >> RESERVED_PART_SHIFT) + 1;
    return slot << 54 | (parts & MOMENT_MASK) << 36 | moment_of_ms(store->wait.since_ms) << 18 |
           moment_of_ms(store->now_ms);
}

static bool
reservation_is_own(const struct store *store, uint64_t word)
{
    return word >> 54 == (uint64_t)(store->slot - store->segment->slots) + 1;
}

/* Milliseconds from a moment of the word's until now; of one that lies ahead, as this process's
 * tick is behind the other's, none. */
static uint64_t
ms_since(const struct store *store, uint64_t moment)
{
    uint64_t units = (moment_of_ms(store->now_ms) - moment) & MOMENT_MASK;
    return units > MOMENT_MASK / 2 ? 0 : units << MOMENT_SHIFT;
}

/* A moment of the word's that lies so far ahead that no tick is as late: another process has
 * written over it, and it would stand for half an hour. */
static bool
moment_is_damaged(const struct store *store, uint64_t moment)
{
    uint64_t ahead = (moment - moment_of_ms(store->now_ms)) & MOMENT_MASK;
    return ahead <= MOMENT_MASK / 2 && ahead << MOMENT_SHIFT > AHEAD_MS_MAX;
}

static bool
reservation_stands(const struct store *store, uint64_t word)
{
    uint64_t renewed_at = word & MOMENT_MASK;
    return word != 0 && ms_since(store, renewed_at) <= RESERVATION_MS &&
           !moment_is_damaged(store, renewed_at);
}

static bool
is_waiting_first(const struct store *store, uint64_t key_hash, uint32_t bytes)
{
    return store->wait.bytes == bytes && store->wait.key_hash == key_hash;
}

/* What others have to leave room for. */
static uint64_t
reserved_bytes(const struct store *store, uint64_t key_hash, uint32_t bytes)
{
    uint64_t word = atomic_load(&store->run->share_reserved);
    if (LIKELY(!reservation_stands(store, word)) ||
        (reservation_is_own(store, word) && is_waiting_first(store, key_hash, bytes))) {
        return 0;
    }
    return (word >> 36 & MOMENT_MASK) << RESERVED_PART_SHIFT;
}

void
share_leave(struct store *store)
{
    store->wait.bytes = 0;
    uint64_t word = atomic_load(&store->run->share_reserved);
    if (word != 0 && reservation_is_own(store, word)) {
        atomic_compare_exchange_strong(&store->run->share_reserved, &word, 0);
    }
}

/* It was not let in. */
static void
share_wait(struct store *store, uint64_t key_hash, uint32_t bytes)
{
    struct share_wait *wait = &store->wait;
    bool waits = wait->bytes != 0 && store->now_ms - wait->tried_at_ms <= RESERVATION_MS;
    if (waits && !is_waiting_first(store, key_hash, bytes)) {
        return; /* Another one was here before it. */
    }
    if (!waits) {
        *wait =
            (struct share_wait){.key_hash = key_hash, .bytes = bytes, .since_ms = store->now_ms};
    }
    wait->tried_at_ms = store->now_ms;
    if (store->now_ms - wait->since_ms < RESERVE_AFTER_MS) {
        return;
    }
    /* Both as the word tells them: of two that have waited as long neither takes from the other. */
    uint64_t waited_ms = ms_since(store, moment_of_ms(wait->since_ms));
    uint64_t word = atomic_load(&store->run->share_reserved);
    if (!reservation_stands(store, word) || reservation_is_own(store, word) ||
        ms_since(store, word >> 18 & MOMENT_MASK) < waited_ms) {
        atomic_compare_exchange_strong(&store->run->share_reserved, &word, reservation_make(store));
    }
}

bool
hold_if_room(struct store *store, struct held_ref *entry, uint64_t key_hash, uint32_t bytes)
{
    struct process_slot *slot = store->slot;
    uint64_t limit_bytes = memory_limit_bytes(store) / HELD_PART;
    uint64_t own = atomic_load(&slot->held_bytes);
    uint64_t reserved = reserved_bytes(store, key_hash, bytes);
    /* Counted first and looked at afterwards, all in one total order: of two who ask at the same
     * time, one at least sees the other. */
    hold(store, entry, bytes);
    for (unsigned i = 0; i < ASK_TRIES_MAX; i++) {
        uint64_t before = 0;
        uint64_t held = reserved + own + held_by_others(store, slot, &before);
        if (held == 0 || held + bytes <= limit_bytes) {
            if (UNLIKELY(is_waiting_first(store, key_hash, bytes))) {
                share_leave(store);
            }
            return true;
        }
        if (own + before != 0) {
            break;
        }
        /* Those behind may be asking too, and step back for us. */
        cpu_relax();
    }
    hold_no_more(store, slot, entry);
    share_wait(store, key_hash, bytes);
    return false;
}

static bool
entry_is_of(const struct held_table *held, const struct held_ref *entry)
{
    return entry >= held->pins && entry < held->uploads + UPLOAD_COUNT_MAX;
}

static uint32_t
entry_index(const struct held_table *held, const struct held_ref *entry)
{
    bool is_pin = entry >= held->pins && entry < held->pins + PIN_COUNT_MAX;
    return is_pin ? (uint32_t)(entry - held->pins)
                  : PIN_COUNT_MAX + (uint32_t)(entry - held->uploads);
}

/* A death in between counts too much and not too little; recovery sets the sum to 0. */
void
hold(struct store *store, struct held_ref *entry, uint32_t bytes)
{
    struct process_slot *slot = store->slot;
    uint32_t index = entry_index(store->held, entry);
    store->own.used[index / 64] |= UINT64_C(1) << index % 64;
    atomic_fetch_add(&slot->held_bytes, bytes);
    STORES_IN_ORDER();
    entry->bytes = bytes;
}

void
hold_no_more(struct store *store, struct process_slot *slot, struct held_ref *entry)
{
    if (entry_is_of(store->held, entry)) {
        uint32_t index = entry_index(store->held, entry);
        store->own.used[index / 64] &= ~(UINT64_C(1) << index % 64);
    }
    uint32_t bytes = entry->bytes;
    entry->bytes = 0;
    STORES_IN_ORDER();
    atomic_fetch_sub(&slot->held_bytes, bytes);
}

/* ---- entries that are left ------------------------------------------------------------------
 * Which entries those are is known to their process alone, in private memory. If it ends before
 * they are released, they are an ended process's like all others: store_recover() releases them. */

/* Locks that one tick tries. */
#define RELEASES_PER_TICK 4

static struct held_ref *
entry_at(struct held_table *held, uint32_t index)
{
    return index < PIN_COUNT_MAX ? &held->pins[index] : &held->uploads[index - PIN_COUNT_MAX];
}

void
held_release_later(struct store *store, struct held_ref *entry)
{
    struct held_table *held = store->held;
    uint32_t index = entry_index(held, entry);
    struct held_left *left = &store->left;
    DCHECK((left->marks[index / 64] >> index % 64 & 1) == 0);
    left->marks[index / 64] |= UINT64_C(1) << index % 64;
    left->count++;
    /* Others are not to wait for it: an attached process may not come by for hours. At most what
     * was held when the other process was stopped is beyond the share until then. */
    hold_no_more(store, store->slot, entry);
}

/* The next entry that is left, from where the last try ended; there is one. */
static uint32_t
next_left(struct held_left *left)
{
    for (;;) {
        uint32_t index = left->next++ % HELD_COUNT_MAX;
        uint64_t marks = left->marks[index / 64] >> index % 64;
        if (marks & 1) {
            return index;
        }
        if (marks == 0) {
            left->next = (index / 64 + 1) * 64 % HELD_COUNT_MAX;
        }
    }
}

void
held_release(struct store *store)
{
    struct held_left *left = &store->left;
    for (unsigned i = 0; i < RELEASES_PER_TICK && left->count != 0; i++) {
        uint32_t index = next_left(left);
        struct held_ref *entry = entry_at(store->held, index);
        bool done =
            index < PIN_COUNT_MAX ? pin_try_drop(store, entry) : upload_try_drop(store, entry);
        if (done) {
            left->marks[index / 64] &= ~(UINT64_C(1) << index % 64);
            left->count--;
        }
    }
}

bool
store_holds_entries(const struct store *store)
{
    return store->left.count != 0;
}

void
name_again(struct store *store, struct held_ref *entry, struct ref head, uint64_t key_hash,
           uint32_t value_len, uint32_t kinds)
{
    uint32_t room;
    if (UNLIKELY(atomic_load_explicit(&entry->head_ref, memory_order_relaxed) != head.units) &&
        chain_head_data(store, head, key_hash, value_len, kinds, &room) != NULL) {
        atomic_store_explicit(&entry->head_ref, head.units, memory_order_relaxed);
    }
}

static int
free_entry(const struct held_ref *entries, _Atomic uint32_t *shared_high, uint32_t *high,
           uint32_t count)
{
    for (uint32_t i = 0; i < *high; i++) {
        if (atomic_load_explicit(&entries[i].head_ref, memory_order_relaxed) == 0) {
            return (int)i;
        }
    }
    /* Entries behind the last that was used name something if they are damaged. */
    for (uint32_t i = *high; i < count; i++) {
        if (LIKELY(atomic_load_explicit(&entries[i].head_ref, memory_order_relaxed) == 0)) {
            *high = i + 1;
            atomic_store_explicit(shared_high, i + 1, memory_order_release);
            return (int)i;
        }
    }
    return -1;
}

int
free_pin(struct store *store)
{
    return free_entry(store->held->pins, &store->held->pin_high, &store->own.pin_high,
                      PIN_COUNT_MAX);
}

int
free_upload(struct store *store)
{
    return free_entry(store->held->uploads, &store->held->upload_high, &store->own.upload_high,
                      UPLOAD_COUNT_MAX);
}

/* ---- waiting connections --------------------------------------------------------------------- */

void
store_set_waiters(struct store *store, uint32_t waiters)
{
    atomic_store_explicit(&store->slot->waiters, waiters, memory_order_relaxed);
    if (waiters == 0) {
        share_leave(store);
    }
}

uint32_t
store_waiters(struct store *store)
{
    uint32_t sum = 0;
    unsigned end = segment_worker_end(store->segment);
    for (unsigned i = SLOT_WORKER_FIRST; i < end; i++) {
        sum += atomic_load_explicit(&store->segment->slots[i].waiters, memory_order_relaxed);
    }
    return sum;
}
