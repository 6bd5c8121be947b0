/* SipHash-1-3 (Aumasson and Bernstein, 2012): a hash of which collisions cannot be made without its
 * key. The hash table's; what does not meet keys of strangers uses xxh64. */
#ifndef BASE_SIPHASH_H
#define BASE_SIPHASH_H

#include "base/word.h"

struct siphash_key {
    uint64_t word[2];
};

/* Where hashing begins under a key. */
struct siphash_state {
    uint64_t v0, v1, v2, v3;
};

static inline struct siphash_state
siphash_begin(const struct siphash_key *key)
{
    return (struct siphash_state){
        key->word[0] ^ 0x736f6d6570736575ull,
        key->word[1] ^ 0x646f72616e646f6dull,
        key->word[0] ^ 0x6c7967656e657261ull,
        key->word[1] ^ 0x7465646279746573ull,
    };
}

static ALWAYS_INLINE void
sip_round(struct siphash_state *s)
{
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = rotate_left(s->v1, 13) ^ s->v0;
    s->v3 = rotate_left(s->v3, 16) ^ s->v2;
    s->v0 = rotate_left(s->v0, 32);
    s->v2 += s->v1;
    s->v0 += s->v3;
    s->v1 = rotate_left(s->v1, 17) ^ s->v2;
    s->v3 = rotate_left(s->v3, 21) ^ s->v0;
    s->v2 = rotate_left(s->v2, 32);
}

static ALWAYS_INLINE void
sip_absorb(struct siphash_state *s, uint64_t word)
{
    s->v3 ^= word;
    sip_round(s);
    s->v0 ^= word;
}

/* The last len % 8 bytes. Without a branch for each of them: by one load that overlaps the word
 * before, or by two or three that overlap each other. */
static ALWAYS_INLINE uint64_t
sip_load_tail(const uint8_t *data, size_t len)
{
    if (LIKELY(len >= 8)) {
        /* In two steps, for all 64 bits go where there is no tail. */
        return load_64(data + len - 8) >> 8 >> (56 - 8 * (len & 7));
    }
    if (len >= 4) {
        return load_32(data) | (uint64_t)load_32(data + len - 4) << (8 * (len - 4));
    }
    return len == 0 ? 0
                    : data[0] | (uint64_t)data[len / 2] << (8 * (len / 2)) |
                          (uint64_t)data[len - 1] << (8 * (len - 1));
}

/* In line: a call, and what it saves of registers, would be a sixth of the hash of a short key. */
static ALWAYS_INLINE uint64_t
siphash13_from(struct siphash_state s, const void *data, size_t len)
{
    const uint8_t *at = data;
    uint64_t last = sip_load_tail(at, len) | (uint64_t)len << 56;
    for (const uint8_t *end = at + (len & ~(size_t)7); at != end; at += 8) {
        sip_absorb(&s, load_64(at));
    }
    sip_absorb(&s, last);
    s.v2 ^= 0xFF;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

static inline uint64_t
siphash13(const void *data, size_t len, const struct siphash_key *key)
{
    return siphash13_from(siphash_begin(key), data, len);
}

#endif
