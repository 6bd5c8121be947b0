/* A session is bytes for the connection that has the turn, cut and interrupted by what stands
 * behind a byte of 255:
 *
 *     0 to 3   the turn goes to this connection; 0 and 1 are at the first worker, 0 is not local
 *     !        what was fed so far is executed, though the line may be cut here
 *     t X      the clock moves on by the X-th of some durations
 *     s        this connection stops reading its replies;  r  it reads again
 *     x        it hangs up, and a new one takes its place
 *     m        the maintainer takes a step
 *
 * Anything else behind it, and itself, are bytes for the connection.
 *
 * Every reply has to be whole and of a known form; when all have hung up nothing may be held, and
 * the segment has to agree with itself. */
#include "session.h"

#include "replies.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CONN_COUNT 4
#define ESCAPE 0xFF

/* What all connections together may be answered in a session. */
#define REPLY_BYTES_MAX (16u << 20)

/* Rounds in which nobody gets on, after which somebody must be given up. */
#define IDLE_ROUNDS_MAX 8

static const int64_t DURATIONS_S[] = {1, 1, 2, 3, 10, 59, 60, 61, 100, 3600, 86400, 2592000};

struct peer {
    struct conn conn;
    struct worker *worker;
    struct reply_reader reader;
    uint8_t *queue; /* Bytes that the connection has not taken yet. */
    size_t queue_len;
    bool reads;
    bool closed;
    bool used;
};

struct session {
    struct bench *bench;
    struct peer peers[CONN_COUNT];
    size_t reply_len;
};

static void
peer_open(struct session *session, unsigned index)
{
    struct peer *peer = &session->peers[index];
    memset(peer, 0, sizeof(*peer));
    peer->worker = &session->bench->workers[index * WORKER_COUNT / CONN_COUNT];
    peer->conn.is_local = index != 0;
    peer->reads = true;
}

static void
peer_close(struct peer *peer)
{
    conn_free(peer->worker->protocol, &peer->conn);
    free(peer->queue);
    peer->queue = NULL;
    peer->queue_len = 0;
    peer->closed = true;
}

/* Reads all that waits; false: too much. */
static bool
peer_read(struct session *session, struct peer *peer)
{
    static uint8_t piece[16384];
    size_t len;
    while ((len = conn_drain(peer->worker->protocol, &peer->conn, piece, sizeof(piece))) > 0) {
        const char *wrong = replies_read(&peer->reader, piece, len);
        if (wrong != NULL) {
            die(wrong);
        }
        session->reply_len += len;
        if (session->reply_len > REPLY_BYTES_MAX) {
            return false;
        }
    }
    return true;
}

/* One call with all that is queued. True: it got on. */
static bool
peer_turn(struct session *session, struct peer *peer)
{
    if (peer->closed || (peer->queue_len == 0 && !conn_has_work(&peer->conn) &&
                         peer->conn.status != CONN_WAITING)) {
        return false;
    }
    size_t taken = 0;
    /* In memory of its own: a read past its end is a read past an allocation. */
    uint8_t *copy = malloc(peer->queue_len + (peer->queue_len == 0));
    if (copy == NULL) {
        die("out of memory");
    }
    if (peer->queue_len != 0) {
        memcpy(copy, peer->queue, peer->queue_len);
    }
    size_t replied = session->reply_len;
    enum conn_status before = (enum conn_status)peer->conn.status;
    enum conn_status status =
        conn_feed(peer->worker->protocol, &peer->conn, copy, peer->queue_len, &taken);
    free(copy);
    if (taken > peer->queue_len) {
        die("took more than was given");
    }
    peer->queue_len -= taken;
    if (taken != 0 && peer->queue_len != 0) {
        memmove(peer->queue, peer->queue + taken, peer->queue_len);
    }
    if (peer->reads && !peer_read(session, peer)) {
        peer_close(peer);
        return true;
    }
    if (status == CONN_CLOSE) {
        if (peer->reads && !replies_are_whole(&peer->reader)) {
            die("closed within a reply");
        }
        peer_close(peer);
        return true;
    }
    /* A piece of a dump may have nothing to say. One without end runs into the fuzzer's limit. */
    return taken != 0 || status != before || session->reply_len != replied ||
           (peer->reads && status == CONN_FULL);
}

