/* Reading a latency histogram. */
#include "load/histogram.h"

#include <math.h>
#include <string.h>

void
histogram_init(struct histogram *histogram)
{
    memset(histogram, 0, sizeof(*histogram));
    histogram->min = UINT64_MAX;
}

static uint64_t
bucket_end(unsigned bucket)
{
    if (bucket < HISTOGRAM_SUB_COUNT) {
        return bucket;
    }
    unsigned shift = bucket / HISTOGRAM_SUB_COUNT - 1;
    uint64_t place = HISTOGRAM_SUB_COUNT + bucket % HISTOGRAM_SUB_COUNT;
    return ((place + 1) << shift) - 1;
}

uint64_t
histogram_percentile(const struct histogram *histogram, double share)
{
    if (histogram->count == 0) {
        return 0;
    }
    double rank = ceil(share * (double)histogram->count);
    uint64_t wanted = rank < 1 ? 1 : (uint64_t)rank;
    uint64_t seen = 0;
    for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKET_COUNT; bucket++) {
        seen += histogram->buckets[bucket];
        if (seen >= wanted) {
            uint64_t end = bucket_end(bucket);
            return end < histogram->max ? end : histogram->max;
        }
    }
    return histogram->max;
}
