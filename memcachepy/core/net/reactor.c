/* The reactor: one thread, one epoll, and the protocol of proto/conn.h between recv() and send().
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
 *     held       holds such memory (beside the above); given up when it stalls and others wait
 *
 * Nothing runs on a timer unless somebody is waiting or holding, or connections may be idle for
 * only so long (-o idle_timeout): then the list of all is kept by the second of their last command,
 * and the first ones are looked at when their time is over. */
#include "net/reactor.h"

#include "base/check.h"
#include "base/clock.h"
#include "mem/conn_table.h"
#include "net/channel.h"
#include "net/list.h"
#include "proto/conn.h"
#include "proto/watch.h"
#include "proto/watch_log.h"
#include "store/store.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENT_COUNT_MAX 256
#define PIECE_COUNT_MAX 64

/* What one connection may read before the others have their turn, if -R requests do not end it
 * before. What one read brought is always executed whole: one send for all its replies is worth
 * more. */
#define TURN_BYTES_MAX (256u << 10)

/* How often waiting connections are tried, and holding ones looked at. */
#define WAITER_RETRY_MS 10
#define HOLDER_CHECK_MS 50

/* While others have been served of late, dumps make one piece in so many milliseconds. */
#define PACE_MS 1
#define OTHERS_NS UINT64_C(100000000)

/* How often watching connections are told: the oftener, the more there is to tell. */
#define WATCH_MIN_MS 1
#define WATCH_MAX_MS 50
#define WATCH_ENTRIES_MANY 64

/* Without progress for this long, shared by all who wait, but at least the other. */
#define STALL_SHARED_NS UINT64_C(500000000)
#define STALL_MIN_NS UINT64_C(10000000)

/* With idle_timeout: the longest sleep. */
#define IDLE_CHECK_MAX_S 60

#define STOP_TIMEOUT_NS UINT64_C(5000000000)

#define CONNECTION_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

/* Tags of other descriptors; connections are tagged with their address. */
#define TAG_CHANNEL 1
#define TAG_WAKE 2
#define TAG_LIVENESS 3

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
    uint8_t close_reason;    /* enum watch_close */
    uint64_t progress_at_ns; /* While held. */
};

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
    uint32_t waiting_count;
    uint32_t published_waiters; /* What store_set_waiters() was told. */
    uint64_t retry_at_ns;
    bool released; /* Held memory may have become free. */
    bool stopping;
    uint64_t stop_deadline_ns;
    bool orphaned;
    bool busy; /* Others have events in this round. */
};

/* What a connection's turn does next. */
enum turn { TURN_ON, TURN_OVER };

/* ---- connections ---------------------------------------------------------------------------- */

/* As in memcached only who comes over the network has to say something. */
static bool
is_tcp(int fd)
{
    int domain = AF_UNSPEC;
    socklen_t len = sizeof(domain);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) != 0 || domain != AF_UNIX;
}

static void
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
    connection->shown_at_s = reactor->now_s;
    connection->may_idle = reactor->idle_timeout_s == 0 || !is_tcp(fd);
    list_append(&reactor->all, &connection->all);
    list_init(&connection->ready);
    list_init(&connection->waiting);
    list_init(&connection->held);
    list_init(&connection->watching);
    connection->close_reason = WATCH_CLOSE_NORMAL;
    COUNT(reactor->counters, total_connections);
    if (watch_wants(reactor->protocol, LOG_CONNEVENTS)) {
        watch_log_conn_new(reactor->protocol, &connection->conn, fd);
    }
}

static void
stop_waiting(struct reactor *reactor, struct connection *connection)
{
    if (!list_is_empty(&connection->waiting)) {
        list_remove(&connection->waiting);
        reactor->waiting_count--;
    }
}

