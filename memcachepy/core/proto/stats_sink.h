/* Where statistics go: the same code fills the text protocol's lines and the binary protocol's
 * packets. */
#ifndef PROTO_STATS_SINK_H
#define PROTO_STATS_SINK_H

#include "proto/output.h"

struct stat_sink {
    struct output *output;
    /* Adds one statistic to the output. False: out of memory, nothing was added. */
    bool (*add)(struct stat_sink *sink, const char *name, uint32_t name_len, const char *value,
                uint32_t value_len);
    /* Adds the end of the list. */
    bool (*end)(struct stat_sink *sink);
    uint32_t opaque; /* Packets: of the request. */
    uint32_t asking; /* Who asks: segment_fd_number() of its socket; 0: has none. */
    /* private */
    uint32_t begin; /* What the reply began with is at output->begin + begin. */
    bool failed;
};

/* A sink that writes through the two functions. */
void stat_sink_init(struct stat_sink *sink, struct output *output,
                    bool (*add)(struct stat_sink *, const char *, uint32_t, const char *, uint32_t),
                    bool (*end)(struct stat_sink *));

/* `STAT <name> <value>` lines and `END`. */
void stat_sink_text(struct stat_sink *sink, struct output *output);

/* One statistic. After a failure all others are dropped. */
void stat_add_text(struct stat_sink *sink, const char *name, uint32_t name_len, const char *value,
                   uint32_t value_len);
void PRINTF_LIKE(3, 4) stat_add(struct stat_sink *sink, const char *name, const char *format, ...);

/* Ends the list. False: out of memory; nothing of the reply is in the output. */
bool stat_end(struct stat_sink *sink) MUST_CHECK;

#endif
