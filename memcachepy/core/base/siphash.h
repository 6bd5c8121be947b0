/* SipHash-1-3 (Aumasson and Bernstein, 2012): a hash of which collisions cannot be made without its
 * key. The hash table's; what does not meet keys of strangers uses xxh64. */
#ifndef BASE_SIPHASH_H
#define BASE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

struct siphash_key {
    uint64_t word[2];
};

uint64_t siphash13(const void *data, size_t len, const struct siphash_key *key);

#endif