static void
connection_close(struct reactor *reactor, struct connection *connection)
{
    if (watch_wants(reactor->protocol, LOG_CONNEVENTS)) {
        watch_log_conn_close(reactor->protocol, &connection->conn, connection->fd,
                             reactor->stopping ? WATCH_CLOSE_SHUTDOWN
                                               : (enum watch_close)connection->close_reason);
    }
    stop_waiting(reactor, connection);
    if (!list_is_empty(&connection->held)) {
        reactor->released = true;
    }
    list_remove(&connection->watching);
    list_remove(&connection->held);
    list_remove(&connection->ready);
    list_remove(&connection->all);
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

static void
want_write(struct reactor *reactor, struct connection *connection, bool wanted)
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

static void
make_ready(struct reactor *reactor, struct connection *connection)
{
    if (list_is_empty(&connection->ready)) {
        list_append(&reactor->ready, &connection->ready);
    }
}

static void
make_paced(struct reactor *reactor, struct connection *connection)
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

/* Sends what the last step of the protocol made, and puts the connection where its status belongs.
 * The connection may be gone afterwards if the turn is over. */
static enum turn
settle(struct reactor *reactor, struct connection *connection, enum conn_status status)
{
    struct protocol *protocol = reactor->protocol;
    struct output *output = conn_output(protocol, &connection->conn);
    enum sent sent = send_output(reactor, connection, output);
    if (UNLIKELY(conn_is_watching(&connection->conn)) && list_is_empty(&connection->watching)) {
        list_append(&reactor->watching, &connection->watching);
    }
    if (sent == SENT_FAILED || !conn_park(protocol, &connection->conn)) {
        connection->close_reason = WATCH_CLOSE_ERROR;
        conn_discard_output(protocol, &connection->conn);
        connection_close(reactor, connection);
        return TURN_OVER;
    }
    note_held(reactor, connection);
    show(reactor, connection, sent == SENT_PART);
    if (sent == SENT_PART) {
        want_write(reactor, connection, true);
        return TURN_OVER;
    }
    switch (status) {
    case CONN_READY:
        return TURN_ON;
    case CONN_FULL:
        if (UNLIKELY(conn_is_streaming(&connection->conn))) {
            make_paced(reactor, connection);
        } else {
            make_ready(reactor, connection);
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

/* ---- a turn --------------------------------------------------------------------------------- */

/* Reads once. Returns the number of bytes, 0 when there is nothing now, -1 when the connection has
 * ended; *filled says whether there may be more. */
static ssize_t
read_once(struct reactor *reactor, struct connection *connection, bool *filled)
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
    *filled = received == (ssize_t)room;
    if (received > 0) {
        counter_add(reactor->counters, COUNTER_bytes_read, (uint64_t)received);
        return received;
    }
    return received < 0 && errno == EAGAIN ? 0 : -1;
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
        if (settle(reactor, connection, CONN_READY) == TURN_OVER) {
            return TURN_OVER;
        }
        want_write(reactor, connection, false);
    }
    if (conn->status == CONN_WAITING && !list_is_empty(&connection->waiting)) {
        return TURN_OVER; /* Its turn comes in order. */
    }
    return settle(reactor, connection, conn_resume(reactor->protocol, conn));
}

/* What a connection has used of its turn. */
struct share {
    size_t bytes;
    uint64_t requests_end; /* Of protocol_requests(). */
};

static struct share
share_begin(const struct reactor *reactor)
{
    const struct segment_settings *settings = &reactor->segment->superblock->settings;
    return (struct share){
        .requests_end = protocol_requests(reactor->protocol) + settings->requests_per_event,
    };
}

static bool
share_is_used(const struct reactor *reactor, const struct share *share)
{
    return share->bytes >= TURN_BYTES_MAX ||
           protocol_requests(reactor->protocol) >= share->requests_end;
}

/* What a read brought: see read_once(). */
struct arrival {
    ssize_t received;
    bool filled;
};

/* Executes what was read. TURN_ON: there may be more, and the turn is not used up. The connection
 * may be gone if the turn is over. */
static enum turn
execute_arrival(struct reactor *reactor, struct connection *connection,
                const struct arrival *arrival, struct share *share)
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
    if (settle(reactor, connection, status) == TURN_OVER) {
        return TURN_OVER;
    }
    if (connection->readable && share_is_used(reactor, share)) {
        if (reactor->busy || !list_is_empty(&reactor->ready)) {
            COUNT(reactor->counters, conn_yields);
        }
        make_ready(reactor, connection);
        return TURN_OVER;
    }
    return TURN_ON;
}

static void
read_on(struct reactor *reactor, struct connection *connection, struct share *share)
{
    while (connection->readable) {
        struct arrival arrival;
        arrival.received = read_once(reactor, connection, &arrival.filled);
        if (execute_arrival(reactor, connection, &arrival, share) == TURN_OVER) {
            return;
        }
    }
}

/* Serves the connection until it has nothing to do or has had its share. It may be gone afterwards.
 */
static void
serve(struct reactor *reactor, struct connection *connection)
{
    struct share share = share_begin(reactor);
    if (continue_kept(reactor, connection) == TURN_ON) {
        read_on(reactor, connection, &share);
    }
}

/* ---- lists ---------------------------------------------------------------------------------- */

/* One turn for each connection that was ready before. */
static void
serve_ready(struct reactor *reactor)
{
    struct list turn;
    list_init(&turn);
    list_move(&reactor->ready, &turn);
    while (!list_is_empty(&turn)) {
        struct connection *connection = LIST_ELEMENT(turn.next, struct connection, ready);
        list_remove(&connection->ready);
        serve(reactor, connection);
    }
}

/* Notes whether others have been served of late. */
static bool
others_are_served(struct reactor *reactor, uint64_t now_ns)
{
    uint64_t requests = protocol_requests(reactor->protocol);
    if (requests != reactor->paced_requests) {
        reactor->paced_requests = requests;
        reactor->others_at_ns = now_ns;
    }
    return now_ns - reactor->others_at_ns < OTHERS_NS;
}

/* One piece for each connection that makes a long answer: large ones as fast as they are read while
 * the process has nothing else to do; else a small one every PACE_MS, so that others hardly notice.
 */
static void
serve_paced(struct reactor *reactor)
{
    struct list turn;
    uint64_t now_ns = clock_mono_ns();
    reactor->pace_is_slow = others_are_served(reactor, now_ns);
    if (reactor->pace_is_slow && now_ns < reactor->pace_at_ns) {
        return;
    }
    protocol_pace(reactor->protocol, reactor->pace_is_slow);
    list_init(&turn);
    list_move(&reactor->paced, &turn);
    while (!list_is_empty(&turn)) {
        struct connection *connection = LIST_ELEMENT(turn.next, struct connection, ready);
        list_remove(&connection->ready);
        serve(reactor, connection);
    }
    reactor->pace_at_ns = now_ns + PACE_MS * UINT64_C(1000000);
}

/* Tries the waiting connections in their order, up to the first that still has to wait. */
static void
serve_waiting(struct reactor *reactor)
{
    struct list *next = reactor->waiting.next;
    reactor->retry_at_ns = clock_mono_ns() + WAITER_RETRY_MS * UINT64_C(1000000);
    while (next != &reactor->waiting) {
        struct connection *connection = LIST_ELEMENT(next, struct connection, waiting);
        next = next->next;
        if (!output_is_empty(&connection->conn.kept)) {
            continue; /* Sends first what it made before it had to wait. */
        }
        enum conn_status status = conn_resume(reactor->protocol, &connection->conn);
        if (status != CONN_WAITING) {
            stop_waiting(reactor, connection);
        }
        if (settle(reactor, connection, status) == TURN_ON) {
            serve(reactor, connection);
        }
        if (status == CONN_WAITING) {
            return;
        }
    }
}

/* Others wait: whoever holds memory and stalls loses it. */
static void
give_up_stalled(struct reactor *reactor)
{
    uint32_t waiters = store_waiters(reactor->store);
    if (waiters == 0) {
        return;
    }
    uint64_t limit_ns = STALL_SHARED_NS / (1 + waiters);
    uint64_t now_ns = clock_mono_ns();
    if (limit_ns < STALL_MIN_NS) {
        limit_ns = STALL_MIN_NS;
    }
    struct list *next = reactor->held.next;
    while (next != &reactor->held) {
        struct connection *connection = LIST_ELEMENT(next, struct connection, held);
        next = next->next;
        if (now_ns - connection->progress_at_ns < limit_ns) {
            continue;
        }
        if (conn_give_up(reactor->protocol, &connection->conn)) {
            connection->readable = true;
            if (settle(reactor, connection, (enum conn_status)connection->conn.status) == TURN_ON) {
                make_ready(reactor, connection);
            }
        } else {
            connection_close(reactor, connection);
        }
        reactor->released = true;
    }
}

/* Tells watching connections what all processes have logged. */
static void
serve_watching(struct reactor *reactor)
{
    uint64_t now_ns = clock_mono_ns();
    if (now_ns < reactor->watch_at_ns) {
        return;
    }
    unsigned entries = watch_collect(reactor->protocol);
    struct list *next = reactor->watching.next;
    while (next != &reactor->watching) {
        struct connection *connection = LIST_ELEMENT(next, struct connection, watching);
        next = next->next;
        if (watch_output(reactor->protocol, &connection->conn)) {
            (void)settle(reactor, connection, CONN_READY);
        }
    }
    reactor->watch_ms = entries >= WATCH_ENTRIES_MANY          ? WATCH_MIN_MS
                        : reactor->watch_ms < WATCH_MAX_MS / 2 ? reactor->watch_ms * 2 + 1
                                                               : WATCH_MAX_MS;
    reactor->watch_at_ns = now_ns + (uint64_t)reactor->watch_ms * UINT64_C(1000000);
}

static void
publish_waiters(struct reactor *reactor)
{
    if (reactor->published_waiters != reactor->waiting_count) {
        store_set_waiters(reactor->store, reactor->waiting_count);
        reactor->published_waiters = reactor->waiting_count;
    }
}

/* When the first of all connections has said nothing for too long; the node's clock. */
static uint32_t
idle_until_s(const struct reactor *reactor)
{
    const struct connection *first = LIST_ELEMENT(reactor->all.next, struct connection, all);
    return first->shown_at_s + reactor->idle_timeout_s + 1;
}

/* Whether it is silent because of us or for its own good reason. */
static bool
is_excused(const struct connection *connection)
{
    return connection->may_idle || conn_has_work(&connection->conn) ||
           conn_is_watching(&connection->conn) || !list_is_empty(&connection->waiting) ||
           !list_is_empty(&connection->ready);
}

static void
close_idle(struct reactor *reactor)
{
    while (!list_is_empty(&reactor->all) && reactor->now_s >= idle_until_s(reactor)) {
        struct connection *connection = LIST_ELEMENT(reactor->all.next, struct connection, all);
        if (is_excused(connection)) {
            list_remove(&connection->all);
            list_append(&reactor->all, &connection->all);
            connection->shown_at_s = reactor->now_s;
            continue;
        }
        COUNT(reactor->counters, idle_kicks);
        connection->close_reason = WATCH_CLOSE_IDLE;
        connection_close(reactor, connection);
    }
}

/* All that is not driven by events; nothing at all while nobody waits or holds. */
static void
serve_lists(struct reactor *reactor)
{
    if (!list_is_empty(&reactor->ready)) {
        serve_ready(reactor);
    }
    if (UNLIKELY(!list_is_empty(&reactor->paced))) {
        serve_paced(reactor);
    }
    if (UNLIKELY(!list_is_empty(&reactor->watching))) {
        serve_watching(reactor);
    }
    publish_waiters(reactor);
    if (UNLIKELY(reactor->idle_timeout_s != 0)) {
        close_idle(reactor);
    }
    if (!list_is_empty(&reactor->held)) {
        give_up_stalled(reactor);
    }
    if (!list_is_empty(&reactor->waiting) &&
        (reactor->released || clock_mono_ns() >= reactor->retry_at_ns)) {
        reactor->released = false;
        serve_waiting(reactor);
        publish_waiters(reactor);
    }
}

/* ---- stopping ------------------------------------------------------------------------------- */

/* Takes what is in the channel; false: it is empty. */
static bool
take_connection(struct reactor *reactor)
{
    int fd = -1;
    switch (channel_receive(reactor->channel_fd, &fd)) {
    case CHANNEL_OK:
        connection_open(reactor, fd);
        return true;
    case CHANNEL_LOST:
        atomic_fetch_add_explicit(&reactor->slot->conns_received, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&reactor->slot->conns_closed, 1, memory_order_relaxed);
        return true;
    case CHANNEL_AGAIN:
        return false;
    case CHANNEL_FAILED:
        /* The supervisor keeps both ends: only its end closes them. */
        epoll_ctl(reactor->epoll_fd, EPOLL_CTL_DEL, reactor->channel_fd, NULL);
        return false;
    }
    return false;
}

static bool
has_work(const struct connection *connection)
{
    return conn_has_work(&connection->conn) || connection->readable ||
           !list_is_empty(&connection->ready);
}

/* Closes every connection that has been answered; after the deadline all. */
static void
close_answered(struct reactor *reactor)
{
    bool late = clock_mono_ns() >= reactor->stop_deadline_ns;
    struct list *next = reactor->all.next;
    while (next != &reactor->all) {
        struct connection *connection = LIST_ELEMENT(next, struct connection, all);
        next = next->next;
        if (late || !has_work(connection) || !list_is_empty(&connection->waiting)) {
            connection_close(reactor, connection);
        }
    }
}

/* Everything that was received by now gets its turn: the channel, and every socket once. */
static void
begin_stopping(struct reactor *reactor)
{
    reactor->stopping = true;
    reactor->stop_deadline_ns = clock_mono_ns() + STOP_TIMEOUT_NS;
    while (take_connection(reactor)) {
    }
    struct list *next = reactor->all.next;
    while (next != &reactor->all) {
        struct connection *connection = LIST_ELEMENT(next, struct connection, all);
        next = next->next;
        connection->readable = true;
        make_ready(reactor, connection);
    }
}

/* Whether the loop has nothing left to serve, given the node's state. */
static bool
is_finished(struct reactor *reactor, enum node_state state)
{
    if (state == NODE_STOPPING) {
        if (!reactor->stopping) {
            begin_stopping(reactor);
            serve_ready(reactor);
        }
        close_answered(reactor);
        return list_is_empty(&reactor->all);
    }
    if (state == NODE_DRAINING) {
        while (take_connection(reactor)) {
        }
        uint64_t sent = atomic_load_explicit(&reactor->slot->conns_assigned, memory_order_relaxed);
        uint64_t closed = atomic_load_explicit(&reactor->slot->conns_closed, memory_order_relaxed);
        return list_is_empty(&reactor->all) && sent <= closed;
    }
    return false;
}

/* ---- the loop ------------------------------------------------------------------------------- */

static void
handle_connection(struct reactor *reactor, struct connection *connection, uint32_t events)
{
    if (events & EPOLLERR) {
        connection->close_reason = WATCH_CLOSE_ERROR;
        connection_close(reactor, connection);
        return;
    }
    if (events & (EPOLLRDHUP | EPOLLHUP)) {
        connection->hangup = true;
    }
    if ((events & EPOLLHUP) && !list_is_empty(&connection->waiting)) {
        connection_close(reactor, connection); /* Nobody would read its reply. */
        return;
    }
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) && !reactor->stopping) {
        connection->readable = true;
    }
    serve(reactor, connection);
}

