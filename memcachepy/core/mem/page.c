/* See page.h. */
#include "mem/page.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/crash.h"
#include "base/span.h"
#include "mem/freemap.h"
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

/* No limit is lower: what says so is damaged. */
#define LIMIT_BYTES_MIN (UINT64_C(1) << 20)

#define AUDIT_EVERY_NS UINT64_C(2000000000)
/* Pages whose summaries the maintainer looks at in one step: 32 KiB of the free map. */
#define CONFIRM_PAGES (UINT32_C(1) << 18)

#define SECOND_NS UINT64_C(1000000000)

/* After a shortage the effective limit comes back in steps of a part of the limit, as far as the
 * host has memory for all of it and twice the headroom: growth up to there does not fail at once.
 * The wait doubles with each shortage that follows a step closely, so that a host at the edge makes
 * one line of the log a minute and not one a second. */
#define RAISE_PARTS 16
#define RAISE_STEP_S 1 /* between two steps */
#define RAISE_LOOK_S 4 /* between two looks that found no memory */
#define RAISE_WAIT_MIN_S 4
#define RAISE_WAIT_MAX_S 64
#define RAISE_CALM_S 60

/* ---- taking and giving back ----------------------------------------------------------------- */

static bool
take_in_hand(struct segment *segment, struct held_table *held, uint32_t number)
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
        if (take_in_hand(segment, held, number)) {
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
    /* Pairs with the compare-and-swap in take_in_hand(): the taker sees our last writes. */
    atomic_store_explicit(&page->owner, PAGE_FREE, memory_order_release);
    atomic_store_explicit(&held->page_in_flight, 0, memory_order_release);
}

/* ---- the grow lock -------------------------------------------------------------------------- */

static uint32_t
limit_pages(const struct segment *segment)
{
    return (uint32_t)(atomic_load(&segment->run->settings.memory_limit_bytes) >>
                      segment->superblock->page_shift);
}

/* Under the grow lock, or while only one process knows the segment. */
static void
set_effective(struct page_pool *pool, uint32_t count)
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

/* Under the grow lock: what the count of populated pages is, if another process has written over
 * it. Returns whether it has. */
static bool
mend_populated(struct segment *segment)
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

/* Makes what the lock guards agree with the page directory. Memory without its count is populated
 * again later, which is harmless. */
static void
pool_repair(struct segment *segment)
{
    struct page_pool *pool = &segment->superblock->pool;
    (void)mend_populated(segment);
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
    uint32_t limit = limit_pages(segment);
    uint32_t effective = atomic_load(&pool->effective_count);
    bool is_short = atomic_load(&segment->run->growth.short_since_ns) != 0 && effective <= limit;
    set_effective(pool, is_short ? effective : limit);
}

/* Under the grow lock: what it guards disagrees with the page directory. Returns whether the count
 * of present pages was wrong. */
static bool
recount_present(struct segment *segment)
{
    struct page_pool *pool = &segment->superblock->pool;
    uint32_t effective = atomic_load(&pool->effective_count);
    uint32_t before = atomic_load(&pool->present_count);
    pool_repair(segment);
    set_effective(pool, effective);
    return atomic_load(&pool->present_count) != before;
}

/* False: a stopped process has it. Only the first waits to find that out; see pool_can_grow(). */
static bool
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

static void
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

/* ---- shortages ------------------------------------------------------------------------------ */

/* It looks for the begin and the end of a shortage whenever a signal wakes it. */
static void
wake_supervisor(const struct run_head *run)
{
    if (run->boot_settings.supervisor_pid > 0) {
        kill(run->boot_settings.supervisor_pid, SIGCHLD);
    }
}

/* Doubles a wait, within the bounds. */
static uint32_t
longer_wait_s(uint32_t wait_s)
{
    uint32_t doubled = wait_s < RAISE_WAIT_MIN_S ? RAISE_WAIT_MIN_S : wait_s * 2;
    return doubled < RAISE_WAIT_MAX_S ? doubled : RAISE_WAIT_MAX_S;
}

static void
put_off_raising(struct growth *growth, uint64_t now_ns)
{
    uint64_t raised_at_ns = atomic_load(&growth->raised_at_ns);
    bool calm = raised_at_ns == 0 || now_ns - raised_at_ns >= RAISE_CALM_S * SECOND_NS;
    uint32_t wait_s = calm ? RAISE_WAIT_MIN_S : longer_wait_s(atomic_load(&growth->raise_wait_s));
    atomic_store(&growth->raise_wait_s, wait_s);
    atomic_store(&growth->raise_at_ns, now_ns + wait_s * SECOND_NS);
}

/* Under the grow lock. Only the first failure of a shortage is told. */
static void
note_shortage(struct segment *segment, const struct memory_limit *available, uint64_t bytes)
{
    const struct superblock *superblock = segment->superblock;
    struct run_head *run = segment->run;
    struct growth *growth = &run->growth;
    struct page_pool *pool = &segment->superblock->pool;
    uint32_t present = atomic_load(&pool->present_count);
    uint64_t now_ns = clock_boot_ns();
    bool begins = atomic_load(&growth->short_since_ns) == 0;
    put_off_raising(growth, now_ns);
    if (begins) {
        atomic_store(&growth->short_since_ns, now_ns);
    }
    CRASH_POINT(shortage_not_in_force);
    set_effective(pool, present);
    if (!begins) {
        return;
    }
    snprintf(growth->shortage_text, sizeof(growth->shortage_text),
             "%s has %llu KiB left, %llu KiB are needed; the cache stays at "
             "%llu MiB of its limit of %llu MiB until there is more (raise the limit or lower -m)",
             available->owner, (unsigned long long)available->bytes >> 10,
             (unsigned long long)bytes >> 10,
             (unsigned long long)present << superblock->page_shift >> 20,
             (unsigned long long)atomic_load(&run->settings.memory_limit_bytes) >> 20);
    atomic_fetch_add(&growth->shortage_number, 1);
    wake_supervisor(run);
}

