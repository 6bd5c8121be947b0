/* `stats detail`: commands counted by the prefix of their key. */
#ifndef PROTO_DETAIL_H
#define PROTO_DETAIL_H

#include "proto/execute.h"

/* Whether prefixes are counted: one look at a word that every process has in its cache. */
static inline bool
detail_is_on(const struct protocol *protocol)
{
    return UNLIKELY(
        atomic_load_explicit(&protocol->run->settings.detail_enabled, memory_order_relaxed));
}

/* Only while detail_is_on(). */
void detail_count_get(struct protocol *protocol, const struct key *key, bool hit);
void detail_count_set(struct protocol *protocol, const struct key *key);
void detail_count_delete(struct protocol *protocol, const struct key *key);

/* Before a delete, whatever comes of it. */
static inline void
detail_delete(struct protocol *protocol, const struct key *key)
{
    if (detail_is_on(protocol)) {
        detail_count_delete(protocol, key);
    }
}

#endif
