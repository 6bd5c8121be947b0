/* What is served without an event of its own: the lists of `struct reactor`.
 *
 * Nothing runs on a timer unless somebody is waiting or holding or watching, or connections may be
 * idle for only so long (-o idle_timeout): then the list of all is kept by the second of their last
 * command, and the first ones are looked at when their time is over. */
#ifndef NET_LISTS_H
#define NET_LISTS_H

#include "net/connection.h"

/* After each round of events. */
void lists_serve(struct reactor *reactor);

/* One turn for each connection that was ready before. */
void lists_serve_ready(struct reactor *reactor);

/* How long epoll may sleep; -1 without end. */
int lists_timeout_ms(const struct reactor *reactor);

#endif
