/* lru_crawler crawl, metadump and mgdump; see crawl.c. Not for callers of proto. */
#ifndef PROTO_CRAWL_H
#define PROTO_CRAWL_H

#include "proto/execute.h"

/* `lru_crawler crawl`, metadump or mgdump with its one argument; false: none of them. */
bool crawl_execute(struct protocol *protocol, struct conn *conn, const struct request *request);

/* CONN_DUMP: makes the next piece. */
enum step crawl_dump_step(struct protocol *protocol, struct conn *conn) MUST_CHECK;

/* Ends the connection's dump, if there is one. */
void crawl_dump_free(struct protocol *protocol, struct conn *conn);

#endif
