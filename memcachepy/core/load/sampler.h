/* Which key comes next: uniform or Zipf over [0, count), in constant time and memory.
 *
 * Zipf draws a rank by rejection-inversion (W. Hörmann, G. Derflinger: Rejection-inversion to
 * generate variates from monotone discrete distributions, 1996): invert the integral of x^-s,
 * round, and reject the sliver where the bar under the integer is lower than the curve. It
 * needs 1.1 tries and no table. Ranks are then scattered over the keys by a multiplication modulo
 * the count, so that the hottest keys are not neighbours. */
#ifndef LOAD_SAMPLER_H
#define LOAD_SAMPLER_H

#include "base/platform.h"

struct sampler {
    uint64_t state;
    uint64_t count;
    uint64_t stride;  /* Coprime to count. */
    double exponent;  /* 0: uniform. */
    double low, high; /* The integral at 1.5 less the first bar, and at count + 0.5. */
    double squeeze;   /* Within so much above x, k is accepted without evaluating the integral. */
};

/* count is 1 to 2^32 - 1. */
void sampler_init(struct sampler *sampler, uint64_t count, double exponent, uint64_t seed);

/* A rank from 0; the most likely is 0. */
uint64_t sampler_zipf_rank(struct sampler *sampler);

/* SplitMix64: one multiplication chain, any seed is a good seed. */
static inline uint64_t
sampler_random(struct sampler *sampler)
{
    uint64_t z = sampler->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, bound) by the high half of a product; the bias is below 2^-32. */
static inline uint64_t
sampler_below(struct sampler *sampler, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)sampler_random(sampler) * bound) >> 64);
}

static inline uint64_t
sampler_key(struct sampler *sampler)
{
    if (sampler->exponent == 0) {
        return sampler_below(sampler, sampler->count);
    }
    return sampler_zipf_rank(sampler) * sampler->stride % sampler->count;
}

#endif
