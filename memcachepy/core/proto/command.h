/* The commands as one table: name, tokens it needs at least, and who executes it.
 *
 * get, gets, gat and gats are not executed from here: their lines may be longer than any buffer,
 * see execute_get.c. Names that are absent are answered with ERROR. */
#ifndef PROTO_COMMAND_H
#define PROTO_COMMAND_H

#include "proto/parse.h"

struct conn;
struct protocol;
struct request;

/* X(name, id, tokens_min, handler); the commonest first, the lookup goes through in this order. */
#define COMMAND_LIST(X)                                                                            \
    X("set", SET, 5, execute_store)                                                                \
    X("get", GET, 2, NULL)                                                                         \
    X("gets", GETS, 2, NULL)                                                                       \
    X("delete", DELETE, 2, execute_delete)                                                         \
    X("incr", INCR, 3, execute_arith)                                                              \
    X("touch", TOUCH, 3, execute_touch)                                                            \
    X("add", ADD, 5, execute_store)                                                                \
    X("cas", CAS, 5, execute_store)                                                                \
    X("replace", REPLACE, 5, execute_store)                                                        \
    X("append", APPEND, 5, execute_store)                                                          \
    X("prepend", PREPEND, 5, execute_store)                                                        \
    X("decr", DECR, 3, execute_arith)                                                              \
    X("gat", GAT, 3, NULL)                                                                         \
    X("gats", GATS, 3, NULL)                                                                       \
    X("version", VERSION, 1, execute_version)                                                      \
    X("stats", STATS, 1, execute_stats)                                                            \
    X("verbosity", VERBOSITY, 1, execute_verbosity)                                                \
    X("flush_all", FLUSH_ALL, 1, execute_flush_all)                                                \
    X("cache_memlimit", CACHE_MEMLIMIT, 1, execute_cache_memlimit)                                 \
    X("quit", QUIT, 1, execute_quit)                                                               \
    X("shutdown", SHUTDOWN, 1, execute_shutdown)

enum command_id {
#define X(name, id, tokens_min, handler) COMMAND_##id,
    COMMAND_LIST(X)
#undef X
        COMMAND_COUNT
};

typedef void command_handler(struct protocol *, struct conn *, const struct request *);

struct command {
    const char *name;
    uint32_t name_len;
    uint32_t tokens_min; /* The name is one of them. */
    enum command_id id;
    command_handler *handler;
};

extern const struct command command_table[COMMAND_COUNT];

/* NULL if there is no such command. */
const struct command *command_find(struct slice name);

#endif
