/* When items and flushes take effect, to the millisecond: the clocks of the segment stand still and
 * are moved by hand. Over connections without a socket, in a test build. */
#include "expect.h"

#include "proto/conn.h"
#include "proto/execute.h"
#include "store/clocks.h"
#include "store/shard.h"
#include "store/sweep.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS UINT64_C(1000000)

static struct segment *segment;
static struct store *store, *other; /* of two processes */
static struct protocol *protocol;
static struct conn conn;
static char reply[1 << 18];

/* As one process does it: a tick, and then the request. */
static const char *
ask_without_tick(const char *request)
{
    size_t taken;
    (void)!conn_feed(protocol, &conn, (const uint8_t *)request, strlen(request), &taken);
    size_t len = conn_drain(protocol, &conn, (uint8_t *)reply, sizeof(reply) - 1);
    reply[len] = '\0';
    return reply;
}

static const char *
ask(const char *request)
{
    store_tick(store);
    return ask_without_tick(request);
}

static bool
answers(const char *request, const char *expected)
{
    return strcmp(ask(request), expected) == 0;
}

static void
set(const char *key, int64_t exptime)
{
    char request[100];
    sprintf(request, "set %s 0 %lld 1\r\n1\r\n", key, (long long)exptime);
    EXPECT(answers(request, "STORED\r\n"));
}

/* Without a trace. */
static bool
lives(const char *text)
{
    struct key key;
    struct view view = {0};
    store_tick(store);
    key_init(store, &key, text, (uint32_t)strlen(text));
    if (store_peek(store, &key, &view) != VIEW_HIT) {
        return false;
    }
    EXPECT(store_view_confirm(store, &view, VIEW_PEEK));
    return true;
}

static void
pass_ms(uint64_t ms)
{
    atomic_fetch_add(&segment->run->paused_at_ns, ms * MS);
}

/* Stops the clock so many milliseconds after a second of the node's clock began. */
static void
stop_clock(uint64_t ms)
{
    uint64_t base = segment->run->boot_base_ns;
    uint64_t seconds = (clock_boot_ns() - base) / (1000 * MS);
    atomic_store(&segment->run->paused_at_ns, base + (seconds * 1000 + ms) * MS);
}

static void
open_all(unsigned megabytes)
{
    char sentence[SEGMENT_SENTENCE_MAX];
    struct segment_settings settings = {.memory_limit_bytes = (uint64_t)megabytes << 20,
                                        .item_size_max_bytes = 1u << 20,
                                        .growth_factor = 1.25,
                                        .item_size_min_bytes = 12,
                                        .conn_limit = 64,
                                        .worker_count = 2,
                                        .cas_enabled = true,
                                        .flush_enabled = true,
                                        .worker_logbuf_bytes = 65536,
                                        .prefix_delimiter = ':'};
    EXPECT(store_create(&settings, &segment, sentence) == SEGMENT_OK);
    store = store_open(segment, SLOT_WORKER_FIRST);
    other = store_open(segment, SLOT_WORKER_FIRST + 1);
    protocol = protocol_new(store);
    EXPECT(protocol != NULL);
    conn = (struct conn){0};
    stop_clock(400);
}

static void
close_all(void)
{
    conn_free(protocol, &conn);
    protocol_free(protocol);
    store_close(store);
    store_close(other);
    segment_close(segment);
}

/* ---- exptimes ------------------------------------------------------------------------------- */

/* Each gives the item `k` a ttl of two seconds, over an item that never expires or over none. */
static const struct way {
    const char *request;
    bool over;
} ways[] = {
    {"set k 0 2 1\r\n1\r\n", false},
    {"set k 0 2 1\r\n1\r\n", true},
    {"add k 0 2 1\r\n1\r\n", false},
    {"replace k 0 2 1\r\n1\r\n", true},
    {"cas k 0 2 1 7\r\n1\r\n", true},
    {"touch k 2\r\n", true},
    {"gat 2 k\r\n", true},
    {"gats 2 none k\r\n", true},
    {"ms k 1 T2\r\n1\r\n", false},
    {"mg k N2 v\r\n", false},
    {"mg k T2\r\n", true},
    {"ma k N2\r\n", false},
    {"ma k T2\r\n", true},
    {"md k I T2\r\n", true},
};

