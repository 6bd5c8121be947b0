/* See page.h. */
#include "mem/page.h"

#include "base/check.h"
#include "base/crash.h"
#include "mem/freemap.h"
#include "mem/growth.h"

bool
page_take_in_hand(struct segment *segment, struct held_table *held, uint32_t number)
{
    struct page *page = page_entry(segment, number);
    if (atomic_load_explicit(&page->owner, memory_order_relaxed) != PAGE_FREE) {
        return false;
    }
    atomic_store_explicit(&held->page_in_flight, number + 1, memory_order_seq_cst);
    uint32_t expected = PAGE_FREE;
    if (atomic_compare_exchange_strong(&page->owner, &expected,
                                       page_owner_in_hand(segment, held))) {
        CRASH_POINT(page_in_hand);
        freemap_clear(segment, number);
        return true;
    }
    atomic_store_explicit(&held->page_in_flight, 0, memory_order_release);
    return false;
}

/* The first page from `from` on that can be had. A search that is cut off is gone on with by the
 * next one: pages that are just being taken or given back have their bits, too, and their process
 * may be stopped. */
static uint32_t
take_first(struct segment *segment, struct held_table *held, uint32_t from, unsigned *looks)
{
    struct page_pool *pool = &segment->superblock->pool;
    while (*looks < FREEMAP_LOOKS_MAX) {
        uint32_t number = freemap_next(segment, held, from, looks);
        if (number == FREEMAP_NONE) {
            from = *looks < FREEMAP_LOOKS_MAX ? 0 : from;
            break;
        }
        if (page_take_in_hand(segment, held, number)) {
            return number;
        }
        from = number + 1;
    }
    if (atomic_load_explicit(&pool->cursor, memory_order_relaxed) != from) {
        atomic_store_explicit(&pool->cursor, from, memory_order_relaxed);
    }
    return PAGE_NONE;
}

static uint32_t
take_free(struct segment *segment, struct held_table *held)
{
    if (LIKELY(freemap_is_empty(segment))) {
        return PAGE_NONE;
    }
    const struct page_pool *pool = &segment->superblock->pool;
    unsigned looks = 0;
    uint32_t from = atomic_load_explicit(&pool->cursor, memory_order_relaxed);
    from = from < pool_populated(segment) ? from : 0;
    uint32_t number = take_first(segment, held, from, &looks);
    if (UNLIKELY(number == PAGE_NONE && from != 0 && looks < FREEMAP_LOOKS_MAX)) {
        number = take_first(segment, held, 0, &looks);
    }
    return number;
}

bool
pool_is_over(const struct segment *segment)
{
    const struct page_pool *pool = &segment->superblock->pool;
    return atomic_load_explicit(&pool->present_count, memory_order_relaxed) >
           atomic_load_explicit(&pool->effective_count, memory_order_relaxed);
}

/* The page that the table names, if its process has it in hand: the word may be damaged. */
static uint32_t
page_in_hand(const struct segment *segment, const struct held_table *held)
{
    uint32_t in_flight = atomic_load_explicit(&held->page_in_flight, memory_order_relaxed);
    bool in_hand = in_flight != 0 && in_flight <= segment->superblock->page_count_max &&
                   atomic_load_explicit(&page_entry(segment, in_flight - 1)->owner,
                                        memory_order_relaxed) == page_owner_in_hand(segment, held);
    return in_hand ? in_flight - 1 : PAGE_NONE;
}

uint32_t
pool_take(struct segment *segment, struct held_table *held)
{
    uint32_t in_hand = page_in_hand(segment, held);
    if (in_hand != PAGE_NONE) {
        return in_hand;
    }
    return UNLIKELY(pool_is_over(segment)) ? PAGE_NONE : take_free(segment, held);
}

uint32_t
pool_take_surplus(struct segment *segment, struct held_table *held)
{
    return pool_is_over(segment) ? take_free(segment, held) : PAGE_NONE;
}

void
page_keep(struct held_table *held)
{
    atomic_store_explicit(&held->page_in_flight, 0, memory_order_release);
}

void
pool_give_back(struct segment *segment, struct held_table *held, uint32_t number)
{
    struct page *page = page_entry(segment, number);
    DCHECK(atomic_load(&page->owner) == page_owner_in_hand(segment, held));
    freemap_set(segment, number);
    CRASH_POINT(page_listed_not_free);
    /* Pairs with the compare-and-swap in page_take_in_hand(): the taker sees our last writes. */
    atomic_store_explicit(&page->owner, PAGE_FREE, memory_order_release);
    atomic_store_explicit(&held->page_in_flight, 0, memory_order_release);
}

void
pool_give_back_any(struct segment *segment, struct held_table *held)
{
    uint32_t in_hand = page_in_hand(segment, held);
    if (in_hand != PAGE_NONE) {
        pool_give_back(segment, held, in_hand);
    }
}
