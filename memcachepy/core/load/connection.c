/* See connection.h. */
#include "load/connection.h"

#include "base/clock.h"
#include "load/request.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define RETRY_MS 10u
#define SOURCE_COUNT 64u

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

void
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

void
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

uint64_t
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

void
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

void
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

void
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
