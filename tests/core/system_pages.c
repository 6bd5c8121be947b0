/* A machine with system pages of 64 KiB, as arm64 may have them, played by one with smaller ones:
 * linked in place of the system's functions. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#define SYSTEM_PAGE 65536

long __real_sysconf(int name);
long __wrap_sysconf(int name);
int __real_fallocate(int fd, int mode, off_t at, off_t bytes);
int __wrap_fallocate(int fd, int mode, off_t at, off_t bytes);
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);

long
__wrap_sysconf(int name)
{
    return name == _SC_PAGESIZE ? SYSTEM_PAGE : __real_sysconf(name);
}

/* Only whole system pages are freed. */
int
__wrap_fallocate(int fd, int mode, off_t at, off_t bytes)
{
    if (mode & FALLOC_FL_PUNCH_HOLE) {
        off_t first = (at + SYSTEM_PAGE - 1) / SYSTEM_PAGE * SYSTEM_PAGE;
        off_t end = (at + bytes) / SYSTEM_PAGE * SYSTEM_PAGE;
        return first >= end ? 0 : __real_fallocate(fd, mode, first, end - first);
    }
    return __real_fallocate(fd, mode, at, bytes);
}

void *
__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (offset % SYSTEM_PAGE != 0) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    return __real_mmap(at, bytes, protection, flags, fd, offset);
}
