/* The acceptor: accept(), choose the worker with the fewest connections, pass the descriptor.
 *
 * A worker's load is conns_assigned (written here, before the descriptor is sent) less conns_closed
 * (written by the worker), so it is right while connections wait in the channel and after the death
 * of either process. It is also what the connection limit is checked against: the sum over all
 * workers.
 *
 * No wait here is a spin: a full channel, or a system that is out of descriptors, is waited for in
 * poll(). */
#include "net/acceptor.h"

#include "base/clock.h"
#include "mem/conn_table.h"
#include "net/channel.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Connections taken from one listener before the others, and the wake descriptor, are looked at. */
#define ACCEPT_BURST_MAX 32

/* Without descriptors or buffers: time for connections to end. */
#define ACCEPT_BACKOFF_MS 50

/* While nobody is accepted: how often it is looked whether a connection has ended. */
#define FULL_CHECK_MS 10

#define EVENT_COUNT_MAX 64
#define TAG_WAKE UINT64_MAX
#define TAG_LIVENESS (UINT64_MAX - 1)

/* A worker that is not serving just now is chosen only if none is. */
#define LOAD_NOT_SERVING (UINT64_C(1) << 40)

static const char too_many_text[] = "ERROR Too many open connections\r\n";

struct acceptor {
    struct segment *segment;
    struct counters *counters;
    const int *listener_fds;
    const int *channel_fds;
    unsigned worker_count;
    unsigned turn; /* Where ties are broken next. */
    unsigned burst;
    int epoll_fd;
    int wake_fd;
    int liveness_fd;
    bool maxconns_fast;
    bool orphaned;
};

/* ---- choosing ------------------------------------------------------------------------------- */

static struct process_slot *
worker_slot(const struct acceptor *acceptor, unsigned worker_index)
{
    return &acceptor->segment->slots[SLOT_WORKER_FIRST + worker_index];
}

static uint64_t
worker_load(const struct acceptor *acceptor, unsigned worker_index)
{
    const struct process_slot *slot = worker_slot(acceptor, worker_index);
    uint64_t closed = atomic_load_explicit(&slot->conns_closed, memory_order_relaxed);
    uint64_t assigned = atomic_load_explicit(&slot->conns_assigned, memory_order_relaxed);
    uint64_t load = assigned > closed ? assigned - closed : 0;
    bool serving = atomic_load_explicit(&slot->serving, memory_order_relaxed) != 0;
    return serving ? load : load + LOAD_NOT_SERVING;
}

/* The least loaded worker that is not in `full`; worker_count if all are. */
static unsigned
choose_worker(struct acceptor *acceptor, uint64_t full)
{
    unsigned chosen = acceptor->worker_count;
    uint64_t load_min = UINT64_MAX;
    for (unsigned i = 0; i < acceptor->worker_count; i++) {
        unsigned index = (acceptor->turn + i) % acceptor->worker_count;
        uint64_t load = worker_load(acceptor, index);
        if ((full >> index & 1) == 0 && load < load_min) {
            chosen = index;
            load_min = load;
        }
    }
    return chosen;
}

/* ---- waiting -------------------------------------------------------------------------------- */

static bool
is_readable(int fd)
{
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    return poll(&polled, 1, 0) == 1;
}

/* Waits until a channel has room, the node's state changes, the supervisor dies, or the time is
 * over. */
static void
wait_for_room(struct acceptor *acceptor, bool channels, int timeout_ms)
{
    struct pollfd polled[2 + WORKERS_MAX] = {
        {.fd = acceptor->wake_fd, .events = 0},
        {.fd = acceptor->liveness_fd, .events = POLLIN},
    };
    unsigned count = 2;
    for (unsigned i = 0; channels && i < acceptor->worker_count; i++) {
        polled[count++] = (struct pollfd){.fd = acceptor->channel_fds[i], .events = POLLOUT};
    }
    poll(polled, count, timeout_ms);
    acceptor->orphaned = polled[1].revents != 0;
}

static bool
is_running(const struct acceptor *acceptor)
{
    return !acceptor->orphaned && loop_node_state(acceptor->segment) == NODE_RUNNING;
}

/* ---- one connection ------------------------------------------------------------------------- */

static bool
pass_to(struct acceptor *acceptor, unsigned worker_index, int fd)
{
    struct process_slot *slot = worker_slot(acceptor, worker_index);
    atomic_fetch_add_explicit(&slot->conns_assigned, 1, memory_order_relaxed);
    if (channel_send(acceptor->channel_fds[worker_index], fd) != CHANNEL_OK) {
        atomic_fetch_sub_explicit(&slot->conns_assigned, 1, memory_order_relaxed);
        return false;
    }
    atomic_fetch_add_explicit(&slot->conns_sent, 1, memory_order_relaxed);
    acceptor->turn = worker_index + 1;
    return true;
}

/* Passes the descriptor to some worker, waiting while none takes one. */
static void
pass(struct acceptor *acceptor, int fd)
{
    uint64_t full = 0;
    while (is_running(acceptor)) {
        unsigned index = choose_worker(acceptor, full);
        if (index == acceptor->worker_count) {
            wait_for_room(acceptor, true, ACCEPT_BACKOFF_MS);
            full = 0;
            continue;
        }
        if (pass_to(acceptor, index, fd)) {
            break;
        }
        full |= UINT64_C(1) << index;
    }
    close(fd);
}

/* What has arrived is read first: closing over unread bytes would reset the connection and lose the
 * text. */
