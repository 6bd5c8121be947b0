/* Words of the pool that another process has written over: found by the maintainer and mended. */
#include "base/clock.h"
#include "mem/freemap.h"
#include "mem/growth.h"

#include <string.h>

/* No limit is lower: what says so is damaged. */
#define LIMIT_BYTES_MIN (UINT64_C(1) << 20)

#define AUDIT_EVERY_NS UINT64_C(2000000000)

/* Whether the owner of a page can be: a shard and a kind of page, or a process that names it. */
static bool
owner_is_possible(const struct segment *segment, uint32_t number, uint32_t owner)
{
    const struct superblock *superblock = segment->superblock;
    uint32_t kind = page_owner_kind(owner);
    if (owner == PAGE_FREE || owner == PAGE_ABSENT) {
        return true;
    }
    if (page_owner_is_shard(owner)) {
        return page_owner_shard(owner) < superblock->shard_count &&
               (page_kind_is_class(superblock, kind) || kind == PAGE_KIND_TABLE ||
                kind == PAGE_KIND_GHOST);
    }
    uint32_t slot_index = (owner & ~PAGE_OWNER_PROCESS) >> 8;
    return kind == PAGE_KIND_IN_HAND && slot_index < segment_slot_count(segment) &&
           atomic_load(&segment->held[slot_index].page_in_flight) == number + 1;
}

static bool
was_lost(const struct pool_audit *audit, uint32_t number, uint32_t owner)
{
    for (uint32_t i = 0; i < audit->lost_count; i++) {
        if (audit->lost[i].number == number && audit->lost[i].owner == owner) {
            return true;
        }
    }
    return false;
}

/* The page has no owner that can be. Named first: it is recovered if this process dies. */
static bool
take_lost(struct segment *segment, struct held_table *held, uint32_t number, uint32_t owner)
{
    atomic_store(&held->page_in_flight, number + 1);
    if (atomic_compare_exchange_strong(&page_entry(segment, number)->owner, &owner,
                                       page_owner_in_hand(segment, held))) {
        pool_give_back(segment, held, number);
        return true;
    }
    atomic_store_explicit(&held->page_in_flight, 0, memory_order_release);
    return false;
}

/* A shard's page has a bit in the free map. If it is just being given back, the bit may be the one
 * that it is to have. */
static void
clear_bit_of_owned(struct segment *segment, struct held_table *held, uint32_t number,
                   uint32_t owner)
{
    atomic_store(&held->page_in_flight, number + 1);
    freemap_clear(segment, number);
    if (atomic_load(&page_entry(segment, number)->owner) != owner) {
        freemap_set(segment, number);
    }
    atomic_store_explicit(&held->page_in_flight, 0, memory_order_release);
}

/* Makes the page's bit in the free map agree with its owner, which alone decides who gets a page.
 * True: a free page had none, and would have been lost. Those of absent pages are pool_repair()'s.
 */
static bool
audit_bit(struct segment *segment, struct held_table *held, uint32_t number, uint32_t owner)
{
    if (LIKELY(freemap_has(segment, number) == (owner == PAGE_FREE))) {
        return false;
    }
    if (owner == PAGE_FREE && page_take_in_hand(segment, held, number)) {
        pool_give_back(segment, held, number);
        return true;
    }
    if (page_owner_is_shard(owner)) {
        clear_bit_of_owned(segment, held, number, owner);
    }
    return false;
}

struct pool_counts {
    uint32_t present, absent_listed;
};

/* Frees the pages that were found without an owner twice, and counts the others. For a process that
 * has no page in hand. */
static bool
audit_pages(struct segment *segment, struct held_table *held, struct pool_audit *audit,
            struct pool_counts *counts)
{
    struct pool_audit seen = {0};
    bool freed = false;
    uint32_t count = pool_populated(segment);
    *counts = (struct pool_counts){0};
    for (uint32_t number = 0; number < count; number++) {
        uint32_t owner = atomic_load(&page_entry(segment, number)->owner);
        counts->present += owner != PAGE_ABSENT;
        counts->absent_listed += owner == PAGE_ABSENT && freemap_has(segment, number);
        freed |= audit_bit(segment, held, number, owner);
        if (LIKELY(owner_is_possible(segment, number, owner))) {
            continue;
        }
        if (!was_lost(audit, number, owner)) {
            if (seen.lost_count < POOL_AUDIT_PAGES_MAX) {
                seen.lost[seen.lost_count].number = number;
                seen.lost[seen.lost_count++].owner = owner;
            }
        } else {
            freed |= take_lost(segment, held, number, owner);
        }
    }
    /* A free page that has its bit is out of sight while one above is missing. */
    freemap_confirm_all(segment, 0, count);
    audit->lost_count = seen.lost_count;
    memcpy(audit->lost, seen.lost, sizeof(seen.lost));
    return freed;
}

/* Under the grow lock. Each word that no page tells again stands there twice. */
static bool
audit_words(struct segment *segment, struct pool_audit *audit)
{
    struct superblock *superblock = segment->superblock;
    struct run_head *run = segment->run;
    struct growth *growth = &run->growth;
    struct page_pool *pool = &superblock->pool;
    bool wrong = false;
    uint64_t limit_bytes = atomic_load(&run->settings.memory_limit_bytes);
    if (atomic_load(&growth->limit_check) != ~limit_bytes || limit_bytes < LIMIT_BYTES_MIN) {
        limit_bytes = audit->limit_bytes;
        atomic_store(&run->settings.memory_limit_bytes, limit_bytes);
        atomic_store(&growth->limit_check, ~limit_bytes);
        pool_set_effective(pool, pool_limit_pages(segment));
        wrong = true;
    }
    audit->limit_bytes = limit_bytes;
    wrong |= pool_mend_populated(segment);
    uint32_t effective = atomic_load(&pool->effective_count);
    if (atomic_load(&pool->effective_check) != ~effective) {
        pool_set_effective(pool, pool_limit_pages(segment));
        wrong = true;
    }
    /* A shortage that is forgotten and has not ended: nothing would raise the limit again. */
    uint32_t recoveries = atomic_load(&growth->recovery_number);
    if (audit->short_since_ns != 0 && atomic_load(&growth->short_since_ns) == 0 &&
        audit->recoveries == recoveries) {
        atomic_store(&growth->short_since_ns, audit->short_since_ns);
        wrong = true;
    }
    audit->short_since_ns = atomic_load(&growth->short_since_ns);
    audit->recoveries = recoveries;
    return wrong;
}

bool
pool_audit(struct segment *segment, struct held_table *held, struct pool_audit *audit,
           uint64_t now_ns)
{
    struct page_pool *pool = &segment->superblock->pool;
    if (now_ns - audit->looked_at_ns < AUDIT_EVERY_NS || !pool_lock(segment)) {
        return false;
    }
    audit->looked_at_ns = now_ns;
    if (audit->limit_bytes == 0) {
        audit->limit_bytes = segment->run->boot_settings.memory_limit_bytes;
    }
    bool wrong = audit_words(segment, audit);
    pool_unlock(segment);
    /* Without the lock, for there are many pages: what looks wrong once may be under way. */
    struct pool_counts counts;
    pool_give_back_any(segment, held);
    wrong |= audit_pages(segment, held, audit, &counts);
    bool agrees = counts.present == atomic_load(&pool->present_count) && counts.absent_listed == 0;
    audit->present_wrong = agrees ? 0 : audit->present_wrong + 1;
    if (audit->present_wrong > 1 && pool_lock(segment)) {
        wrong |= pool_recount_present(segment);
        pool_unlock(segment);
        audit->present_wrong = 0;
    }
    return wrong;
}
