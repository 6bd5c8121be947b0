/* The maintainer's pass over the extents, before a kernel whose answers are the test's.
 *
 *     hugepages */
#include "expect.h"
#include "settings.h"

#include "mem/hugepage.h"
#include "mem/page.h"
#include "mem/segment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SECOND_NS UINT64_C(1000000000)
#define COLLAPSE 25
#define EXTENTS 8

/* Linked in place of madvise(). */
int __real_madvise(void *at, size_t bytes, int advice);
int __wrap_madvise(void *at, size_t bytes, int advice);

static struct segment *segment;
static int errors[EXTENTS];     /* What each extent is answered with; 0: it is made. */
static unsigned asked[EXTENTS]; /* How often it was asked for. */

int
__wrap_madvise(void *at, size_t bytes, int advice)
{
    if (advice != COLLAPSE) {
        return __real_madvise(at, bytes, advice);
    }
    uint64_t offset = (uint64_t)((uint8_t *)at - segment->base) - segment->superblock->data_at;
    uint64_t extent = offset / EXTENT_BYTES;
    EXPECT(offset % EXTENT_BYTES == 0 && extent < EXTENTS && bytes == EXTENT_BYTES);
    asked[extent]++;
    errno = errors[extent];
    return errors[extent] == 0 ? 0 : -1;
}

/* With no error set and all extents populated. */
static void
begin(struct hugepage_pass *pass)
{
    *pass = (struct hugepage_pass){0};
    for (unsigned i = 0; i < EXTENTS; i++) {
        errors[i] = 0;
        asked[i] = 0;
    }
    uint64_t pages = EXTENTS * EXTENT_BYTES / segment->superblock->page_bytes;
    while (atomic_load(&segment->superblock->pool.populated_count) < pages) {
        EXPECT(pool_grow(segment));
    }
    atomic_store(&segment->superblock->pool.populated_count, (uint32_t)pages);
    atomic_store(&segment->superblock->pool.present_count, (uint32_t)pages);
}

/* All steps that the pass wants to make by then. */
static void
steps(struct hugepage_pass *pass, uint64_t now_ns)
{
    while (hugepage_step(segment, pass, now_ns)) {
    }
}

static void
test_an_extent_that_fails_holds_up_none_behind_it(int error)
{
    struct hugepage_pass pass;
    begin(&pass);
    errors[2] = error;
    uint64_t now_ns = SECOND_NS;
    steps(&pass, now_ns);
    EXPECT(asked[2] == 1 && asked[3] == 0);
    steps(&pass, now_ns + 9 * SECOND_NS); /* The host is left in peace. */
    EXPECT(asked[2] == 1 && asked[3] == 0);
    steps(&pass, now_ns + 11 * SECOND_NS);
    for (unsigned i = 0; i < EXTENTS; i++) {
        EXPECT(asked[i] == 1);
    }
    /* It is asked for again, later. */
    steps(&pass, now_ns + 60 * SECOND_NS);
    EXPECT(asked[2] == 1);
    errors[2] = 0;
    steps(&pass, now_ns + 700 * SECOND_NS);
    EXPECT(asked[0] == 1 && asked[2] == 2 && asked[EXTENTS - 1] == 2);
    steps(&pass, now_ns + 7000 * SECOND_NS);
    EXPECT(asked[2] == 2);
}

static void
test_a_kernel_that_cannot_be_asked_is_asked_once(void)
{
    struct hugepage_pass pass;
    begin(&pass);
    errors[0] = EINVAL;
    steps(&pass, SECOND_NS);
    steps(&pass, 100000 * SECOND_NS);
    for (unsigned i = 0; i < EXTENTS; i++) {
        EXPECT(asked[i] == (i == 0));
    }
}

int
main(void)
{
    struct segment_settings settings = small_settings(64u << 20, 1);
    char sentence[SEGMENT_SENTENCE_MAX];
    EXPECT(segment_create(&settings, &(struct data_format){4096, 0}, &segment, sentence) ==
           SEGMENT_OK);
    test_an_extent_that_fails_holds_up_none_behind_it(ENOMEM);
    test_an_extent_that_fails_holds_up_none_behind_it(EINVAL);
    test_a_kernel_that_cannot_be_asked_is_asked_once();
    segment_close(segment);
    puts("ok");
    return 0;
}