static void
no_ttl_is_shorter_than_asked_for_nor_longer_by_more_than_a_second(void)
{
    const uint64_t parts_ms[] = {0, 1, 400, 499, 500, 999};
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        for (size_t j = 0; j < sizeof(parts_ms) / sizeof(parts_ms[0]); j++) {
            stop_clock(parts_ms[j]);
            ask("delete k\r\n");
            if (ways[i].over) {
                EXPECT(answers("ms k 1 E7\r\n1\r\n", "HD\r\n"));
            }
            /* The last tick of the process is a while ago. */
            store_tick(store);
            pass_ms(450);
            ask_without_tick(ways[i].request);
            EXPECT(strncmp(ask("mg k t\r\n"), "HD t2", 5) == 0);
            pass_ms(1999);
            if (!lives("k")) {
                printf("%s at %llu ms was gone before its end\n", ways[i].request,
                       (unsigned long long)parts_ms[j]);
                exit(1);
            }
            pass_ms(1001);
            EXPECT(!lives("k"));
        }
    }
}

static void
what_is_told_of_a_ttl_counts_down_from_what_was_asked_for(void)
{
    /* Also where a second has begun since the last tick. */
    const uint64_t parts_ms[] = {400, 600, 990};
    for (size_t i = 0; i < sizeof(parts_ms) / sizeof(parts_ms[0]); i++) {
        stop_clock(parts_ms[i]);
        set("k", 0);
        pass_ms(450);
        EXPECT(strcmp(ask_without_tick("mg k T30 t\r\n"), "HD t30\r\n") == 0);
    }
    stop_clock(300);
    set("k", 3);
    for (int left_s = 3; left_s >= 0; left_s--) {
        char expected[32];
        sprintf(expected, "HD t%d\r\n", left_s);
        EXPECT(answers("mg k t\r\n", expected));
        sprintf(expected, "exp=%d ", left_s);
        EXPECT(strstr(ask("me k\r\n"), expected) != NULL);
        pass_ms(1000);
    }
    EXPECT(answers("mg k t\r\n", "EN\r\n"));
}

/* The first second of the system clock that begins after at least one. */
static int64_t
next_moment(uint64_t *in_ms)
{
    struct clocks clocks = clocks_read(segment->run);
    int64_t moment = clocks.wall_ns / NS_PER_S + 2;
    *in_ms = (uint64_t)((moment * NS_PER_S - clocks.wall_ns) / NS_PER_MS);
    return moment;
}

static void
a_moment_of_the_system_clock_is_the_end_to_the_millisecond(void)
{
    uint64_t in_ms;
    stop_clock(0);
    set("k", next_moment(&in_ms));
    pass_ms(in_ms - 1);
    EXPECT(lives("k"));
    pass_ms(2);
    EXPECT(!lives("k"));
}

static void
a_negative_exptime_is_at_once(void)
{
    set("k", -1);
    EXPECT(!lives("k"));
}

/* What the sweep reclaims is what has expired, and within two passes all of it. */
static void
the_sweep_takes_items_when_they_have_expired_and_not_before(void)
{
    stop_clock(999);
    for (int i = 0; i < 200; i++) {
        char key[32];
        sprintf(key, "sweep%d", i);
        set(key, 1 + i % 5);
    }
    struct store_sums sums, before;
    store_sum(store, &before);
    for (unsigned ms = 0; ms <= 12000; ms += 500) {
        while (store_maintain(other)) {
        }
        for (int i = 0; i < 200; i++) {
            char key[32];
            sprintf(key, "sweep%d", i);
            EXPECT(ms > (unsigned)(1 + i % 5) * 1000 || lives(key));
        }
        pass_ms(500);
    }
    store_sum(store, &sums);
    EXPECT(before.curr_items - sums.curr_items >= 200);
}

/* ---- gat ------------------------------------------------------------------------------------ */

#define LONG_BYTES 100000

/* Called when a gat has read a value: there another process stores the key anew. */
static const char *stored_beside;
static unsigned times_stored;

static void
store_beside(void)
{
    static uint8_t value[LONG_BYTES];
    if (stored_beside != NULL) {
        struct put put = {.mode = PUT_SET, .value = value, .value_len = 1};
        key_init(other, &put.key, stored_beside, (uint32_t)strlen(stored_beside));
        put.value_len = *stored_beside == 'l' ? LONG_BYTES : 1;
        memset(value, '2', put.value_len);
        stored_beside = NULL;
        EXPECT(store_put(other, &put) == PUT_STORED);
        times_stored++;
    }
}

bool __real_store_view_confirm(struct store *of, struct view *view, enum view_bump bump);
bool
__wrap_store_view_confirm(struct store *of, struct view *view, enum view_bump bump)
{
    bool confirmed = __real_store_view_confirm(of, view, bump);
    store_beside();
    return confirmed;
}

bool __real_output_add_pin(struct output *output, const struct pin *pin);
bool
__wrap_output_add_pin(struct output *output, const struct pin *pin)
{
    store_beside();
    return __real_output_add_pin(output, pin);
}

