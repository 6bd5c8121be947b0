/* The event loop of the load generator; what it does stands in the header.
 *
 * A connection is a ring of requests in flight and a reply reader. Requests are rendered into one
 * scratch buffer that all connections share and leave in one send; only what the kernel does not
 * take is kept, per connection. Replies are read into one buffer as well. One clock reading serves
 * all replies of a read and the requests sent after it: a reading costs as much as a request.
 *
 * Broken connections are tried again: at once when they had worked, else every RETRY_MS, so that a
 * run goes on while workers of the server are killed. */
#include "load/generator.h"

#include "base/clock.h"
#include "load/reply.h"
#include "load/sampler.h"
#include "load/workload.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#define SCRATCH_BYTES_MIN (256u << 10)
#define INPUT_BYTES (128u << 10)
#define EVENTS_MAX 256
#define CONNECTING_MAX 128u /* Below every listen backlog, so that no SYN is dropped. */
#define RETRY_MS 10u
#define PREFILL_DEPTH 64u
#define SOURCE_COUNT 64u
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

const char *
generator_error(const struct load_generator *generator)
{
    return generator->error;
}

/* ---- rendering ---------------------------------------------------------------------------- */

static enum request_kind
next_kind(struct load_generator *g)
{
    if (g->phase == LOAD_PREFILL) {
        return REQUEST_SET;
    }
    g->set_credit += g->config.set_share;
    if (g->set_credit >= g->config.set_share + g->config.get_share) {
        g->set_credit -= g->config.set_share + g->config.get_share;
        return REQUEST_SET;
    }
    return g->config.meta ? REQUEST_META : REQUEST_GET;
}

static char *
put_set(struct load_generator *g, char *out)
{
    const struct load_config *config = &g->config;
    uint64_t key = g->phase == LOAD_PREFILL ? g->next_key++ : sampler_key(&g->sampler);
    uint64_t value_len = config->value_bytes_min;
    if (config->value_bytes_max > value_len) {
        value_len += sampler_below(&g->sampler, config->value_bytes_max - value_len + 1);
    }
    return workload_put_set(&g->workload, out, key, value_len);
}

static char *
put_get(struct load_generator *g, char *out, uint32_t *keys)
{
    out = put_bytes(out, "get", 3);
    for (uint64_t i = 0; i < g->config.keys_per_get; i++) {
        uint64_t key = sampler_key(&g->sampler);
        if (keys != NULL) {
            keys[i] = (uint32_t)key;
        }
        *out++ = ' ';
        out = workload_put_key(&g->workload, out, key);
    }
    return put_bytes(out, "\r\n", 2);
}

static char *
put_meta(struct load_generator *g, char *out, uint32_t *keys)
{
    uint64_t key = sampler_key(&g->sampler);
    if (keys != NULL) {
        keys[0] = (uint32_t)key;
    }
    out = put_bytes(out, "mg ", 3);
    out = workload_put_key(&g->workload, out, key);
    return put_bytes(out, " v\r\n", 4);
}

static uint32_t *
conn_keys(const struct load_generator *g, const struct conn *c, unsigned slot)
{
    return c->keys == NULL ? NULL : c->keys + slot * g->config.keys_per_get;
}

/* Renders one request and notes it as in flight. */
static char *
put_request(struct load_generator *g, struct conn *c, char *out, uint64_t intended_ns)
{
    unsigned slot = (c->head + c->in_flight) & g->ring_mask;
    enum request_kind kind = next_kind(g);
    switch (kind) {
    case REQUEST_SET:
        out = put_set(g, out);
        break;
    case REQUEST_GET:
        out = put_get(g, out, conn_keys(g, c, slot));
        break;
    case REQUEST_META:
        out = put_meta(g, out, conn_keys(g, c, slot));
        break;
    }
    c->pending[slot] = (struct pending){.intended_ns = intended_ns, .kind = kind};
    c->in_flight++;
    g->in_flight++;
    g->issued++;
    if (--g->issue_left == 0) {
        g->issuing = false;
    }
    return out;
}

