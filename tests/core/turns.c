/* The order in which values are let in when the share of uploads and pins is taken: the clock
 * stands still and is moved by hand, ten milliseconds a round, which is how often waiting
 * connections try. */
#include "expect.h"
#include "ledger.h"

#include "base/clock.h"
#include "store/held.h"

#include <sys/mman.h>

#define MEGABYTES 16
#define SHARE_BYTES (MEGABYTES << 20 >> 3)
#define ROUNDS_MAX 1000
#define ROUND_MS 10

/* A reservation comes after a tenth of a second, and lapses after a fifth. */
#define ROUNDS_BEFORE_TURN 16
#define ROUNDS_UNTIL_LAPSED 25

static struct segment *segment;
static struct store *large, *small, *third; /* three processes */
static uint8_t value[SHARE_BYTES * 2];

static void
pass_round(void)
{
    atomic_fetch_add(&segment->run->paused_at_ns, ROUND_MS * UINT64_C(1000000));
    store_tick(large);
    store_tick(small);
    store_tick(third);
}

static struct key
key_of(struct store *of, const char *text)
{
    struct key key;
    key_init(of, &key, text, (uint32_t)strlen(text));
    return key;
}

static void
store_value(const char *text, uint32_t value_len)
{
    struct put put = {
        .mode = PUT_SET, .key = key_of(small, text), .value = value, .value_len = value_len};
    EXPECT(store_put(small, &put) == PUT_STORED);
}

static bool
pin(struct store *of, const char *text, struct pin *pin)
{
    struct key key = key_of(of, text);
    enum pin_result result = store_pin(of, &key, pin);
    EXPECT(result == PIN_OK || result == PIN_WAIT);
    return result == PIN_OK;
}

/* Values of a third of the share, of which there is always at least one held: in each round the
 * older one goes and the next is asked for. Returns whether that was let in. */
static struct pin turning[2];
static unsigned turn;

static bool
turn_small(void)
{
    turn ^= 1;
    if (turning[turn].held) {
        store_unpin(small, &turning[turn]);
    }
    return pin(small, turn ? "a" : "b", &turning[turn]);
}

static void
stop_small(void)
{
    for (unsigned i = 0; i < 2; i++) {
        store_unpin(small, &turning[i]);
        turning[i].held = false;
    }
    share_leave(small);
    share_leave(large);
    share_leave(third);
    for (unsigned i = 0; i < ROUNDS_UNTIL_LAPSED; i++) {
        pass_round();
    }
}

static void
a_large_value_is_not_passed_for_ever(const char *text)
{
    struct pin pinned = {0};
    unsigned rounds = 0;
    EXPECT(turn_small() && turn_small());
    while (!pin(large, text, &pinned)) {
        EXPECT(++rounds < ROUNDS_BEFORE_TURN);
        (void)turn_small();
        pass_round();
    }
    EXPECT(rounds > 2);
    store_unpin(large, &pinned);
    /* And it leaves nothing behind. */
    EXPECT(atomic_load(&segment->run->share_reserved) == 0 && turn_small());
    stop_small();
}

static void
an_upload_is_not_either(void)
{
    struct upload upload = {0};
    struct put put = {
        .mode = PUT_SET, .key = key_of(large, "u"), .value_len = SHARE_BYTES / 10 * 9};
    unsigned rounds = 0;
    EXPECT(turn_small() && turn_small());
    while (store_upload_begin(large, &put, &upload) != PUT_STORED) {
        EXPECT(++rounds < ROUNDS_BEFORE_TURN);
        (void)turn_small();
        pass_round();
    }
    store_upload_abort(large, &upload);
    stop_small();
}

static void
a_reservation_that_is_not_renewed_lapses(void)
{
    struct pin pinned = {0};
    EXPECT(turn_small() && turn_small());
    for (;;) {
        EXPECT(!pin(large, "huge", &pinned));
        if (atomic_load(&segment->run->share_reserved) != 0) {
            break;
        }
        EXPECT(turn_small());
        pass_round();
    }
    /* The process is gone, or stopped. */
    EXPECT(!turn_small());
    unsigned rounds = 0;
    while (!turn_small()) {
        EXPECT(++rounds < ROUNDS_UNTIL_LAPSED);
        pass_round();
    }
    EXPECT(rounds > 2);
    stop_small();
}

