/* See turn.h. */
#include "net/turn.h"

#include "base/check.h"
#include "proto/watch_log.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* What one connection may read before the others have their turn, if -R requests do not end it
 * before. What one read brought is always executed whole: one send for all its replies is worth
 * more. */
#define TURN_BYTES_MAX (256u << 10)

struct arrival
turn_read(struct reactor *reactor, struct connection *connection)
{
    struct iovec pieces[2];
    unsigned count = conn_space(reactor->protocol, &connection->conn, pieces);
    size_t room = pieces[0].iov_len + (count > 1 ? pieces[1].iov_len : 0);
    ssize_t received;
    DCHECK(count > 0);
    do {
        received = count == 1 ? recv(connection->fd, pieces[0].iov_base, pieces[0].iov_len, 0)
                              : readv(connection->fd, pieces, (int)count);
    } while (received < 0 && errno == EINTR);
    if (received > 0) {
        counter_add(reactor->counters, COUNTER_bytes_read, (uint64_t)received);
        return (struct arrival){received, received == (ssize_t)room};
    }
    if (received < 0 && errno == EAGAIN) {
        return (struct arrival){0, false};
    }
    if (received == 0) {
        connection->conn.close_reason = WATCH_CLOSE_NORMAL;
    }
    return (struct arrival){-1, false};
}

/* Sends what is kept and goes on with what was left. TURN_ON: the connection may be read. */
static enum turn
continue_kept(struct reactor *reactor, struct connection *connection)
{
    struct conn *conn = &connection->conn;
    if (LIKELY(conn->status == CONN_READY && output_is_empty(&conn->kept))) {
        return TURN_ON;
    }
    if (!output_is_empty(&conn->kept)) {
        if (connection_settle(reactor, connection, CONN_READY) == TURN_OVER) {
            return TURN_OVER;
        }
        connection_want_write(reactor, connection, false);
        if (UNLIKELY(conn_is_streaming(conn))) {
            connection_make_paced(reactor, connection);
        }
    }
    /* Who waits, or makes a long answer, has its turns in order and not by its events. */
    if (conn->status == CONN_WAITING
            ? !list_is_empty(&connection->waiting)
            : conn_is_streaming(conn) && !list_is_empty(&connection->ready)) {
        return TURN_OVER;
    }
    return connection_settle(reactor, connection, conn_resume(reactor->protocol, conn));
}

struct share
turn_begin(const struct reactor *reactor)
{
    const struct segment_settings *settings = &reactor->segment->run->settings;
    return (struct share){
        .requests_end = protocol_requests(reactor->protocol) +
                        atomic_load_explicit(&settings->requests_per_event, memory_order_relaxed),
    };
}

static bool
share_is_used(const struct reactor *reactor, const struct share *share)
{
    return share->bytes >= TURN_BYTES_MAX ||
           protocol_requests(reactor->protocol) >= share->requests_end;
}

enum turn
turn_execute(struct reactor *reactor, struct connection *connection, const struct arrival *arrival,
             struct share *share)
{
    if (arrival->received < 0) {
        connection_close(reactor, connection);
        return TURN_OVER;
    }
    if (!arrival->filled && (arrival->received == 0 || !connection->hangup)) {
        connection->readable = false;
    }
    if (arrival->received == 0) {
        return TURN_OVER;
    }
    share->bytes += (size_t)arrival->received;
    enum conn_status status =
        conn_received(reactor->protocol, &connection->conn, (size_t)arrival->received);
    if (connection_settle(reactor, connection, status) == TURN_OVER) {
        return TURN_OVER;
    }
    if (connection->readable && share_is_used(reactor, share)) {
        if (reactor->busy || !list_is_empty(&reactor->ready)) {
            COUNT(reactor->counters, conn_yields);
        }
        connection_make_ready(reactor, connection);
        return TURN_OVER;
    }
    return TURN_ON;
}

void
turn_read_on(struct reactor *reactor, struct connection *connection, struct share *share)
{
    while (connection->readable) {
        struct arrival arrival = turn_read(reactor, connection);
        if (turn_execute(reactor, connection, &arrival, share) == TURN_OVER) {
            return;
        }
    }
}

void
turn_serve(struct reactor *reactor, struct connection *connection)
{
    struct share share = turn_begin(reactor);
    if (continue_kept(reactor, connection) == TURN_ON) {
        turn_read_on(reactor, connection, &share);
    }
}
