/* Taking memory for a range of the segment without ever getting SIGBUS. */
#ifndef MEM_POPULATE_H
#define MEM_POPULATE_H

#include "base/platform.h"

/* Makes [offset, offset + bytes) of the mapped file safe to touch (rounded out to system pages).
 * False when the memory cannot be had. */
bool populate(int fd, uint8_t *base, uint64_t offset, uint64_t bytes) MUST_CHECK;

#endif