/* Another process has written over it: all is reserved, from ten minutes ahead on. */
static void
one_of_the_far_future_keeps_nothing_out(void)
{
    uint64_t moment = (large->now_ms + 600000) >> 4 & 0x3FFFF;
    uint64_t word = UINT64_C(3) << 54 | UINT64_C(0x3FFFF) << 36 | moment << 18 | moment;
    atomic_store(&segment->run->share_reserved, word);
    EXPECT(turn_small() && turn_small());
    atomic_store(&segment->run->share_reserved, 0);
    stop_small();
}

static void
nor_is_it_passed_by_others_of_its_own_process(void)
{
    struct pin pinned[3] = {0};
    EXPECT(pin(small, "a", &pinned[0]));
    while (atomic_load(&segment->run->share_reserved) == 0) {
        EXPECT(!pin(large, "huge", &pinned[1]));
        pass_round();
    }
    EXPECT(!pin(large, "b", &pinned[2]));
    store_unpin(small, &pinned[0]);
    EXPECT(!pin(large, "b", &pinned[2]));
    EXPECT(pin(large, "huge", &pinned[1]));
    store_unpin(large, &pinned[1]);
    EXPECT(pin(large, "b", &pinned[2]));
    store_unpin(large, &pinned[2]);
    stop_small();
}

static void
of_two_the_one_that_waited_longer_is_first_and_both_have_their_turn(unsigned apart)
{
    struct pin pinned[2] = {0};
    EXPECT(turn_small() && turn_small());
    unsigned got[2] = {0}, rounds = 0;
    while (got[0] == 0 || got[1] == 0) {
        EXPECT(++rounds < 2 * ROUNDS_BEFORE_TURN + apart);
        (void)turn_small();
        if (rounds > apart && got[1] == 0 && pin(third, "huge2", &pinned[1])) {
            got[1] = rounds;
            store_unpin(third, &pinned[1]);
        }
        if (got[0] == 0 && pin(large, "huge", &pinned[0])) {
            got[0] = rounds;
            store_unpin(large, &pinned[0]);
        }
        pass_round();
    }
    EXPECT(apart < 4 || got[0] < got[1]);
    stop_small();
}

int
main(void)
{
    segment = segment_make(MEGABYTES);
    EXPECT(mprotect(segment->run->constants, CONSTANTS_BYTES, PROT_READ | PROT_WRITE) == 0);
    segment->run->boot_settings.item_size_max_bytes = 4u << 20;
    ledger = ledgers_make(1);
    atomic_store(&segment->run->paused_at_ns, clock_boot_ns());
    large = store_open(segment, SLOT_WORKER_FIRST + 1);
    small = store_open(segment, SLOT_WORKER_FIRST);
    third = store_open(segment, SLOT_WORKER_FIRST + 2);
    store_value("a", SHARE_BYTES / 3);
    store_value("b", SHARE_BYTES / 3);
    store_value("most", SHARE_BYTES / 10 * 9);
    store_value("huge", SHARE_BYTES + 1000);
    store_value("huge2", SHARE_BYTES + 2000);
    a_large_value_is_not_passed_for_ever("most");
    a_large_value_is_not_passed_for_ever("huge");
    an_upload_is_not_either();
    a_reservation_that_is_not_renewed_lapses();
    one_of_the_far_future_keeps_nothing_out();
    nor_is_it_passed_by_others_of_its_own_process();
    for (unsigned apart = 0; apart < 8; apart++) {
        of_two_the_one_that_waited_longer_is_first_and_both_have_their_turn(apart);
    }
    struct store_sums sums;
    store_sum(small, &sums);
    EXPECT(sums.held_bytes == 0);
    expect_sound(segment, small, "at the end");
    store_close(large);
    store_close(small);
    store_close(third);
    segment_close(segment);
    printf("ok\n");
    return 0;
}
