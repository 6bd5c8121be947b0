/* The phases of a run, and what they need; what the generator does stands in the header. */
#include "load/generator.h"

#include "base/clock.h"
#include "load/connection.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#define SCRATCH_BYTES_MIN (256u << 10)
#define EVENTS_MAX 256
#define CONNECTING_MAX 128u /* Below every listen backlog, so that no SYN is dropped. */
#define PREFILL_DEPTH 64u

const char *
generator_error(const struct load_generator *generator)
{
    return generator->error;
}

/* ---- phases ------------------------------------------------------------------------------- */

/* Opens what is closed and may be tried again. With reconnect that is a request whose connect found
 * no room, and a connection that waited after a refusal. */
static void
reopen_closed(struct load_generator *g, uint64_t now)
{
    for (unsigned i = 0; i < g->conn_count && g->connecting_count < CONNECTING_MAX; i++) {
        struct conn *c = &g->conns[i];
        if (c->state != CONN_CLOSED || c->retry_at_ns > now) {
            continue;
        }
        if (!g->reconnect || c->in_flight > 0) {
            conn_open(g, c, now);
        } else {
            conn_continue(g, c, now);
        }
    }
}

static void
wait_for_events(struct load_generator *g, int timeout_ms)
{
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(g->epoll_fd, events, EVENTS_MAX, timeout_ms);
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr != NULL) {
            conn_event(g, events[i].data.ptr, events[i].events);
        }
    }
}

/* Opens every connection before anything is measured; the first failure ends it. */
static enum load_status
connect_all(struct load_generator *g, load_tick *tick, void *context)
{
    uint64_t begin_ns = clock_mono_ns();
    uint64_t tick_at_ns = begin_ns + LOAD_TICK_MS * NS_PER_MS;
    while (g->open_count < g->conn_count) {
        uint64_t now = clock_mono_ns();
        reopen_closed(g, now);
        if (g->result->connections_refused > 0 ||
            now - begin_ns > g->config.timeout_ms * NS_PER_MS) {
            snprintf(g->error, sizeof(g->error), "cannot connect: %s",
                     g->result->error_sample[0] ? g->result->error_sample : "no answer");
            return LOAD_UNREACHABLE;
        }
        wait_for_events(g, 1);
        if (now >= tick_at_ns) {
            struct load_progress progress = {.phase = g->phase};
            tick_at_ns = now + LOAD_TICK_MS * NS_PER_MS;
            if (!tick(context, &progress)) {
                return LOAD_INTERRUPTED;
            }
        }
    }
    return LOAD_DONE;
}

static void
begin_phase(struct load_generator *g, enum load_phase phase, struct load_result *result)
{
    const struct load_config *config = &g->config;
    memset(result, 0, offsetof(struct load_result, latency_ns));
    histogram_init(&result->latency_ns);
    g->result = result;
    g->phase = phase;
    g->issuing = false;   /* Until all are connected. */
    g->reconnect = false; /* Until all have been connected once. */
    g->open_loop = phase != LOAD_PREFILL && config->rate_per_s > 0;
    g->depth = phase == LOAD_PREFILL ? PREFILL_DEPTH : (unsigned)config->pipeline_depth;
    g->interval_ns = g->open_loop ? 1e9 / (double)config->rate_per_s : 0;
    g->issued = 0;
    g->set_credit = 0;
    g->next_key = 0;
    g->ready_head = g->ready_count = 0;
    g->error[0] = '\0';
    for (unsigned i = 0; i < g->conn_count; i++) {
        g->conns[i].is_ready = false;
        g->conns[i].to_issue = 0;
    }
}

static void
begin_load(struct load_generator *g, uint64_t now)
{
    const struct load_config *config = &g->config;
    uint64_t duration_ms = 0;
    uint64_t request_count = 0;
    switch (g->phase) {
    case LOAD_PREFILL:
        request_count = config->key_count;
        break;
    case LOAD_WARMUP:
        duration_ms = config->warmup_ms;
        break;
    case LOAD_MEASURE:
        duration_ms = config->duration_ms;
        request_count = config->request_count;
        break;
    }
    g->start_ns = now;
    g->progress_at_ns = now;
    g->possible_at_ns = now;
    g->until_ns = duration_ms == 0 ? NEVER : now + duration_ms * NS_PER_MS;
    g->issue_left = request_count == 0 ? NEVER : request_count;
    g->issuing = true;
    g->armed_ns = 0;
    g->reconnect = g->phase != LOAD_PREFILL && config->reconnect;
    if (g->reconnect) {
        for (unsigned i = 0; i < g->conn_count; i++) {
            conn_close(g, &g->conns[i]);
        }
        g->result->connections = 0; /* Those were no requests. */
    }
    for (unsigned i = 0; i < g->conn_count; i++) {
        conn_continue(g, &g->conns[i], now);
    }
}

