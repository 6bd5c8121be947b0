/* The protocol of one connection, without a socket.
 *
 * A `struct protocol` is one process's working space: the buffer that all its connections read
 * into, the output that replies are made in, the batch of keys that are looked up together. A
 * `struct conn` is what one connection remembers between two arrivals of bytes; an idle one owns no
 * memory.
 *
 * The reactor drives it like this; so does conn_feed(), for callers without sockets:
 *
 *     conn_space()  -> where the next bytes of this connection belong (none: do not read now)
 *     ... put n bytes there ...
 *     conn_received(n)  executes every complete request; replies wait in conn_output()
 *     ... send some of conn_output(), output_advance() ...
 *     conn_park()  before any other connection's turn: what was not sent is kept for later
 *
 * The caller has called store_tick() for the batch of arrivals. */
#ifndef PROTO_CONN_H
#define PROTO_CONN_H

#include "proto/output.h"
#include "store/store.h"

#include <sys/uio.h>

struct protocol;
struct pending;
struct dump;
struct stats_walk;
struct watcher;

/* What `version` answers: the memcached release whose protocol is spoken. */
#define PROTOCOL_VERSION "1.6.45"

/* What `stats memcachepy` calls version; the build may override it. */
#ifndef MEMCACHEPY_VERSION
#define MEMCACHEPY_VERSION "0.1.0"
#endif

/* The longest key of the protocol; the store knows longer ones. */
#define MEMCACHED_KEY_LEN_MAX 250

/* A get line that is longer is executed as it arrives, see execute_get.c. */
#define GET_LINE_BYTES_MAX (64u << 10)

/* Every other line is at most this long, its line feed excluded; a longer one closes the
 * connection. */
#define LINE_BYTES_MAX 2048u

/* A read buffer holds an incomplete get line and a good read behind it. */
#define READ_BUFFER_BYTES (GET_LINE_BYTES_MAX + (16u << 10))

/* So many connections may have been read before the first of them is executed; see
 * conn_foresee(). */
#define READ_AHEAD_MAX 16

enum conn_status {
    CONN_READY,   /* All input is executed or kept; more may be read. */
    CONN_FULL,    /* Send the output, then conn_resume(): requests are left. */
    CONN_WAITING, /* For the memory of uploads and pins: conn_resume() in a while. */
    CONN_CLOSE,   /* Send the output, then close. */
};

enum conn_state {
    CONN_NEW,         /* The first byte will say which protocol it speaks. */
    CONN_COMMAND,     /* At the start of a line. */
    CONN_PACKET,      /* At the start of a packet. */
    CONN_KEYS,        /* Within the keys of a get line. */
    CONN_SKIP_LINE,   /* Within a line that has been answered already. */
    CONN_VALUE,       /* A value is being collected in `pending`. */
    CONN_UPLOAD_WAIT, /* A large value waits for its upload to be opened. */
    CONN_UPLOAD,      /* A large value goes into its chunks as it arrives. */
    CONN_TERMINATOR,  /* At the line end behind an uploaded value, where there is one. */
    CONN_WALK,        /* `stats sizes` or `cachedump` is being made, a piece at a time. */
    CONN_DUMP,        /* A dump of keys is being made, a piece at a time. */
    CONN_WATCH,       /* Is told what the node does; what it sends is ignored. */
    CONN_SWALLOW,     /* `swallow` bytes of a refused value are still to come. */
    CONN_CLOSED,
};

/* Zeroed is initialised. All members are private to proto. */
struct conn {
    uint8_t state;        /* enum conn_state */
    uint8_t status;       /* enum conn_status, of the last call */
    uint8_t get_id;       /* CONN_KEYS: enum command_id */
    bool binary;          /* It speaks the binary protocol. */
    uint32_t number;      /* Of the caller: segment_fd_number() of its socket; 0: has none. */
    uint32_t scanned;     /* Bytes of an incomplete line known to hold no line feed. */
    uint32_t swallow;     /* CONN_SWALLOW */
    struct expiry expire; /* CONN_KEYS of gat and gats */
    uint8_t close_reason; /* enum watch_close */
    bool is_local; /* Of the caller: the peer is on this machine, by loopback or a UNIX socket. */
    struct pending *pending;
    struct dump *dump;       /* CONN_DUMP */
    struct stats_walk *walk; /* CONN_WALK */
    struct watcher *watcher; /* CONN_WATCH */
    uint8_t *input; /* Kept: an incomplete line, or requests that may not be executed yet. */
    uint32_t input_len;
    uint32_t input_capacity;
    struct output kept; /* Replies that could not be sent yet. */
};

