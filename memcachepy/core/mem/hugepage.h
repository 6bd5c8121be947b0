/* Huge pages under the segment: asked for where the host allows, or a must. */
#ifndef MEM_HUGEPAGE_H
#define MEM_HUGEPAGE_H

#include "base/platform.h"

struct segment;

/* Maps the file at an address that huge pages of it can be mapped at. NULL on failure, with errno.
 */
void *hugepage_map(int fd, uint64_t bytes) MUST_CHECK;

/* Asks for huge pages in [offset, offset + bytes) of the mapping, for memory that is taken from now
 * on; given only where /sys/kernel/mm/transparent_hugepage/shmem_enabled says so. */
void hugepage_ask(uint8_t *base, uint64_t offset, uint64_t bytes);

/* Takes memory for the extent at `offset` and makes it a huge page. False: the host gives none, and
 * `sentence` (of `room` bytes) says what to change. */
bool hugepage_require(int fd, uint8_t *base, uint64_t offset, char *sentence,
                      size_t room) MUST_CHECK;

/* What the maintainer remembers from one step to the next. */
struct hugepage_pass {
    uint64_t next_at;     /* offset of the extent to look at next */
    uint64_t again_at_ns; /* no try before: the last one failed */
    uint64_t left_at;     /* offset of the first extent that was stepped over; 0: none was */
    uint64_t back_at_ns;  /* no return to it before */
    bool tried;           /* The kernel can be asked. */
};

/* Makes the next extent that is populated whole a huge page, if the host can; requests that touch
 * it meanwhile wait for the copy. True: there may be another one. now_ns is of the monotonic clock.
 */
bool hugepage_step(struct segment *segment, struct hugepage_pass *pass, uint64_t now_ns);

#endif
