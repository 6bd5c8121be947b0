/* The generator's connections, and the state that they share with the phases of a run. Private to
 * load/.
 *
 * A connection is a ring of requests in flight and a reply reader. Requests are rendered into one
 * scratch buffer that all connections share and leave in one send; only what the kernel does not
 * take is kept, per connection. Replies are read into one buffer as well. One clock reading serves
 * all replies of a read and the requests sent after it: a reading costs as much as a request.
 *
 * Broken connections are tried again: at once when they had worked, else every RETRY_MS, so that a
 * run goes on while workers of the server are killed. */
#ifndef LOAD_CONNECTION_H
#define LOAD_CONNECTION_H

#include "load/generator.h"
#include "load/reply.h"
#include "load/sampler.h"
#include "load/workload.h"

#include <sys/socket.h>

#define INPUT_BYTES (128u << 10)
#define NEVER UINT64_MAX
#define NS_PER_MS 1000000u

enum request_kind { REQUEST_GET, REQUEST_META, REQUEST_SET };

struct pending {
    uint64_t intended_ns; /* When it was due; closed loop: when it was rendered. */
    enum request_kind kind;
};

enum conn_state { CONN_CLOSED, CONN_CONNECTING, CONN_OPEN };

struct conn {
    int fd;
    enum conn_state state;
    bool proven;      /* Was served since it was connected. */
    bool wants_write; /* Registered for EPOLLOUT. */
    bool is_ready;    /* Stands in the ready queue. */
    bool value_wrong; /* The value being read was refused already. */
    unsigned head;    /* Oldest pending. */
    unsigned in_flight;
    unsigned to_issue;   /* Closed loop: requests of this batch that did not fit the scratch. */
    unsigned get_hits;   /* Of the oldest pending. */
    unsigned key_cursor; /* Verify: keys of the oldest pending that were passed. */
    uint64_t value_key;  /* Verify: whose value is being read. */
    uint64_t retry_at_ns;
    char *out; /* What the kernel did not take: [out_at, out_len). */
    size_t out_at, out_len;
    struct pending *pending;
    uint32_t *keys; /* Verify: keys_per_get for each pending; else NULL. */
    struct reply_reader reader;
};

struct load_generator {
    struct load_config config;
    struct workload workload;
    struct sampler sampler;
    struct sockaddr_storage address;
    socklen_t address_len;
    int epoll_fd;
    int timer_fd;
    char *scratch;
    size_t scratch_size;
    size_t request_size_max;
    char *input;
    struct conn *conns;
    unsigned conn_count;
    unsigned ring_mask;
    bool was_connected; /* All at once, so the address is right. */
    char error[LOAD_SAMPLE_LEN * 2];

    /* The phase. */
    enum load_phase phase;
    bool reconnect;
    bool open_loop;
    bool issuing;
    unsigned depth;
    uint64_t start_ns;
    uint64_t until_ns;
    uint64_t issue_left;
    uint64_t issued;
    uint64_t next_key; /* Prefill. */
    uint64_t set_credit;
    double interval_ns;
    uint64_t armed_ns;  /* What the timer is set to. */
    uint64_t in_flight; /* Sums over all connections. */
    unsigned open_count, connecting_count, closed_count;
    uint64_t progress_at_ns; /* Last reply, or last moment when none was due. */
    uint64_t possible_at_ns; /* Open loop: since then some connection has had a free place. */
    struct load_result *result;

    /* Open loop: connections with a free place, in a ring, least recently used first. */
    struct conn **ready;
    unsigned ready_head, ready_count;
};

/* Begins to connect; refused or without a free port it is closed again, to be retried later. */
void conn_open(struct load_generator *g, struct conn *c, uint64_t now);
void conn_close(struct load_generator *g, struct conn *c);

/* What a connection does when it is free: the next batch, the next connect, or wait to be due. */
void conn_continue(struct load_generator *g, struct conn *c, uint64_t now);
void conn_event(struct load_generator *g, struct conn *c, uint32_t events);

/* Open loop: sends what is due on the connections that have a place, and returns when the next
 * request is due, NEVER when a place must come free first. */
uint64_t send_due(struct load_generator *g, uint64_t now);
void arm_timer(struct load_generator *g, uint64_t at_ns);

#endif