static void
what_is_stored_beside_a_gat_does_not_get_its_exptime(void)
{
    static char long_set[LONG_BYTES + 64];
    int len = sprintf(long_set, "set l 0 0 %u\r\n", LONG_BYTES);
    memset(long_set + len, '1', LONG_BYTES);
    memcpy(long_set + len + LONG_BYTES, "\r\n", 3);
    const char *gats[] = {"gat 100 %s\r\n", "gats 100 none %s\r\n"};
    for (unsigned i = 0; i < 4; i++) {
        const char *key = i % 2 ? "l" : "k";
        char request[32];
        EXPECT(answers(i % 2 ? long_set : "set k 0 0 1\r\n1\r\n", "STORED\r\n"));
        sprintf(request, gats[i / 2], key);
        times_stored = 0;
        stored_beside = key;
        EXPECT(strstr(ask(request), "\r\n1") != NULL && times_stored == 1);
        sprintf(request, "mg %s t v\r\n", key);
        EXPECT(strstr(ask(request), " t-1\r\n2") != NULL);
    }
}

/* ---- flushes -------------------------------------------------------------------------------- */

static void
a_flush_for_later_takes_effect_at_one_instant(void)
{
    const uint64_t parts_ms[] = {0, 400, 999};
    for (size_t i = 0; i < sizeof(parts_ms) / sizeof(parts_ms[0]); i++) {
        stop_clock(parts_ms[i]);
        set("before", 0);
        EXPECT(answers("flush_all 2\r\n", "OK\r\n"));
        set("between", 0);
        pass_ms(1999);
        set("last", 0);
        EXPECT(lives("before") && lives("between") && lives("last"));
        pass_ms(3);
        EXPECT(!lives("before") && !lives("between") && !lives("last"));
        set("after", 0);
        for (unsigned j = 0; j < 6; j++) {
            EXPECT(lives("after"));
            pass_ms(500);
        }
    }
}

static void
a_flush_at_a_moment_of_the_system_clock_is_exact(void)
{
    uint64_t in_ms;
    char request[64];
    sprintf(request, "flush_all %lld\r\n", (long long)next_moment(&in_ms));
    set("before", 0);
    EXPECT(answers(request, "OK\r\n"));
    pass_ms(in_ms - 1);
    EXPECT(lives("before"));
    pass_ms(3);
    EXPECT(!lives("before"));
    set("after", 0);
    EXPECT(lives("after"));
    pass_ms(1000);
    EXPECT(lives("after"));
    /* One that has passed is now, as a negative delay is. */
    EXPECT(answers("flush_all 2592001\r\n", "OK\r\n") && !lives("after"));
    set("after", 0);
    EXPECT(answers("flush_all -5\r\n", "OK\r\n") && !lives("after"));
}

static void
of_several_flushes_to_come_the_last_is_the_one(void)
{
    set("k", 0);
    EXPECT(answers("flush_all 2\r\n", "OK\r\n") && answers("flush_all 10\r\n", "OK\r\n"));
    pass_ms(9000);
    EXPECT(lives("k"));
    pass_ms(1002);
    EXPECT(!lives("k"));
    set("k", 0);
    EXPECT(answers("flush_all 10\r\n", "OK\r\n") && answers("flush_all 2\r\n", "OK\r\n"));
    pass_ms(2002);
    EXPECT(!lives("k"));
    set("k", 0);
    pass_ms(20000);
    EXPECT(lives("k"));
    EXPECT(answers("flush_all 2\r\n", "OK\r\n") && answers("flush_all\r\n", "OK\r\n"));
    set("k", 0);
    pass_ms(20000);
    EXPECT(lives("k"));
}

/* No process had a tick since its moment. */
static void
a_flush_that_is_due_is_not_lost_to_a_later_one(void)
{
    set("k", 0);
    EXPECT(answers("flush_all 2\r\n", "OK\r\n"));
    pass_ms(3000);
    EXPECT(store_flush_all(other, 100) && !lives("k"));
    /* Nor if its moment comes while the other is under way. */
    set("k", 0);
    EXPECT(answers("flush_all 2\r\n", "OK\r\n"));
    store_tick(other);
    pass_ms(3000);
    EXPECT(strcmp(ask_without_tick("flush_all 100\r\n"), "OK\r\n") == 0 && !lives("k"));
    EXPECT(answers("flush_all\r\n", "OK\r\n"));
}

/* Called by flush_all between its look at what is to come and the change: here another process asks
 * for a flush at just that time. */
static unsigned intrusions;
void __real_track_spoil(struct segment *of);
void
__wrap_track_spoil(struct segment *of)
{
    (void)of;
    if (intrusions != 0) {
        intrusions--;
        store_flush_all(other, 1000);
    }
}

