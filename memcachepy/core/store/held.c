/* See held.h. */
#include "store/held.h"

#include "store/item.h"

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

int
free_entry(struct held_ref *entries, _Atomic uint32_t *high, unsigned count)
{
    uint32_t used = held_count(high, count);
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
