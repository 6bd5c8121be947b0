/* Keys that change while items are copied from node to node, and copies that may be shown; what it
 * is for stands in mem/track.h. */
#ifndef STORE_TRACK_H
#define STORE_TRACK_H

#include "mem/track.h"
#include "store/item.h"

static inline bool
is_tracking(const struct store *store)
{
    return UNLIKELY(atomic_load_explicit(&store->run->tracking, memory_order_relaxed) != 0);
}

/* For who has seen that changes are tracked. */
COLD void track_set(const struct store *store, const uint8_t *key, uint32_t key_len);
COLD void track_set_item(const struct store *store, const struct item *item);

/* Under the shard's lock and before the change, so that nobody can see the change and not the bit:
 * a process that dies in between has changed nothing, and cost a copy. */
static inline void
track_key(const struct store *store, const struct key *key)
{
    if (is_tracking(store)) {
        track_set(store, key->bytes, key->len);
    }
}

/* Whether the key was changed in this node since its session began. */
bool track_is_set(const struct store *store, const struct key *key);

/* Whether a marked item of this key may be shown just now; of no meaning for others. What it says
 * holds for a moment after the call began: who changed the key in the old home before that, and was
 * answered, is known. Takes no lock and never waits. */
COLD bool copy_is_shown(const struct store *store, const uint8_t *key, uint32_t key_len);

/* The marked item itself, if it may be shown; else NULL. */
COLD struct item *copy_if_shown(const struct store *store, struct item *item);

/* Maps what it takes to show copies, or lets go of it; whenever run_head.tracking is not what
 * this process saw last. */
void track_attend(struct store *store, uint32_t tracking);

#endif
