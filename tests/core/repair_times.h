/* What repairs cost: the CPU time that store_recover() takes of its thread. */
#ifndef TESTS_CORE_REPAIR_TIMES_H
#define TESTS_CORE_REPAIR_TIMES_H

#include "store/recover.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct repair_times {
    uint32_t *ns;
    size_t count, room;
};

static inline uint64_t
thread_cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void
recover_timed(struct store *store, unsigned slot, struct recovery *recovery,
              struct repair_times *times)
{
    uint64_t began_ns = thread_cpu_ns();
    store_recover(store, slot, recovery);
    uint64_t ns = thread_cpu_ns() - began_ns;
    if (times->count == times->room) {
        times->room = times->room ? 2 * times->room : 4096;
        times->ns = realloc(times->ns, times->room * sizeof(*times->ns));
        if (times->ns == NULL) {
            exit(2);
        }
    }
    times->ns[times->count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static inline int
times_compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static inline void
repair_times_print(struct repair_times *times)
{
    if (times->count == 0) {
        return;
    }
    qsort(times->ns, times->count, sizeof(*times->ns), times_compare);
    printf("repair, CPU in us: p50 %.1f, p99 %.1f, max %.1f of %zu\n",
           times->ns[times->count / 2] / 1e3, times->ns[times->count * 99 / 100] / 1e3,
           times->ns[times->count - 1] / 1e3, times->count);
    free(times->ns);
}

#endif
