/* The two clocks that times in the store are measured by, with the offsets that tests give them.
 * The node's is the boot-time clock, which cannot be stepped; the other is the system's. */
#ifndef STORE_CLOCKS_H
#define STORE_CLOCKS_H

#include "base/clock.h"
#include "store/store.h"

#define NS_PER_S INT64_C(1000000000)
#define NS_PER_MS INT64_C(1000000)

/* Relative exptimes go up to thirty days; what is above is a moment. */
#define RELATIVE_MAX_S (60 * 60 * 24 * 30)

/* The expiry word has 31 bits of seconds. */
#define EXPIRE_S_MAX 0x7FFFFFFF

struct clocks {
    int64_t node_ns; /* since the segment's base */
    int64_t wall_ns; /* since 1970 */
};

/* By how much a simulation or a test has moved a clock. The words of a segment whose clocks are
 * fixed are not looked at: anything may stand in them. */
static inline int64_t
clocks_moved_s(const struct superblock *superblock, const _Atomic int64_t *seconds)
{
#ifndef MEMCACHEPY_DEBUG
    if (superblock->boot_settings.clock_is_fixed) {
        return 0;
    }
#endif
    (void)superblock;
    return atomic_load_explicit(seconds, memory_order_relaxed);
}

/* Where the boot-time clock stands for the store. */
static inline uint64_t
clocks_boot_ns(const struct superblock *superblock)
{
#ifdef MEMCACHEPY_DEBUG
    uint64_t paused_at_ns = atomic_load_explicit(&superblock->paused_at_ns, memory_order_relaxed);
    if (paused_at_ns != 0) {
        return paused_at_ns;
    }
#endif
    (void)superblock;
    return clock_boot_ns();
}

/* The node's clock at this moment, and not as of the last tick. */
static inline int64_t
clocks_node_ns(const struct superblock *superblock)
{
    int64_t advance_s = clocks_moved_s(superblock, &superblock->advance_s);
    return (int64_t)(clocks_boot_ns(superblock) - superblock->boot_base_ns) + advance_s * NS_PER_S;
}

/* Both. */
static inline struct clocks
clocks_read(const struct superblock *superblock)
{
    int64_t advance_s = clocks_moved_s(superblock, &superblock->advance_s);
    int64_t step_s = clocks_moved_s(superblock, &superblock->wall_step_s);
    uint64_t wall_ns = clock_wall_ns();
#ifdef MEMCACHEPY_DEBUG
    if (atomic_load_explicit(&superblock->paused_at_ns, memory_order_relaxed) != 0) {
        wall_ns -= clock_boot_ns() - clocks_boot_ns(superblock);
    }
#endif
    return (struct clocks){
        .node_ns = clocks_node_ns(superblock),
        .wall_ns = (int64_t)wall_ns + (advance_s + step_s) * NS_PER_S,
    };
}

#endif