static void
handle_event(struct reactor *reactor, const struct epoll_event *event)
{
    switch (event->data.u64) {
    case TAG_CHANNEL:
        if (!reactor->stopping) {
            take_connection(reactor);
        }
        return;
    case TAG_WAKE:
        return; /* The loop looks at the node's state in every round. */
    case TAG_LIVENESS:
        reactor->orphaned = true;
        return;
    default:
        handle_connection(reactor, (struct connection *)(uintptr_t)event->data.u64, event->events);
    }
}

/* The connection of an event that is nothing but readable; NULL for any other. */
static struct connection *
plainly_readable(const struct reactor *reactor, const struct epoll_event *event)
{
    if (event->data.u64 <= TAG_LIVENESS || event->events != EPOLLIN || reactor->stopping) {
        return NULL;
    }
    struct connection *connection = (struct connection *)(uintptr_t)event->data.u64;
    return conn_has_work(&connection->conn) || connection->conn.status != CONN_READY ? NULL
                                                                                     : connection;
}

/* One connection of a group that is read before it is executed. */
struct ahead {
    struct connection *connection; /* NULL: has its turn like any other event */
    struct arrival arrival;
    struct key key;
    bool foreseen;
};

/* Reads all connections of the group first, then executes them: what the first will look up travels
 * through the memory system while the others are read. A lookup of one key per request is otherwise
 * a tenth of a request's time, and all of it waiting. */
