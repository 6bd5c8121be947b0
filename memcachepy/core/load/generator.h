/* The load generator: one thread, one epoll, many connections to one memcached-speaking server.
 *
 *   closed loop   a connection sends pipeline_depth requests, waits for all their replies, and
 * sends the next ones; the server sets the pace. open loop     requests are due at fixed moments
 * (rate_per_s) whatever the server does; a request that finds no free place on any connection
 * waits, and its latency counts from the moment it was due (no coordinated omission). reconnect a
 * request's latency includes its connect; in both loops.
 *
 * Called from `memcachepy bench` through core/py/load_module.c, or alone. It keeps no global state,
 * starts no thread, and installs no handler. */
#ifndef LOAD_GENERATOR_H
#define LOAD_GENERATOR_H

#include "load/config.h"
#include "load/histogram.h"

enum load_phase {
    LOAD_PREFILL, /* Every key once, pipelined. */
    LOAD_WARMUP,  /* The load, thrown away. */
    LOAD_MEASURE,
};

enum load_status {
    LOAD_DONE,
    LOAD_INTERRUPTED, /* The tick said so; requests may be in flight. */
    LOAD_UNREACHABLE, /* A first connection failed; generator_error() says why. */
    LOAD_STALLED,     /* No reply within timeout_ms; generator_error() says what was waited for. */
};

/* X(name): what a phase counts. */
#define LOAD_COUNTERS(X)                                                                           \
    X(requests)            /* Completed, errors included. */                                       \
    X(gets)                /* Requests that read, however many keys. */                            \
    X(sets)                /* Requests that store. */                                              \
    X(keys_requested)      /* Of all gets together. */                                             \
    X(hits)                /* Keys that came back. */                                              \
    X(misses)              /* Keys that did not. */                                                \
    X(stored)              /* Sets answered so. */                                                 \
    X(errors)              /* Requests answered by an error or NOT_STORED. */                      \
    X(wrong_values)        /* Hits that verify refused. */                                         \
    X(lost_requests)       /* In flight when their connection ended. */                            \
    X(connections)         /* Established. */                                                      \
    X(connections_lost)    /* Ended by the server or by a reply that is none. */                   \
    X(connections_refused) /* Attempts that failed. */                                             \
    X(port_shortages)      /* Attempts that found no free local port. */                           \
    X(bytes_sent)          /* Taken by the kernel. */                                              \
    X(bytes_received)      /* Line ends included. */                                               \
    X(unsent_requests)     /* Open loop: due, but the server never left a place to send them. */   \
    X(late_sends)          /* Open loop: sent LATE_SEND_US after both due and possible. */

#define LATE_SEND_US 1000u
#define LOAD_SAMPLE_LEN 160

struct load_result {
#define X(name) uint64_t name;
    LOAD_COUNTERS(X)
#undef X
    uint64_t wall_ns;           /* First send to last reply. */
    uint64_t cpu_ns;            /* This thread's, in that time. */
    uint64_t send_delay_us_max; /* Open loop: the latest of all sends, as late_sends counts them. */
    char error_sample[LOAD_SAMPLE_LEN]; /* The first error, the first wrong value, or empty. */
    char wrong_sample[LOAD_SAMPLE_LEN];
    struct histogram latency_ns;
};

struct load_progress {
    enum load_phase phase;
    uint64_t elapsed_ns;
    uint64_t requests;
    uint64_t errors; /* Errors, wrong values and lost requests. */
};

/* Called about every LOAD_TICK_MS; false ends the run. */
typedef bool load_tick(void *context, const struct load_progress *progress);
#define LOAD_TICK_MS 200u

struct load_generator;

/* Takes a checked config. NULL and a sentence when memory, descriptors or the address do not do. */
struct load_generator *generator_open(const struct load_config *config, char *sentence,
                                      size_t size) MUST_CHECK;
void generator_close(struct load_generator *generator);

/* Runs one phase to its end; connections stay open for the next. The result is filled in every
 * case, with what was counted until then. */
enum load_status generator_run(struct load_generator *generator, enum load_phase phase,
                               struct load_result *result, load_tick *tick,
                               void *context) MUST_CHECK;

const char *generator_error(const struct load_generator *generator);

#endif
