/* See held.h. */
#include "store/held.h"

#include "base/check.h"
#include "store/chain.h"
#include "store/pin.h"

/* Uploads and pins together hold at most this part of the memory limit. */
#define HELD_PART 8

/* How often the lowest of those who ask looks whether the others have stepped back. */
#define ASK_TRIES_MAX 16

struct shard *
shard_of_ref(const struct store *store, struct ref ref)
{
    const struct page *page = page_entry(store->segment, page_of_ref(store, ref));
    uint32_t owner = atomic_load_explicit(&page->owner, memory_order_relaxed);
    return &store->shards[page_owner_shard(owner)];
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

bool
hold_if_room(const struct store *store, struct held_ref *entry, uint32_t bytes)
{
    struct process_slot *slot = store->slot;
    uint64_t limit_bytes = memory_limit_bytes(store) / HELD_PART;
    uint64_t own = atomic_load(&slot->held_bytes);
    /* Counted first and looked at afterwards, all in one total order: of two who ask at the same
     * time, one at least sees the other. */
    hold(slot, entry, bytes);
    for (unsigned i = 0; i < ASK_TRIES_MAX; i++) {
        uint64_t before = 0;
        uint64_t held = own + held_by_others(store, slot, &before);
        if (held == 0 || held + bytes <= limit_bytes) {
            return true;
        }
        if (own + before != 0) {
            break;
        }
        /* Those behind may be asking too, and step back for us. */
        cpu_relax();
    }
    hold_no_more(slot, entry);
    return false;
}

/* A death in between counts too much and not too little; recovery sets the sum to 0. */
void
hold(struct process_slot *slot, struct held_ref *entry, uint32_t bytes)
{
    atomic_fetch_add(&slot->held_bytes, bytes);
    STORES_IN_ORDER();
    entry->bytes = bytes;
}

void
hold_no_more(struct process_slot *slot, struct held_ref *entry)
{
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
entry_at(struct process_slot *slot, uint32_t index)
{
    return index < PIN_COUNT_MAX ? &slot->pins[index] : &slot->uploads[index - PIN_COUNT_MAX];
}

void
held_release_later(struct store *store, struct held_ref *entry)
{
    struct process_slot *slot = store->slot;
    bool is_pin = entry >= slot->pins && entry < slot->pins + PIN_COUNT_MAX;
    uint32_t index =
        is_pin ? (uint32_t)(entry - slot->pins) : PIN_COUNT_MAX + (uint32_t)(entry - slot->uploads);
    struct held_left *left = &store->left;
    DCHECK((left->marks[index / 64] >> index % 64 & 1) == 0);
    left->marks[index / 64] |= UINT64_C(1) << index % 64;
    left->count++;
    /* Others are not to wait for it: an attached process may not come by for hours. At most what
     * was held when the other process was stopped is beyond the share until then. */
    hold_no_more(slot, entry);
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
        struct held_ref *entry = entry_at(store->slot, index);
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

int
free_entry(struct held_ref *entries, _Atomic uint32_t *high, unsigned count)
{
    uint32_t used = atomic_load_explicit(high, memory_order_relaxed);
    for (uint32_t i = 0; i < used; i++) {
        if (atomic_load_explicit(&entries[i].head_ref, memory_order_relaxed) == 0) {
            return (int)i;
        }
    }
    if (used == count) {
        return -1;
    }
    atomic_store_explicit(high, used + 1, memory_order_release);
    return (int)used;
}
