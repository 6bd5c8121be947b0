/* See page.h. */
#include "mem/page.h"

#include "base/check.h"
#include "base/crash.h"
#include "base/span.h"
#include "mem/hostmem.h"
#include "mem/populate.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What a request takes from the host in passing: a fraction of a millisecond's work for the kernel.
 * The maintainer takes whole extents (bench/growth.py). */
#define GROW_BYTES (EXTENT_BYTES / 8)

/* The most that is taken ahead of need. */
#define AHEAD_BYTES_MAX (64u << 20)
#define AHEAD_PART 16 /* of the limit */
#define AHEAD_LOOK_MS 100

/* Left to the rest of the machine when memory gets short. */
#define HEADROOM_BYTES (8u << 20)

#define GROW_WAIT_MS 1000

#define AUDIT_EVERY_NS UINT64_C(2000000000)

/* ---- taking and giving back ----------------------------------------------------------------- */

static bool
take_in_hand(struct segment *segment, struct process_slot *slot, uint32_t number)
{
    struct page *page = page_entry(segment, number);
    if (atomic_load_explicit(&page->owner, memory_order_relaxed) != PAGE_FREE) {
        return false;
    }
    atomic_store_explicit(&slot->page_in_flight, number + 1, memory_order_seq_cst);
    uint32_t expected = PAGE_FREE;
    if (atomic_compare_exchange_strong(&page->owner, &expected,
                                       page_owner_in_hand(segment, slot))) {
        CRASH_POINT(page_in_hand);
        return true;
    }
    atomic_store_explicit(&slot->page_in_flight, 0, memory_order_release);
    return false;
}

