/* What `stats` and its sub-commands are answered with, in text and in packets. */
#ifndef PROTO_STATS_H
#define PROTO_STATS_H

#include "proto/execute.h"
#include "proto/stats_sink.h"

/* Adds the statistics of a part to the sink, without their end: "" is the general ones, else what
 * follows `stats`, exactly. False: there is no such part, and nothing was added. `reset`, `detail`
 * and `cachedump` are no lists of statistics and not among them. */
bool stats_answer(struct protocol *protocol, struct slice part, struct stat_sink *sink) MUST_CHECK;

/* memcached's general keys in its order, summed over the node; of mechanisms we lack, 0. */
void stats_general(struct stat_sink *sink, struct store *store);

/* memcached's settings keys in its order, with what applies here. */
void stats_settings(struct stat_sink *sink, struct store *store);

/* By slab class; stats_classes.c. */
void stats_items(struct stat_sink *sink, struct store *store);
void stats_slabs(struct stat_sink *sink, struct store *store);

/* Sockets of the node, of which one is the asking connection's own; stats_conns.c. */
void stats_conns(struct stat_sink *sink, struct store *store);

/* How many items there are of each size, at once; stats_walk.c. */
void stats_sizes(struct stat_sink *sink, struct store *store);

/* The same for a connection that speaks text, in pieces: CONN_WALK. False: there is nothing to
 * be counted, or no memory; ask stats_sizes(). */
bool stats_sizes_begin(struct protocol *protocol, struct conn *conn) MUST_CHECK;

/* `stats cachedump <class> <limit>`, which has lines of its own, in pieces, too. */
void stats_cachedump_begin(struct protocol *protocol, struct conn *conn, const struct line *line);

/* The next piece of either. */
enum step stats_walk_step(struct protocol *protocol, struct conn *conn) MUST_CHECK;
void stats_walk_free(struct conn *conn);

/* Answers `stats detail on|off|dump`; stats_detail.c. */
void stats_detail(struct protocol *protocol, const struct line *line);

/* Its parts: false if the word is neither `on` nor `off`; false if there is no memory for the
 * lines, of which none is added then. */
bool stats_detail_switch(struct store *store, struct slice word);
bool stats_detail_dump(struct output *output, struct store *store) MUST_CHECK;

/* The binary protocol's form, `detail on` in one word; a dump is one statistic. False: it is none
 * of them. */
bool stats_detail_packet(struct stat_sink *sink, struct store *store, struct slice part);

/* What only memcachepy has. */
void stats_own(struct stat_sink *sink, struct store *store);

#endif
