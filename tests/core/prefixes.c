/* The table of prefixes where several processes change it at once: what another process does in the
 * middle of an addition is done from within the request for memory that the addition makes.
 *
 *     prefixes */
#include "expect.h"

#include "base/clock.h"
#include "base/siphash.h"
#include "mem/populate.h"
#include "mem/prefix_table.h"
#include "store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Linked in place of populate(). */
bool __real_populate(int fd, uint8_t *base, uint64_t offset, uint64_t bytes);
bool __wrap_populate(int fd, uint8_t *base, uint64_t offset, uint64_t bytes);

static void (*meanwhile)(void); /* Called by the next request. */
static bool short_of_memory;
static unsigned requests;

static struct segment *segment;

bool
__wrap_populate(int fd, uint8_t *base, uint64_t offset, uint64_t bytes)
{
    void (*call)(void) = meanwhile;
    requests++;
    if (short_of_memory) {
        return false;
    }
    bool populated = __real_populate(fd, base, offset, bytes);
    if (call != NULL) {
        meanwhile = NULL;
        call();
    }
    return populated;
}

static void
make_segment(void)
{
    static const struct segment_settings settings = {.memory_limit_bytes = 16u << 20,
                                                     .item_size_max_bytes = 1u << 20,
                                                     .growth_factor = 1.25,
                                                     .item_size_min_bytes = 8,
                                                     .conn_limit = 10,
                                                     .worker_count = 1,
                                                     .worker_logbuf_bytes = 32u << 10,
                                                     .eviction_policy = POLICY_S3FIFO};
    char sentence[SEGMENT_SENTENCE_MAX];
    EXPECT(store_create(&settings, &segment, sentence) == SEGMENT_OK);
}

static bool
count_set(const char *prefix)
{
    struct prefix_entry *entry =
        prefix_table_find(segment, (const uint8_t *)prefix, (uint32_t)strlen(prefix));
    if (entry != NULL) {
        atomic_fetch_add(&entry->counts[PREFIX_SETS], 1);
    }
    return entry != NULL;
}

/* How often the prefix is in the table; *sets: what was counted for it. */
static unsigned
look_for(const char *prefix, uint64_t *sets)
{
    const struct prefix_entry *entry;
    unsigned found = 0;
    uint32_t at = 0;
    *sets = 0;
    while ((entry = prefix_table_next(segment, &at)) != NULL) {
        if (entry->len == strlen(prefix) && memcmp(entry->text, prefix, entry->len) == 0) {
            *sets += atomic_load(&entry->counts[PREFIX_SETS]);
            found++;
        }
    }
    return found;
}

/* All that may be are counted. */
static void
expect_room_for_all(void)
{
    char prefix[24];
    const struct prefix_entry *entry;
    uint32_t at = 0;
    for (unsigned i = 0; i < PREFIX_COUNT_MAX; i++) {
        snprintf(prefix, sizeof(prefix), "fill-%u", i);
        EXPECT(count_set(prefix));
    }
    EXPECT(!count_set("one more"));
    for (unsigned i = 0; i < PREFIX_COUNT_MAX; i++) {
        EXPECT((entry = prefix_table_next(segment, &at)) != NULL);
        EXPECT(atomic_load(&entry->counts[PREFIX_SETS]) == 1);
    }
    EXPECT(prefix_table_next(segment, &at) == NULL);
}

/* ---- a reset in the middle of an addition --------------------------------------------------- */

static void
add_it_first(void)
{
    EXPECT(count_set("same"));
}

static void
add_it_first_and_reset(void)
{
    EXPECT(count_set("same"));
    prefix_table_reset(segment);
}

/* The addition of a prefix after this asks for memory. */
static void
make_segment_with_index(void)
{
    make_segment();
    EXPECT(count_set("gives the index memory"));
    atomic_store(&segment->run->prefix_units_present, 0);
    prefix_table_reset(segment);
}

static void
test_two_add_the_same_prefix(void)
{
    uint64_t sets;
    make_segment_with_index();
    meanwhile = add_it_first;
    EXPECT(count_set("same"));
    EXPECT(meanwhile == NULL);
    EXPECT(look_for("same", &sets) == 1 && sets == 2);
    prefix_table_reset(segment);
    expect_room_for_all();
    segment_close(segment);
}

static void
test_what_is_given_back_after_a_reset_is_not_the_next_generations(void)
{
    uint64_t sets;
    make_segment_with_index();
    meanwhile = add_it_first_and_reset;
    EXPECT(count_set("same"));
    EXPECT(meanwhile == NULL);
    EXPECT(look_for("same", &sets) == 0);
    expect_room_for_all();
    segment_close(segment);
}

static char neighbour[24]; /* Its place in the index is behind that of "same". */

static void
reset_and_add_both(void)
{
    prefix_table_reset(segment);
    EXPECT(count_set("same"));
    EXPECT(count_set(neighbour));
}

static uint64_t
index_place(const char *prefix)
{
    return siphash13(prefix, strlen(prefix), &segment->superblock->hash_key) %
           (2 * PREFIX_COUNT_MAX);
}

static void
test_who_is_late_replaces_nothing_newer(void)
{
    uint64_t sets;
    make_segment_with_index();
    unsigned number = 0;
    do {
        snprintf(neighbour, sizeof(neighbour), "next-%u", number++);
    } while (index_place(neighbour) != (index_place("same") + 1) % (2 * PREFIX_COUNT_MAX));
    meanwhile = reset_and_add_both;
    EXPECT(count_set("same"));
    EXPECT(meanwhile == NULL);
    EXPECT(look_for(neighbour, &sets) == 1 && sets == 1);
    EXPECT(look_for("same", &sets) == 1 && sets == 2);
    segment_close(segment);
}

/* ---- a shortage ----------------------------------------------------------------------------- */

static void
test_a_shortage_is_asked_about_once_a_second_and_costs_no_room(void)
{
    char prefix[24];
    make_segment_with_index();
    short_of_memory = true;
    requests = 0;
    uint64_t begun_ns = clock_boot_ns();
    for (unsigned i = 0; i < 2 * PREFIX_COUNT_MAX; i++) {
        snprintf(prefix, sizeof(prefix), "none-%u", i);
        EXPECT(!count_set(prefix));
    }
    EXPECT(requests >= 1 && requests <= 1 + (clock_boot_ns() - begun_ns) / 1000000000u);
    short_of_memory = false;
    uint64_t deadline_ns = clock_boot_ns() + UINT64_C(10000000000);
    while (!count_set("again")) {
        EXPECT(clock_boot_ns() < deadline_ns);
    }
    prefix_table_reset(segment);
    expect_room_for_all();
    segment_close(segment);
}

int
main(void)
{
    test_two_add_the_same_prefix();
    test_what_is_given_back_after_a_reset_is_not_the_next_generations();
    test_who_is_late_replaces_nothing_newer();
    test_a_shortage_is_asked_about_once_a_second_and_costs_no_room();
    puts("ok");
    return 0;
}
