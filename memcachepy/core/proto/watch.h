/* The `watch` command: connections that are told what the node does; see watch.c. */
#ifndef PROTO_WATCH_H
#define PROTO_WATCH_H

#include "proto/conn.h"

/* Reads what all processes have logged since the last call, as lines for each watching connection
 * of this process. Returns how many entries it read; so many at most that others do not wait long.
 */
unsigned watch_collect(struct protocol *protocol);

/* Puts lines that wait for the connection into the output, if it has sent what it had. False: there
 * is nothing to send. */
bool watch_output(struct protocol *protocol, struct conn *conn);

/* The connection watches no more. */
void watch_end(struct protocol *protocol, struct conn *conn);

/* With the protocol. */
void watch_free(struct protocol *protocol);

#endif
