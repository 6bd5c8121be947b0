/* A connection's turn: read, execute, send, until there is nothing more or it has had its share. */
#ifndef NET_TURN_H
#define NET_TURN_H

#include "net/connection.h"

#include <sys/types.h>

/* What a connection has used of its turn. */
struct share {
    size_t bytes;
    uint64_t requests_end; /* Of protocol_requests(). */
};

struct share turn_begin(const struct reactor *reactor);

/* What a read brought. */
struct arrival {
    ssize_t received; /* Bytes; 0 when there is nothing now, -1 when the connection has ended. */
    bool filled;      /* There may be more. */
};

/* Reads once. */
struct arrival turn_read(struct reactor *reactor, struct connection *connection);

/* Executes what was read. TURN_ON: there may be more, and the turn is not used up. The connection
 * may be gone if the turn is over. */
enum turn turn_execute(struct reactor *reactor, struct connection *connection,
                       const struct arrival *arrival, struct share *share) MUST_CHECK;

/* Reads and executes the rest of a turn. The connection may be gone afterwards. */
void turn_read_on(struct reactor *reactor, struct connection *connection, struct share *share);

/* A whole turn, beginning with what is kept. The connection may be gone afterwards. */
void turn_serve(struct reactor *reactor, struct connection *connection);

#endif