static void
peer_feed(struct session *session, struct peer *peer, const uint8_t *bytes, size_t len)
{
    if (len == 0 || peer->closed) {
        return;
    }
    if (!peer->used) {
        peer->used = true;
        peer->reader.binary = bytes[0] == 0x80;
    }
    uint8_t *queue = realloc(peer->queue, peer->queue_len + len);
    if (queue == NULL) {
        die("out of memory");
    }
    memcpy(queue + peer->queue_len, bytes, len);
    peer->queue = queue;
    peer->queue_len += len;
    peer_turn(session, peer);
}

/* As the reactor does when somebody waits for memory that a connection without progress holds. */
static bool
give_one_up(struct session *session)
{
    for (unsigned i = 0; i < CONN_COUNT; i++) {
        struct peer *peer = &session->peers[i];
        if (!peer->closed && conn_holds_memory(&peer->conn)) {
            if (!conn_give_up(peer->worker->protocol, &peer->conn)) {
                peer_close(peer);
            } else if (!conn_park(peer->worker->protocol, &peer->conn)) {
                die("out of memory");
            }
            return true;
        }
    }
    return false;
}

static bool
somebody_waits(const struct session *session)
{
    for (unsigned i = 0; i < CONN_COUNT; i++) {
        const struct peer *peer = &session->peers[i];
        if (!peer->closed && (peer->conn.status == CONN_WAITING || peer->queue_len > 0)) {
            return true;
        }
    }
    return false;
}

/* Everybody reads until nobody has anything left to do; then all hang up. */
static void
finish(struct session *session)
{
    unsigned idle = 0;
    while (idle < IDLE_ROUNDS_MAX) {
        bool moved = false;
        for (unsigned i = 0; i < CONN_COUNT; i++) {
            struct peer *peer = &session->peers[i];
            if (!peer->closed) {
                peer->reads = true;
                if (!peer_read(session, peer)) {
                    peer_close(peer);
                }
                moved |= peer_turn(session, peer);
            }
        }
        idle = moved ? 0 : idle + 1;
        if (idle == IDLE_ROUNDS_MAX && somebody_waits(session)) {
            if (!give_one_up(session)) {
                die("a connection waits for memory that nobody holds");
            }
            idle = 0;
        }
    }
    for (unsigned i = 0; i < CONN_COUNT; i++) {
        struct peer *peer = &session->peers[i];
        if (!peer->closed) {
            if (!replies_are_whole(&peer->reader)) {
                die("a reply has no end");
            }
            peer_close(peer);
        }
    }
}

/* What the escape does to the session; returns how many bytes it took, 0: it is none. */
static size_t
escape(struct session *session, unsigned *turn, const uint8_t *bytes, size_t len)
{
    struct peer *peer = &session->peers[*turn];
    switch (bytes[0]) {
    case '0':
    case '1':
    case '2':
    case '3':
        *turn = bytes[0] - '0';
        return 1;
    case '!':
        return 1;
    case 't':
        if (len < 2) {
            return 0;
        }
        bench_advance(session->bench,
                      DURATIONS_S[bytes[1] % (sizeof(DURATIONS_S) / sizeof(DURATIONS_S[0]))]);
        return 2;
    case 's':
        peer->reads = false;
        return 1;
    case 'r':
        peer->reads = true;
        if (!peer->closed && !peer_read(session, peer)) {
            peer_close(peer);
        }
        peer_turn(session, peer);
        return 1;
    case 'x':
        if (!peer->closed) {
            peer_close(peer);
        }
        peer_open(session, *turn);
        return 1;
    case 'm':
        (void)!store_maintain(session->bench->workers[0].store);
        return 1;
    default:
        return 0;
    }
}

void
session_play(struct bench *bench, const uint8_t *bytes, size_t len)
{
    static struct session session;
    session = (struct session){.bench = bench};
    bench_empty(bench);
    for (unsigned i = 0; i < CONN_COUNT; i++) {
        peer_open(&session, i);
    }
    unsigned turn = 0;
    size_t from = 0;
    for (size_t at = 0; at + 1 < len; at++) {
        if (bytes[at] != ESCAPE) {
            continue;
        }
        unsigned before = turn;
        peer_feed(&session, &session.peers[before], bytes + from, at - from);
        size_t taken = escape(&session, &turn, bytes + at + 1, len - at - 1);
        from = taken == 0 ? at : at + 1 + taken;
        at += taken;
    }
    peer_feed(&session, &session.peers[turn], bytes + from, len - from);
    finish(&session);
    bench_check(bench);
}