static bool
is_stalled(struct load_generator *g, uint64_t now)
{
    bool waiting = g->in_flight > 0 || (g->closed_count > 0 && !g->reconnect);
    if (!waiting) {
        g->progress_at_ns = now;
    }
    if (now < g->progress_at_ns || now - g->progress_at_ns < g->config.timeout_ms * NS_PER_MS) {
        return false;
    }
    snprintf(g->error, sizeof(g->error),
             "no reply for %llu ms with %llu requests in flight and %u of %u connections open%s%s",
             (unsigned long long)g->config.timeout_ms, (unsigned long long)g->in_flight,
             g->open_count, g->conn_count, g->result->error_sample[0] ? "; first error: " : "",
             g->result->error_sample);
    g->result->lost_requests += g->in_flight;
    return true;
}

/* Ends an open loop on time, even if the server is far behind: what was due and never sent is
 * counted, because its latency is in no percentile. */
static void
end_open_loop(struct load_generator *g)
{
    uint64_t due_count = (uint64_t)((double)(g->until_ns - g->start_ns) / g->interval_ns);
    uint64_t unsent = due_count > g->issued ? due_count - g->issued : 0;
    g->result->unsent_requests = unsent < g->issue_left ? unsent : g->issue_left;
    g->issuing = false;
}

/* How long the loop may sleep; arms the timer when a request is due before that. */
static int
sleep_ms(struct load_generator *g, uint64_t now, uint64_t due_ns)
{
    if (due_ns != NEVER) {
        if (due_ns <= now + 2000) {
            return 0; /* A timer would take longer than that. */
        }
        arm_timer(g, due_ns);
    }
    uint64_t wait_ns = LOAD_TICK_MS * NS_PER_MS;
    if (g->issuing && g->until_ns - now < wait_ns) {
        wait_ns = g->until_ns > now ? g->until_ns - now : 0;
    }
    if (g->closed_count > 0) {
        wait_ns = wait_ns < NS_PER_MS ? wait_ns : NS_PER_MS;
    }
    return (int)((wait_ns + NS_PER_MS - 1) / NS_PER_MS);
}

static enum load_status
run_phase(struct load_generator *g, load_tick *tick, void *context)
{
    uint64_t tick_at_ns = g->start_ns + LOAD_TICK_MS * NS_PER_MS;
    for (;;) {
        uint64_t now = clock_mono_ns();
        if (g->issuing && now >= g->until_ns && !g->open_loop) {
            g->issuing = false;
        }
        if (g->closed_count > 0) {
            reopen_closed(g, now);
        }
        uint64_t due_ns = g->open_loop ? send_due(g, now) : NEVER;
        if (g->issuing && now >= g->until_ns) {
            end_open_loop(g);
        }
        if (!g->issuing && g->in_flight == 0) {
            return LOAD_DONE;
        }
        if (is_stalled(g, now)) {
            return LOAD_STALLED;
        }
        if (now >= tick_at_ns) {
            const struct load_result *result = g->result;
            struct load_progress progress = {
                .phase = g->phase,
                .elapsed_ns = now - g->start_ns,
                .requests = result->requests,
                .errors = result->errors + result->wrong_values + result->lost_requests,
            };
            tick_at_ns = now + LOAD_TICK_MS * NS_PER_MS;
            if (!tick(context, &progress)) {
                return LOAD_INTERRUPTED;
            }
        }
        wait_for_events(g, sleep_ms(g, now, due_ns));
    }
}

enum load_status
generator_run(struct load_generator *g, enum load_phase phase, struct load_result *result,
              load_tick *tick, void *context)
{
    begin_phase(g, phase, result);
    if (phase == LOAD_PREFILL || !g->config.reconnect || !g->was_connected) {
        enum load_status status = connect_all(g, tick, context);
        if (status != LOAD_DONE) {
            return status;
        }
        g->was_connected = true;
    }
    uint64_t start_ns = clock_mono_ns();
    uint64_t cpu_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    begin_load(g, start_ns);
    enum load_status status = run_phase(g, tick, context);
    result->cpu_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
    result->wall_ns = clock_mono_ns() - start_ns;
    return status;
}

/* ---- making and unmaking ------------------------------------------------------------------ */

static bool
resolve(struct load_generator *g, char *sentence, size_t size)
{
    const struct load_config *config = &g->config;
    if (config->port == 0) {
        struct sockaddr_un *path = (struct sockaddr_un *)&g->address;
        path->sun_family = AF_UNIX;
        memcpy(path->sun_path, config->address, sizeof(config->address));
        g->address_len = sizeof(*path);
        return true;
    }
    char port[8];
    struct addrinfo *found = NULL;
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                             .ai_socktype = SOCK_STREAM};
    snprintf(port, sizeof(port), "%u", (unsigned)config->port);
    int status = getaddrinfo(config->address, port, &hints, &found);
    if (status != 0) {
        snprintf(sentence, size, "address %s: %s", config->address, gai_strerror(status));
        return false;
    }
    memcpy(&g->address, found->ai_addr, found->ai_addrlen);
    g->address_len = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

