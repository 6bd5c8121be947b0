/* See page.h. */
#include "mem/page.h"

#include "base/check.h"
#include "base/crash.h"
#include "mem/hostmem.h"
#include "mem/populate.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

/* Left to the rest of the machine when memory gets short. */
#define HEADROOM_BYTES (8u << 20)

static bool
take_in_hand(struct segment *segment, struct process_slot *slot, uint32_t number)
{
    struct page *page = page_entry(segment, number);
    if (atomic_load_explicit(&page->owner, memory_order_relaxed) != PAGE_FREE) {
        return false;
    }
    atomic_store_explicit(&slot->page_in_flight, number + 1, memory_order_seq_cst);
    uint32_t expected = PAGE_FREE;
    if (atomic_compare_exchange_strong(&page->owner, &expected, PAGE_IN_HAND)) {
        CRASH_POINT(page_in_hand);
        return true;
    }
    atomic_store_explicit(&slot->page_in_flight, 0, memory_order_release);
    return false;
}

uint32_t
pool_take(struct segment *segment, struct process_slot *slot)
{
    struct page_pool *pool = &segment->superblock->pool;
    if (atomic_load_explicit(&pool->free_hint, memory_order_relaxed) == 0) {
        return PAGE_NONE;
    }
    uint32_t count = atomic_load_explicit(&pool->populated_count, memory_order_acquire);
    uint32_t limit = atomic_load_explicit(&pool->effective_count, memory_order_relaxed);
    count = count < limit ? count : limit;
    uint32_t start = atomic_load_explicit(&pool->cursor, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = start + i < count ? start + i : (start + i) % count;
        if (take_in_hand(segment, slot, number)) {
            atomic_store_explicit(&pool->cursor, number + 1 < count ? number + 1 : 0,
                                  memory_order_relaxed);
            uint32_t hint = atomic_load_explicit(&pool->free_hint, memory_order_relaxed);
            while (hint != 0 && !atomic_compare_exchange_weak(&pool->free_hint, &hint, hint - 1)) {
            }
            return number;
        }
    }
    /* The hint was too high. A page that came back meanwhile raises it again. */
    atomic_store_explicit(&pool->free_hint, 0, memory_order_relaxed);
    return PAGE_NONE;
}

void
page_keep(struct process_slot *slot)
{
    atomic_store_explicit(&slot->page_in_flight, 0, memory_order_release);
}

void
pool_give_back(struct segment *segment, struct process_slot *slot, uint32_t number)
{
    struct page *page = page_entry(segment, number);
    DCHECK(atomic_load(&page->owner) == PAGE_IN_HAND);
    /* Pairs with the compare-and-swap in take_in_hand(): the taker sees our last writes. */
    atomic_store_explicit(&page->owner, PAGE_FREE, memory_order_release);
    atomic_fetch_add_explicit(&segment->superblock->pool.free_hint, 1, memory_order_relaxed);
    atomic_store_explicit(&slot->page_in_flight, 0, memory_order_release);
}

void
pool_recover(struct segment *segment, struct process_slot *slot)
{
    uint32_t in_flight = atomic_load(&slot->page_in_flight);
    if (in_flight == 0) {
        return;
    }
    struct page *page = page_entry(segment, in_flight - 1);
    /* First: whoever takes it from now on finds it free, or names it before. */
    uint32_t owner = atomic_load(&page->owner);
    /* Another process may have this very page in hand if ours died before its compare-and-swap. */
    bool elsewhere = false;
    unsigned slot_count = segment_slot_count(segment);
    for (unsigned i = 0; i < slot_count; i++) {
        struct process_slot *other = &segment->slots[i];
        elsewhere |= other != slot && atomic_load(&other->page_in_flight) == in_flight;
    }
    if (!elsewhere && owner == PAGE_IN_HAND) {
        pool_give_back(segment, slot, in_flight - 1);
    } else if (owner == PAGE_FREE) {
        /* It may have died between giving back and counting; a hint too high corrects itself. */
        atomic_fetch_add_explicit(&segment->superblock->pool.free_hint, 1, memory_order_relaxed);
    }
    atomic_store(&slot->page_in_flight, 0);
}

bool
pool_can_grow(const struct segment *segment)
{
    const struct page_pool *pool = &segment->superblock->pool;
    return atomic_load_explicit(&pool->populated_count, memory_order_relaxed) <
           atomic_load_explicit(&pool->effective_count, memory_order_relaxed);
}

/* It looks for a shortage whenever a signal wakes it. */
static void
wake_supervisor(const struct superblock *superblock)
{
    if (superblock->settings.supervisor_pid > 0) {
        kill(superblock->settings.supervisor_pid, SIGCHLD);
    }
}

static bool
grow_locked(struct segment *segment)
{
    struct superblock *superblock = segment->superblock;
    struct page_pool *pool = &superblock->pool;
    uint32_t first = atomic_load(&pool->populated_count);
    uint32_t limit = atomic_load(&pool->effective_count);
    if (first >= limit) {
        return false;
    }
    uint32_t count = EXTENT_BYTES >> superblock->page_shift;
    count = count < limit - first ? count : limit - first;
    uint64_t bytes = (uint64_t)count << superblock->page_shift;
    struct memory_limit available;
    hostmem_available(&available);
    bool populated = available.bytes > bytes + HEADROOM_BYTES &&
                     populate(segment->fd, segment->base, page_offset(superblock, first), bytes) &&
                     populate(segment->fd, segment->base,
                              superblock->pages_at + (uint64_t)first * sizeof(struct page),
                              (uint64_t)count * sizeof(struct page));
    if (!populated) {
        atomic_store(&pool->effective_count, first);
        snprintf(pool->shortage_text, sizeof(pool->shortage_text),
                 "%s has %llu KiB left, %llu KiB are needed; the cache stays at "
                 "%llu MiB of its limit of %llu MiB (raise the limit or lower -m)",
                 available.owner, (unsigned long long)available.bytes >> 10,
                 (unsigned long long)bytes >> 10,
                 (unsigned long long)first << superblock->page_shift >> 20,
                 (unsigned long long)superblock->settings.memory_limit_bytes >> 20);
        atomic_fetch_add(&pool->shortage_number, 1);
        wake_supervisor(superblock);
        return false;
    }
    atomic_store_explicit(&pool->populated_count, first + count, memory_order_release);
    CRASH_POINT(pool_grown_not_counted);
    atomic_fetch_add(&pool->free_hint, count);
    return true;
}

bool
pool_grow(struct segment *segment)
{
    struct page_pool *pool = &segment->superblock->pool;
    uint32_t before = atomic_load(&pool->populated_count);
    enum lock_result locked = lock_acquire(&pool->grow_lock, 1000);
    if (locked == LOCK_TIMEOUT) {
        return false;
    }
    if (locked == LOCK_OWNER_DIED) {
        /* Nothing to finish: memory without its count is populated again, which is harmless. The
         * hint may have missed an extent; one too high corrects itself. */
        atomic_fetch_add(&pool->free_hint, EXTENT_BYTES >> segment->superblock->page_shift);
        lock_repaired(&pool->grow_lock);
    }
    bool grown = atomic_load(&pool->populated_count) != before || grow_locked(segment);
    lock_release(&pool->grow_lock);
    return grown;
}
