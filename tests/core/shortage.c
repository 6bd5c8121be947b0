/* What a shortage of memory on the host, or in the cgroup of an attached process, leaves behind:
 * nothing, once it is over. The host's memory and the boot-time clock are the test's. */
#include "expect.h"
#include "settings.h"

#include "base/clock.h"
#include "base/crash.h"
#include "mem/hostmem.h"
#include "mem/page.h"
#include "store/shard.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define LIMIT_BYTES (512 * MIB)

/* Linked in place of the host's. */
void __real_hostmem_available(struct memory_limit *limit);
void __wrap_hostmem_available(struct memory_limit *limit);
int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);

static uint64_t available_bytes = GIB;
static unsigned looks; /* at the host's memory */
static time_t passed_s;

void
__wrap_hostmem_available(struct memory_limit *limit)
{
    looks++;
    *limit = (struct memory_limit){.bytes = available_bytes, .owner = "the host"};
}

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = __real_clock_gettime(clock, now);
    if (clock == CLOCK_BOOTTIME || clock == CLOCK_MONOTONIC) {
        now->tv_sec += passed_s;
    }
    return result;
}

static struct store *store;
static struct segment *segment;
static struct page_pool *pool;
static const struct growth *growth;
static unsigned stored;

static void
begin(void)
{
    struct segment_settings settings = small_settings(LIMIT_BYTES, 2);
    char sentence[SEGMENT_SENTENCE_MAX];
    available_bytes = GIB;
    looks = 0;
    if (store_create(&settings, &segment, sentence) != SEGMENT_OK) {
        puts(sentence);
        exit(2);
    }
    segment_claim_slot(segment, SLOT_MAINTAINER);
    store = store_open(segment, SLOT_MAINTAINER);
    pool = &segment->superblock->pool;
    growth = &segment->run->growth;
    stored = 0;
}

static void
end(void)
{
    store_close(store);
    segment_close(segment);
}

/* So many new keys, of about a KiB each. */
static void
fill(unsigned count)
{
    static uint8_t value[1000];
    for (unsigned i = 0; i < count; i++) {
        char text[32];
        struct put put = {.mode = PUT_SET, .value = value, .value_len = sizeof(value)};
        int len = sprintf(text, "key-%u", stored++);
        key_init(store, &put.key, text, (uint32_t)len);
        EXPECT(store_put(store, &put) == PUT_STORED);
    }
}

static uint32_t
effective_mib(void)
{
    return (uint32_t)((uint64_t)atomic_load(&pool->effective_count)
                          << segment->superblock->page_shift >>
                      20);
}

static void
maintain(void)
{
    for (int i = 0; i < 10000 && store_maintain(store); i++) {
    }
}

/* As the maintainer does it, twice a second. */
static void
let_seconds_pass(unsigned seconds)
{
    for (unsigned i = 0; i < seconds; i++) {
        maintain();
        maintain();
        passed_s++;
    }
    maintain();
}

static void
the_limit_comes_back_in_steps_and_is_told_at_both_ends(void)
{
    begin();
    fill(5000);
    available_bytes = MIB;
    fill(20000);
    uint32_t low_mib = effective_mib();
    EXPECT(low_mib < 32 && atomic_load(&growth->shortage_number) == 1);
    let_seconds_pass(60);
    EXPECT(effective_mib() == low_mib); /* It is still there. */
    EXPECT(atomic_load(&growth->recovery_number) == 0);
    EXPECT(looks < 100); /* At most every few seconds, whatever is asked for meanwhile. */
    fill(20000);
    EXPECT(looks < 100);
    available_bytes = GIB;
    uint32_t before_mib = low_mib;
    unsigned seconds = 0;
    while (effective_mib() < 512 && seconds < 60) {
        let_seconds_pass(1);
        seconds++;
        EXPECT(effective_mib() - before_mib <= 32);
        before_mib = effective_mib();
    }
    EXPECT(effective_mib() == 512 && seconds >= 15 && seconds < 60);
    EXPECT(atomic_load(&growth->shortage_number) == 1 &&
           atomic_load(&growth->recovery_number) == 1);
    uint32_t lasted_s = atomic_load(&growth->recovery_after_s);
    EXPECT(lasted_s >= 60 && lasted_s <= 120);
    fill(400000);
    struct store_sums sums;
    store_sum(store, &sums);
    EXPECT(sums.curr_items > 350000);
    let_seconds_pass(2);
    unsigned after = looks;
    let_seconds_pass(60);
    EXPECT(looks == after); /* Nothing is wrong: nothing is looked at. */
    end();
}

