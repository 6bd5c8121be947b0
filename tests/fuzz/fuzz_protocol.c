/* Fuzzing the protocol with the store behind it, without sockets.
 *
 * The first byte of an input chooses how it is played. From SESSION_MARK on it is a session of
 * several connections (session.c). Below, it chooses how the rest is cut: that is played twice on
 * an empty store, whole and cut, and the replies must be the same bytes. (Inputs that ask for what
 * changes with time, or depends on what was sent together, are only played.)
 *
 * LLVMFuzzerTestOneInput() is what libFuzzer wants; driver.c is a main() for any compiler. */
#include "fuzz_protocol.h"

#include "bench.h"
#include "session.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What one input may be answered; an `incr` or a get of large values could repeat for ever. */
#define REPLY_BYTES_MAX (8u << 20)

/* Pieces are between 1 and this long; powers of two below it are as likely as all else. */
#define PIECE_BYTES_MAX 4096

/* Replies to these hold clocks and counts, or depend on what was sent together with them. */
static const char *const UNSTABLE[] = {"stats", "lru_crawler", "watch", "me "};

struct replies {
    uint8_t *bytes;
    size_t len;
    bool closed;
};

/* What the process keeps between inputs: a fuzz target has no argument of its own. */
static struct bench bench;
static struct replies whole, cut, again;

static void
replies_init(struct replies *replies)
{
    if (replies->bytes == NULL) {
        replies->bytes = malloc(REPLY_BYTES_MAX);
        if (replies->bytes == NULL) {
            die("out of memory");
        }
    }
    replies->len = 0;
    replies->closed = false;
}

/* Takes what waits, by `room` bytes at a time. False: the input is answered by too much. */
static bool
drain(struct conn *conn, struct replies *replies, size_t room)
{
    for (;;) {
        size_t left = REPLY_BYTES_MAX - replies->len;
        size_t len = conn_drain(bench.workers[0].protocol, conn, replies->bytes + replies->len,
                                left < room ? left : room);
        replies->len += len;
        if (len == 0) {
            return true;
        }
        if (replies->len == REPLY_BYTES_MAX) {
            return false;
        }
    }
}

/* Feeds one piece to the end; false when no more must be fed. */
static bool
feed(struct conn *conn, const uint8_t *bytes, size_t len, struct replies *replies, size_t room)
{
    unsigned idle = 0;
    for (;;) {
        size_t taken = 0;
        /* A piece in memory of its own: a read past its end is a read past an allocation. */
        uint8_t *piece = malloc(len + (len == 0));
        if (piece == NULL) {
            die("out of memory");
        }
        if (len != 0) {
            memcpy(piece, bytes, len);
        }
        enum conn_status status = conn_feed(bench.workers[0].protocol, conn, piece, len, &taken);
        free(piece);
        if (taken > len) {
            die("took more than was given");
        }
        bytes += taken;
        len -= taken;
        if (!drain(conn, replies, room)) {
            return false;
        }
        switch (status) {
        case CONN_CLOSE:
            replies->closed = true;
            return false;
        case CONN_READY:
            if (len == 0) {
                return true;
            }
            break;
        case CONN_FULL:
            break;
        case CONN_WAITING:
            die("a lonely connection waits for memory");
        }
        idle = taken == 0 ? idle + 1 : 0;
        if (idle > 1000) {
            die("no progress in a thousand calls");
        }
    }
}

static uint32_t
next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Plays the input on an empty store. A fragmentation of 0 is one piece. */
static void
play(const uint8_t *bytes, size_t len, unsigned fragmentation, struct replies *replies)
{
    struct conn conn;
    memset(&conn, 0, sizeof(conn));
    conn.is_local = true;
    replies_init(replies);
    bench_empty(&bench);
    uint32_t state = fragmentation * 2654435761u + 1;
    size_t at = 0;
    size_t room = fragmentation == 0 ? REPLY_BYTES_MAX : 1 + next_random(&state) % 70000;
    bool open = true;
    while (open && at < len) {
        size_t piece = len - at;
        if (fragmentation == 1) {
            piece = 1;
        } else if (fragmentation != 0) {
            size_t limit = (size_t)1 << (next_random(&state) % 13);
            piece = 1 + next_random(&state) % (limit < PIECE_BYTES_MAX ? limit : PIECE_BYTES_MAX);
        }
        if (piece > len - at) {
            piece = len - at;
        }
        open = feed(&conn, bytes + at, piece, replies, room);
        at += piece;
    }
    conn_free(bench.workers[0].protocol, &conn);
}

static bool
same(const struct replies *one, const struct replies *other)
{
    return one->len == other->len && one->closed == other->closed &&
           memcmp(one->bytes, other->bytes, one->len) == 0;
}

static void
print_bytes(const char *name, const struct replies *replies, size_t from)
{
    fprintf(stderr, "%s, %zu bytes%s, from %zu on: ", name, replies->len,
            replies->closed ? " and a close" : "", from);
    for (size_t i = from; i < replies->len && i < from + 200; i++) {
        uint8_t byte = replies->bytes[i];
        if (byte >= ' ' && byte < 0x7f) {
            fputc(byte, stderr);
        } else {
            fprintf(stderr, "\\x%02x", byte);
        }
    }
    fputc('\n', stderr);
}

static bool
is_stable(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < sizeof(UNSTABLE) / sizeof(UNSTABLE[0]); i++) {
        if (memmem(bytes, len, UNSTABLE[i], strlen(UNSTABLE[i])) != NULL) {
            return false;
        }
    }
    return true;
}

static void
compare(const uint8_t *bytes, size_t len, unsigned fragmentation)
{
    play(bytes, len, 0, &whole);
    play(bytes, len, fragmentation, &cut);
    if (!is_stable(bytes, len) || same(&whole, &cut)) {
        return;
    }
    /* A second may have ended between the two: only what is stable counts. */
    play(bytes, len, 0, &again);
    if (!same(&whole, &again)) {
        return;
    }
    size_t from = 0;
    while (from < whole.len && from < cut.len && whole.bytes[from] == cut.bytes[from]) {
        from++;
    }
    from = from < 40 ? 0 : from - 40;
    print_bytes("whole", &whole, from);
    print_bytes("  cut", &cut, from);
    die("the replies depend on the fragmentation");
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    bench_open(&bench);
    if (data[0] >= SESSION_MARK) {
        session_play(&bench, data + 1, size - 1);
    } else {
        compare(data + 1, size - 1, 1 + data[0]);
        bench_check(&bench);
    }
    bench_played(&bench);
    return 0;
}

void
fuzz_finish(void)
{
    bench_close(&bench);
    free(whole.bytes);
    free(cut.bytes);
    free(again.bytes);
    whole = cut = again = (struct replies){0};
}
