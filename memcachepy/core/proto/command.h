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

/* X(name, id, tokens_min, handler, what `help` says); the commonest first, the lookup goes through
 * in this order. */
#define COMMAND_LIST(X)                                                                            \
    X("set", SET, 5, execute_store,                                                                \
      "<key> <flags> <exptime> <bytes> [noreply], then the value: store it")                       \
    X("get", GET, 2, NULL, "<key>...: values")                                                     \
    X("gets", GETS, 2, NULL, "<key>...: values with their cas uniques")                            \
    X("delete", DELETE, 2, execute_delete, "<key> [noreply]: remove it")                           \
    X("incr", INCR, 3, execute_arith, "<key> <delta> [noreply]: add to the number that is stored") \
    X("touch", TOUCH, 3, execute_touch, "<key> <exptime> [noreply]: another exptime")              \
    X("add", ADD, 5, execute_store, "as set, if the key is not there")                             \
    X("cas", CAS, 5, execute_store,                                                                \
      "as set with <cas unique> behind <bytes>, if nobody has stored since")                       \
    X("replace", REPLACE, 5, execute_store, "as set, if the key is there")                         \
    X("append", APPEND, 5, execute_store, "as set: put behind the value that is there")            \
    X("prepend", PREPEND, 5, execute_store, "as set: put before the value that is there")          \
    X("decr", DECR, 3, execute_arith, "<key> <delta> [noreply]: subtract, down to 0")              \
    X("gat", GAT, 3, NULL, "<exptime> <key>...: values, and another exptime")                      \
    X("gats", GATS, 3, NULL, "<exptime> <key>...: the same with cas uniques")                      \
    X("mg", MG, 2, NULL, "<key> <flag>...: what the flags ask for; v is the value")                \
    X("ms", MS, 3, execute_meta_set, "<key> <bytes> <flag>..., then the value: store it")          \
    X("md", MD, 2, execute_meta_delete, "<key> <flag>...: remove it, or with I leave it stale")    \
    X("ma", MA, 2, execute_meta_arith, "<key> <flag>...: add or subtract; N and J create it")      \
    X("mn", MN, 1, execute_meta_noop, "nothing; its reply says that all before it is answered")    \
    X("me", ME, 2, execute_meta_debug, "<key> [b]: what is known of the item")                     \
    X("config", CONFIG, 2, execute_config,                                                         \
      "get [<key>] | set <key> <flags> <bytes>, then the value | delete <key>: the nodes' list")   \
    X("version", VERSION, 1, execute_version, "the protocol's version")                            \
    X("stats", STATS, 1, execute_stats, "[settings | items | ... | reset]: what the node counts")  \
    X("verbosity", VERBOSITY, 1, execute_verbosity,                                                \
      "<level> [noreply]: how much is logged, 0 to 2")                                             \
    X("flush_all", FLUSH_ALL, 1, execute_flush_all, "[<delay>] [noreply]: forget every item")      \
    X("cache_memlimit", CACHE_MEMLIMIT, 1, execute_cache_memlimit,                                 \
      "<megabytes> [noreply]: another memory limit")                                               \
    X("slabs", SLABS, 1, execute_slabs,                                                            \
      "reassign <from class> <to class> | automove <0, 1 or 2>: move pages")                       \
    X("lru", LRU, 1, execute_lru, "tune | mode | temp_ttl ...: accepted without effect")           \
    X("lru_crawler", LRU_CRAWLER, 1, execute_lru_crawler,                                          \
      "crawl | metadump | mgdump <classes, all or hash>; enable, disable, ...")                    \
    X("watch", WATCH, 1, execute_watch,                                                            \
      "[fetchers | mutations | evictions | ...]...: be told what happens")                         \
    X("help", HELP, 1, execute_help, "this list")                                                  \
    X("quit", QUIT, 1, execute_quit, "end the connection")                                         \
    X("shutdown", SHUTDOWN, 1, execute_shutdown, "[graceful]: end the node, if -A allows it")

/* Only in test builds, as in memcached's. */
#ifdef MEMCACHEPY_DEBUG
#define DEBUG_COMMAND_LIST(X)                                                                      \
    X("debugtime", DEBUGTIME, 2, execute_debugtime, "p | r | <seconds>: the clock")                \
    X("debugitem", DEBUGITEM, 3, execute_debugitem, "lock | unlock | ref | unref <key>")
#else
#define DEBUG_COMMAND_LIST(X)
#endif

enum command_id {
#define X(name, id, tokens_min, handler, help) COMMAND_##id,
    COMMAND_LIST(X) DEBUG_COMMAND_LIST(X)
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
    const char *help; /* Its arguments and what it does, one line. */
};

extern const struct command command_table[COMMAND_COUNT];

/* NULL if there is no such command. */
const struct command *command_find(struct slice name);

#endif
