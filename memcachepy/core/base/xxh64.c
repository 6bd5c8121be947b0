#include "base/xxh64.h"

#include "base/word.h"

#define PRIME_1 0x9E3779B185EBCA87ull
#define PRIME_2 0xC2B2AE3D27D4EB4Full
#define PRIME_3 0x165667B19E3779F9ull
#define PRIME_4 0x85EBCA77C2B2AE63ull
#define PRIME_5 0x27D4EB2F165667C5ull

static inline uint64_t
mix_lane(uint64_t lane, uint64_t input)
{
    return rotate_left(lane + input * PRIME_2, 31) * PRIME_1;
}

static inline uint64_t
merge_lane(uint64_t hash, uint64_t lane)
{
    return (hash ^ mix_lane(0, lane)) * PRIME_1 + PRIME_4;
}

static uint64_t
mix_stripes(const uint8_t **at, const uint8_t *end, uint64_t seed)
{
    uint64_t lane[4] = {seed + PRIME_1 + PRIME_2, seed + PRIME_2, seed, seed - PRIME_1};
    const uint8_t *from = *at;
    do {
        for (int i = 0; i < 4; i++) {
            lane[i] = mix_lane(lane[i], load_64(from + 8 * i));
        }
        from += 32;
    } while (end - from >= 32);
    *at = from;
    uint64_t hash = rotate_left(lane[0], 1) + rotate_left(lane[1], 7) + rotate_left(lane[2], 12) +
                    rotate_left(lane[3], 18);
    for (int i = 0; i < 4; i++) {
        hash = merge_lane(hash, lane[i]);
    }
    return hash;
}

uint64_t
xxh64(const void *data, size_t len, uint64_t seed)
{
    const uint8_t *at = data;
    const uint8_t *end = at + len;
    uint64_t hash = len >= 32 ? mix_stripes(&at, end, seed) : seed + PRIME_5;
    hash += len;
    while (end - at >= 8) {
        hash = rotate_left(hash ^ mix_lane(0, load_64(at)), 27) * PRIME_1 + PRIME_4;
        at += 8;
    }
    if (end - at >= 4) {
        hash = rotate_left(hash ^ load_32(at) * PRIME_1, 23) * PRIME_2 + PRIME_3;
        at += 4;
    }
    while (at < end) {
        hash = rotate_left(hash ^ *at * PRIME_5, 11) * PRIME_1;
        at++;
    }
    hash = (hash ^ (hash >> 33)) * PRIME_2;
    hash = (hash ^ (hash >> 29)) * PRIME_3;
    return hash ^ (hash >> 32);
}
