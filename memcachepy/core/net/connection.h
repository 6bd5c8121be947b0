/* A connection of a worker: its socket, its conditions, and how its replies leave.
 *
 * Edge-triggered: a connection that may have more to read says so in `readable`, and a read that
 * came up short clears it, so that a request costs one recv() and one send() and nothing else.
 * EPOLLOUT is asked for only while the peer is not taking its replies; a UNIX socket would report
 * it for every reply.
 *
 * A connection is in at most one of these conditions, and the lists of `struct reactor` hold the
 * last four:
 *
 *     idle       nothing to do until its socket says so; owns no buffer
 *     blocked    replies are kept until the socket takes them; not read from
 *     ready      has more to do; its next turn comes after everybody else's
 *     paced      makes a long answer in pieces; see serve_paced()
 *     waiting    for memory of uploads and pins, first come first served; retried on a timer
 *     held       holds such memory (beside the above); given up when it stalls and others wait */
#ifndef NET_CONNECTION_H
#define NET_CONNECTION_H

#include "mem/conn_table.h"
#include "net/list.h"
#include "net/loop.h"
#include "proto/conn.h"

struct connection {
    struct conn conn;
    struct conn_entry *entry; /* What others see of it; NULL: nothing. */
    uint32_t shown_at_s;      /* Seconds of the node's clock, */
    uint16_t shown_state;     /* and the state that the entry was last told. */
    int fd;
    bool readable;     /* There may be bytes to read. */
    bool may_idle;     /* For as long as it likes. */
    bool hangup;       /* The peer has closed its side: read up to the end. */
    bool wants_write;  /* EPOLLOUT is asked for. */
    struct list all;   /* Of every connection. */
    struct list ready; /* Of ready or paced connections. */
    struct list waiting;
    struct list held;
    struct list watching;
    uint64_t progress_at_ns; /* While held. */
};

/* A worker's loop and what it holds. */
struct reactor {
    struct segment *segment;
    struct process_slot *slot;
    struct counters *counters;
    struct store *store;
    struct protocol *protocol;
    unsigned slot_index;
    uint32_t now_s;          /* store_uptime_s() of this round. */
    uint32_t idle_timeout_s; /* 0: none */
    int epoll_fd;
    int channel_fd;
    int liveness_fd;
    struct list all, ready, paced, waiting, held, watching;
    int watch_ms; /* Until the next look at what there is to tell. */
    uint64_t watch_at_ns;
    bool pace_is_slow;
    uint64_t pace_at_ns;
    uint64_t paced_requests; /* protocol_requests() at the last pieces, */
    uint64_t others_at_ns;   /* and when it last moved. */
    uint32_t open_count;     /* Connections in `all`. */
    /* When the counts of the slot were looked at, and what they were if they did not agree. */
    uint32_t counted_at_s;
    uint64_t seen_assigned, seen_received;
    uint32_t waiting_count;
    uint64_t retry_at_ns;
    bool released; /* Held memory may have become free. */
    bool stopping;
    uint64_t stop_deadline_ns;
    bool orphaned;
    bool busy; /* Others have events in this round. */
};

/* What a connection's turn does next. */
enum turn { TURN_ON, TURN_OVER };

/* Takes over the descriptor; a connection that cannot be had is closed and counted. */
void connection_open(struct reactor *reactor, int fd);
void connection_close(struct reactor *reactor, struct connection *connection);

/* EPOLLOUT or not. */
void connection_want_write(struct reactor *reactor, struct connection *connection, bool wanted);

void connection_make_ready(struct reactor *reactor, struct connection *connection);
void connection_make_paced(struct reactor *reactor, struct connection *connection);
void connection_stop_waiting(struct reactor *reactor, struct connection *connection);

/* Sends what the last step of the protocol made, and puts the connection where its status belongs.
 * The connection may be gone afterwards if the turn is over. */
enum turn connection_settle(struct reactor *reactor, struct connection *connection,
                            enum conn_status status);

#endif
