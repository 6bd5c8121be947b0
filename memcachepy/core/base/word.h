/* Words out of bytes, and their rotation: what hashes are made of. */
#ifndef BASE_WORD_H
#define BASE_WORD_H

#include "base/platform.h"

#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the hashes read little-endian words"
#endif

static ALWAYS_INLINE uint64_t
rotate_left(uint64_t value, unsigned bits)
{
    return (value << bits) | (value >> (64 - bits));
}

static ALWAYS_INLINE uint64_t
load_64(const void *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

static ALWAYS_INLINE uint32_t
load_32(const void *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

#endif
