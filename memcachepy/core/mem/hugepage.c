/* See hugepage.h. Sources: the kernel's admin-guide/mm/transhuge, madvise(2).
 *
 * MADV_COLLAPSE works under any policy of the host's but `deny`: the policy `never` is about what
 * nobody asked for. */
#include "mem/hugepage.h"

#include "mem/page.h"
#include "mem/populate.h"
#include "mem/segment.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SHMEM_ENABLED "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

/* After the host had no huge page free: it has to find one by moving others' memory. */
#define TRY_AGAIN_NS (10ull * 1000 * 1000 * 1000)

/* Until those that failed are looked at once more; all behind the first of them are, too, which
 * costs a system call each. */
#define RETURN_NS (600ull * 1000 * 1000 * 1000)

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
    if (!populate(fd, base, offset, EXTENT_BYTES)) {
        snprintf(sentence, room, "enable_largepages: the host has no memory left");
        return false;
    }
    if (madvise(base + offset, EXTENT_BYTES, MADV_COLLAPSE) == 0) {
        return true;
    }
    if (errno != EINVAL) {
        snprintf(sentence, room,
                 "enable_largepages: the host has no huge page free (%s): free memory, or write 1 "
                 "to /proc/sys/vm/compact_memory, or start without -L",
                 strerror(errno));
        return false;
    }
    /* A kernel that cannot be asked, or is told to refuse: then the policy decides. */
    if (strcmp(policy, "never") != 0 && strcmp(policy, "deny") != 0) {
        return true;
    }
    snprintf(sentence, room,
             "enable_largepages: the host gives no huge pages to shared memory: %s is %s; write "
             "`advise` to it, or start without -L",
             SHMEM_ENABLED, policy);
    return false;
}

/* Up to here no page is without memory: a huge page would bring it back. */
static uint64_t
present_end(const struct segment *segment)
{
    const struct superblock *superblock = segment->superblock;
    const struct page_pool *pool = &superblock->pool;
    uint32_t populated = pool_populated(segment);
    bool absent = atomic_load_explicit(&pool->present_count, memory_order_relaxed) < populated;
    uint32_t from = atomic_load(&pool->absent_from);
    return page_offset(superblock, absent && from < populated ? from : populated);
}

/* One that fails holds up none behind it. */
static void
step_over(struct hugepage_pass *pass, uint64_t now_ns)
{
    pass->again_at_ns = now_ns + TRY_AGAIN_NS;
    if (pass->left_at == 0) {
        pass->left_at = pass->next_at;
        pass->back_at_ns = now_ns + RETURN_NS;
    }
    pass->next_at += EXTENT_BYTES;
}

bool
hugepage_step(struct segment *segment, struct hugepage_pass *pass, uint64_t now_ns)
{
    const struct superblock *superblock = segment->superblock;
    uint64_t end = present_end(segment) / EXTENT_BYTES * EXTENT_BYTES;
    pass->next_at = pass->next_at < end ? pass->next_at : end;
    if (pass->next_at < superblock->data_at) {
        pass->next_at = superblock->data_at;
    }
    if (pass->next_at >= end && pass->left_at != 0 && now_ns >= pass->back_at_ns) {
        pass->next_at = pass->left_at;
        pass->left_at = 0;
    }
    if (pass->next_at >= end || now_ns < pass->again_at_ns) {
        return false;
    }
    if (madvise(segment->base + pass->next_at, EXTENT_BYTES, MADV_COLLAPSE) == 0) {
        pass->next_at += EXTENT_BYTES;
        pass->tried = true;
        return true;
    }
    if (errno == EINVAL && !pass->tried) {
        pass->again_at_ns = UINT64_MAX; /* A kernel that cannot be asked. */
        return false;
    }
    pass->tried = true;
    step_over(pass, now_ns);
    return false;
}
