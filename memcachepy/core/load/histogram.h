/* Latencies in buckets whose width grows with the value: 128 per power of two, so that a percentile
 * is at most 0.8 % above the true one from a nanosecond to days, and recording is an increment.
 *
 *   value < 128        one bucket each
 *   2^k <= value < 2^(k+1), k >= 7   128 buckets of 2^(k-7) */
#ifndef LOAD_HISTOGRAM_H
#define LOAD_HISTOGRAM_H

#include "base/platform.h"

#define HISTOGRAM_SUB_BITS 7
#define HISTOGRAM_SUB_COUNT (1u << HISTOGRAM_SUB_BITS)
#define HISTOGRAM_TOP_BIT 50 /* 2^50 ns are 13 days; larger values count as that. */
#define HISTOGRAM_BUCKET_COUNT ((HISTOGRAM_TOP_BIT - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_SUB_COUNT)

struct histogram {
    uint64_t count;
    uint64_t sum;
    uint64_t min, max; /* Exact; meaningless while count is 0. */
    uint64_t buckets[HISTOGRAM_BUCKET_COUNT];
};

void histogram_init(struct histogram *histogram);

/* The upper end of the bucket that holds the given share (0 to 1) of all values, at most the exact
 * maximum; 0 when nothing was recorded. */
uint64_t histogram_percentile(const struct histogram *histogram, double share);

static inline unsigned
histogram_bucket(uint64_t value)
{
    if (value < HISTOGRAM_SUB_COUNT) {
        return (unsigned)value;
    }
    if (UNLIKELY(value >> HISTOGRAM_TOP_BIT != 0)) {
        return HISTOGRAM_BUCKET_COUNT - 1;
    }
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
    return (shift + 1) * HISTOGRAM_SUB_COUNT + (unsigned)(value >> shift) - HISTOGRAM_SUB_COUNT;
}

static inline void
histogram_record(struct histogram *histogram, uint64_t value)
{
    histogram->count++;
    histogram->sum += value;
    histogram->min = value < histogram->min ? value : histogram->min;
    histogram->max = value > histogram->max ? value : histogram->max;
    histogram->buckets[histogram_bucket(value)]++;
}

#endif
