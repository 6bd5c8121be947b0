/* Which request is next, and its bytes. Private to load/. */
#ifndef LOAD_REQUEST_H
#define LOAD_REQUEST_H

#include "load/connection.h"

/* Renders one request at `out`, notes it as in flight, and returns the end of its bytes. */
char *put_request(struct load_generator *g, struct conn *c, char *out, uint64_t intended_ns);

/* Verify: where the keys of the ring's slot stand; else NULL. */
uint32_t *conn_keys(const struct load_generator *g, const struct conn *c, unsigned slot);

#endif