/* ---- connections -------------------------------------------------------------------------- */

static void
note_error(struct load_generator *g, const char *text, size_t len)
{
    if (g->result->error_sample[0] == '\0') {
        snprintf(g->result->error_sample, LOAD_SAMPLE_LEN, "%.*s", (int)len, text);
    }
}

static void
conn_register(struct load_generator *g, struct conn *c, int operation, bool wants_write)
{
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0u), .data.ptr = c};
    c->wants_write = wants_write;
    (void)epoll_ctl(g->epoll_fd, operation, c->fd, &event);
}

static void
conn_close(struct load_generator *g, struct conn *c)
{
    if (c->state == CONN_CLOSED) {
        return;
    }
    if (c->state == CONN_OPEN) {
        g->open_count--;
    } else {
        g->connecting_count--;
    }
    close(c->fd);
    c->fd = -1;
    c->state = CONN_CLOSED;
    c->wants_write = false;
    g->closed_count++;
    reply_reader_init(&c->reader);
}

/* Gives up what is in flight on it; it will be opened again. */
static void
conn_lose(struct load_generator *g, struct conn *c, uint64_t now)
{
    if (c->state == CONN_CONNECTING) {
        g->result->connections_refused++;
    } else {
        g->result->connections_lost++;
    }
    g->result->lost_requests += c->in_flight;
    g->in_flight -= c->in_flight;
    c->in_flight = 0;
    c->to_issue = 0;
    c->get_hits = 0;
    c->key_cursor = 0;
    c->out_at = c->out_len = 0;
    c->retry_at_ns = now + (c->proven ? 0 : RETRY_MS * NS_PER_MS);
    c->proven = false;
    conn_close(g, c);
}

/* A client that connects anew all the time leaves a closing port behind each time, and the kernel's
 * search for a free one takes longer and longer. 127.0.0.0/8 has addresses enough to begin from. */
static void
spread_source(struct load_generator *g, int fd)
{
    const struct sockaddr_in *to = (const struct sockaddr_in *)&g->address;
    if (!g->reconnect || to->sin_family != AF_INET || ntohl(to->sin_addr.s_addr) >> 24 != 127) {
        return;
    }
    int on = 1;
    uint32_t last = 2 + (uint32_t)(g->issued % SOURCE_COUNT);
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + last)};
    (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    (void)bind(fd, (struct sockaddr *)&from, sizeof(from));
}

/* Starts a connect. False: not now, because the listener's queue is full or no local port is free;
 * what is in flight on it stays. */
static bool
conn_connect(struct load_generator *g, struct conn *c, uint64_t now)
{
    int family = g->address.ss_family;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && family != AF_UNIX) {
        int on = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        spread_source(g, fd);
    }
    bool started = fd >= 0 && (connect(fd, (struct sockaddr *)&g->address, g->address_len) == 0 ||
                               errno == EINPROGRESS);
    if (!started && (fd < 0 || errno == EAGAIN || errno == EADDRNOTAVAIL)) {
        if (errno != EAGAIN) {
            note_error(g, strerror(errno), strlen(strerror(errno)));
        }
        g->result->port_shortages += errno == EADDRNOTAVAIL;
        c->retry_at_ns = now + NS_PER_MS;
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    c->fd = fd;
    c->state = CONN_CONNECTING;
    g->closed_count--;
    g->connecting_count++;
    if (!started) {
        note_error(g, strerror(errno), strlen(strerror(errno)));
        conn_lose(g, c, now);
    }
    return started;
}

static void
conn_open(struct load_generator *g, struct conn *c, uint64_t now)
{
    if (conn_connect(g, c, now)) {
        conn_register(g, c, EPOLL_CTL_ADD, true);
    }
}

static void
conn_opened(struct load_generator *g, struct conn *c)
{
    c->state = CONN_OPEN;
    g->connecting_count--;
    g->open_count++;
    g->result->connections++;
}

/* ---- sending ------------------------------------------------------------------------------ */

