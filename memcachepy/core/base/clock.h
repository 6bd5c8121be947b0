/* The two clocks of the node: one that no one can step, and the system's. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include "base/platform.h"

#include <time.h>

static inline uint64_t
clock_read_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Nanoseconds since boot, suspended time included. */
static inline uint64_t
clock_boot_ns(void)
{
    return clock_read_ns(CLOCK_BOOTTIME);
}

/* Nanoseconds of the monotonic clock, for measuring waits. */
static inline uint64_t
clock_mono_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}

/* Nanoseconds since 1970 by the system clock. */
static inline uint64_t
clock_wall_ns(void)
{
    return clock_read_ns(CLOCK_REALTIME);
}

#endif