static uint32_t
take_free(struct segment *segment, struct process_slot *slot)
{
    struct page_pool *pool = &segment->superblock->pool;
    if (atomic_load_explicit(&pool->free_hint, memory_order_relaxed) == 0) {
        return PAGE_NONE;
    }
    uint32_t count = pool_populated(segment);
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

bool
pool_is_over(const struct segment *segment)
{
    const struct page_pool *pool = &segment->superblock->pool;
    return atomic_load_explicit(&pool->present_count, memory_order_relaxed) >
           atomic_load_explicit(&pool->effective_count, memory_order_relaxed);
}

/* The page that the slot names, if it has it in hand: the word may be damaged. */
static uint32_t
page_in_hand(const struct segment *segment, const struct process_slot *slot)
{
    uint32_t in_flight = atomic_load_explicit(&slot->page_in_flight, memory_order_relaxed);
    bool in_hand = in_flight != 0 && in_flight <= segment->superblock->page_count_max &&
                   atomic_load_explicit(&page_entry(segment, in_flight - 1)->owner,
                                        memory_order_relaxed) == page_owner_in_hand(segment, slot);
    return in_hand ? in_flight - 1 : PAGE_NONE;
}

uint32_t
pool_take(struct segment *segment, struct process_slot *slot)
{
    uint32_t in_hand = page_in_hand(segment, slot);
    if (in_hand != PAGE_NONE) {
        return in_hand;
    }
    return UNLIKELY(pool_is_over(segment)) ? PAGE_NONE : take_free(segment, slot);
}

uint32_t
pool_take_surplus(struct segment *segment, struct process_slot *slot)
{
    return pool_is_over(segment) ? take_free(segment, slot) : PAGE_NONE;
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
    DCHECK(atomic_load(&page->owner) == page_owner_in_hand(segment, slot));
    /* Pairs with the compare-and-swap in take_in_hand(): the taker sees our last writes. */
    atomic_store_explicit(&page->owner, PAGE_FREE, memory_order_release);
    atomic_fetch_add_explicit(&segment->superblock->pool.free_hint, 1, memory_order_relaxed);
    atomic_store_explicit(&slot->page_in_flight, 0, memory_order_release);
}

/* ---- the grow lock -------------------------------------------------------------------------- */

static uint32_t
limit_pages(const struct superblock *superblock)
{
    return (uint32_t)(atomic_load(&superblock->settings.memory_limit_bytes) >>
                      superblock->page_shift);
}

/* Under the grow lock, or while only one process knows the segment. */
static void
set_effective(struct page_pool *pool, uint32_t count)
{
    atomic_store(&pool->effective_check, ~count);
    atomic_store(&pool->effective_count, count);
}

/* Makes what the lock guards agree with the page directory. Memory without its count is populated
 * again later, which is harmless; a free hint too high corrects itself. */
static void
pool_repair(struct segment *segment)
{
    struct page_pool *pool = &segment->superblock->pool;
    uint32_t count = pool_populated(segment);
    uint32_t present = 0;
    for (uint32_t number = 0; number < count; number++) {
        present += atomic_load(&page_entry(segment, number)->owner) != PAGE_ABSENT;
    }
    atomic_store(&pool->present_count, present);
    pool->absent_from = 0;
    /* A shortage that is still there shows itself again. */
    set_effective(pool, limit_pages(segment->superblock));
    atomic_fetch_add(&pool->free_hint, EXTENT_BYTES >> segment->superblock->page_shift);
}

/* False: a stopped process has it. Only the first waits to find that out; see pool_can_grow(). */
static bool
pool_lock(struct segment *segment)
{
    struct page_pool *pool = &segment->superblock->pool;
    enum lock_result locked = lock_try(&pool->grow_lock);
    if (locked == LOCK_TIMEOUT && atomic_load(&pool->grow_stuck) == 0) {
        locked = lock_acquire(&pool->grow_lock, GROW_WAIT_MS);
        if (locked == LOCK_TIMEOUT) {
            atomic_store(&pool->grow_stuck, 1);
        }
    }
    if (locked == LOCK_TIMEOUT) {
        return false;
    }
    if (locked == LOCK_OWNER_DIED) {
        pool_repair(segment);
        lock_repaired(&pool->grow_lock);
    }
    atomic_store(&pool->grow_stuck, 0);
    atomic_fetch_add(&pool->grow_count, 1);
    return true;
}

static void
pool_unlock(struct segment *segment)
{
    atomic_store(&segment->superblock->pool.grow_stuck, 0);
    lock_release(&segment->superblock->pool.grow_lock);
}

/* A mark that came late, after the release, must not stay. */
static void
look_whether_stuck(struct segment *segment)
{
    if (atomic_load(&segment->superblock->pool.grow_stuck) != 0 && pool_lock(segment)) {
        pool_unlock(segment);
    }
}

/* ---- giving memory to the host -------------------------------------------------------------- */

/* Under the grow lock. The page's memory is gone or going. */
static void
mark_absent(struct segment *segment, struct process_slot *slot, uint32_t number)
{
    struct page_pool *pool = &segment->superblock->pool;
    atomic_store_explicit(&page_entry(segment, number)->owner, PAGE_ABSENT, memory_order_release);
    CRASH_POINT(page_absent_not_counted);
    atomic_fetch_sub(&pool->present_count, 1);
    pool->absent_from = number < pool->absent_from ? number : pool->absent_from;
    atomic_store_explicit(&slot->page_in_flight, 0, memory_order_release);
}

bool
pool_drop(struct segment *segment, struct process_slot *slot, uint32_t number)
{
    bool locked = pool_lock(segment);
    bool punched = locked && pool_is_over(segment) &&
                   punch(segment->fd, page_offset(segment->superblock, number),
                         segment->superblock->page_bytes);
    if (punched) {
        CRASH_POINT(page_punched);
        mark_absent(segment, slot, number);
    } else {
        pool_give_back(segment, slot, number);
    }
    if (locked) {
        pool_unlock(segment);
    }
    return punched;
}

bool
pool_set_limit(struct segment *segment, uint64_t bytes)
{
    struct superblock *superblock = segment->superblock;
    if (bytes >> superblock->page_shift > superblock->page_count_max || !pool_lock(segment)) {
        return false;
    }
    atomic_store(&superblock->pool.limit_check, ~bytes);
    atomic_store(&superblock->settings.memory_limit_bytes, bytes);
    CRASH_POINT(limit_set_not_in_force);
    set_effective(&superblock->pool, limit_pages(superblock));
    pool_unlock(segment);
    return true;
}

void
pool_give_back_any(struct segment *segment, struct process_slot *slot)
{
    uint32_t in_hand = page_in_hand(segment, slot);
    if (in_hand != PAGE_NONE) {
        pool_give_back(segment, slot, in_hand);
    }
}

void
pool_recover(struct segment *segment, struct process_slot *slot)
{
    bool locked = pool_lock(segment);
    uint32_t in_flight = atomic_load(&slot->page_in_flight);
    bool named = in_flight != 0 && in_flight <= segment->superblock->page_count_max;
    uint32_t owner = !named ? PAGE_ABSENT : atomic_load(&page_entry(segment, in_flight - 1)->owner);
    if (owner == page_owner_in_hand(segment, slot)) {
        /* It may have died after giving the memory to the host. */
        uint64_t offset = page_offset(segment->superblock, in_flight - 1);
        if (populate(segment->fd, segment->base, offset, segment->superblock->page_bytes)) {
            pool_give_back(segment, slot, in_flight - 1);
        } else if (locked) {
            mark_absent(segment, slot, in_flight - 1);
        }
    } else if (owner == PAGE_FREE) {
        /* It may have died between giving back and counting; a hint too high corrects itself. */
        atomic_fetch_add_explicit(&segment->superblock->pool.free_hint, 1, memory_order_relaxed);
    }
    atomic_store(&slot->page_in_flight, 0);
    if (locked) {
        pool_unlock(segment);
    }
}

/* ---- taking memory from the host ------------------------------------------------------------ */

bool
pool_can_grow(const struct segment *segment)
{
    const struct page_pool *pool = &segment->superblock->pool;
    return atomic_load_explicit(&pool->present_count, memory_order_relaxed) <
               atomic_load_explicit(&pool->effective_count, memory_order_relaxed) &&
           atomic_load_explicit(&pool->grow_stuck, memory_order_relaxed) == 0 &&
           !segment->may_not_grow;
}

/* It looks for a shortage whenever a signal wakes it. */
static void
wake_supervisor(const struct superblock *superblock)
{
    if (superblock->boot_settings.supervisor_pid > 0) {
        kill(superblock->boot_settings.supervisor_pid, SIGCHLD);
    }
}

static void
note_shortage(struct superblock *superblock, const struct memory_limit *available, uint64_t bytes)
{
    struct page_pool *pool = &superblock->pool;
    uint32_t present = atomic_load(&pool->present_count);
    set_effective(pool, present);
    snprintf(pool->shortage_text, sizeof(pool->shortage_text),
             "%s has %llu KiB left, %llu KiB are needed; the cache stays at "
             "%llu MiB of its limit of %llu MiB (raise the limit or lower -m)",
             available->owner, (unsigned long long)available->bytes >> 10,
             (unsigned long long)bytes >> 10,
             (unsigned long long)present << superblock->page_shift >> 20,
             (unsigned long long)atomic_load(&superblock->settings.memory_limit_bytes) >> 20);
    atomic_fetch_add(&pool->shortage_number, 1);
    wake_supervisor(superblock);
}

/* Populates pages that never had memory, and their entries. */
static bool
populate_next(struct segment *segment, uint32_t count)
{
    struct superblock *superblock = segment->superblock;
    struct page_pool *pool = &superblock->pool;
    uint32_t first = pool_populated(segment);
    if (!populate(segment->fd, segment->base, page_offset(superblock, first),
                  (uint64_t)count << superblock->page_shift) ||
        !populate(segment->fd, segment->base,
                  superblock->pages_at + (uint64_t)first * sizeof(struct page),
                  (uint64_t)count * sizeof(struct page))) {
        return false;
    }
    atomic_store(&pool->populated_check, ~(first + count));
    atomic_store_explicit(&pool->populated_count, first + count, memory_order_release);
    CRASH_POINT(pool_grown_not_counted);
    atomic_fetch_add(&pool->present_count, count);
    atomic_fetch_add(&pool->free_hint, count);
    return true;
}

/* Populates absent pages, up to `count`; there is at least one. */
static bool
populate_absent(struct segment *segment, uint32_t count)
{
    struct superblock *superblock = segment->superblock;
    struct page_pool *pool = &superblock->pool;
    uint32_t end = pool_populated(segment);
    for (uint32_t number = pool->absent_from; number < end && count > 0; number++) {
        struct page *page = page_entry(segment, number);
        if (atomic_load_explicit(&page->owner, memory_order_relaxed) == PAGE_ABSENT) {
            if (!populate(segment->fd, segment->base, page_offset(superblock, number),
                          superblock->page_bytes)) {
                return false;
            }
            atomic_store_explicit(&page->owner, PAGE_FREE, memory_order_release);
            CRASH_POINT(page_present_not_counted);
            atomic_fetch_add(&pool->present_count, 1);
            atomic_fetch_add(&pool->free_hint, 1);
            count--;
        }
        pool->absent_from = number + 1;
    }
    return true;
}

static bool
grow_locked(struct segment *segment, uint32_t bytes_max)
{
    struct superblock *superblock = segment->superblock;
    struct page_pool *pool = &superblock->pool;
    uint32_t present = atomic_load(&pool->present_count);
    uint32_t limit = atomic_load(&pool->effective_count);
    if (present >= limit) {
        return false;
    }
    uint32_t count = bytes_max >> superblock->page_shift;
    count = count < limit - present ? count : limit - present;
    uint32_t populated_count = pool_populated(segment);
    uint32_t unused = superblock->page_count_max - populated_count;
    bool absent = present < populated_count;
    count = absent || count < unused ? count : unused;
    uint64_t bytes = (uint64_t)count << superblock->page_shift;
    struct memory_limit available;
    hostmem_available(&available);
    bool populated = available.bytes > bytes + HEADROOM_BYTES &&
                     (absent ? populate_absent(segment, count) : populate_next(segment, count));
    if (!populated && segment->attached) {
        segment->may_not_grow = true; /* Its own shortage is none of the node's. */
    } else if (!populated) {
        note_shortage(superblock, &available, bytes);
    }
    return populated;
}

static bool
grow(struct segment *segment, uint32_t bytes_max)
{
    struct page_pool *pool = &segment->superblock->pool;
    uint32_t before = atomic_load(&pool->present_count);
    if (!pool_lock(segment)) {
        return false;
    }
    SPAN_BEGIN(pool_grow);
    bool grown = atomic_load(&pool->present_count) > before || grow_locked(segment, bytes_max);
    SPAN_END(pool_grow);
    pool_unlock(segment);
    return grown;
}

bool
pool_grow(struct segment *segment)
{
    return grow(segment, GROW_BYTES);
}

/* Notes how many pages were taken lately, and wants as many free as a second would take. */
static void
look_ahead(struct segment *segment, struct pool_ahead *ahead, uint32_t used, uint64_t now_ns)
{
    uint64_t elapsed_ms = (now_ns - ahead->looked_at_ns) / 1000000u;
    if (elapsed_ms < AHEAD_LOOK_MS && ahead->looked_at_ns != 0) {
        return;
    }
    uint64_t taken = used > ahead->used ? used - ahead->used : 0;
    uint64_t most = AHEAD_BYTES_MAX >> segment->superblock->page_shift;
    uint64_t part = atomic_load(&segment->superblock->pool.effective_count) / AHEAD_PART;
    most = part < most ? part : most;
    uint64_t wanted = ahead->looked_at_ns == 0 ? 0 : taken * 1000 / elapsed_ms;
    ahead->wanted = (uint32_t)(wanted < most ? wanted : most);
    ahead->used = used;
    ahead->looked_at_ns = now_ns;
}

/* The long part of taking an extent, while nobody waits for the lock. Whoever has it meanwhile
 * finds the memory there; should the limit fall just now, an extent more than it is in use until
 * the next growth. */
static void
populate_unlocked(struct segment *segment)
{
    const struct superblock *superblock = segment->superblock;
    const struct page_pool *pool = &superblock->pool;
    uint32_t first = pool_populated(segment);
    uint32_t present = atomic_load(&pool->present_count);
    uint32_t limit = atomic_load(&pool->effective_count);
    if (present < first || limit <= first) {
        return; /* Absent pages come first, one by one. */
    }
    uint64_t bytes = (uint64_t)(limit - first) << superblock->page_shift;
    bytes = bytes < EXTENT_BYTES ? bytes : EXTENT_BYTES;
    struct memory_limit available;
    hostmem_available(&available);
    if (available.bytes > bytes + HEADROOM_BYTES) {
        bool ignored = populate(segment->fd, segment->base, page_offset(superblock, first), bytes);
        (void)ignored; /* It is tried again, and counted, under the lock. */
    }
}

bool
pool_grow_ahead(struct segment *segment, struct pool_ahead *ahead, uint64_t now_ns)
{
    const struct page_pool *pool = &segment->superblock->pool;
    uint32_t present = atomic_load_explicit(&pool->present_count, memory_order_relaxed);
    uint32_t spare = atomic_load_explicit(&pool->free_hint, memory_order_relaxed);
    look_whether_stuck(segment);
    look_ahead(segment, ahead, present > spare ? present - spare : 0, now_ns);
    if (spare >= ahead->wanted || !pool_can_grow(segment)) {
        return false;
    }
    populate_unlocked(segment);
    return grow(segment, EXTENT_BYTES);
}

/* ---- damaged words -------------------------------------------------------------------------- */

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
           atomic_load(&segment->slots[slot_index].page_in_flight) == number + 1;
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

/* Frees the pages that were found without an owner twice, and counts the others. */
static bool
audit_pages(struct segment *segment, struct pool_audit *audit, uint32_t *present, uint32_t *free)
{
    struct pool_audit seen = {0};
    bool freed = false;
    uint32_t count = pool_populated(segment);
    *present = *free = 0;
    for (uint32_t number = 0; number < count; number++) {
        _Atomic uint32_t *at = &page_entry(segment, number)->owner;
        uint32_t owner = atomic_load(at);
        *present += owner != PAGE_ABSENT;
        *free += owner == PAGE_FREE;
        if (LIKELY(owner_is_possible(segment, number, owner))) {
            continue;
        }
        if (!was_lost(audit, number, owner)) {
            if (seen.lost_count < POOL_AUDIT_PAGES_MAX) {
                seen.lost[seen.lost_count].number = number;
                seen.lost[seen.lost_count++].owner = owner;
            }
        } else if (atomic_compare_exchange_strong(at, &owner, PAGE_FREE)) {
            atomic_fetch_add(&segment->superblock->pool.free_hint, 1);
            freed = true;
        }
    }
    audit->lost_count = seen.lost_count;
    memcpy(audit->lost, seen.lost, sizeof(seen.lost));
    return freed;
}

/* The end of what was populated, as the directory and the memory that it has show. Pages behind it
 * that were populated are so again when the pool grows. */
static uint32_t
populated_by_owners(const struct segment *segment)
{
    const struct superblock *superblock = segment->superblock;
    off_t hole = lseek(segment->fd, (off_t)superblock->pages_at, SEEK_HOLE);
    uint64_t present = hole < 0 ? superblock->page_count_max
                                : ((uint64_t)hole - superblock->pages_at) / sizeof(struct page);
    uint32_t number =
        present < superblock->page_count_max ? (uint32_t)present : superblock->page_count_max;
    while (number > 0 && atomic_load(&page_entry(segment, number - 1)->owner) == PAGE_FREE) {
        number--;
    }
    return number;
}

/* Under the grow lock. Each word that no page tells again stands there twice. */
static bool
audit_words(struct segment *segment, struct pool_audit *audit)
{
    struct superblock *superblock = segment->superblock;
    struct page_pool *pool = &superblock->pool;
    bool wrong = false;
    uint64_t limit_bytes = atomic_load(&superblock->settings.memory_limit_bytes);
    if (atomic_load(&pool->limit_check) != ~limit_bytes) {
        limit_bytes = audit->limit_bytes;
        atomic_store(&superblock->settings.memory_limit_bytes, limit_bytes);
        atomic_store(&pool->limit_check, ~limit_bytes);
        set_effective(pool, limit_pages(superblock));
        wrong = true;
    }
    audit->limit_bytes = limit_bytes;
    uint32_t populated = atomic_load(&pool->populated_count);
    if (atomic_load(&pool->populated_check) != ~populated) {
        populated = populated_by_owners(segment);
        atomic_store(&pool->populated_check, ~populated);
        atomic_store(&pool->populated_count, populated);
        wrong = true;
    }
    uint32_t effective = atomic_load(&pool->effective_count);
    if (atomic_load(&pool->effective_check) != ~effective) {
        set_effective(pool, limit_pages(superblock));
        wrong = true;
    }
    return wrong;
}

bool
pool_audit(struct segment *segment, struct pool_audit *audit, uint64_t now_ns)
{
    struct page_pool *pool = &segment->superblock->pool;
    if (now_ns - audit->looked_at_ns < AUDIT_EVERY_NS || !pool_lock(segment)) {
        return false;
    }
    audit->looked_at_ns = now_ns;
    if (audit->limit_bytes == 0) {
        audit->limit_bytes = segment->superblock->boot_settings.memory_limit_bytes;
    }
    bool wrong = audit_words(segment, audit);
    pool_unlock(segment);
    /* Without the lock, for there are many pages: what looks wrong once may be under way. */
    uint32_t present, free;
    wrong |= audit_pages(segment, audit, &present, &free);
    audit->present_wrong =
        present != atomic_load(&pool->present_count) ? audit->present_wrong + 1 : 0;
    if (audit->present_wrong > 1 && pool_lock(segment)) {
        uint32_t effective = atomic_load(&pool->effective_count);
        pool_repair(segment);
        set_effective(pool, effective);
        pool_unlock(segment);
        audit->present_wrong = 0;
        wrong = true;
    }
    if (atomic_load(&pool->free_hint) < free / 2) {
        atomic_store(&pool->free_hint, free);
    }
    return wrong;
}
