/* See growth.h. */
#include "mem/growth.h"

#include "base/clock.h"
#include "base/crash.h"
#include "base/span.h"
#include "mem/freemap.h"
#include "mem/hostmem.h"
#include "mem/populate.h"

#include <unistd.h>

/* What a request takes from the host in passing: a fraction of a millisecond's work for the kernel.
 * The maintainer takes whole extents (bench/growth.py). */
#define GROW_BYTES (EXTENT_BYTES / 8)

/* The most that is taken ahead of need. */
#define AHEAD_BYTES_MAX (64u << 20)
#define AHEAD_PART 16 /* of the limit */
#define AHEAD_LOOK_MS 100

#define GROW_WAIT_MS 1000

/* Pages whose summaries the maintainer looks at in one step: 32 KiB of the free map. */
#define CONFIRM_PAGES (UINT32_C(1) << 18)

/* ---- the grow lock -------------------------------------------------------------------------- */

uint32_t
pool_limit_pages(const struct segment *segment)
{
    return (uint32_t)(atomic_load(&segment->run->settings.memory_limit_bytes) >>
                      segment->superblock->page_shift);
}

/* Under the grow lock, or while only one process knows the segment. */
void
pool_set_effective(struct page_pool *pool, uint32_t count)
{
    atomic_store(&pool->effective_check, ~count);
    atomic_store(&pool->effective_count, count);
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

bool
pool_mend_populated(struct segment *segment)
{
    struct page_pool *pool = &segment->superblock->pool;
    uint32_t populated = atomic_load(&pool->populated_count);
    if (LIKELY(atomic_load(&pool->populated_check) == ~populated)) {
        return false;
    }
    populated = populated_by_owners(segment);
    atomic_store(&pool->populated_check, ~populated);
    atomic_store(&pool->populated_count, populated);
    return true;
}

void
pool_repair(struct segment *segment)
{
    struct page_pool *pool = &segment->superblock->pool;
    (void)pool_mend_populated(segment);
    uint32_t count = pool_populated(segment);
    uint32_t present = 0;
    for (uint32_t number = 0; number < count; number++) {
        bool absent = atomic_load(&page_entry(segment, number)->owner) == PAGE_ABSENT;
        present += !absent;
        if (absent) {
            freemap_clear(segment, number); /* It was to become free. */
        }
    }
    freemap_confirm_all(segment, 0, count);
    atomic_store(&pool->present_count, present);
    pool->absent_from = 0;
    /* A limit that was set and not yet in force. What a shortage took away pool_raise() returns. */
    uint32_t limit = pool_limit_pages(segment);
    uint32_t effective = atomic_load(&pool->effective_count);
    bool is_short = atomic_load(&segment->run->growth.short_since_ns) != 0 && effective <= limit;
    pool_set_effective(pool, is_short ? effective : limit);
}

bool
pool_recount_present(struct segment *segment)
{
    struct page_pool *pool = &segment->superblock->pool;
    uint32_t effective = atomic_load(&pool->effective_count);
    uint32_t before = atomic_load(&pool->present_count);
    pool_repair(segment);
    pool_set_effective(pool, effective);
    return atomic_load(&pool->present_count) != before;
}

bool
pool_lock(struct segment *segment)
{
    struct growth *growth = &segment->run->growth;
    enum lock_result locked = lock_try(&growth->grow_lock);
    if (locked == LOCK_TIMEOUT && atomic_load(&growth->grow_stuck) == 0) {
        locked = lock_acquire(&growth->grow_lock, GROW_WAIT_MS);
        if (locked == LOCK_TIMEOUT) {
            atomic_store(&growth->grow_stuck, 1);
        }
    }
    if (locked == LOCK_TIMEOUT && lock_names_caller(&growth->grow_lock)) {
        lock_orphan(&growth->grow_lock); /* It does not have it: the word is damaged. */
        locked = lock_try(&growth->grow_lock);
    }
    if (locked == LOCK_TIMEOUT) {
        return false;
    }
    if (locked == LOCK_OWNER_DIED) {
        pool_repair(segment);
        lock_repaired(&growth->grow_lock);
    }
    atomic_store(&growth->grow_stuck, 0);
    atomic_fetch_add(&growth->grow_count, 1);
    return true;
}

void
pool_unlock(struct segment *segment)
{
    atomic_store(&segment->run->growth.grow_stuck, 0);
    lock_release(&segment->run->growth.grow_lock);
}

/* A mark that came late, after the release, must not stay. */
static void
look_whether_stuck(struct segment *segment)
{
    if (atomic_load(&segment->run->growth.grow_stuck) != 0 && pool_lock(segment)) {
        pool_unlock(segment);
    }
}

void
pool_reopen(struct segment *segment)
{
    pool_repair(segment);
}

/* ---- giving memory to the host -------------------------------------------------------------- */

/* Under the grow lock. The page's memory is gone or going. */
static void
mark_absent(struct segment *segment, struct held_table *held, uint32_t number)
{
    struct page_pool *pool = &segment->superblock->pool;
    atomic_store_explicit(&page_entry(segment, number)->owner, PAGE_ABSENT, memory_order_release);
    CRASH_POINT(page_absent_not_counted);
    atomic_fetch_sub(&pool->present_count, 1);
    pool->absent_from = number < pool->absent_from ? number : pool->absent_from;
    atomic_store_explicit(&held->page_in_flight, 0, memory_order_release);
}

bool
pool_drop(struct segment *segment, struct held_table *held, uint32_t number)
{
    bool locked = pool_lock(segment);
    bool punched = locked && pool_is_over(segment) &&
                   punch(segment->fd, page_offset(segment->superblock, number),
                         segment->superblock->page_bytes);
    if (punched) {
        CRASH_POINT(page_punched);
        mark_absent(segment, held, number);
    } else {
        pool_give_back(segment, held, number);
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
    struct run_head *run = segment->run;
    if (bytes >> superblock->page_shift > superblock->page_count_max || !pool_lock(segment)) {
        return false;
    }
    atomic_store(&run->growth.limit_check, ~bytes);
    atomic_store(&run->settings.memory_limit_bytes, bytes);
    CRASH_POINT(limit_set_not_in_force);
    pool_set_effective(&superblock->pool, pool_limit_pages(segment));
    shortage_end(run, clock_boot_ns());
    pool_unlock(segment);
    return true;
}

/* Under the grow lock, or with `locked` false without. False: it has to be done under the lock. */
static bool
recover_page(struct segment *segment, struct held_table *held, uint32_t number, bool locked)
{
    const struct superblock *superblock = segment->superblock;
    uint32_t owner = atomic_load(&page_entry(segment, number)->owner);
    freemap_confirm(segment, number);
    if (owner != page_owner_in_hand(segment, held)) {
        return true;
    }
    /* It may have died after giving the memory to the host. */
    if (populate(segment->fd, segment->base, page_offset(superblock, number),
                 superblock->page_bytes)) {
        pool_give_back(segment, held, number);
        return true;
    }
    if (locked) {
        freemap_clear(segment, number);
        mark_absent(segment, held, number);
    }
    return locked;
}

bool
pool_recover(struct segment *segment, struct held_table *held)
{
    bool locked = pool_lock(segment);
    uint32_t in_flight = atomic_load(&held->page_in_flight);
    /* An attached process may have left any number. */
    bool done = in_flight == 0 || in_flight > pool_populated(segment) ||
                recover_page(segment, held, in_flight - 1, locked);
    if (done) {
        atomic_store(&held->page_in_flight, 0);
    }
    if (locked) {
        pool_unlock(segment);
    }
    return done;
}

/* ---- taking memory from the host ------------------------------------------------------------ */

bool
pool_can_grow(const struct segment *segment)
{
    const struct page_pool *pool = &segment->superblock->pool;
    return atomic_load_explicit(&pool->present_count, memory_order_relaxed) <
               atomic_load_explicit(&pool->effective_count, memory_order_relaxed) &&
           atomic_load_explicit(&segment->run->growth.grow_stuck, memory_order_relaxed) == 0 &&
           (LIKELY(segment->grow_again_at_ns == 0) || clock_boot_ns() >= segment->grow_again_at_ns);
}

/* Under the grow lock: an absent page has memory now. Its bit comes first, as in pool_give_back().
 */
static void
make_present(struct segment *segment, uint32_t number)
{
    freemap_set(segment, number);
    CRASH_POINT(page_listed_still_absent);
    atomic_store_explicit(&page_entry(segment, number)->owner, PAGE_FREE, memory_order_release);
    CRASH_POINT(page_present_not_counted);
    atomic_fetch_add(&segment->superblock->pool.present_count, 1);
}

/* Populates pages that never had memory, and their entries. They are absent until all of this can
 * be seen. */
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
                  (uint64_t)count * sizeof(struct page)) ||
        !freemap_populate(segment, first, count)) {
        return false;
    }
    /* They are free, as nobody has written there yet: but where the count of populated pages was
     * damaged and became too small, others may have some of them. */
    for (uint32_t number = first; number < first + count; number++) {
        uint32_t expected = PAGE_FREE;
        (void)atomic_compare_exchange_strong(&page_entry(segment, number)->owner, &expected,
                                             PAGE_ABSENT);
    }
    atomic_store(&pool->populated_check, ~(first + count));
    atomic_store_explicit(&pool->populated_count, first + count, memory_order_release);
    CRASH_POINT(pool_grown_not_counted);
    for (uint32_t number = first; number < first + count; number++) {
        if (LIKELY(atomic_load_explicit(&page_entry(segment, number)->owner,
                                        memory_order_relaxed) == PAGE_ABSENT)) {
            make_present(segment, number);
        }
    }
    return true;
}

