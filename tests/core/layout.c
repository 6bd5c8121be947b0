/* The layout of the segment over machines: every limit, and system pages of every size. With a
 * machine of 64 KiB played by system_pages.c, what rests on their size works, too. */
#include "expect.h"

#include "mem/hostmem.h"
#include "mem/page.h"
#include "mem/track.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define SHARD_BYTES 40000

static const struct segment_settings some_settings = {.item_size_max_bytes = MIB,
                                                      .growth_factor = 1.25,
                                                      .item_size_min_bytes = 8,
                                                      .conn_limit = 1024,
                                                      .worker_count = 4};

static void
parts_follow_each_other(const struct superblock *layout)
{
    const uint64_t at[] = {layout->slots_at,   layout->held_at,      layout->logs_at,
                           layout->locks_at,   layout->shards_at,    layout->words_at,
                           layout->tables_at,  layout->prefixes_at,  layout->conns_at,
                           layout->configs_at, layout->tracks_at,    layout->pages_at,
                           layout->data_at,    layout->reserve_bytes};
    EXPECT(at[0] >= sizeof(struct superblock));
    for (unsigned i = 1; i < sizeof(at) / sizeof(at[0]); i++) {
        EXPECT(at[i] > at[i - 1]);
    }
    EXPECT(layout->pages_at >= layout->tracks_at + track_bytes());
    EXPECT(layout->data_at >= layout->pages_at + layout->page_count_max * sizeof(struct page));
}

static void
what_the_kernel_is_asked_for_are_whole_system_pages(uint64_t limit, uint64_t system_page)
{
    static struct superblock layout;
    struct segment_settings settings = some_settings;
    settings.memory_limit_bytes = limit;
    struct memory_limit host = {.bytes = 1024 * GIB, .owner = "the host"};
    char sentence[SEGMENT_SENTENCE_MAX];
    if (segment_lay_out(&settings, SHARD_BYTES, &host, system_page, &layout, sentence) !=
        SEGMENT_OK) {
        puts(sentence);
        exit(1);
    }
    parts_follow_each_other(&layout);
    EXPECT(layout.tracks_at % system_page == 0); /* mapped by other nodes */
    for (uint32_t number = 0; number < 100; number++) {
        EXPECT(page_offset(&layout, number) % system_page == 0); /* given back by itself */
    }
    EXPECT(layout.page_bytes >= system_page && layout.page_bytes <= 65536);
    EXPECT(limit / layout.page_bytes >= 16);
}

/* Copies that come from another node are looked at through a mapping of its tracking alone. */
static void
tracking_can_be_mapped(void)
{
    struct segment_settings settings = some_settings;
    settings.memory_limit_bytes = 64 * MIB;
    struct segment *segment;
    char sentence[SEGMENT_SENTENCE_MAX];
    EXPECT(segment_create(&settings, SHARD_BYTES, &segment, sentence) == SEGMENT_OK);
    EXPECT(track_begin(segment, SLOT_WORKER_FIRST, 7, TRACK_SHIFT_MIN) == TRACK_OK);
    struct track_source source;
    EXPECT(track_source_of(segment, &source));
    track_accept(segment, &source, 1);
    struct track_mapping *mapping = track_map(segment);
    EXPECT(mapping != NULL && mapping->count == 1);
    track_unmap(mapping);
    segment_close(segment);
}

int
main(void)
{
    const uint64_t system_pages[] = {4096, 16384, 65536};
    const uint64_t limits[] = {MIB,       8 * MIB, 64 * MIB, 255 * MIB,
                               256 * MIB, GIB,     30 * GIB, 960 * GIB};
    for (unsigned i = 0; i < sizeof(system_pages) / sizeof(system_pages[0]); i++) {
        for (unsigned j = 0; j < sizeof(limits) / sizeof(limits[0]); j++) {
            what_the_kernel_is_asked_for_are_whole_system_pages(limits[j], system_pages[i]);
        }
    }
    tracking_can_be_mapped();
    puts("ok");
    return 0;
}