static void
the_limit_comes_back_as_far_as_the_host_can_give_it(void)
{
    begin();
    fill(5000);
    available_bytes = MIB;
    fill(20000);
    uint32_t low_mib = effective_mib();
    available_bytes = 100 * MIB;
    let_seconds_pass(120);
    EXPECT(effective_mib() >= low_mib + 80 && effective_mib() <= low_mib + 92);
    /* What it came back by can be had. */
    uint32_t present = atomic_load(&pool->present_count);
    while (atomic_load(&pool->present_count) < atomic_load(&pool->effective_count)) {
        uint32_t taken = atomic_load(&pool->present_count) - present;
        available_bytes = 100 * MIB - ((uint64_t)taken << segment->superblock->page_shift);
        fill(100);
    }
    EXPECT(atomic_load(&growth->shortage_number) == 1 &&
           atomic_load(&growth->recovery_number) == 0);
    end();
}

static void
a_host_at_the_edge_makes_few_lines(void)
{
    begin();
    fill(5000);
    for (unsigned second = 0; second < 1200; second++) {
        /* As long as it takes for the whole limit to be back, then a moment without. */
        bool whole = atomic_load(&growth->short_since_ns) == 0;
        available_bytes = whole ? MIB : GIB;
        fill(whole ? 1000 : 10);
        let_seconds_pass(1);
    }
    EXPECT(atomic_load(&growth->shortage_number) <= 25);
    EXPECT(atomic_load(&growth->recovery_number) <= atomic_load(&growth->shortage_number));
    EXPECT(looks < 2500);
    end();
}

static void
a_new_limit_ends_a_shortage(void)
{
    begin();
    fill(5000);
    available_bytes = MIB;
    fill(20000);
    available_bytes = GIB;
    EXPECT(effective_mib() < 32);
    EXPECT(store_set_memory_limit(store, LIMIT_BYTES));
    EXPECT(effective_mib() == 512 && atomic_load(&growth->recovery_number) == 1);
    end();
}

/* Kills a child at the point. */
static void
die_at(const char *point, void (*what)(void))
{
    pid_t child = fork();
    if (child == 0) {
        crash_arm(point, 1);
        what();
        _exit(0);
    }
    int status;
    EXPECT(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    EXPECT(WTERMSIG(status) == SIGKILL);
}

static void
run_short(void)
{
    available_bytes = MIB;
    fill(20000);
}

static void
raise_all(void)
{
    let_seconds_pass(60);
}

static void
deaths_leave_no_limit_behind(void)
{
    begin();
    fill(5000);
    die_at("shortage_not_in_force", run_short);
    run_short();
    EXPECT(effective_mib() < 32);
    available_bytes = GIB;
    let_seconds_pass(5);
    passed_s += 2;
    die_at("limit_raised_not_noted", raise_all);
    EXPECT(effective_mib() < 512);
    let_seconds_pass(90);
    EXPECT(effective_mib() == 512 && atomic_load(&growth->short_since_ns) == 0);
    EXPECT(atomic_load(&growth->recovery_number) == 1);
    end();
}

static void
an_attached_process_asks_its_cgroup_again(void)
{
    begin();
    segment->attached = true;
    fill(5000);
    available_bytes = MIB;
    fill(20000);
    uint32_t present = atomic_load(&pool->present_count);
    EXPECT(effective_mib() == 512 && atomic_load(&growth->shortage_number) == 0);
    unsigned before = looks;
    for (unsigned second = 0; second < 600; second++) {
        fill(100);
        passed_s++;
    }
    EXPECT(looks > before && looks <= before + 15);
    available_bytes = GIB;
    passed_s += 64;
    fill(20000);
    EXPECT(atomic_load(&pool->present_count) >= present + 200);
    end();
}

int
main(void)
{
    the_limit_comes_back_in_steps_and_is_told_at_both_ends();
    the_limit_comes_back_as_far_as_the_host_can_give_it();
    a_host_at_the_edge_makes_few_lines();
    a_new_limit_ends_a_shortage();
    deaths_leave_no_limit_behind();
    an_attached_process_asks_its_cgroup_again();
    puts("ok");
    return 0;
}