static void
handle_group(struct reactor *reactor, const struct epoll_event *events, int count)
{
    struct protocol *protocol = reactor->protocol;
    struct ahead group[READ_AHEAD_MAX];
    for (int i = 0; i < count; i++) {
        struct ahead *ahead = &group[i];
        ahead->connection = plainly_readable(reactor, &events[i]);
        ahead->foreseen = false;
        if (ahead->connection == NULL) {
            continue;
        }
        ahead->connection->readable = true;
        protocol_select(protocol, (unsigned)i);
        ahead->arrival.received = read_once(reactor, ahead->connection, &ahead->arrival.filled);
        ahead->foreseen = ahead->arrival.received > 0 &&
                          conn_foresee(protocol, &ahead->connection->conn,
                                       (size_t)ahead->arrival.received, &ahead->key);
    }
    for (int i = 0; i < count; i++) {
        if (group[i].foreseen) {
            (void)store_prefetch_item(reactor->store, &group[i].key, 0);
        }
    }
    for (int i = 0; i < count; i++) {
        struct ahead *ahead = &group[i];
        struct share share = share_begin(reactor);
        protocol_select(protocol, (unsigned)i);
        if (ahead->connection == NULL) {
            handle_event(reactor, &events[i]);
        } else if (execute_arrival(reactor, ahead->connection, &ahead->arrival, &share) ==
                   TURN_ON) {
            read_on(reactor, ahead->connection, &share);
        }
    }
}