/* In an attached process: that of its cgroup is none of the node's. */
static void
note_own_shortage(struct segment *segment, bool is_short)
{
    segment->grow_wait_s = is_short ? longer_wait_s(segment->grow_wait_s) : 0;
    segment->grow_again_at_ns = is_short ? clock_boot_ns() + segment->grow_wait_s * SECOND_NS : 0;
}

/* Under the grow lock, with the whole limit in force. */
static void
note_recovery(struct run_head *run, uint64_t now_ns)
{
    struct growth *growth = &run->growth;
    uint64_t since_ns = atomic_load(&growth->short_since_ns);
    if (since_ns != 0) {
        atomic_store(&growth->recovery_after_s, (uint32_t)((now_ns - since_ns) / SECOND_NS));
        atomic_fetch_add(&growth->recovery_number, 1);
        atomic_store(&growth->short_since_ns, 0);
        wake_supervisor(run);
    }
}

static void
raise_locked(struct segment *segment, uint64_t available_bytes, uint64_t now_ns)
{
    const struct superblock *superblock = segment->superblock;
    struct growth *growth = &segment->run->growth;
    struct page_pool *pool = &segment->superblock->pool;
    uint64_t limit = limit_pages(segment);
    uint64_t from = atomic_load(&pool->effective_count);
    uint64_t extent = EXTENT_BYTES >> superblock->page_shift;
    uint64_t spare =
        available_bytes < 2 * HEADROOM_BYTES ? 0 : available_bytes - 2 * HEADROOM_BYTES;
    /* What was raised before and is not taken yet counts, too. */
    uint64_t most = atomic_load(&pool->present_count) + (spare >> superblock->page_shift);
    uint64_t step = limit / RAISE_PARTS > extent ? limit / RAISE_PARTS : extent;
    uint64_t to = from + step < most ? from + step : most;
    to = to < limit ? to : limit;
    bool raised = to == limit || to >= from + extent;
    if (raised) {
        set_effective(pool, (uint32_t)to);
        atomic_store(&growth->raised_at_ns, now_ns);
        CRASH_POINT(limit_raised_not_noted);
    }
    atomic_store(&growth->raise_at_ns, now_ns + (raised ? RAISE_STEP_S : RAISE_LOOK_S) * SECOND_NS);
    if (to == limit) {
        note_recovery(segment->run, now_ns);
    }
}

void
pool_raise(struct segment *segment, uint64_t now_ns)
{
    const struct growth *growth = &segment->run->growth;
    if (LIKELY(atomic_load_explicit(&growth->short_since_ns, memory_order_relaxed) == 0)) {
        return;
    }
    uint64_t at_ns = atomic_load_explicit(&growth->raise_at_ns, memory_order_relaxed);
    /* No wait is longer: another process has written over the moment. */
    if (at_ns > now_ns && at_ns - now_ns <= RAISE_WAIT_MAX_S * SECOND_NS) {
        return;
    }
    struct memory_limit available;
    hostmem_available(&available);
    if (pool_lock(segment)) {
        if (atomic_load(&growth->short_since_ns) != 0) {
            raise_locked(segment, available.bytes, now_ns);
        }
        pool_unlock(segment);
    }
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
    set_effective(&superblock->pool, limit_pages(segment));
    note_recovery(run, clock_boot_ns());
    pool_unlock(segment);
    return true;
}

void
pool_give_back_any(struct segment *segment, struct held_table *held)
{
    uint32_t in_hand = page_in_hand(segment, held);
    if (in_hand != PAGE_NONE) {
        pool_give_back(segment, held, in_hand);
    }
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
        (void)recount_present(segment); /* The next to grow finds what there really is. */
    }
    return true;
}

static bool
grow_locked(struct segment *segment, uint32_t bytes_max)
{
    struct superblock *superblock = segment->superblock;
    struct page_pool *pool = &superblock->pool;
    if (UNLIKELY(mend_populated(segment))) {
        (void)recount_present(segment); /* Nothing is to be populated behind a damaged end. */
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
        note_own_shortage(segment, !populated);
    } else if (!populated) {
        note_shortage(segment, &available, bytes);
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
    if (owner == PAGE_FREE && take_in_hand(segment, held, number)) {
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
        set_effective(pool, limit_pages(segment));
        wrong = true;
    }
    audit->limit_bytes = limit_bytes;
    wrong |= mend_populated(segment);
    uint32_t effective = atomic_load(&pool->effective_count);
    if (atomic_load(&pool->effective_check) != ~effective) {
        set_effective(pool, limit_pages(segment));
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

void
pool_reopen(struct segment *segment)
{
    pool_repair(segment);
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
        wrong |= recount_present(segment);
        pool_unlock(segment);
        audit->present_wrong = 0;
    }
    return wrong;
}