static bool
conn_keep(struct conn *c, const char *bytes, size_t len)
{
    char *out = realloc(c->out, len);
    if (out == NULL) {
        return false;
    }
    memcpy(out, bytes, len);
    c->out = out;
    c->out_at = 0;
    c->out_len = len;
    return true;
}

/* Sends what was rendered; the rest waits for EPOLLOUT. */
static void
conn_send(struct load_generator *g, struct conn *c, const char *bytes, size_t len, uint64_t now)
{
    ssize_t sent = send(c->fd, bytes, len, MSG_NOSIGNAL);
    if (LIKELY(sent == (ssize_t)len)) {
        g->result->bytes_sent += len;
        return;
    }
    if (sent < 0 && errno != EAGAIN) {
        note_error(g, strerror(errno), strlen(strerror(errno)));
        conn_lose(g, c, now);
        return;
    }
    sent = sent < 0 ? 0 : sent;
    g->result->bytes_sent += (uint64_t)sent;
    conn_register(g, c, EPOLL_CTL_MOD, true);
    if (!conn_keep(c, bytes + sent, len - (size_t)sent)) {
        conn_lose(g, c, now);
    }
}

/* Connects and sends at once: on one machine the connection stands when connect() returns, and two
 * system calls and a wait are saved. Elsewhere the request is kept until it stands. */
static void
conn_open_sending(struct load_generator *g, struct conn *c, const char *bytes, size_t len,
                  uint64_t now)
{
    bool connected = conn_connect(g, c, now);
    if (c->in_flight == 0) {
        return; /* Refused at once. */
    }
    ssize_t sent = connected ? send(c->fd, bytes, len, MSG_NOSIGNAL) : -1;
    if (sent > 0) {
        g->result->bytes_sent += (uint64_t)sent;
        conn_opened(g, c);
    }
    size_t done = sent > 0 ? (size_t)sent : 0;
    if (done < len && !conn_keep(c, bytes + done, len - done)) {
        conn_lose(g, c, now);
    } else if (connected) {
        conn_register(g, c, EPOLL_CTL_ADD, done < len);
    }
}

/* Sends what was kept; true when nothing is left and the connection is alive. */
static bool
conn_flush(struct load_generator *g, struct conn *c, uint64_t now)
{
    if (c->out_at < c->out_len) {
        ssize_t sent = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            conn_lose(g, c, now);
            return false;
        }
        g->result->bytes_sent += sent > 0 ? (uint64_t)sent : 0;
        c->out_at += sent > 0 ? (size_t)sent : 0;
        if (c->out_at < c->out_len) {
            return false;
        }
    }
    c->out_at = c->out_len = 0;
    if (c->wants_write) {
        conn_register(g, c, EPOLL_CTL_MOD, false);
    }
    return true;
}

/* Closed loop: renders and sends the rest of a batch, a scratch buffer at a time. */
static void
conn_send_batch(struct load_generator *g, struct conn *c, uint64_t now)
{
    while (c->to_issue > 0 && c->out_len == 0 && c->state == CONN_OPEN) {
        char *out = g->scratch;
        const char *last = g->scratch + g->scratch_size - g->request_size_max;
        while (c->to_issue > 0 && g->issuing && out <= last) {
            out = put_request(g, c, out, now);
            c->to_issue--;
        }
        if (!g->issuing) {
            c->to_issue = 0;
        }
        if (out != g->scratch) {
            conn_send(g, c, g->scratch, (size_t)(out - g->scratch), now);
        }
    }
}

/* Open loop. */
static uint64_t
due_at(const struct load_generator *g, uint64_t request)
{
    return g->start_ns + (uint64_t)((double)request * g->interval_ns);
}

