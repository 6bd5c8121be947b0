/* The two keys that are the node's own business. Not for callers of proto.
 *
 *     AmazonElastiCache:cluster   how clients asked for the list of nodes before there was `config
 *                                 get`, and still do: get and gets answer with the list. Nothing is
 *                                 stored under it, so nobody changes what others are told.
 *     memcachepy:health           an item like any other, but sets and gets of it move no counter
 *                                 of commands, hits and misses: a node that is only looked after
 *                                 looks idle.
 *
 * Their lengths differ in one bit, so that a command that is about neither pays for one test. */
#ifndef PROTO_OWN_KEYS_H
#define PROTO_OWN_KEYS_H

#include "proto/answer.h"

#define OWN_KEY_LIST "AmazonElastiCache:cluster"
#define OWN_KEY_HEALTH "memcachepy:health"

#define OWN_KEY_LIST_LEN (sizeof(OWN_KEY_LIST) - 1)
#define OWN_KEY_HEALTH_LEN (sizeof(OWN_KEY_HEALTH) - 1)
#define OWN_KEY_LEN_BIT 8u

static_assert(OWN_KEY_LIST_LEN == 25 && OWN_KEY_HEALTH_LEN == (25 & ~OWN_KEY_LEN_BIT),
              "the lengths differ in one bit");

static ALWAYS_INLINE bool
key_may_be_own(uint32_t key_len)
{
    return UNLIKELY((key_len | OWN_KEY_LEN_BIT) == OWN_KEY_LIST_LEN);
}

/* Of a key that may be. */
static inline bool
key_is_list(const struct key *key)
{
    return key->len == OWN_KEY_LIST_LEN && memcmp(key->bytes, OWN_KEY_LIST, key->len) == 0;
}

static inline bool
key_is_health(const struct key *key)
{
    return key->len == OWN_KEY_HEALTH_LEN && memcmp(key->bytes, OWN_KEY_HEALTH, key->len) == 0;
}

enum own_answer {
    OWN_NOT, /* The key is like any other: nothing was done. */
    OWN_HIT, /* Answered and counted, as far as it is. */
    OWN_MISS /* Counted; nothing was appended. */
};

/* A get of a key that may be the node's own. */
enum own_answer own_get(struct protocol *protocol, const struct batch_key *entry,
                        const struct reply_form *form);

#endif