static void
handle_events(struct reactor *reactor, const struct epoll_event *events, int count)
{
    for (int first = 0; first < count; first += READ_AHEAD_MAX) {
        int left = count - first;
        int group = left < READ_AHEAD_MAX ? left : READ_AHEAD_MAX;
        reactor->busy = count > 1;
        if (group == 1) {
            handle_event(reactor, &events[first]);
        } else {
            handle_group(reactor, events + first, group);
        }
    }
    reactor->busy = false;
}

static int
next_timeout_ms(const struct reactor *reactor)
{
    if (!list_is_empty(&reactor->ready)) {
        return 0;
    }
    if (!list_is_empty(&reactor->paced)) {
        return reactor->pace_is_slow ? PACE_MS : 0;
    }
    if (!list_is_empty(&reactor->waiting)) {
        return WAITER_RETRY_MS;
    }
    if (reactor->stopping || !list_is_empty(&reactor->held)) {
        return HOLDER_CHECK_MS;
    }
    if (UNLIKELY(!list_is_empty(&reactor->watching))) {
        return reactor->watch_ms;
    }
    if (reactor->idle_timeout_s != 0 && !list_is_empty(&reactor->all)) {
        uint32_t until_s = idle_until_s(reactor);
        uint32_t left_s = until_s > reactor->now_s ? until_s - reactor->now_s : 0;
        return left_s < IDLE_CHECK_MAX_S ? (int)left_s * 1000 : IDLE_CHECK_MAX_S * 1000;
    }
    return -1;
}

