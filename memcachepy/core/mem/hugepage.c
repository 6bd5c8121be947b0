/* See hugepage.h. Sources: the kernel's admin-guide/mm/transhuge, madvise(2). */
#include "mem/hugepage.h"

#include "mem/populate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SHMEM_ENABLED "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

void *
hugepage_map(int fd, uint64_t bytes)
{
    uint64_t room = round_up(bytes, EXTENT_BYTES) + EXTENT_BYTES;
    uint8_t *reserved =
        mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) {
        return NULL;
    }
    uint64_t before = round_up((uintptr_t)reserved, EXTENT_BYTES) - (uintptr_t)reserved;
    void *base = mmap(reserved + before, bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
    if (base == MAP_FAILED) {
        int error = errno;
        munmap(reserved, room);
        errno = error;
        return NULL;
    }
    if (before > 0) {
        munmap(reserved, before);
    }
    uint64_t used = round_up(bytes, (uint64_t)sysconf(_SC_PAGESIZE));
    munmap(reserved + before + used, room - before - used);
    return base;
}

void
hugepage_ask(uint8_t *base, uint64_t offset, uint64_t bytes)
{
    int ignored = madvise(base + offset, bytes, MADV_HUGEPAGE);
    (void)ignored; /* A kernel without huge pages. */
}

/* The word in brackets; empty if there is none. */
static void
read_policy(char *word, size_t room)
{
    char line[128] = "";
    FILE *stream = fopen(SHMEM_ENABLED, "re");
    word[0] = '\0';
    if (stream == NULL) {
        return;
    }
    const char *open = fgets(line, sizeof(line), stream) == NULL ? NULL : strchr(line, '[');
    const char *end = open == NULL ? NULL : strchr(open, ']');
    fclose(stream);
    if (end != NULL && (size_t)(end - open) <= room) {
        memcpy(word, open + 1, (size_t)(end - open) - 1);
        word[end - open - 1] = '\0';
    }
}

bool
hugepage_require(int fd, uint8_t *base, uint64_t offset, char *sentence, size_t room)
{
    char policy[32];
    read_policy(policy, sizeof(policy));
    if (policy[0] == '\0') {
        snprintf(sentence, room,
                 "enable_largepages: this kernel has no huge pages for shared memory (there is no "
                 "%s); start without -L",
                 SHMEM_ENABLED);
        return false;
    }
    if (strcmp(policy, "never") == 0 || strcmp(policy, "deny") == 0) {
        snprintf(
            sentence, room,
            "enable_largepages: the host gives no huge pages to shared memory: %s is %s; write "
            "`advise` to it, or start without -L",
            SHMEM_ENABLED, policy);
        return false;
    }
    if (!populate(fd, base, offset, EXTENT_BYTES)) {
        snprintf(sentence, room, "enable_largepages: the host has no memory left");
        return false;
    }
    /* EINVAL: a kernel that cannot be asked. */
    if (madvise(base + offset, EXTENT_BYTES, MADV_COLLAPSE) != 0 && errno != EINVAL) {
        snprintf(sentence, room,
                 "enable_largepages: the host has no huge page free (%s): free memory, or write 1 "
                 "to /proc/sys/vm/compact_memory, or start without -L",
                 strerror(errno));
        return false;
    }
    return true;
}

void
hugepage_collapse(uint8_t *base, uint64_t offset)
{
    int ignored = madvise(base + offset, EXTENT_BYTES, MADV_COLLAPSE);
    (void)ignored; /* Small pages serve as well. */
}
