/* What of a segment this build does not know: items with an extension and parts of collections. A
 * later one may have written them into a file; see item.h for what becomes of them here. That file
 * says so in its head (features_needed), and is refused for it; what is met all the same, where a
 * shard has to be looked through, is named too. */
#ifndef STORE_UNKNOWN_H
#define STORE_UNKNOWN_H

#include "store/shard.h"

/* Under the lock: looks through all pages of the shard. True: there is something unknown, and the
 * sentence (SEGMENT_SENTENCE_MAX bytes) names the first. The segment must not be served then.
 * Damaged chunks are not its concern: they belong to no feature. */
bool shard_find_unknown(struct store *store, struct shard *shard, char *sentence) MUST_CHECK;

#endif
