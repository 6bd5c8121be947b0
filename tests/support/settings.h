/* The settings of the segments that tests make: those of a small node, to be changed by each. */
#ifndef TESTS_SUPPORT_SETTINGS_H
#define TESTS_SUPPORT_SETTINGS_H

#include "mem/segment.h"

static inline struct segment_settings
small_settings(uint64_t limit_bytes, uint32_t worker_count)
{
    return (struct segment_settings){.memory_limit_bytes = limit_bytes,
                                     .item_size_max_bytes = 1u << 20,
                                     .growth_factor = 1.25,
                                     .item_size_min_bytes = 8,
                                     .slab_automove = 1,
                                     .conn_limit = 10,
                                     .worker_count = worker_count,
                                     .worker_logbuf_bytes = 65536,
                                     .eviction_policy = POLICY_S3FIFO,
                                     .cas_enabled = true};
}

#endif
