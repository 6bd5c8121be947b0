/* Small facts of base and mem, with inputs that end at an unreadable page. */
#include "expect.h"

#include "base/check.h"
#include "base/number.h"
#include "base/xxh64.h"
#include "mem/segment.h"
#include "mem/slabclass.h"
#include "store/hashtable.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static uint8_t *guard;

/* A copy that ends where reading ends. */
static uint8_t *
at_guard(const void *bytes, size_t len)
{
    if (guard == NULL) {
        uint8_t *pages =
            mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        EXPECT(pages != MAP_FAILED && mprotect(pages + 4096, 4096, PROT_NONE) == 0);
        guard = pages + 4096;
    }
    memcpy(guard - len, bytes, len);
    return guard - len;
}

static void
numbers_are_written_and_read(void)
{
    const uint64_t numbers[] = {0,    1,     9,      10,      99,       100,        999,
                                1000, 99999, 100000, 9999999, 1u << 31, UINT32_MAX, UINT64_MAX};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        char text[U64_DECIMAL_LEN_MAX + 1], expected[32];
        unsigned len = number_format_u64(numbers[i], text);
        EXPECT((int)len == sprintf(expected, "%llu", (unsigned long long)numbers[i]));
        EXPECT(memcmp(text, expected, len) == 0);
        uint64_t back;
        EXPECT(number_parse_u64((char *)at_guard(text, len), len, &back) && back == numbers[i]);
    }
    const char *wrong[] = {"",
                           "-1",
                           "+1",
                           " 1",
                           "1 ",
                           "1x",
                           "18446744073709551616",
                           "99999999999999999999",
                           "100000000000000000000"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        uint64_t value;
        size_t len = strlen(wrong[i]);
        EXPECT(!number_parse_u64((char *)at_guard(wrong[i], len), len, &value));
    }
}

static void
hash_reads_nothing_behind_its_input(void)
{
    uint8_t bytes[300];
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(i * 7);
    }
    for (size_t len = 0; len < sizeof(bytes); len++) {
        EXPECT(xxh64(at_guard(bytes, len), len, 5) == xxh64(bytes, len, 5));
    }
    EXPECT(xxh64("", 0, 0) == 0xEF46DB3751D8E999ull); /* the specification's value */
}

static void
classes_grow_and_fill_pages(void)
{
    const uint32_t pages[] = {16384, 65536};
    const double factors[] = {1.08, 1.25, 2.0};
    for (unsigned p = 0; p < 2; p++) {
        for (unsigned f = 0; f < 3; f++) {
            uint32_t sizes[SLAB_CLASS_COUNT_MAX];
            uint32_t count = slabclass_make(sizes, pages[p], 8, 8, factors[f]);
            if (count == 0) {
                EXPECT(factors[f] < 1.1);
                continue;
            }
            EXPECT(sizes[1] == 40 && sizes[count] == pages[p] / 2 - 8);
            EXPECT(slabclass_chunks_per_page(pages[p], sizes[count]) == 2);
            for (uint32_t id = 2; id <= count; id++) {
                EXPECT(sizes[id] > sizes[id - 1] && sizes[id] % 8 == 0);
            }
        }
    }
    uint32_t sizes[SLAB_CLASS_COUNT_MAX];
    EXPECT(slabclass_make(sizes, 16384, 8, 8, 1.001) == 0);
}

static void
tags_are_matched_in_every_slot(void)
{
    _Alignas(64) struct table_bucket bucket;
    for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
        for (unsigned tag = 1; tag < 256; tag++) {
            memset(&bucket, 0, sizeof(bucket));
            atomic_store(&bucket.version, 0xFFFFFFFF);
            atomic_store(&bucket.tag[slot], (uint8_t)tag);
            EXPECT(bucket_match(&bucket, (uint8_t)tag) == 1u << slot);
        }
    }
}

int
main(void)
{
    numbers_are_written_and_read();
    hash_reads_nothing_behind_its_input();
    classes_grow_and_fill_pages();
    tags_are_matched_in_every_slot();
    puts("ok");
    return 0;
}
