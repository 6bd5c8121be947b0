/* The free map: a page is found with few looks however many there are, and none is lost, whatever
 * the order in which processes take, give, stop and die.
 *
 * usage: freemap SEED ROUNDS */
#include "expect.h"
#include "settings.h"

#include "base/crash.h"
#include "mem/freemap.h"
#include "mem/hostmem.h"
#include "mem/page.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* The last descent is made to its end. */
#define LOOKS_BOUND (FREEMAP_LOOKS_MAX + FREEMAP_LEVELS)

#define PROCESSES 3

/* Linked in place of the real ones. */
void __wrap_hostmem_total(struct memory_limit *limit);
uint32_t __real_freemap_next(const struct segment *segment, struct held_table *held, uint32_t from,
                             unsigned *looks);
uint32_t __wrap_freemap_next(const struct segment *segment, struct held_table *held, uint32_t from,
                             unsigned *looks);

static unsigned looked;

void
__wrap_hostmem_total(struct memory_limit *limit)
{
    *limit = (struct memory_limit){.bytes = 1024 * GIB, .owner = "the host"};
}

uint32_t
__wrap_freemap_next(const struct segment *segment, struct held_table *held, uint32_t from,
                    unsigned *looks)
{
    unsigned before = *looks;
    uint32_t number = __real_freemap_next(segment, held, from, looks);
    looked += *looks - before;
    return number;
}

static struct segment *segment;
static struct page_pool *pool;
static struct held_table *held;

static void
begin(uint64_t limit_bytes)
{
    struct segment_settings settings = small_settings(limit_bytes, 8);
    char sentence[SEGMENT_SENTENCE_MAX];
    if (segment_create(&settings, &(struct data_format){64, 0}, &segment, sentence) != SEGMENT_OK) {
        puts(sentence);
        exit(2);
    }
    pool = &segment->superblock->pool;
    held = &segment->held[SLOT_WORKER_FIRST];
}

static void
use(struct held_table *of, uint32_t number)
{
    atomic_store(&page_entry(segment, number)->owner, page_owner(0, 1));
    page_keep(of);
}

static void
detach(struct held_table *of, uint32_t number)
{
    atomic_store(&of->page_in_flight, number + 1);
    atomic_store(&page_entry(segment, number)->owner, page_owner_in_hand(segment, of));
}

static uint32_t
free_pages(void)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < atomic_load(&pool->populated_count); i++) {
        count += atomic_load(&page_entry(segment, i)->owner) == PAGE_FREE;
    }
    return count;
}

/* All free pages are found and taken, and nothing else. */
static void
expect_all_found(void)
{
    uint32_t count = free_pages();
    EXPECT(freemap_count(segment, UINT32_MAX) == count);
    uint32_t taken[64];
    uint32_t found = 0;
    while (found < 64 && (taken[found] = pool_take(segment, held)) != PAGE_NONE) {
        use(held, taken[found++]);
    }
    EXPECT(found == (count < 64 ? count : 64));
    EXPECT(count > 64 || pool_take(segment, held) == PAGE_NONE);
    for (uint32_t i = 0; i < found; i++) {
        detach(held, taken[i]);
        pool_give_back(segment, held, taken[i]);
    }
}

static unsigned
looks_of_take(uint32_t *number)
{
    looked = 0;
    *number = pool_take(segment, held);
    return looked;
}

/* Sixteen million pages, all of them a shard's. */
static void
make_full_directory(void)
{
    begin(960 * GIB);
    uint32_t count = segment->superblock->page_count_max;
    EXPECT(count > 15000000);
    EXPECT(freemap_populate(segment, 0, count));
    atomic_store(&pool->populated_count, count);
    atomic_store(&pool->present_count, atomic_load(&pool->effective_count));
}

static void
a_search_among_sixteen_million_pages_is_a_few_looks(void)
{
    make_full_directory();
    uint32_t count = segment->superblock->page_count_max, number;
    EXPECT(looks_of_take(&number) <= 1 && number == PAGE_NONE);
    const uint32_t some[] = {count - 1, count / 2, 4096, 4095, 64, 63, 1, 0};
    for (unsigned i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
        detach(held, some[i]);
        pool_give_back(segment, held, some[i]);
        EXPECT(looks_of_take(&number) <= FREEMAP_LEVELS && number == some[i]);
        use(held, number);
        EXPECT(looks_of_take(&number) <= 1 && number == PAGE_NONE);
    }
    segment_close(segment);
}

/* Their bits are set: they were stopped just before the page was free, or just after. */
static void
pages_of_stopped_processes_hide_none_and_cost_little(void)
{
    make_full_directory();
    uint32_t last = segment->superblock->page_count_max - 1, number;
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        atomic_store(&page_entry(segment, i * 5000)->owner, PAGE_OWNER_PROCESS | i << 8);
        freemap_set(segment, i * 5000);
    }
    detach(held, last);
    pool_give_back(segment, held, last);
    unsigned tries = 0;
    do {
        EXPECT(looks_of_take(&number) <= LOOKS_BOUND);
        EXPECT(++tries < 20);
    } while (number == PAGE_NONE);
    EXPECT(number == last && tries > 1);
    segment_close(segment);
}

