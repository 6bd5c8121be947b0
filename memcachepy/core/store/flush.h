/* flush_all: the epoch that items carry, the flush that waits for its moment, and how far the dead
 * items of earlier epochs are gone.
 *
 * A flush takes effect at one instant, at which the epoch moves on: what was stored before it is
 * dead, what is stored after it lives. The word in the superblock:
 *
 *    63                                    16 15      0
 *   | moment of a flush to come, ms; 0: none | epoch   |
 *
 * The moment is of the node's clock. The first process whose tick comes after it moves the epoch
 * on. There is one flush to come at most: the last one asked for, as in memcached. */
#ifndef STORE_FLUSH_H
#define STORE_FLUSH_H

#include "store/shard.h"

static inline uint64_t
flush_pending_ms(uint64_t flush)
{
    return flush >> 16;
}

/* Called by store_tick() while a flush is to come: lets it take effect if its moment is there. */
void flush_attend(struct store *store);

/* Whether dead items may be anywhere: there was a flush since all chunks were looked at. */
bool flush_left_items(const struct store *store);

/* All chunks were looked at, since this was the epoch, and what was dead is gone. */
void flush_swept(struct store *store, uint16_t epoch);

/* Unlinks what is dead in the next pages of the pass that all processes have in common. False: a
 * stopped process is in the way of the next. */
bool flush_sweep(struct store *store, uint32_t pages);

#endif
