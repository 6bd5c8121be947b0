/* Taking memory for a range of the segment without ever getting SIGBUS, and giving it back. */
#ifndef MEM_POPULATE_H
#define MEM_POPULATE_H

#include "base/platform.h"

/* Makes [offset, offset + bytes) of the mapped file safe to touch (rounded out to system pages).
 * False when the memory cannot be had. */
bool populate(int fd, uint8_t *base, uint64_t offset, uint64_t bytes) MUST_CHECK;

/* Gives the memory of a range back to the host, from every mapping of the file; the range reads as
 * zeroes. Only whole system pages are freed. False if the host refuses. */
bool punch(int fd, uint64_t offset, uint64_t bytes) MUST_CHECK;

#endif
