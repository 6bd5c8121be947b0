/* See connection.h. */
#include "net/connection.h"

#include "base/clock.h"
#include "proto/watch.h"
#include "proto/watch_log.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE_COUNT_MAX 64

#define CONNECTION_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

/* ---- connections ---------------------------------------------------------------------------- */

/* As in memcached only who comes over the network has to say something. */
static bool
is_tcp(int fd)
{
    int domain = AF_UNSPEC;
    socklen_t len = sizeof(domain);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) != 0 || domain != AF_UNIX;
}

void
connection_open(struct reactor *reactor, int fd)
{
    struct connection *connection = calloc(1, sizeof(*connection));
    atomic_fetch_add_explicit(&reactor->slot->conns_received, 1, memory_order_relaxed);
    if (connection == NULL ||
        !loop_watch(reactor->epoll_fd, fd, CONNECTION_EVENTS, (uint64_t)(uintptr_t)connection)) {
        free(connection);
        close(fd);
        atomic_fetch_add_explicit(&reactor->slot->conns_closed, 1, memory_order_relaxed);
        return;
    }
    connection->fd = fd;
    connection->conn.number = segment_fd_number(reactor->slot_index, fd);
    connection->entry =
        conn_table_open(reactor->segment, reactor->slot_index, fd, CONN_NEW, reactor->now_s);
    connection->conn.is_local =
        connection->entry != NULL && conn_address_is_local(&connection->entry->peer);
    connection->shown_at_s = reactor->now_s;
    connection->may_idle = reactor->idle_timeout_s == 0 || !is_tcp(fd);
    list_append(&reactor->all, &connection->all);
    reactor->open_count++;
    list_init(&connection->ready);
    list_init(&connection->waiting);
    list_init(&connection->held);
    list_init(&connection->watching);
    COUNT(reactor->counters, total_connections);
    if (watch_wants(reactor->protocol, LOG_CONNEVENTS)) {
        watch_log_conn_new(reactor->protocol, &connection->conn, fd);
    }
}

void
connection_stop_waiting(struct reactor *reactor, struct connection *connection)
{
    if (!list_is_empty(&connection->waiting)) {
        list_remove(&connection->waiting);
        reactor->waiting_count--;
    }
}

