/* The ghost of a shard: fingerprints of keys it evicted lately, so that a key that comes back is
 * known.
 *
 * Sets of sixteen 2-byte fingerprints, newest first, in pages of the shard; what does not fit any
 * more is the oldest of its set. Pages are added as by linear hashing (a new page begins as a copy
 * of the one it shares sets with), so growth forgets nothing. Never journaled: every content is
 * legal, and a wrong one costs at most one decision. */
#ifndef STORE_GHOST_H
#define STORE_GHOST_H

#include "store/item.h"

/* Whether the ghost should have one page more, for the items the shard holds. */
bool ghost_is_short(const struct store *store, const struct shard *shard);

/* Gives the page in hand to the ghost. Own transaction. */
void ghost_adopt_page(struct store *store, struct shard *shard, uint32_t number);

/* Whether the ghost has a page more than its shard has items for. */
bool ghost_has_spare_page(const struct store *store, const struct shard *shard);

/* Takes the newest page back, in hand, if the items have become so few that nobody will miss it.
 * Own transaction. */
uint32_t ghost_release_page(struct store *store, struct shard *shard);

void ghost_remember(struct store *store, struct shard *shard, uint64_t hash);

/* Whether the key was remembered; forgets it. */
bool ghost_recall(struct store *store, struct shard *shard, uint64_t hash);

/* Whether the key is remembered. */
bool ghost_knows(const struct store *store, const struct shard *shard, uint64_t hash);

/* Fetches the set: for a look at it soon. */
void ghost_prefetch(const struct store *store, const struct shard *shard, uint64_t hash);

#endif
