/* How much memory the host and the cgroups above this process can still give. */
#ifndef MEM_HOSTMEM_H
#define MEM_HOSTMEM_H

#include "base/platform.h"

/* A limit and who sets it, as a phrase for an error message ("cgroup /x (memory.max)"). */
struct memory_limit {
    uint64_t bytes;
    char owner[128];
};

/* The smallest of the host's memory and every ancestor cgroup's limit (v1 and v2). */
void hostmem_total(struct memory_limit *limit);

/* The smallest of what is left: host's available memory, and limit less usage plus reclaimable file
 * cache of every ancestor cgroup. */
void hostmem_available(struct memory_limit *limit);

#endif