static void
a_flush_that_was_answered_has_flushed_whatever_others_did(void)
{
    for (unsigned i = 1; i < 4; i++) {
        set("k", 0);
        atomic_store(&segment->run->tracking, 1);
        store->tracking_seen = other->tracking_seen = 1;
        intrusions = i;
        EXPECT(answers("flush_all\r\n", "OK\r\n"));
        intrusions = 0;
        atomic_store(&segment->run->tracking, 0);
        store->tracking_seen = other->tracking_seen = 0;
        EXPECT(!lives("k"));
    }
}

/* ---- many flushes --------------------------------------------------------------------------- */

#define FILLERS 60000

static uint64_t
reclaimed(void)
{
    struct store_sums sums;
    store_sum(store, &sums);
    return sums.reclaimed;
}

static void
fill(const char *name, int count)
{
    store_tick(store);
    for (int i = 0; i < count; i++) {
        char text[32];
        struct put put = {.mode = PUT_SET, .value = (const uint8_t *)"1", .value_len = 1};
        key_init(store, &put.key, text, (uint32_t)sprintf(text, "%s%d", name, i));
        EXPECT(store_put(store, &put) == PUT_STORED);
    }
}

/* 200,000 flushes, which is three times as many as an item can tell apart. */
static void
no_flush_of_many_has_much_to_do_and_none_is_undone(bool is_maintained)
{
    fill("f", FILLERS);
    uint32_t most = 2 * segment->superblock->chunks_per_page[1];
    for (unsigned i = 1; i <= 200000; i++) {
        if (i % 977 == 0) {
            char name[16];
            sprintf(name, "of%u-", i / 977);
            fill(name, 40);
        }
        uint64_t before = reclaimed();
        EXPECT(store_flush_all(store, 0));
        EXPECT(reclaimed() - before <= most);
        if (is_maintained && i % 5000 == 0) {
            pass_ms(2000);
            while (store_maintain(other)) {
            }
            uint64_t swept = atomic_load(&segment->superblock->flush_swept);
            EXPECT((uint16_t)swept == (uint16_t)atomic_load(&segment->superblock->flush[0]));
        }
        if (i % 8192 < 2) {
            for (unsigned j = 1; j <= i / 977; j++) {
                char key[32];
                sprintf(key, "of%u-%u", j, i % 40);
                EXPECT(!lives(key));
            }
        }
    }
    struct store_sums sums;
    store_sum(store, &sums);
    EXPECT(sums.curr_items < FILLERS);
}

/* A process that is stopped with a shard keeps dead items from being swept: no epoch of theirs may
 * come again. */
static void
a_flush_is_refused_when_dead_items_would_live_again(void)
{
    fill("f", 1000);
    pid_t pid = fork();
    if (pid == 0) {
        segment_claim_slot(segment, SLOT_WORKER_FIRST + 1);
        if (!shard_lock(other, &other->shards[0])) {
            _exit(9);
        }
        raise(SIGSTOP);
        shard_unlock(other, &other->shards[0]);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, WUNTRACED);
    unsigned flushes = 0;
    while (flushes < 70000 && store_flush_all(store, 0)) {
        flushes++;
    }
    EXPECT(flushes > 50000 && flushes < 65536);
    EXPECT(answers("flush_all\r\n", "SERVER_ERROR shard is locked by a stopped process\r\n"));
    kill(pid, SIGCONT);
    waitpid(pid, &status, 0);
    for (unsigned i = 0; i < 70000; i++) {
        EXPECT(store_flush_all(store, 0));
        if (i % 1000 == 0) {
            for (unsigned j = 0; j < 1000; j++) {
                char key[32];
                sprintf(key, "f%u", j);
                EXPECT(!lives(key));
            }
        }
    }
}

int
main(void)
{
    open_all(64);
    no_ttl_is_shorter_than_asked_for_nor_longer_by_more_than_a_second();
    what_is_told_of_a_ttl_counts_down_from_what_was_asked_for();
    a_moment_of_the_system_clock_is_the_end_to_the_millisecond();
    a_negative_exptime_is_at_once();
    the_sweep_takes_items_when_they_have_expired_and_not_before();
    what_is_stored_beside_a_gat_does_not_get_its_exptime();
    a_flush_for_later_takes_effect_at_one_instant();
    a_flush_at_a_moment_of_the_system_clock_is_exact();
    of_several_flushes_to_come_the_last_is_the_one();
    a_flush_that_is_due_is_not_lost_to_a_later_one();
    a_flush_that_was_answered_has_flushed_whatever_others_did();
    close_all();
    for (int is_maintained = 0; is_maintained < 2; is_maintained++) {
        open_all(64);
        no_flush_of_many_has_much_to_do_and_none_is_undone(is_maintained);
        close_all();
    }
    open_all(64);
    a_flush_is_refused_when_dead_items_would_live_again();
    close_all();
    printf("ok\n");
    return 0;
}
