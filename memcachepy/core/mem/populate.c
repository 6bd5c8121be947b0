/* See populate.h. */
#include "mem/populate.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

bool
populate(int fd, uint8_t *base, uint64_t offset, uint64_t bytes)
{
    uint64_t system_page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t first = offset / system_page * system_page;
    uint64_t length = round_up(offset + bytes, system_page) - first;
    int result;
    do {
        result = madvise(base + first, length, MADV_POPULATE_WRITE);
    } while (result != 0 && (errno == EINTR || errno == EAGAIN));
    if (result == 0) {
        return true;
    }
    if (errno != EINVAL) {
        return false;
    }
    /* An older kernel: reserve the range in the file instead; the caller has looked at the limits.
     */
    do {
        result = fallocate(fd, 0, (off_t)first, (off_t)length);
    } while (result != 0 && errno == EINTR);
    return result == 0;
}

bool
punch(int fd, uint64_t offset, uint64_t bytes)
{
    int result;
    do {
        result =
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
    } while (result != 0 && errno == EINTR);
    return result == 0;
}
