/* The pool of pages: what it takes ahead of need, and how a limit that moves changes what it gives.
 */
#include "expect.h"
#include "settings.h"

#include "mem/freemap.h"
#include "mem/page.h"
#include "mem/segment.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define MIB (UINT64_C(1) << 20)

static struct segment *
make(uint64_t megabytes)
{
    struct segment_settings settings = small_settings(megabytes * MIB, 1);
    struct segment *segment;
    char sentence[SEGMENT_SENTENCE_MAX];
    if (segment_create(&settings, &(struct data_format){4096, 0}, &segment, sentence) !=
        SEGMENT_OK) {
        puts(sentence);
        exit(2);
    }
    return segment;
}

static uint32_t
take(struct segment *segment, struct held_table *held, uint32_t count)
{
    uint32_t taken = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = pool_take(segment, held);
        if (number == PAGE_NONE && pool_grow(segment)) {
            number = pool_take(segment, held);
        }
        if (number == PAGE_NONE) {
            break;
        }
        atomic_store(&page_entry(segment, number)->owner, page_owner(0, 1));
        page_keep(held);
        taken++;
    }
    return taken;
}

static uint64_t
file_bytes(const struct segment *segment)
{
    struct stat about;
    EXPECT(fstat(segment->fd, &about) == 0);
    return (uint64_t)about.st_blocks * 512;
}

static void
as_much_is_kept_free_as_a_second_takes(void)
{
    struct segment *segment = make(64);
    const struct page_pool *pool = &segment->superblock->pool;
    struct held_table *held = &segment->held[SLOT_WORKER_FIRST];
    struct pool_ahead ahead = {0};
    uint64_t now_ns = 77;
    EXPECT(!pool_grow_ahead(segment, &ahead, now_ns));
    EXPECT(atomic_load(&pool->present_count) == 0);
    EXPECT(take(segment, held, 100) == 100);
    now_ns += 500000000;
    while (pool_grow_ahead(segment, &ahead, now_ns)) {
    }
    EXPECT(freemap_count(segment, UINT32_MAX) >= 200);
    uint32_t present = atomic_load(&pool->present_count);
    now_ns += 500000000;
    EXPECT(!pool_grow_ahead(segment, &ahead, now_ns)); /* Nobody takes any: nothing is wanted. */
    EXPECT(take(segment, held, 200) == 200);
    now_ns += 1000;
    EXPECT(!pool_grow_ahead(segment, &ahead, now_ns)); /* It is not looking yet. */
    EXPECT(atomic_load(&pool->present_count) == present);
    EXPECT(take(segment, held, 3300) == 3300);
    now_ns += 500000000;
    while (pool_grow_ahead(segment, &ahead, now_ns)) {
    }
    /* But no more than a sixteenth of the limit, and an extent. */
    EXPECT(freemap_count(segment, UINT32_MAX) >= 256);
    EXPECT(atomic_load(&pool->present_count) <= 3600 + 256 + 128);
    segment_close(segment);
}

static void
what_was_wanted_under_a_higher_limit_is_not_taken_under_a_lower(void)
{
    struct segment *segment = make(64);
    const struct page_pool *pool = &segment->superblock->pool;
    struct held_table *held = &segment->held[SLOT_WORKER_FIRST];
    struct pool_ahead ahead = {0};
    uint64_t now_ns = 77;
    EXPECT(!pool_grow_ahead(segment, &ahead, now_ns));
    EXPECT(take(segment, held, 1000) == 1000);
    now_ns += 500000000;
    while (pool_grow_ahead(segment, &ahead, now_ns)) {
    }
    uint32_t present = atomic_load(&pool->present_count);
    EXPECT(freemap_count(segment, UINT32_MAX) >= 256);
    EXPECT(pool_set_limit(segment, 32 * MIB));
    now_ns += 1000;
    EXPECT(!pool_grow_ahead(segment, &ahead, now_ns)); /* A sixteenth is half as much now. */
    EXPECT(atomic_load(&pool->present_count) == present);
    segment_close(segment);
}