static _Atomic uint64_t *
level_0_word(uint32_t number)
{
    uint64_t at = segment->superblock->freemap_at +
                  freemap_present_bytes(segment->superblock->page_count_max);
    return segment_at(segment, at + number / 64 * 8);
}

static void
summaries_of_nothing_are_cleared_by_the_search(void)
{
    make_full_directory();
    uint32_t number;
    for (uint32_t i = 0; i < 1000; i++) {
        freemap_set(segment, i * 4096);
        /* As it is left by two that clear at the same time as one sets. */
        atomic_store(level_0_word(i * 4096), 0);
    }
    unsigned tries = 0;
    do {
        EXPECT(looks_of_take(&number) <= LOOKS_BOUND && number == PAGE_NONE);
        EXPECT(atomic_load(&held->page_in_flight) == 0);
        EXPECT(++tries < 100);
    } while (looked > 1);
    EXPECT(freemap_is_empty(segment));
    segment_close(segment);
}

/* Its bit above was cleared by a process that was stopped before it looked again. */
static void
a_page_out_of_sight_is_seen_again_by_the_maintainer(void)
{
    begin(64 * MIB);
    while (pool_can_grow(segment) && pool_grow(segment)) {
    }
    struct pool_ahead ahead = {0};
    memset(segment_at(segment, segment->superblock->freemap_at), 0,
           freemap_present_bytes(segment->superblock->page_count_max));
    EXPECT(pool_take(segment, held) == PAGE_NONE);
    EXPECT(!pool_grow_ahead(segment, &ahead, 1));
    EXPECT(freemap_count(segment, UINT32_MAX) == 4096);
    expect_all_found();
    segment_close(segment);
}

/* Keeps the first `keep` pages free, one in 64 or side by side. */
static void
begin_with_few(uint32_t keep, uint32_t stride)
{
    begin(64 * MIB);
    while (pool_can_grow(segment) && pool_grow(segment)) {
    }
    for (uint32_t number; (number = pool_take(segment, held)) != PAGE_NONE;) {
        use(held, number);
    }
    for (uint32_t i = 0; i < keep; i++) {
        detach(held, i * stride);
        pool_give_back(segment, held, i * stride);
    }
    EXPECT(free_pages() == keep);
}

static void
take_and_give(struct held_table *own, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        uint32_t number = pool_take(segment, own);
        if (number == PAGE_NONE) {
            continue;
        }
        if (i % 3 == 0) {
            use(own, number);
            detach(own, number);
        }
        pool_give_back(segment, own, number);
    }
}

static void
takers_and_givers_lose_no_page(uint32_t keep, uint32_t stride, unsigned rounds)
{
    begin_with_few(keep, stride);
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 1; i <= PROCESSES; i++) {
            if (fork() == 0) {
                take_and_give(held + i, 20000);
                _exit(0);
            }
        }
        int status;
        while (wait(&status) > 0) {
            EXPECT(status == 0);
        }
        expect_all_found();
    }
    segment_close(segment);
}

/* The supervisor's part begins with the first death, while the others go on. */
static void
deaths_lose_no_page(uint32_t keep, uint32_t stride, unsigned rounds, unsigned seed)
{
    begin_with_few(keep, stride);
    srand(seed);
    for (unsigned round = 0; round < rounds; round++) {
        pid_t pids[PROCESSES];
        for (unsigned i = 0; i < PROCESSES; i++) {
            unsigned pass = 1 + (unsigned)rand() % 3000;
            pids[i] = fork();
            if (pids[i] == 0) {
                crash_arm("*", pass);
                take_and_give(held + 1 + i, 3000);
                _exit(0);
            }
        }
        for (unsigned left = PROCESSES; left > 0; left--) {
            int status;
            pid_t pid = wait(&status);
            EXPECT(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : status == 0);
            for (unsigned i = 0; i < PROCESSES; i++) {
                /* Pages between use() and detach() are the test's shard's, whose journal is none.
                 */
                EXPECT(pids[i] != pid || pool_recover(segment, held + 1 + i));
            }
        }
        expect_all_found();
    }
    segment_close(segment);
}

/* A search dies after it has cleared the bit above a word, which another process set a bit in just
 * before and saw the one above. */
static void
a_search_that_dies_hides_no_page(void)
{
    begin_with_few(1, 1);
    atomic_store(level_0_word(0), 0); /* Stale from here on. */
    if (fork() == 0) {
        crash_arm("freemap_cleared_not_confirmed", 1);
        (void)!pool_take(segment, held + 1);
        _exit(0);
    }
    int status;
    EXPECT(wait(&status) > 0 && WIFSIGNALED(status));
    atomic_store(level_0_word(0), 1);
    EXPECT(freemap_count(segment, UINT32_MAX) == 0);
    EXPECT(pool_recover(segment, held + 1));
    expect_all_found();
    segment_close(segment);
}