static enum loop_end
reactor_loop(struct reactor *reactor)
{
    struct epoll_event events[EVENT_COUNT_MAX];
    for (;;) {
        enum node_state state = loop_node_state(reactor->segment);
        if (UNLIKELY(state != NODE_RUNNING) && is_finished(reactor, state)) {
            return LOOP_STOPPED;
        }
        int count =
            epoll_wait(reactor->epoll_fd, events, EVENT_COUNT_MAX, next_timeout_ms(reactor));
        store_tick(reactor->store);
        reactor->now_s = store_uptime_s(reactor->store);
        handle_events(reactor, events, count);
        if (reactor->orphaned) {
            return LOOP_ORPHANED;
        }
        serve_lists(reactor);
    }
}

static bool
reactor_watch(struct reactor *reactor, int wake_fd)
{
    return loop_watch(reactor->epoll_fd, wake_fd, EPOLLIN | EPOLLET, TAG_WAKE) &&
           loop_watch(reactor->epoll_fd, reactor->liveness_fd, EPOLLIN | EPOLLRDHUP,
                      TAG_LIVENESS) &&
           loop_watch(reactor->epoll_fd, reactor->channel_fd, EPOLLIN, TAG_CHANNEL);
}

static void
close_all(struct reactor *reactor)
{
    while (!list_is_empty(&reactor->all)) {
        connection_close(reactor, LIST_ELEMENT(reactor->all.next, struct connection, all));
    }
}