/* Populates absent pages, up to `count`; by the count of present pages there is at least one. */
static bool
populate_absent(struct segment *segment, uint32_t count)
{
    struct superblock *superblock = segment->superblock;
    struct page_pool *pool = &superblock->pool;
    uint32_t end = pool_populated(segment);
    bool found = false;
    for (uint32_t number = pool->absent_from; number < end && count > 0; number++) {
        struct page *page = page_entry(segment, number);
        if (atomic_load_explicit(&page->owner, memory_order_relaxed) == PAGE_ABSENT) {
            if (!populate(segment->fd, segment->base, page_offset(superblock, number),
                          superblock->page_bytes)) {
                return false;
            }
            make_present(segment, number);
            found = true;
            count--;
        }
        pool->absent_from = number + 1;
    }
    if (UNLIKELY(!found)) {
        (void)pool_recount_present(segment); /* The next to grow finds what there really is. */
    }
    return true;
}

static bool
grow_locked(struct segment *segment, uint32_t bytes_max)
{
    struct superblock *superblock = segment->superblock;
    struct page_pool *pool = &superblock->pool;
    if (UNLIKELY(pool_mend_populated(segment))) {
        (void)pool_recount_present(segment); /* Nothing is to be populated behind a damaged end. */
    }
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
    if (segment->attached) {
        shortage_note_own(segment, !populated);
    } else if (!populated) {
        shortage_begin(segment, &available, bytes);
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

/* The most pages that are kept free. */
static uint32_t
ahead_max(const struct segment *segment)
{
    const struct superblock *superblock = segment->superblock;
    uint32_t most = AHEAD_BYTES_MAX >> superblock->page_shift;
    uint32_t part = atomic_load(&superblock->pool.effective_count) / AHEAD_PART;
    return part < most ? part : most;
}

/* Notes how many pages were taken lately, and wants as many free as a second would take. */
static void
look_ahead(struct pool_ahead *ahead, uint32_t used, uint32_t most, uint64_t now_ns)
{
    uint64_t elapsed_ms = (now_ns - ahead->looked_at_ns) / 1000000u;
    if (elapsed_ms < AHEAD_LOOK_MS && ahead->looked_at_ns != 0) {
        return;
    }
    uint64_t taken = used > ahead->used ? used - ahead->used : 0;
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

static void
confirm_next(const struct segment *segment, struct pool_ahead *ahead)
{
    uint32_t count = pool_populated(segment);
    uint32_t first = ahead->confirm_next < count ? ahead->confirm_next : 0;
    uint32_t step = count - first < CONFIRM_PAGES ? count - first : CONFIRM_PAGES;
    freemap_confirm_all(segment, first, step);
    ahead->confirm_next = first + step;
}

bool
pool_grow_ahead(struct segment *segment, struct pool_ahead *ahead, uint64_t now_ns)
{
    const struct page_pool *pool = &segment->superblock->pool;
    uint32_t present = atomic_load_explicit(&pool->present_count, memory_order_relaxed);
    /* While more are free than are wanted at most, none counts as taken. */
    uint32_t most = ahead_max(segment);
    uint32_t spare = freemap_count(segment, most);
    look_whether_stuck(segment);
    confirm_next(segment, ahead);
    look_ahead(ahead, present > spare ? present - spare : 0, most, now_ns);
    /* The wish may date from a higher limit: more than `most` are not even counted. */
    uint32_t wanted = ahead->wanted < most ? ahead->wanted : most;
    if (spare >= wanted || !pool_can_grow(segment)) {
        return false;
    }
    populate_unlocked(segment);
    return grow(segment, EXTENT_BYTES);
}
