/* Huge pages under the segment: asked for where the host allows, or a must. */
#ifndef MEM_HUGEPAGE_H
#define MEM_HUGEPAGE_H

#include "base/platform.h"

/* Maps the file at an address that huge pages of it can be mapped at. NULL on failure, with errno.
 */
void *hugepage_map(int fd, uint64_t bytes) MUST_CHECK;

/* Asks for huge pages in [offset, offset + bytes) of the mapping, for memory that is taken from now
 * on. The host decides: /sys/kernel/mm/transparent_hugepage/shmem_enabled. */
void hugepage_ask(uint8_t *base, uint64_t offset, uint64_t bytes);

/* Takes memory for the extent at `offset` and makes it a huge page. False: the host gives none, and
 * `sentence` (of `room` bytes) says what to change. */
bool hugepage_require(int fd, uint8_t *base, uint64_t offset, char *sentence,
                      size_t room) MUST_CHECK;

/* Tries to make a populated extent a huge page. */
void hugepage_collapse(uint8_t *base, uint64_t offset);

#endif