/* Renders `count` requests of one connection, sends them; open loop: each due at its own moment. */
static void
conn_issue(struct load_generator *g, struct conn *c, unsigned count, uint64_t now)
{
    char *out = g->scratch;
    const char *last = g->scratch + g->scratch_size - g->request_size_max;
    for (; count > 0 && g->issuing && out <= last; count--) {
        out = put_request(g, c, out, g->open_loop ? due_at(g, g->issued) : now);
    }
    size_t len = (size_t)(out - g->scratch);
    if (g->reconnect) {
        conn_open_sending(g, c, g->scratch, len, now);
    } else {
        conn_send(g, c, g->scratch, len, now);
    }
}

/* ---- open loop ---------------------------------------------------------------------------- */

static bool
conn_has_place(const struct load_generator *g, const struct conn *c, uint64_t now)
{
    if (g->reconnect) {
        return c->state == CONN_CLOSED && c->in_flight == 0 && c->retry_at_ns <= now;
    }
    return c->state == CONN_OPEN && c->in_flight < g->depth && c->out_len == 0;
}

static void
ready_push(struct load_generator *g, struct conn *c, uint64_t now)
{
    if (!c->is_ready && conn_has_place(g, c, now)) {
        if (g->ready_count == 0) {
            g->possible_at_ns = now;
        }
        c->is_ready = true;
        g->ready[(g->ready_head + g->ready_count++) % g->conn_count] = c;
    }
}

static struct conn *
ready_pop(struct load_generator *g)
{
    struct conn *c = g->ready[g->ready_head];
    g->ready_head = (g->ready_head + 1) % g->conn_count;
    g->ready_count--;
    c->is_ready = false;
    return c;
}

static void
note_send_delay(struct load_generator *g, uint64_t due_ns, uint64_t count, uint64_t now)
{
    uint64_t possible_ns = due_ns > g->possible_at_ns ? due_ns : g->possible_at_ns;
    uint64_t delay_us = now > possible_ns ? (now - possible_ns) / 1000 : 0;
    if (delay_us > g->result->send_delay_us_max) {
        g->result->send_delay_us_max = delay_us;
    }
    g->result->late_sends += delay_us >= LATE_SEND_US ? count : 0;
}

/* Sends what is due on the connections that have a place, and returns when the next request is due,
 * NEVER when a place must come free first. */
static uint64_t
send_due(struct load_generator *g, uint64_t now)
{
    while (g->issuing && g->ready_count > 0) {
        uint64_t due_ns = due_at(g, g->issued);
        if (due_ns >= g->until_ns) {
            g->issuing = false;
            break;
        }
        if (due_ns > now) {
            return due_ns;
        }
        uint64_t end_ns = now < g->until_ns ? now : g->until_ns;
        uint64_t due_count = 1 + (uint64_t)((double)(end_ns - due_ns) / g->interval_ns);
        unsigned share = (unsigned)((due_count + g->ready_count - 1) / g->ready_count);
        struct conn *c = ready_pop(g);
        if (!conn_has_place(g, c, now)) {
            continue; /* Lost since it was queued. */
        }
        unsigned places = g->reconnect ? 1 : g->depth - c->in_flight;
        unsigned count = share < places ? share : places;
        note_send_delay(g, due_ns, count, now);
        conn_issue(g, c, count, now);
        ready_push(g, c, now);
    }
    return NEVER;
}

