/* Zipf ranks by rejection-inversion; see the header. */
#include "load/sampler.h"

#include <math.h>

/* log1p(x) / x and expm1(x) / x, by their series where the quotient loses its digits: so the
 * formulas below hold for an exponent of 1 too. */
static double
log1p_over(double x)
{
    return fabs(x) > 1e-8 ? log1p(x) / x : 1 - x / 2;
}

static double
expm1_over(double x)
{
    return fabs(x) > 1e-8 ? expm1(x) / x : 1 + x / 2;
}

/* The integral of t^-s from 1 to x. */
static double
integral(double s, double x)
{
    double log_x = log(x);
    return expm1_over((1 - s) * log_x) * log_x;
}

static double
integral_inverse(double s, double y)
{
    double t = y * (1 - s);
    if (t < -1) {
        t = -1; /* Rounding at the very end of the range. */
    }
    return exp(log1p_over(t) * y);
}

static uint64_t
greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

void
sampler_init(struct sampler *sampler, uint64_t count, double exponent, uint64_t seed)
{
    /* The golden ratio's part of the count puts consecutive ranks as far apart as possible. */
    uint64_t stride = (uint64_t)((double)count * 0.6180339887498949);
    while (greatest_common_divisor(stride, count) != 1) {
        stride++;
    }
    *sampler =
        (struct sampler){.state = seed, .count = count, .stride = stride, .exponent = exponent};
    if (exponent > 0) {
        sampler->low = integral(exponent, 1.5) - 1;
        sampler->high = integral(exponent, (double)count + 0.5);
        sampler->squeeze =
            2 - integral_inverse(exponent, integral(exponent, 2.5) - pow(2, -exponent));
    }
}

uint64_t
sampler_zipf_rank(struct sampler *sampler)
{
    double s = sampler->exponent;
    for (;;) {
        double share = (double)(sampler_random(sampler) >> 11) * 0x1p-53;
        double y = sampler->high + share * (sampler->low - sampler->high);
        double x = integral_inverse(s, y);
        double k = floor(x + 0.5);
        k = k < 1 ? 1 : k > (double)sampler->count ? (double)sampler->count : k;
        if (k - x <= sampler->squeeze || y >= integral(s, k + 0.5) - pow(k, -s)) {
            return (uint64_t)k - 1;
        }
    }
}
