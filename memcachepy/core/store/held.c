/* See held.h. */
#include "store/held.h"

/* Uploads and pins together hold at most this part of the memory limit. */
#define HELD_PART 8

struct shard *
shard_of_ref(const struct store *store, struct ref ref)
{
    const struct page *page = page_entry(store->segment, page_of_ref(store, ref));
    uint32_t owner = atomic_load_explicit(&page->owner, memory_order_relaxed);
    return &store->shards[page_owner_shard(owner)];
}

static uint64_t
held_bytes(const struct store *store)
{
    uint64_t sum = 0;
    unsigned slot_count = segment_slot_count(store->segment);
    for (unsigned i = 0; i < slot_count; i++) {
        sum += atomic_load_explicit(&store->segment->slots[i].held_bytes, memory_order_relaxed);
    }
    return sum;
}

bool
may_hold(const struct store *store, uint64_t bytes)
{
    uint64_t held = held_bytes(store);
    return held == 0 || held + bytes <= memory_limit_bytes(store) / HELD_PART;
}

void
hold(struct process_slot *slot, struct held_ref *entry, uint32_t bytes)
{
    entry->bytes = bytes;
    atomic_fetch_add_explicit(&slot->held_bytes, bytes, memory_order_relaxed);
}

void
hold_no_more(struct process_slot *slot, struct held_ref *entry)
{
    atomic_fetch_sub_explicit(&slot->held_bytes, entry->bytes, memory_order_relaxed);
    entry->bytes = 0;
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
