/* The reactor: one thread, one epoll, and the protocol of proto/conn.h between recv() and send().
 *
 *     connection.c   a connection: its socket, its conditions, how its replies leave
 *     turn.c         what an event starts: read, execute, send
 *     lists.c        what is served without an event
 *     here           events, the order in which they are served, stopping */
#include "net/reactor.h"

#include "base/clock.h"
#include "mem/conn_table.h"
#include "net/channel.h"
#include "net/lists.h"
#include "net/turn.h"
#include "proto/watch_log.h"
#include "store/own.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define EVENT_COUNT_MAX 256

#define STOP_TIMEOUT_NS UINT64_C(5000000000)

/* Tags of other descriptors; connections are tagged with their address. */
#define TAG_CHANNEL 1
#define TAG_WAKE 2
#define TAG_LIVENESS 3

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
        connection_make_ready(reactor, connection);
    }
}

/* Whether the loop has nothing left to serve, given the node's state. */
static bool
is_finished(struct reactor *reactor, enum node_state state)
{
    if (state == NODE_STOPPING) {
        if (!reactor->stopping) {
            begin_stopping(reactor);
            lists_serve_ready(reactor);
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
        connection_close(reactor, connection);
        return;
    }
    if (events & (EPOLLRDHUP | EPOLLHUP)) {
        connection->hangup = true;
    }
    if ((events & EPOLLHUP) && !list_is_empty(&connection->waiting)) {
        connection->conn.close_reason = WATCH_CLOSE_NORMAL;
        connection_close(reactor, connection); /* Nobody would read its reply. */
        return;
    }
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) && !reactor->stopping) {
        connection->readable = true;
    }
    turn_serve(reactor, connection);
}

/* The supervisor wakes all when another process has written over the counts of connections: then
 * those of this worker are made to agree with what it has, and with what waits for it. */
static void
settle_counts(struct reactor *reactor)
{
    struct process_slot *slot = reactor->slot;
    uint64_t assigned = atomic_load(&slot->conns_assigned);
    uint64_t received = atomic_load(&slot->conns_received);
    uint64_t open = reactor->open_count;
    uint32_t capacity = conn_table_capacity(&reactor->segment->run->boot_settings);
    int queued = 0;
    if ((received - atomic_load(&slot->conns_closed) == open && assigned - received <= capacity) ||
        ioctl(reactor->channel_fd, FIONREAD, &queued) != 0) {
        return;
    }
    atomic_store(&slot->conns_received, assigned - (uint64_t)queued);
    atomic_store(&slot->conns_closed, assigned - (uint64_t)queued - open);
}

/* The same for counts that are possible and wrong: of many connections that are none, so that no
 * other is accepted. What has been assigned may be under way to the channel, so a difference counts
 * only if nothing has moved since the last look. */
static void
look_at_counts(struct reactor *reactor)
{
    struct process_slot *slot = reactor->slot;
    if (LIKELY(reactor->counted_at_s == reactor->now_s)) {
        return;
    }
    reactor->counted_at_s = reactor->now_s;
    uint64_t assigned = atomic_load(&slot->conns_assigned);
    uint64_t received = atomic_load(&slot->conns_received);
    uint64_t open = reactor->open_count;
    int queued = 0;
    if (ioctl(reactor->channel_fd, FIONREAD, &queued) != 0 ||
        (received - atomic_load(&slot->conns_closed) == open &&
         assigned - received == (uint64_t)queued)) {
        reactor->seen_assigned = UINT64_MAX;
        return;
    }
    if (assigned == reactor->seen_assigned && received == reactor->seen_received) {
        atomic_store(&slot->conns_received, assigned - (uint64_t)queued);
        atomic_store(&slot->conns_closed, assigned - (uint64_t)queued - open);
    }
    reactor->seen_assigned = assigned;
    reactor->seen_received = received;
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
        settle_counts(reactor);
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
        ahead->arrival = turn_read(reactor, ahead->connection);
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
        struct share share = turn_begin(reactor);
        protocol_select(protocol, (unsigned)i);
        if (ahead->connection == NULL) {
            handle_event(reactor, &events[i]);
        } else if (turn_execute(reactor, ahead->connection, &ahead->arrival, &share) == TURN_ON) {
            turn_read_on(reactor, ahead->connection, &share);
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
            epoll_wait(reactor->epoll_fd, events, EVENT_COUNT_MAX, lists_timeout_ms(reactor));
        store_tick(reactor->store);
        store_look_at_own(reactor->store, true);
        reactor->now_s = store_uptime_s(reactor->store);
        look_at_counts(reactor);
        handle_events(reactor, events, count);
        if (reactor->orphaned) {
            return LOOP_ORPHANED;
        }
        lists_serve(reactor);
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
        .idle_timeout_s = segment->run->boot_settings.idle_timeout_s,
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