static bool
raise_descriptor_limit(const struct load_config *config, char *sentence, size_t size)
{
    struct rlimit limit;
    rlim_t need = config->connection_count + 64; /* Ours and what the process holds besides. */
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= need) {
        return true;
    }
    limit.rlim_cur = need;
    if (limit.rlim_max < need || setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        snprintf(sentence, size,
                 "connection_count is %llu, but the descriptor limit (ulimit -Hn) is %llu",
                 (unsigned long long)config->connection_count, (unsigned long long)limit.rlim_max);
        return false;
    }
    return true;
}

static bool
make_conns(struct load_generator *g)
{
    unsigned depth = g->config.pipeline_depth > PREFILL_DEPTH || !g->config.prefill
                         ? (unsigned)g->config.pipeline_depth
                         : PREFILL_DEPTH;
    unsigned ring = 1;
    while (ring < depth) {
        ring *= 2;
    }
    g->ring_mask = ring - 1;
    g->conn_count = (unsigned)g->config.connection_count;
    g->conns = calloc(g->conn_count, sizeof(*g->conns));
    g->ready = calloc(g->conn_count, sizeof(struct conn *));
    if (g->conns == NULL || g->ready == NULL) {
        return false;
    }
    for (unsigned i = 0; i < g->conn_count; i++) {
        struct conn *c = &g->conns[i];
        c->fd = -1;
        c->pending = calloc(ring, sizeof(*c->pending));
        if (g->config.verify) {
            c->keys = calloc((size_t)ring * g->config.keys_per_get, sizeof(*c->keys));
        }
        if (c->pending == NULL || (g->config.verify && c->keys == NULL)) {
            return false;
        }
    }
    g->closed_count = g->conn_count;
    return true;
}

static bool
make_buffers(struct load_generator *g)
{
    if (!workload_init(&g->workload, &g->config)) {
        return false;
    }
    size_t get_size = 8 + g->config.keys_per_get * (g->config.key_bytes + 1);
    size_t set_size = workload_set_size_max(&g->workload);
    g->request_size_max = get_size > set_size ? get_size : set_size;
    g->scratch_size =
        g->request_size_max > SCRATCH_BYTES_MIN ? g->request_size_max : SCRATCH_BYTES_MIN;
    g->scratch = malloc(g->scratch_size);
    g->input = malloc(INPUT_BYTES);
    return g->scratch != NULL && g->input != NULL;
}

static bool
make_poll(struct load_generator *g)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    g->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    g->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return g->epoll_fd >= 0 && g->timer_fd >= 0 &&
           epoll_ctl(g->epoll_fd, EPOLL_CTL_ADD, g->timer_fd, &event) == 0;
}

struct load_generator *
generator_open(const struct load_config *config, char *sentence, size_t size)
{
    struct load_generator *g = calloc(1, sizeof(*g));
    if (g == NULL) {
        snprintf(sentence, size, "out of memory");
        return NULL;
    }
    g->config = *config;
    g->epoll_fd = g->timer_fd = -1;
    sampler_init(&g->sampler, config->key_count, config->zipf_exponent, config->seed);
    if (!resolve(g, sentence, size) || !raise_descriptor_limit(config, sentence, size)) {
        generator_close(g);
        return NULL;
    }
    if (!make_conns(g) || !make_buffers(g) || !make_poll(g)) {
        snprintf(sentence, size,
                 "connection_count %llu with pipeline_depth %llu and values of %llu bytes: %s",
                 (unsigned long long)config->connection_count,
                 (unsigned long long)config->pipeline_depth,
                 (unsigned long long)config->value_bytes_max, strerror(errno));
        generator_close(g);
        return NULL;
    }
    return g;
}

void
generator_close(struct load_generator *g)
{
    for (unsigned i = 0; g->conns != NULL && i < g->conn_count; i++) {
        struct conn *c = &g->conns[i];
        if (c->fd >= 0) {
            close(c->fd);
        }
        free(c->out);
        free(c->pending);
        free(c->keys);
    }
    if (g->epoll_fd >= 0) {
        close(g->epoll_fd);
    }
    if (g->timer_fd >= 0) {
        close(g->timer_fd);
    }
    free(g->conns);
    free(g->ready);
    free(g->scratch);
    free(g->input);
    workload_free(&g->workload);
    free(g);
}
