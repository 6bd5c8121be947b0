/* See lists.h. */
#include "net/lists.h"

#include "base/clock.h"
#include "net/turn.h"
#include "proto/watch.h"
#include "proto/watch_log.h"

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

/* The longest sleep, for what a process looks at from time to time. */
#define IDLE_CHECK_MAX_S 10

/* With memory of other nodes mapped, which stays taken should they end. */
#define MAPPED_CHECK_MS 1000

/* One turn for each connection of the list. */
static void
serve_turns(struct reactor *reactor, struct list *turn)
{
    while (!list_is_empty(turn)) {
        struct connection *connection = LIST_ELEMENT(turn->next, struct connection, ready);
        list_remove(&connection->ready);
        turn_serve(reactor, connection);
    }
}

void
lists_serve_ready(struct reactor *reactor)
{
    struct list turn;
    list_init(&turn);
    list_move(&reactor->ready, &turn);
    serve_turns(reactor, &turn);
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

/* Connections that make long answers: a large piece for each, as fast as they are read, while the
 * process has nothing else to do; else a small one for the next of them every PACE_MS, so that
 * others hardly notice, however many there are. */
static void
serve_paced(struct reactor *reactor)
{
    uint64_t now_ns = clock_mono_ns();
    reactor->pace_is_slow = others_are_served(reactor, now_ns);
    if (reactor->pace_is_slow && now_ns < reactor->pace_at_ns) {
        return;
    }
    protocol_pace(reactor->protocol, reactor->pace_is_slow);
    struct list turn;
    list_init(&turn);
    if (reactor->pace_is_slow) {
        struct list *first = reactor->paced.next;
        list_remove(first);
        list_append(&turn, first);
    } else {
        list_move(&reactor->paced, &turn);
    }
    serve_turns(reactor, &turn);
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
            connection_stop_waiting(reactor, connection);
        }
        if (connection_settle(reactor, connection, status) == TURN_ON) {
            turn_serve(reactor, connection);
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
            if (connection_settle(reactor, connection, (enum conn_status)connection->conn.status) ==
                TURN_ON) {
                connection_make_ready(reactor, connection);
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
            (void)connection_settle(reactor, connection, CONN_READY);
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
    /* Compared with what is there: another process may have written over it. */
    if (atomic_load_explicit(&reactor->slot->waiters, memory_order_relaxed) !=
        reactor->waiting_count) {
        store_set_waiters(reactor->store, reactor->waiting_count);
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
        connection->conn.close_reason = WATCH_CLOSE_IDLE;
        connection_close(reactor, connection);
    }
}

void
lists_serve(struct reactor *reactor)
{
    if (!list_is_empty(&reactor->ready)) {
        lists_serve_ready(reactor);
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

/* The longest sleep of who waits for requests only: it looks at its slot's words then. */
static int
idle_sleep_ms(const struct reactor *reactor)
{
    if (UNLIKELY(store_holds_entries(reactor->store))) {
        return HOLDER_CHECK_MS;
    }
    if (UNLIKELY(store_maps_others(reactor->store))) {
        return MAPPED_CHECK_MS;
    }
    if (reactor->idle_timeout_s != 0 && !list_is_empty(&reactor->all)) {
        uint32_t until_s = idle_until_s(reactor);
        uint32_t left_s = until_s > reactor->now_s ? until_s - reactor->now_s : 0;
        return left_s < IDLE_CHECK_MAX_S ? (int)left_s * 1000 : IDLE_CHECK_MAX_S * 1000;
    }
    return IDLE_CHECK_MAX_S * 1000;
}

int
lists_timeout_ms(const struct reactor *reactor)
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
    return idle_sleep_ms(reactor);
}
