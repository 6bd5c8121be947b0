/* debugtime and debugitem of a test build, over a connection without a socket. */
#include "expect.h"
#include "settings.h"

#include "proto/conn.h"
#include "proto/execute.h"

#include <stdio.h>
#include <stdlib.h>

static struct protocol *protocol;
static struct conn conn;

/* Sends a request whose whole reply is known. */
static void
ask(const char *request, const char *reply)
{
    static uint8_t out[1 << 20];
    size_t taken;
    store_tick(protocol->store);
    (void)!conn_feed(protocol, &conn, (const uint8_t *)request, strlen(request), &taken);
    size_t len = conn_drain(protocol, &conn, out, sizeof(out) - 1);
    out[len] = '\0';
    if (strcmp((char *)out, reply) != 0) {
        printf("%s was answered %s and not %s\n", request, out, reply);
        exit(1);
    }
}

static void
time_is_moved(void)
{
    ask("set k 0 10 1\r\nx\r\n", "STORED\r\n");
    ask("debugtime p\r\n", "OK\r\n");
    uint32_t paused_s = store_uptime_s(protocol->store);
    ask("debugtime p\r\n", "OK\r\n");
    ask("debugtime 9\r\n", "OK\r\n");
    EXPECT(store_uptime_s(protocol->store) == paused_s + 9);
    ask("get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
    ask("debugtime 2\r\n", "OK\r\n");
    ask("get k\r\n", "END\r\n");
    ask("debugtime r\r\n", "OK\r\n");
    EXPECT(store_uptime_s(protocol->store) >= paused_s + 11);
    ask("debugtime x\r\n", "ERROR\r\n");
    ask("debugtime\r\n", "CLIENT_ERROR bad command line format\r\n");
}

static void
items_are_held(void)
{
    static char large[400000 + 64];
    int len = sprintf(large, "set large 0 0 400000\r\n");
    memset(large + len, 'x', 400000);
    memcpy(large + len + 400000, "\r\n", 3);
    struct store_sums sums;
    ask(large, "STORED\r\n");
    ask("debugitem ref none\r\n", "MISS\r\n");
    ask("debugitem ref large\r\n", "OK\r\n");
    store_sum(protocol->store, &sums);
    EXPECT(sums.held_bytes >= 400000);
    ask("debugitem unref large\r\n", "OK\r\n");
    store_sum(protocol->store, &sums);
    EXPECT(sums.held_bytes == 0);
    ask("debugitem lock large\r\n", "OK\r\n");
    ask("debugitem unlock large\r\n", "OK\r\n");
    ask("delete large\r\n", "DELETED\r\n");
    ask("debugitem bogus k\r\n", "ERROR\r\n");
    ask("debugitem lock\r\n", "CLIENT_ERROR bad command line format\r\n");
}

int
main(void)
{
    struct segment_settings settings = small_settings(64u << 20, 1);
    settings.requests_per_event = 20;
    struct segment *segment;
    char sentence[SEGMENT_SENTENCE_MAX];
    EXPECT(store_create(&settings, &segment, sentence) == SEGMENT_OK);
    segment_claim_slot(segment, SLOT_WORKER_FIRST);
    struct store *store = store_open(segment, SLOT_WORKER_FIRST);
    protocol = protocol_new(store);
    EXPECT(protocol != NULL);
    time_is_moved();
    items_are_held();
    conn_free(protocol, &conn);
    protocol_free(protocol);
    store_close(store);
    segment_close(segment);
    puts("ok");
    return 0;
}