void
connection_close(struct reactor *reactor, struct connection *connection)
{
    if (watch_wants(reactor->protocol, LOG_CONNEVENTS)) {
        watch_log_conn_close(reactor->protocol, &connection->conn, connection->fd,
                             reactor->stopping ? WATCH_CLOSE_SHUTDOWN
                                               : (enum watch_close)connection->conn.close_reason);
    }
    connection_stop_waiting(reactor, connection);
    if (!list_is_empty(&connection->held)) {
        reactor->released = true;
    }
    list_remove(&connection->watching);
    list_remove(&connection->held);
    list_remove(&connection->ready);
    list_remove(&connection->all);
    reactor->open_count--;
    conn_free(reactor->protocol, &connection->conn);
    if (connection->entry != NULL) {
        conn_table_close(connection->entry);
    }
    /* The acceptor may not have closed its copy yet, and then close() would leave the descriptor
     * watched. */
    epoll_ctl(reactor->epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
    close(connection->fd);
    free(connection);
    atomic_fetch_add_explicit(&reactor->slot->conns_closed, 1, memory_order_relaxed);
}

void
connection_want_write(struct reactor *reactor, struct connection *connection, bool wanted)
{
    if (connection->wants_write == wanted) {
        return;
    }
    struct epoll_event event = {
        .events = CONNECTION_EVENTS | (wanted ? EPOLLOUT : 0u),
        .data.u64 = (uint64_t)(uintptr_t)connection,
    };
    epoll_ctl(reactor->epoll_fd, EPOLL_CTL_MOD, connection->fd, &event);
    connection->wants_write = wanted;
}

void
connection_make_ready(struct reactor *reactor, struct connection *connection)
{
    if (list_is_empty(&connection->ready)) {
        list_append(&reactor->ready, &connection->ready);
    }
}

void
connection_make_paced(struct reactor *reactor, struct connection *connection)
{
    if (list_is_empty(&connection->ready)) {
        list_append(&reactor->paced, &connection->ready);
    }
}

/* Notes whether the connection holds memory that others may wait for, and that it has just moved.
 */
static void
note_held(struct reactor *reactor, struct connection *connection)
{
    bool holds = conn_holds_memory(&connection->conn);
    if (LIKELY(!holds && list_is_empty(&connection->held))) {
        return;
    }
    if (!holds) {
        list_remove(&connection->held);
        reactor->released = true;
        return;
    }
    connection->progress_at_ns = clock_mono_ns();
    if (list_is_empty(&connection->held)) {
        list_append(&reactor->held, &connection->held);
    }
}

/* ---- sending -------------------------------------------------------------------------------- */

enum sent {
    SENT_ALL,
    SENT_PART, /* The socket takes no more now. */
    SENT_FAILED,
};

/* One send() for all that waits; sendmsg() with pieces if some of it is pinned. */
static ssize_t
send_once(struct reactor *reactor, struct connection *connection, struct output *output)
{
    if (LIKELY(!output_has_pins(output))) {
        return send(connection->fd, output->bytes + output->begin, output->end - output->begin,
                    MSG_NOSIGNAL);
    }
    struct iovec pieces[PIECE_COUNT_MAX];
    struct msghdr message = {.msg_iov = pieces};
    message.msg_iovlen = output_pieces(output, reactor->store, pieces, PIECE_COUNT_MAX);
    if (UNLIKELY(message.msg_iovlen == 0)) {
        errno = EIO;
        return -1;
    }
    return sendmsg(connection->fd, &message, MSG_NOSIGNAL);
}

static enum sent
send_output(struct reactor *reactor, struct connection *connection, struct output *output)
{
    while (!output_is_empty(output)) {
        ssize_t sent = send_once(reactor, connection, output);
        if (sent < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno == EAGAIN ? SENT_PART : SENT_FAILED;
        }
        counter_add(reactor->counters, COUNTER_bytes_written, (uint64_t)sent);
        output_advance(output, reactor->store, (size_t)sent);
        if (UNLIKELY(!list_is_empty(&connection->held))) {
            connection->progress_at_ns = clock_mono_ns();
        }
    }
    return SENT_ALL;
}

static void
show_changed(struct reactor *reactor, struct connection *connection, uint32_t state)
{
    if (reactor->idle_timeout_s != 0 && reactor->now_s != connection->shown_at_s) {
        list_remove(&connection->all);
        list_append(&reactor->all, &connection->all);
    }
    connection->shown_at_s = reactor->now_s;
    connection->shown_state = (uint16_t)state;
    if (connection->entry != NULL) {
        atomic_store_explicit(&connection->entry->state, state, memory_order_relaxed);
        atomic_store_explicit(&connection->entry->command_at_s, reactor->now_s,
                              memory_order_relaxed);
    }
}

/* Tells `stats conns` what the connection is at: once a second while it stays the same. */
static inline void
show(struct reactor *reactor, struct connection *connection, bool writing)
{
    uint32_t state = UNLIKELY(writing) ? CONN_STATE_WRITING : connection->conn.state;
    if (UNLIKELY(state != connection->shown_state || reactor->now_s != connection->shown_at_s)) {
        show_changed(reactor, connection, state);
    }
}

enum turn
connection_settle(struct reactor *reactor, struct connection *connection, enum conn_status status)
{
    struct protocol *protocol = reactor->protocol;
    struct output *output = conn_output(protocol, &connection->conn);
    enum sent sent = send_output(reactor, connection, output);
    if (UNLIKELY(conn_is_watching(&connection->conn)) && list_is_empty(&connection->watching)) {
        list_append(&reactor->watching, &connection->watching);
    }
    if (sent == SENT_FAILED || !conn_park(protocol, &connection->conn)) {
        connection->conn.close_reason = WATCH_CLOSE_ERROR;
        conn_discard_output(protocol, &connection->conn);
        connection_close(reactor, connection);
        return TURN_OVER;
    }
    note_held(reactor, connection);
    show(reactor, connection, sent == SENT_PART);
    if (sent == SENT_PART) {
        connection_want_write(reactor, connection, true);
        return TURN_OVER;
    }
    switch (status) {
    case CONN_READY:
        return TURN_ON;
    case CONN_FULL:
        if (UNLIKELY(conn_is_streaming(&connection->conn))) {
            connection_make_paced(reactor, connection);
        } else {
            connection_make_ready(reactor, connection);
        }
        return TURN_OVER;
    case CONN_WAITING:
        if (list_is_empty(&connection->waiting)) {
            list_append(&reactor->waiting, &connection->waiting);
            reactor->waiting_count++;
        }
        return TURN_OVER;
    case CONN_CLOSE:
        connection_close(reactor, connection);
        return TURN_OVER;
    }
    return TURN_OVER;
}
