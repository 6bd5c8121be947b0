/* The probation ring of a slab class: the low 32 bits of the hashes of its newest items, oldest
 * first.
 *
 *   cell: | entry 0 … 3 | ref of the next cell | entry 4 … 14 |
 *
 * An entry is resolved through the table when it is popped, so that overwrites follow their key and
 * deletes drop out. S3-FIFO's small queue (Yang et al., SOSP 2023), without links in the items. */
#ifndef STORE_PROBATION_H
#define STORE_PROBATION_H

#include "store/item.h"

struct table_place;

/* The part of a class's chunks whose items are in probation. A class that has more of the shard's
 * evictions than of its memory gets its share of a ring over the whole shard, up to a half of its
 * own chunks: what is stored once and soon asked for stays as long as in one cache. */
#define PROBATION_PART 10

#define PROBATION_CELL_ENTRIES 15

/* How many entries the ring should have. */
uint32_t probation_target(const struct store *store, const struct shard *shard, uint32_t class_id);

/* Whether the words that say where the ring begins and ends can be. */
bool probation_is_sound(const struct store *store, const struct shard *shard, uint32_t class_id);

/* Inside a transaction: the newest item of the class. False: no cell is free for the entry. */
bool probation_push(struct store *store, struct shard *shard, uint32_t class_id,
                    uint64_t hash) MUST_CHECK;

/* Takes the oldest entry; own transaction. The item, which is still in probation, and its place, or
 * NULL if it is gone. The ring is not empty. */
struct item *probation_pop(struct store *store, struct shard *shard, uint32_t class_id,
                           struct table_place *place);

/* Makes it one of the class's other items; `kept` is STATE_COUNT_MASK if it may keep its count,
 * else 0. */
void probation_end(struct item *item, uint32_t kept);

/* After a push: while memory is free, the oldest of too many simply end their probation. */
void probation_settle(struct store *store, struct shard *shard, uint32_t class_id);

#endif
