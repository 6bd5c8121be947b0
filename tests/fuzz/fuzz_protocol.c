/* Fuzzing the protocol with the store behind it, without sockets.
 *
 * The first byte of an input chooses how the rest of it is cut. The rest is played twice on an
 * empty store: whole, and cut; the replies must be the same bytes. (Inputs that ask for `stats` are
 * only played: their replies hold clocks and counts of what came before.)
 *
 * LLVMFuzzerTestOneInput() is what libFuzzer wants; driver.c is a main() for any compiler. The
 * segment lives through many inputs, and is checked and replaced now and then. */
#include "fuzz_protocol.h"

#include "mem/segment.h"
#include "proto/conn.h"
#include "store/store.h"
#include "store/check.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What one input may be answered; an `incr` or a get of large values could repeat for ever. */
#define REPLY_BYTES_MAX (8u << 20)

/* A segment is checked and replaced after so many inputs. */
#define SEGMENT_INPUTS 500

/* Pieces are between 1 and this long; powers of two below it are as likely as all else. */
#define PIECE_BYTES_MAX 4096

#define WORKER_SLOT SLOT_WORKER_FIRST

struct replies {
    uint8_t *bytes;
    size_t len;
    bool closed;
};

/* What the process keeps between inputs: a fuzz target has no argument of its own. */
static struct bench {
    struct segment *segment;
    struct store *store;
    struct protocol *protocol;
    unsigned inputs;
    unsigned segments;
    struct replies whole, cut, again;
} bench;

static void
die(const char *why)
{
    fprintf(stderr, "fuzz_protocol: %s\n", why);
    abort();
}

static void
bench_open(void)
{
    struct segment_settings settings = {
        /* Small and large pages in turn. */
        .memory_limit_bytes = (bench.segments++ % 2 == 0 ? 16u : 256u) << 20,
        .item_size_max_bytes = 1u << 20,
        .growth_factor = 1.25,
        .item_size_min_bytes = 40,
        .slab_automove = 1,
        .conn_limit = 16,
        .worker_count = 1,
        .requests_per_event = 20,
        .backlog = 16,
        .eviction_policy = POLICY_S3FIFO,
        .cas_enabled = true,
        .flush_enabled = true,
    };
    char sentence[SEGMENT_SENTENCE_MAX];
    if (store_create(&settings, &bench.segment, sentence) != SEGMENT_OK) {
        die(sentence);
    }
    segment_claim_slot(bench.segment, WORKER_SLOT);
    bench.store = store_open(bench.segment, WORKER_SLOT);
    if (bench.store == NULL) {
        die("no store");
    }
    bench.protocol = protocol_new(bench.store);
    if (bench.protocol == NULL) {
        die("no protocol");
    }
    bench.inputs = 0;
}

static void
bench_close(void)
{
    protocol_free(bench.protocol);
    store_close(bench.store);
    segment_close(bench.segment);
    bench.segment = NULL;
}

static void
print_finding(void *context, const char *sentence)
{
    unsigned *count = context;
    (*count)++;
    fprintf(stderr, "fuzz_protocol: %s\n", sentence);
}

static void
bench_check(void)
{
    unsigned count = 0;
    if (store_check(bench.store, print_finding, &count) != 0 || count != 0) {
        die("the segment does not agree with itself");
    }
}

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
        size_t len = conn_drain(bench.protocol, conn, replies->bytes + replies->len,
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
        enum conn_status status = conn_feed(bench.protocol, conn, piece, len, &taken);
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
    replies_init(replies);
    store_tick(bench.store);
    store_flush_all(bench.store, 0);
    atomic_store(&store_superblock(bench.store)->last_cas, 0);
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
    conn_free(bench.protocol, &conn);
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

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    if (bench.segment == NULL) {
        bench_open();
    }
    const uint8_t *bytes = data + 1;
    size_t len = size - 1;
    play(bytes, len, 0, &bench.whole);
    play(bytes, len, 1 + data[0], &bench.cut);
    if (memmem(bytes, len, "stats", 5) == NULL && !same(&bench.whole, &bench.cut)) {
        /* A second may have ended between the two: only what is stable counts. */
        play(bytes, len, 0, &bench.again);
        if (same(&bench.whole, &bench.again)) {
            size_t from = 0;
            while (from < bench.whole.len && from < bench.cut.len &&
                   bench.whole.bytes[from] == bench.cut.bytes[from]) {
                from++;
            }
            from = from < 40 ? 0 : from - 40;
            print_bytes("whole", &bench.whole, from);
            print_bytes("  cut", &bench.cut, from);
            die("the replies depend on the fragmentation");
        }
    }
    if (++bench.inputs == SEGMENT_INPUTS) {
        bench_check();
        bench_close();
    }
    return 0;
}

void
fuzz_finish(void)
{
    if (bench.segment != NULL) {
        bench_check();
        bench_close();
    }
    free(bench.whole.bytes);
    free(bench.cut.bytes);
    free(bench.again.bytes);
    memset(&bench, 0, sizeof(bench));
}
