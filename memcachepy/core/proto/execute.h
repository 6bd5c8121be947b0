/* What the files of proto share: the working space, a request, and how to answer it. Not for
 * callers. */
#ifndef PROTO_EXECUTE_H
#define PROTO_EXECUTE_H

#include "proto/command.h"
#include "proto/conn.h"
#include "proto/output.h"
#include "proto/parse.h"

/* Keys are looked up this many at a time, so that their cache misses overlap. */
#define BATCH_KEYS_MAX 64

/* Keys are copied by whole vectors; buffers they lie in are longer by this. */
#define INPUT_SLACK_BYTES 32

struct batch_key {
    struct key key;
    uint8_t get_id; /* enum command_id */
    bool ends;      /* The last of its command. */
};

struct batch {
    unsigned count;
    bool may_own; /* A key may be one of the node's own: see own_keys.h. */
    struct batch_key keys[BATCH_KEYS_MAX];
};

struct watch;

struct protocol {
    struct store *store;
    struct counters *counters;
    struct run_head *run;
    struct watch *watch; /* NULL: nobody has watched here yet */
    bool small_pieces;   /* of long answers */
    uint32_t fd_number;  /* of the connection whose turn it is; see segment_fd_number() */
    uint8_t *buffers;    /* READ_AHEAD_MAX times READ_BUFFER_BYTES and slack */
    uint8_t *read;       /* the one in use */
    struct output output;
    uint32_t value_len_max; /* No value that is copied is longer. */
    uint64_t requests;      /* Command lines executed so far, of all connections. */
    struct batch batch;
};

/* The bytes that are being executed. */
struct input {
    const uint8_t *at;
    const uint8_t *end;
};

/* What stops the execution of a connection's input. */
enum step {
    STEP_NEXT,  /* Nothing: go on. */
    STEP_MORE,  /* What is left is no whole request. */
    STEP_FULL,  /* The output has to be sent first. */
    STEP_WAIT,  /* For the memory of uploads and pins. */
    STEP_CLOSE, /* The connection ends. */
};

/* One parsed command line. */
struct request {
    const struct command *command;
    const struct line *line;
    bool noreply;
    struct input *input; /* Behind the line: storage commands find their value here. */
};

/* The connection is at the start of a request again. */
static inline void
conn_await_request(struct conn *conn)
{
    conn->state = conn->binary ? CONN_PACKET : CONN_COMMAND;
}

#define TEXT_BAD_FORMAT "CLIENT_ERROR bad command line format\r\n"
#define TEXT_BAD_EXPTIME "CLIENT_ERROR invalid exptime argument\r\n"
#define TEXT_BUSY "SERVER_ERROR shard is locked by a stopped process\r\n"

#define REPLY(protocol, noreply, text)                                                             \
    do {                                                                                           \
        if (!(noreply)) {                                                                          \
            OUTPUT_TEXT(&(protocol)->output, text);                                                \
        }                                                                                          \
    } while (0)

/* The longest moment that an absolute exptime may name. */
#define EXPTIME_MAX UINT32_MAX

/* An exptime of touch and gat: from INT32_MIN up to EXPTIME_MAX. */
bool parse_exptime(struct slice token, int64_t *exptime) MUST_CHECK;

/* One step at the start of a line, of any command. */
enum step execute_line(struct protocol *protocol, struct conn *conn,
                       struct input *input) MUST_CHECK;

/* execute_get.c: get and gets lines at the input's start, as many as fit a batch. */
bool get_is_next(const struct input *input);
enum step execute_gets(struct protocol *protocol, struct conn *conn,
                       struct input *input) MUST_CHECK;
enum step execute_keys(struct protocol *protocol, struct conn *conn,
                       struct input *input) MUST_CHECK;
/* A gat or gats line that is complete. */
void execute_gat(struct protocol *protocol, struct conn *conn, const struct request *request);

/* The handlers of COMMAND_LIST and DEBUG_COMMAND_LIST. */
#ifdef MEMCACHEPY_DEBUG
command_handler execute_debugtime, execute_debugitem;
#endif
command_handler execute_store, execute_delete, execute_arith, execute_touch;
command_handler execute_meta_set, execute_meta_delete, execute_meta_arith, execute_meta_noop,
    execute_meta_debug;
command_handler execute_version, execute_verbosity, execute_flush_all, execute_cache_memlimit,
    execute_help, execute_quit, execute_shutdown, execute_stats;
command_handler execute_config;
command_handler execute_slabs, execute_lru, execute_lru_crawler, execute_watch;

#endif