static void
reject(struct acceptor *acceptor, int fd)
{
    char ignored[2048];
    COUNT(acceptor->counters, rejected_connections);
    ssize_t sent = send(fd, too_many_text, sizeof(too_many_text) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    ssize_t received = recv(fd, ignored, sizeof(ignored), MSG_DONTWAIT);
    (void)sent;
    (void)received;
    close(fd);
}

static bool
is_full(const struct acceptor *acceptor)
{
    return segment_connection_count(acceptor->segment) >=
           acceptor->segment->run->boot_settings.conn_limit;
}

/* Without maxconns_fast: who comes now stays in the listener's queue until a connection has ended.
 * If the acceptor dies in here, the next one begins by accepting. */
static void
wait_for_an_end(struct acceptor *acceptor)
{
    struct run_head *run = acceptor->segment->run;
    uint64_t since_ns = clock_mono_ns();
    COUNT(acceptor->counters, listen_disabled_num);
    atomic_store_explicit(&run->listen_disabled, 1, memory_order_relaxed);
    while (is_running(acceptor) && is_full(acceptor)) {
        wait_for_room(acceptor, false, FULL_CHECK_MS);
    }
    atomic_store_explicit(&run->listen_disabled, 0, memory_order_relaxed);
    counter_add(acceptor->counters, COUNTER_time_in_listen_disabled_us,
                (clock_mono_ns() - since_ns) / 1000);
}

/* False: nothing more can be accepted now. */
static bool
accept_one(struct acceptor *acceptor, int listener_fd)
{
    if (!acceptor->maxconns_fast && is_full(acceptor) && is_readable(listener_fd)) {
        wait_for_an_end(acceptor);
        return true;
    }
    int fd = accept4(listener_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            COUNT(acceptor->counters, accept_failures);
            wait_for_room(acceptor, false, ACCEPT_BACKOFF_MS);
        }
        return errno == ECONNABORTED;
    }
    if (is_full(acceptor)) {
        reject(acceptor, fd);
    } else {
        pass(acceptor, fd);
    }
    return true;
}

/* Under a burst more are taken per event; one at a time otherwise, which saves the accept() that
 * finds nothing. */
static void
accept_some(struct acceptor *acceptor, int listener_fd)
{
    for (unsigned i = 0; i < acceptor->burst; i++) {
        if (!is_running(acceptor) || !accept_one(acceptor, listener_fd)) {
            acceptor->burst = 1;
            return;
        }
    }
    if (acceptor->burst < ACCEPT_BURST_MAX) {
        acceptor->burst *= 2;
    }
}

/* ---- the loop ------------------------------------------------------------------------------- */

/* Accepted TCP connections inherit the option; on a UNIX listener it fails, which is fine. */
static void
set_no_delay(int listener_fd)
{
    int on = 1;
    setsockopt(listener_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static bool
acceptor_watch(struct acceptor *acceptor, unsigned listener_count)
{
    bool watched =
        loop_watch(acceptor->epoll_fd, acceptor->wake_fd, EPOLLIN | EPOLLET, TAG_WAKE) &&
        loop_watch(acceptor->epoll_fd, acceptor->liveness_fd, EPOLLIN | EPOLLRDHUP, TAG_LIVENESS);
    for (unsigned i = 0; watched && i < listener_count; i++) {
        set_no_delay(acceptor->listener_fds[i]);
        watched = loop_watch(acceptor->epoll_fd, acceptor->listener_fds[i], EPOLLIN, i);
        conn_table_open(acceptor->segment, SLOT_ACCEPTOR, acceptor->listener_fds[i],
                        CONN_STATE_LISTENING, UINT32_MAX);
    }
    return watched;
}

static void
acceptor_loop(struct acceptor *acceptor)
{
    struct epoll_event events[EVENT_COUNT_MAX];
    while (is_running(acceptor)) {
        int count = epoll_wait(acceptor->epoll_fd, events, EVENT_COUNT_MAX, -1);
        for (int i = 0; i < count; i++) {
            uint64_t tag = events[i].data.u64;
            if (tag == TAG_LIVENESS) {
                acceptor->orphaned = true;
            } else if (tag != TAG_WAKE) {
                accept_some(acceptor, acceptor->listener_fds[tag]);
            }
        }
    }
    acceptor->orphaned = acceptor->orphaned || is_readable(acceptor->liveness_fd);
}

enum loop_end
acceptor_run(struct segment *segment, unsigned slot_index, const int *listener_fds,
             unsigned listener_count, const int *channel_fds, unsigned worker_count, int wake_fd,
             int liveness_fd)
{
    struct acceptor acceptor = {
        .segment = segment,
        .counters = &segment->slots[slot_index].counters,
        .listener_fds = listener_fds,
        .channel_fds = channel_fds,
        .worker_count = worker_count,
        .burst = 1,
        .wake_fd = wake_fd,
        .liveness_fd = liveness_fd,
        .maxconns_fast = segment->run->boot_settings.maxconns_fast,
    };
    if (!loop_claim(segment, slot_index)) {
        return LOOP_ORPHANED;
    }
    acceptor.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    conn_table_clear(segment, SLOT_ACCEPTOR);
    if (acceptor.epoll_fd < 0 || !acceptor_watch(&acceptor, listener_count)) {
        return LOOP_FAILED;
    }
    atomic_store_explicit(&segment->run->listen_disabled, 0, memory_order_relaxed);
    atomic_store_explicit(&segment->slots[slot_index].serving, 1, memory_order_release);
    acceptor_loop(&acceptor);
    close(acceptor.epoll_fd);
    return acceptor.orphaned ? LOOP_ORPHANED : LOOP_STOPPED;
}
