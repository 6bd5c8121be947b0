/* What `watch` is told of; see mem/logring.h. Every call stands behind watch_wants(), which is one
 * look at a word beside one that every request looks at. */
#ifndef PROTO_WATCH_LOG_H
#define PROTO_WATCH_LOG_H

#include "mem/logring.h"
#include "proto/execute.h"

static inline bool
watch_wants(const struct protocol *protocol, uint32_t classes)
{
    return log_is_watched(protocol->run, classes);
}

/* memcached's numbers. */
enum watch_found { WATCH_NOT_FOUND, WATCH_FOUND, WATCH_FLUSHED, WATCH_EXPIRED };

/* A key was looked up: LOG_FETCHERS. */
void watch_log_get(struct protocol *protocol, const struct key *key, enum watch_found found,
                   uint32_t client_flags, uint32_t value_len);

/* The same for a command that is about to look the key up, whatever it finds: looks itself, without
 * a trace. */
void watch_log_lookup(struct protocol *protocol, const struct key *key);

/* Before any command that looks a key up otherwise than answer.h does. */
static inline void
watch_lookup(struct protocol *protocol, const struct key *key)
{
    if (watch_wants(protocol, LOG_FETCHERS)) {
        watch_log_lookup(protocol, key);
    }
}

/* A storage command was answered: LOG_MUTATIONS. */
void watch_log_put(struct protocol *protocol, const struct put *put, enum put_result result);

/* Why a connection ended, in memcached's numbers. */
enum watch_close { WATCH_CLOSE_ERROR, WATCH_CLOSE_NORMAL, WATCH_CLOSE_IDLE, WATCH_CLOSE_SHUTDOWN };

/* A connection came or ended: LOG_CONNEVENTS. The descriptor is still open. */
void watch_log_conn_new(struct protocol *protocol, const struct conn *conn, int fd);
void watch_log_conn_close(struct protocol *protocol, const struct conn *conn, int fd,
                          enum watch_close reason);

#endif
