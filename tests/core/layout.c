/* The layout of the segment over machines: every limit, and system pages of every size. With a
 * machine of 64 KiB played by system_pages.c, what rests on their size works, too. */
#include "expect.h"

#include "mem/hostmem.h"
#include "mem/page.h"
#include "mem/track.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
rise(const uint64_t *at, unsigned count, uint64_t from)
{
    EXPECT(at[0] >= from);
    for (unsigned i = 1; i < count; i++) {
        EXPECT(at[i] > at[i - 1]);
    }
}

static void
parts_follow_each_other(const struct superblock *data, const struct run_head *run)
{
    const uint64_t data_at[] = {data->held_at,    data->shards_at, data->words_at, data->tables_at,
                                data->freemap_at, data->pages_at,  data->data_at,  data->bytes};
    const uint64_t run_at[] = {run->slots_at, run->locks_at,   run->logs_at,   run->prefixes_at,
                               run->conns_at, run->configs_at, run->tracks_at, run->bytes};
    rise(data_at, sizeof(data_at) / sizeof(data_at[0]), sizeof(struct superblock));
    rise(run_at, sizeof(run_at) / sizeof(run_at[0]), sizeof(struct run_head));
    EXPECT(run->bytes >= run->tracks_at + track_bytes());
    EXPECT(data->data_at >= data->pages_at + data->page_count_max * sizeof(struct page));
}

static void
lay_out(const struct segment_settings *settings, uint64_t host_bytes, uint64_t system_page,
        struct superblock *data)
{
    struct memory_limit host = {.bytes = host_bytes, .owner = "the host"};
    char sentence[SEGMENT_SENTENCE_MAX];
    if (data_plan(settings, SHARD_BYTES, &host, system_page, data, sentence) != SEGMENT_OK) {
        puts(sentence);
        exit(1);
    }
}

/* What a process knows that has the segment's size and the three numbers of its head alone. */
static void
the_data_is_laid_out_by_its_size(const struct superblock *data)
{
    static struct superblock again;
    memset(&again, 0, sizeof(again));
    again.page_shift = data->page_shift;
    again.unit_shift = data->unit_shift;
    again.shard_count = data->shard_count;
    EXPECT(data_lay_out(data->bytes, SHARD_BYTES, &again));
    EXPECT(again.held_at == data->held_at && again.shards_at == data->shards_at);
    EXPECT(again.words_at == data->words_at && again.tables_at == data->tables_at);
    EXPECT(again.freemap_at == data->freemap_at && again.pages_at == data->pages_at);
    EXPECT(again.data_at == data->data_at && again.page_count_max == data->page_count_max);
    EXPECT(again.table_pages_max == data->table_pages_max);
}

static void
what_the_kernel_is_asked_for_are_whole_system_pages(uint64_t limit, uint64_t system_page)
{
    static struct superblock data;
    static struct run_head run;
    struct segment_settings settings = some_settings;
    settings.memory_limit_bytes = limit;
    lay_out(&settings, 1024 * GIB, system_page, &data);
    run_plan(&settings, data.shard_count, system_page, &run);
    parts_follow_each_other(&data, &run);
    the_data_is_laid_out_by_its_size(&data);
    EXPECT(run.tracks_at % system_page == 0); /* mapped by other nodes */
    for (uint32_t number = 0; number < 100; number++) {
        EXPECT(page_offset(&data, number) % system_page == 0); /* given back by itself */
    }
    EXPECT(data.page_bytes >= system_page && data.page_bytes <= 65536);
    EXPECT(limit / data.page_bytes >= 16);
}

/* A file of one size is laid out in one way, whatever the node is told to do with it. */
static void
settings_move_no_part_of_a_file(uint64_t bytes)
{
    static struct superblock first, data;
    struct segment_settings settings = some_settings;
    char sentence[SEGMENT_SENTENCE_MAX];
    settings.memory_limit_bytes = bytes / 2;
    EXPECT(data_plan_file(bytes, &settings, SHARD_BYTES, 4096, &first, sentence) == SEGMENT_OK);
    the_data_is_laid_out_by_its_size(&first);
    settings.conn_limit = 60000;
    settings.worker_count = 64;
    settings.worker_logbuf_bytes = MIB;
    settings.memory_limit_bytes = bytes / 4;
    settings.item_size_max_bytes = 32 * MIB;
    EXPECT(data_plan_file(bytes, &settings, SHARD_BYTES, 4096, &data, sentence) == SEGMENT_OK);
    EXPECT(memcmp(first.constants, data.constants, sizeof(data.constants)) == 0);
}

/* Nor does a host's memory, but by the size that it gives the segment. */
static void
sizes_of_hosts_give_sizes_of_segments(void)
{
    static struct superblock data;
    struct segment_settings settings = some_settings;
    settings.memory_limit_bytes = 64 * MIB;
    uint64_t before = 0;
    for (uint64_t host = 64 * MIB; host < 256 * GIB; host = host * 3 + 12345678) {
        lay_out(&settings, host, 4096, &data);
        the_data_is_laid_out_by_its_size(&data);
        EXPECT(data.bytes >= before); /* References reach no further. */
        before = data.bytes;
    }
}

/* Copies that come from another node are looked at through a mapping of its tracking alone. */
static void
tracking_can_be_mapped(void)
{
    struct segment_settings settings = some_settings;
    settings.memory_limit_bytes = 64 * MIB;
    struct segment *segment;
    char sentence[SEGMENT_SENTENCE_MAX];
    EXPECT(segment_create(&settings, &(struct data_format){SHARD_BYTES, 0}, &segment, sentence) ==
           SEGMENT_OK);
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
    for (uint64_t bytes = 16 * MIB; bytes < 64 * GIB; bytes = bytes * 2 + 123456) {
        settings_move_no_part_of_a_file(bytes);
    }
    sizes_of_hosts_give_sizes_of_segments();
    tracking_can_be_mapped();
    puts("ok");
    return 0;
}