static void
nothing_is_given_above_the_limit_and_what_went_comes_back(void)
{
    struct segment *segment = make(64);
    const struct page_pool *pool = &segment->superblock->pool;
    struct held_table *held = &segment->held[SLOT_WORKER_FIRST];
    EXPECT(take(segment, held, 4096) == 4096 && take(segment, held, 1) == 0);
    uint64_t full = file_bytes(segment);
    for (uint32_t number = 0; number < 4096; number += 2) {
        atomic_store(&held->page_in_flight, number + 1);
        atomic_store(&page_entry(segment, number)->owner, page_owner_in_hand(segment, held));
        pool_give_back(segment, held, number);
    }
    EXPECT(pool_take_surplus(segment, held) == PAGE_NONE);
    EXPECT(!pool_set_limit(segment, segment->bytes * 2));
    EXPECT(pool_set_limit(segment, 48 * MIB) && pool_is_over(segment));
    EXPECT(take(segment, held, 1) == 0);
    while (pool_is_over(segment)) {
        uint32_t number = pool_take_surplus(segment, held);
        EXPECT(number != PAGE_NONE && pool_drop(segment, held, number));
    }
    EXPECT(atomic_load(&pool->present_count) == 3072);
    EXPECT(file_bytes(segment) == full - 16 * MIB);
    EXPECT(take(segment, held, 4096) == 1024);
    EXPECT(pool_set_limit(segment, 66 * MIB));
    EXPECT(take(segment, held, 4096) == 1152);
    EXPECT(atomic_load(&pool->present_count) == 4224);
    EXPECT(atomic_load(&pool->populated_count) == 4224);
    segment_close(segment);
}

/* Other processes wrote over the owners of pages, one after the other, so that the counts fit. */
static void
an_absent_page_that_is_not_where_it_should_be_ends_no_growth(bool is_there)
{
    struct segment *segment = make(64);
    struct page_pool *pool = &segment->superblock->pool;
    struct held_table *held = &segment->held[SLOT_WORKER_FIRST];
    EXPECT(take(segment, held, 1) == 1);
    uint32_t present = atomic_load(&pool->present_count);
    EXPECT(take(segment, held, present - 1) == present - 1);
    if (is_there) {
        atomic_store(&page_entry(segment, 3)->owner, PAGE_ABSENT);
    }
    atomic_fetch_sub(&pool->present_count, 1);
    pool->absent_from = atomic_load(&pool->populated_count);
    for (unsigned i = 0; i < 2; i++) {
        EXPECT(pool_grow(segment));
    }
    EXPECT(take(segment, held, 1) == 1);
    EXPECT(atomic_load(&pool->present_count) >= present);
    segment_close(segment);
}

/* Another process wrote over the count: the pages behind it are none to be counted or populated. */
static void
nothing_is_populated_behind_a_damaged_end(uint32_t damaged)
{
    struct segment *segment = make(64);
    struct page_pool *pool = &segment->superblock->pool;
    struct held_table *held = &segment->held[SLOT_WORKER_FIRST];
    EXPECT(take(segment, held, 10) == 10);
    uint64_t bytes = file_bytes(segment);
    atomic_store(&pool->populated_count, damaged);
    EXPECT(pool_grow(segment));
    uint32_t limit = (64 * MIB) >> segment->superblock->page_shift;
    EXPECT(take(segment, held, limit) == limit - 10);
    EXPECT(atomic_load(&pool->present_count) == limit);
    EXPECT(file_bytes(segment) < bytes + 65 * MIB);
    segment_close(segment);
}

/* The limit and its complement fit, and there is no such limit. */
static void
a_limit_that_cannot_be_is_not_believed(void)
{
    struct segment *segment = make(64);
    struct held_table *held = &segment->held[SLOT_WORKER_FIRST];
    struct pool_audit audit = {0};
    atomic_store(&segment->run->settings.memory_limit_bytes, 0);
    atomic_store(&segment->run->growth.limit_check, UINT64_MAX);
    EXPECT(pool_audit(segment, held, &audit, UINT64_C(10000000000)));
    EXPECT(atomic_load(&segment->run->settings.memory_limit_bytes) == 64 * MIB);
    segment_close(segment);
}

int
main(void)
{
    as_much_is_kept_free_as_a_second_takes();
    what_was_wanted_under_a_higher_limit_is_not_taken_under_a_lower();
    nothing_is_given_above_the_limit_and_what_went_comes_back();
    an_absent_page_that_is_not_where_it_should_be_ends_no_growth(true);
    an_absent_page_that_is_not_where_it_should_be_ends_no_growth(false);
    nothing_is_populated_behind_a_damaged_end(0x10000);
    nothing_is_populated_behind_a_damaged_end(3);
    a_limit_that_cannot_be_is_not_believed();
    puts("ok");
    return 0;
}