/* One per process; the store stays the caller's. NULL: out of memory. */
struct protocol *protocol_new(struct store *store) MUST_CHECK;
void protocol_free(struct protocol *protocol);

/* Lets go of everything the connection holds: memory, pins, an unfinished upload. */
void conn_free(struct protocol *protocol, struct conn *conn);

/* Where the next bytes belong, as one or two pieces; returns how many, 0: nothing may be read now.
 * The pieces are valid until any other call. */
unsigned conn_space(struct protocol *protocol, struct conn *conn, struct iovec pieces[2]);

/* Several connections may be read before they are executed, each into a buffer of its own: select
 * its buffer (0 to READ_AHEAD_MAX - 1) before conn_space(), and again before conn_received(). */
void protocol_select(struct protocol *protocol, unsigned buffer_index);

/* `len` bytes have been put into the space and will be executed soon: fetches the bucket of the key
 * they begin with. False: no such key; else store_prefetch_item() for it is worth while. */
bool conn_foresee(struct protocol *protocol, const struct conn *conn, size_t len, struct key *key);

/* `len` bytes have been put into the space, in order. */
enum conn_status conn_received(struct protocol *protocol, struct conn *conn, size_t len) MUST_CHECK;

/* Long answers are made in small pieces from now on, or in large ones: others come first, or there
 * are none. */
void protocol_pace(struct protocol *protocol, bool others);

/* How many requests have been executed for all connections of this process. */
uint64_t protocol_requests(const struct protocol *protocol);

/* Goes on with what CONN_FULL or CONN_WAITING left; also harmless at any other time. While replies
 * are kept it does nothing. */
enum conn_status conn_resume(struct protocol *protocol, struct conn *conn) MUST_CHECK;

/* The replies that wait: to be sent in pieces and advanced by output_pieces(), output_advance(). */
struct output *conn_output(struct protocol *protocol, struct conn *conn);

/* Keeps unsent replies with the connection. False: out of memory, close it. */
bool conn_park(struct protocol *protocol, struct conn *conn) MUST_CHECK;

/* Drops the replies that wait: there is nobody to read them. */
void conn_discard_output(struct protocol *protocol, struct conn *conn);

/* Whether the connection holds an upload or pins that others may be waiting for. */
bool conn_holds_memory(const struct conn *conn);

/* Others wait and this connection makes no progress: an upload is aborted and answered, and true
 * returned; false means that it must be closed (it reads its replies too slowly). */
bool conn_give_up(struct protocol *protocol, struct conn *conn) MUST_CHECK;

static inline bool
conn_is_watching(const struct conn *conn)
{
    return conn->state == CONN_WATCH;
}

/* The connection is making a long answer in pieces: others come first. */
static inline bool
conn_is_streaming(const struct conn *conn)
{
    return conn->state == CONN_WALK || conn->state == CONN_DUMP;
}

/* Replies wait that the peer has not taken, or were left to be made. */
static inline bool
conn_has_work(const struct conn *conn)
{
    return conn->status == CONN_FULL || !output_is_empty(&conn->kept);
}

/* ---- without sockets ------------------------------------------------------------------------ */

/* Gives the connection up to `len` bytes and executes what is complete; *taken says how many it
 * took. Fewer were taken when the status is not CONN_READY: drain the output and call again with
 * the rest (an empty rest goes on with what was left). */
enum conn_status conn_feed(struct protocol *protocol, struct conn *conn, const uint8_t *bytes,
                           size_t len, size_t *taken) MUST_CHECK;

/* Copies replies out, pinned values included; returns how many bytes, 0 when nothing waits. */
size_t conn_drain(struct protocol *protocol, struct conn *conn, uint8_t *out, size_t capacity);

#endif