static enum loop_end
reactor_serve(struct reactor *reactor, int wake_fd)
{
    enum loop_end end = LOOP_FAILED;
    reactor->protocol = protocol_new(reactor->store);
    reactor->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (reactor->protocol != NULL && reactor->epoll_fd >= 0 && reactor_watch(reactor, wake_fd)) {
        store_set_waiters(reactor->store, 0);
        conn_table_clear(reactor->segment, reactor->slot_index);
        atomic_store_explicit(&reactor->slot->serving, 1, memory_order_release);
        end = reactor_loop(reactor);
        close_all(reactor);
    }
    if (reactor->protocol != NULL) {
        protocol_free(reactor->protocol);
    }
    if (reactor->epoll_fd >= 0) {
        close(reactor->epoll_fd);
    }
    return end;
}

enum loop_end
reactor_run(struct segment *segment, unsigned slot_index, int channel_fd, int wake_fd,
            int liveness_fd)
{
    struct reactor reactor = {
        .segment = segment,
        .slot = &segment->slots[slot_index],
        .slot_index = slot_index,
        .counters = &segment->slots[slot_index].counters,
        .channel_fd = channel_fd,
        .liveness_fd = liveness_fd,
        .watch_ms = WATCH_MIN_MS,
        .idle_timeout_s = segment->superblock->settings.idle_timeout_s,
    };
    list_init(&reactor.all);
    list_init(&reactor.ready);
    list_init(&reactor.paced);
    list_init(&reactor.waiting);
    list_init(&reactor.held);
    list_init(&reactor.watching);
    if (!loop_claim(segment, slot_index)) {
        return LOOP_ORPHANED;
    }
    reactor.store = store_open(segment, slot_index);
    if (reactor.store == NULL) {
        return LOOP_FAILED;
    }
    enum loop_end end = reactor_serve(&reactor, wake_fd);
    store_close(reactor.store);
    return end;
}
