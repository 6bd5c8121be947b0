/* The text that `stats` and its sub-commands are answered with. */
#ifndef PROTO_STATS_H
#define PROTO_STATS_H

#include "proto/output.h"

/* memcached's general keys in its order, summed over the node; of mechanisms we lack, 0. */
void stats_general(struct output *output, struct store *store);

/* memcached's settings keys in its order, with what applies here. */
void stats_settings(struct output *output, struct store *store);

/* What only memcachepy has. */
void stats_own(struct output *output, struct store *store);

/* The process's own part, for tests of the table: how many general keys there are. */
unsigned stats_general_count(void);

#endif