#define AUDIT_NS UINT64_C(10000000000)

/* Random bytes for -1. */
static void
damage_map(int byte)
{
    uint8_t *map = segment_at(segment, segment->superblock->freemap_at);
    uint64_t bytes = freemap_bytes(segment->superblock->page_count_max);
    for (uint64_t i = 0; i < bytes; i++) {
        map[i] = (uint8_t)(byte < 0 ? rand() : byte);
    }
}

/* The bits of the pages are whole, those above them are not. */
static void
an_audit_brings_pages_into_sight(void)
{
    begin_with_few(40, 7);
    struct pool_audit audit = {0};
    memset(segment_at(segment, segment->superblock->freemap_at), 0,
           freemap_present_bytes(segment->superblock->page_count_max));
    EXPECT(freemap_count(segment, UINT32_MAX) == 0);
    (void)pool_audit(segment, held, &audit, AUDIT_NS);
    expect_all_found();
    segment_close(segment);
}

static void
a_map_that_was_written_over_gives_no_page_twice_and_is_mended(int byte)
{
    begin_with_few(40, 7);
    struct pool_audit audit = {0};
    damage_map(byte);
    for (unsigned i = 0; i < 1000; i++) {
        uint32_t number;
        EXPECT(looks_of_take(&number) <= 2 * LOOKS_BOUND);
        if (number != PAGE_NONE) {
            EXPECT(number % 7 == 0 && number / 7 < 40);
            pool_give_back(segment, held, number);
        }
    }
    damage_map(byte);
    (void)pool_audit(segment, held, &audit, AUDIT_NS);
    EXPECT(atomic_load(&held->page_in_flight) == 0 && free_pages() == 40);
    expect_all_found();
    segment_close(segment);
}

static void
a_page_whose_owner_cannot_be_is_free_again(void)
{
    begin_with_few(40, 7);
    struct pool_audit audit = {0};
    const uint32_t owners[] = {0xFFFFFFFF, 0x7FFFFF01, page_owner_in_hand(segment, held), 5};
    for (unsigned i = 0; i < 4; i++) {
        atomic_store(&page_entry(segment, 1000 + i)->owner, owners[i]);
    }
    (void)pool_audit(segment, held, &audit, AUDIT_NS);
    EXPECT(free_pages() == 40);
    EXPECT(pool_audit(segment, held, &audit, 2 * AUDIT_NS));
    EXPECT(free_pages() == 44);
    expect_all_found();
    segment_close(segment);
}

/* The maintainer dies while it has the page. */
static void
an_audit_that_dies_loses_no_page(const char *point)
{
    begin_with_few(40, 7);
    damage_map(0);
    if (fork() == 0) {
        struct pool_audit audit = {0};
        crash_arm(point, 1);
        (void)pool_audit(segment, held + 1, &audit, AUDIT_NS);
        _exit(0);
    }
    int status;
    EXPECT(wait(&status) > 0 && WIFSIGNALED(status));
    EXPECT(pool_recover(segment, held + 1));
    EXPECT(free_pages() == 40);
    struct pool_audit audit = {0};
    (void)pool_audit(segment, held, &audit, AUDIT_NS);
    expect_all_found();
    segment_close(segment);
}

int
main(int argc, char **argv)
{
    if (argc < 3) {
        return 2;
    }
    unsigned seed = (unsigned)atoi(argv[1]), rounds = (unsigned)atoi(argv[2]);
    a_search_among_sixteen_million_pages_is_a_few_looks();
    pages_of_stopped_processes_hide_none_and_cost_little();
    summaries_of_nothing_are_cleared_by_the_search();
    a_page_out_of_sight_is_seen_again_by_the_maintainer();
    a_search_that_dies_hides_no_page();
    srand(seed);
    an_audit_brings_pages_into_sight();
    for (int byte = -1; byte < 256; byte += 64) {
        a_map_that_was_written_over_gives_no_page_twice_and_is_mended(byte);
    }
    a_map_that_was_written_over_gives_no_page_twice_and_is_mended(0);
    a_page_whose_owner_cannot_be_is_free_again();
    an_audit_that_dies_loses_no_page("page_in_hand");
    an_audit_that_dies_loses_no_page("page_listed_not_free");
    const uint32_t strides[] = {1, 64};
    for (unsigned i = 0; i < 2; i++) {
        takers_and_givers_lose_no_page(1, strides[i], rounds / 10 + 1);
        takers_and_givers_lose_no_page(2, strides[i], rounds / 10 + 1);
        deaths_lose_no_page(2, strides[i], rounds, seed + i);
        deaths_lose_no_page(4, strides[i], rounds, seed + i);
    }
    puts("ok");
    return 0;
}