static void
arm_timer(struct load_generator *g, uint64_t at_ns)
{
    if (g->armed_ns == at_ns) {
        return;
    }
    g->armed_ns = at_ns;
    struct itimerspec spec = {.it_value = {.tv_sec = (time_t)(at_ns / 1000000000u),
                                           .tv_nsec = (long)(at_ns % 1000000000u)}};
    (void)timerfd_settime(g->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* ---- receiving ---------------------------------------------------------------------------- */

/* What a connection does when it is free: the next batch, the next connect, or wait to be due. */
static void
conn_continue(struct load_generator *g, struct conn *c, uint64_t now)
{
    if (g->open_loop) {
        ready_push(g, c, now);
    } else if (g->issuing && c->in_flight == 0 && c->out_len == 0) {
        if (now >= g->until_ns) {
            g->issuing = false;
        } else if (!g->reconnect && c->state == CONN_OPEN) {
            c->to_issue = g->depth;
            conn_send_batch(g, c, now);
        } else if (g->reconnect && c->state == CONN_CLOSED && c->retry_at_ns <= now) {
            conn_issue(g, c, 1, now);
        }
    }
}

static void
note_wrong(struct load_generator *g, struct conn *c, const char *what)
{
    if (c->value_wrong) {
        return;
    }
    c->value_wrong = true;
    g->result->wrong_values++;
    if (g->result->wrong_sample[0] == '\0') {
        snprintf(g->result->wrong_sample, LOAD_SAMPLE_LEN, "key number %llu, %llu bytes: %s",
                 (unsigned long long)c->value_key, (unsigned long long)c->reader.value_len, what);
    }
}

/* Finds which of the keys asked for the value is of: hits come in the order of the keys. */
static void
verify_header(struct load_generator *g, struct conn *c)
{
    const uint32_t *keys = conn_keys(g, c, c->head);
    char key[LOAD_KEY_LEN_MAX];
    c->value_wrong = false;
    if (c->reader.meta) {
        c->value_key = keys[0];
        return;
    }
    c->value_key = keys[c->key_cursor < g->config.keys_per_get ? c->key_cursor : 0];
    while (c->key_cursor < g->config.keys_per_get) {
        c->value_key = keys[c->key_cursor++];
        workload_put_key(&g->workload, key, c->value_key);
        if (c->reader.key_len == g->workload.key_len &&
            memcmp(c->reader.key, key, g->workload.key_len) == 0) {
            if (c->reader.client_flags != 0) {
                note_wrong(g, c, "client flags other than 0");
            }
            return;
        }
    }
    note_wrong(g, c, "a key that was not asked for");
}

static void
verify_data(struct load_generator *g, struct conn *c)
{
    const struct reply_reader *reader = &c->reader;
    if (!c->value_wrong &&
        !workload_value_matches(&g->workload, c->value_key, reader->value_len, reader->data_at,
                                reader->data, reader->data_len)) {
        note_wrong(g, c, "another value than was stored");
    }
}

static inline void
conn_complete(struct load_generator *g, struct conn *c, uint64_t now)
{
    struct load_result *result = g->result;
    const struct pending *pending = &c->pending[c->head];
    histogram_record(&result->latency_ns, now - pending->intended_ns);
    result->requests++;
    if (pending->kind == REQUEST_SET) {
        result->sets++;
    } else {
        result->gets++;
        result->keys_requested += g->config.keys_per_get;
    }
    c->head = (c->head + 1) & g->ring_mask;
    c->in_flight--;
    g->in_flight--;
    c->get_hits = 0;
    c->key_cursor = 0;
}

/* One reply's part; false when it does not fit what was asked. */
static inline bool
conn_take(struct load_generator *g, struct conn *c, enum reply reply, uint64_t now)
{
    struct load_result *result = g->result;
    if (UNLIKELY(c->in_flight == 0)) {
        if (reply == REPLY_REFUSED) { /* memcached greets so when it has too many connections. */
            note_error(g, c->reader.line, c->reader.line_len);
        }
        return reply == REPLY_REFUSED;
    }
    enum request_kind kind = c->pending[c->head].kind;
    switch (reply) {
    case REPLY_VALUE:
        if (UNLIKELY(kind != (c->reader.meta ? REQUEST_META : REQUEST_GET))) {
            return false;
        }
        if (UNLIKELY(c->keys != NULL)) {
            verify_header(g, c);
        }
        return true;
    case REPLY_DATA:
        if (UNLIKELY(c->keys != NULL)) {
            verify_data(g, c);
        }
        if (LIKELY(c->reader.value_done)) {
            c->get_hits++;
            result->hits++;
            if (c->reader.meta) {
                conn_complete(g, c, now);
            }
        }
        return true;
    case REPLY_END:
        if (UNLIKELY(kind != REQUEST_GET || c->get_hits > g->config.keys_per_get)) {
            return false;
        }
        result->misses += g->config.keys_per_get - c->get_hits;
        conn_complete(g, c, now);
        return true;
    case REPLY_STORED:
        if (UNLIKELY(kind != REQUEST_SET)) {
            return false;
        }
        result->stored++;
        conn_complete(g, c, now);
        return true;
    case REPLY_META_HIT:
    case REPLY_META_MISS:
        if (kind != REQUEST_META) {
            return false;
        }
        result->hits += reply == REPLY_META_HIT;
        result->misses += reply == REPLY_META_MISS;
        conn_complete(g, c, now);
        return true;
    case REPLY_REFUSED:
        note_error(g, c->reader.line, c->reader.line_len);
        result->errors++;
        conn_complete(g, c, now);
        return true;
    case REPLY_STRANGE:
    case REPLY_MORE:
        break;
    }
    return false;
}

static void
lose_sync(struct load_generator *g, struct conn *c, enum reply reply, uint64_t now)
{
    char text[LOAD_SAMPLE_LEN];
    if (reply == REPLY_END || reply == REPLY_STORED) {
        c->reader.line = reply == REPLY_END ? "END" : "STORED";
        c->reader.line_len = strlen(c->reader.line);
    }
    int len = snprintf(text, sizeof(text), "unexpected reply: %.*s", (int)c->reader.line_len,
                       c->reader.line == NULL ? "" : c->reader.line);
    note_error(g, text, len < (int)sizeof(text) ? (size_t)len : sizeof(text) - 1);
    g->result->errors++;
    conn_lose(g, c, now);
}

static void
conn_receive(struct load_generator *g, struct conn *c)
{
    ssize_t got = recv(c->fd, g->input, INPUT_BYTES, 0);
    uint64_t now = clock_mono_ns();
    if (UNLIKELY(got <= 0)) {
        if (got == 0 || errno != EAGAIN) {
            if (got < 0) {
                note_error(g, strerror(errno), strlen(strerror(errno)));
            } else if (c->in_flight > 0) {
                note_error(g, "connection closed by the server",
                           sizeof("connection closed by the server") - 1);
            }
            conn_lose(g, c, now);
        }
        return;
    }
    g->result->bytes_received += (uint64_t)got;
    uint64_t requests_before = g->result->requests;
    uint64_t served_before = requests_before - g->result->errors;
    const char *at = g->input;
    const char *end = at + got;
    for (;;) {
        enum reply reply = reply_next(&c->reader, &at, end);
        if (reply == REPLY_MORE) {
            break;
        }
        if (UNLIKELY(!conn_take(g, c, reply, now))) {
            lose_sync(g, c, reply, now);
            return;
        }
    }
    if (g->result->requests != requests_before) {
        g->progress_at_ns = now;
        /* A refusal proves nothing: a server that is full would be asked again without a pause. */
        c->proven = c->proven || g->result->requests - g->result->errors != served_before;
    }
    if (g->reconnect && c->in_flight == 0) {
        conn_close(g, c);
    }
    conn_continue(g, c, now);
}

static void
conn_connected(struct load_generator *g, struct conn *c)
{
    int error = 0;
    socklen_t len = sizeof(error);
    uint64_t now = clock_mono_ns();
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
        note_error(g, strerror(error), strlen(strerror(error)));
        conn_lose(g, c, now);
        return;
    }
    conn_opened(g, c);
    if (conn_flush(g, c, now)) {
        conn_continue(g, c, now);
    }
}

static void
conn_event(struct load_generator *g, struct conn *c, uint32_t events)
{
    if (c->state == CONN_CONNECTING) {
        if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
            conn_connected(g, c);
        }
        return;
    }
    if ((events & EPOLLOUT) && c->wants_write) {
        uint64_t now = clock_mono_ns();
        if (conn_flush(g, c, now)) {
            conn_send_batch(g, c, now);
            conn_continue(g, c, now);
        }
    }
    if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) && c->state == CONN_OPEN) {
        conn_receive(g, c);
    }
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
