/* Shortages of memory on the host: the effective limit falls to what there is, and comes back in
 * steps; see growth.h. */
#include "mem/growth.h"

#include "base/clock.h"
#include "base/crash.h"
#include "mem/hostmem.h"

#include <signal.h>
#include <stdio.h>

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

void
shortage_begin(struct segment *segment, const struct memory_limit *available, uint64_t bytes)
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
    pool_set_effective(pool, present);
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

void
shortage_note_own(struct segment *segment, bool is_short)
{
    segment->grow_wait_s = is_short ? longer_wait_s(segment->grow_wait_s) : 0;
    segment->grow_again_at_ns = is_short ? clock_boot_ns() + segment->grow_wait_s * SECOND_NS : 0;
}

void
shortage_end(struct run_head *run, uint64_t now_ns)
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
    uint64_t limit = pool_limit_pages(segment);
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
        pool_set_effective(pool, (uint32_t)to);
        atomic_store(&growth->raised_at_ns, now_ns);
        CRASH_POINT(limit_raised_not_noted);
    }
    atomic_store(&growth->raise_at_ns, now_ns + (raised ? RAISE_STEP_S : RAISE_LOOK_S) * SECOND_NS);
    if (to == limit) {
        shortage_end(segment->run, now_ns);
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
