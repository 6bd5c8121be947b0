/* Creating and mapping the two parts of the segment; see segment.h. */
#include "mem/segment.h"

#include "base/check.h"
#include "mem/hostmem.h"
#include "mem/hugepage.h"
#include "mem/page.h"
#include "mem/populate.h"
#include "mem/track.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Private plans of both parts. */
struct plan {
    struct superblock data;
    struct run_head run;
};

static struct plan *
plan_new(void)
{
    struct plan *plan = aligned_alloc(CACHE_LINE_BYTES, round_up(sizeof(*plan), CACHE_LINE_BYTES));
    CHECK(plan != NULL);
    return plan;
}

static uint64_t
system_page_bytes(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

static enum segment_status
fail(char *sentence, const char *what)
{
    snprintf(sentence, SEGMENT_SENTENCE_MAX, "cannot create the shared memory: %s: %s", what,
             strerror(errno));
    return SEGMENT_FAILED;
}

/* A sealed, sparse memfd of so many bytes; -1 and errno. */
static int
make_memfd(const char *name, uint64_t bytes)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && (ftruncate(fd, (off_t)bytes) != 0 ||
                    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)) {
        int error = errno;
        close(fd);
        errno = error;
        fd = -1;
    }
    return fd;
}

/* Lays a private, read-only copy over the constants of a mapping. False: no memory. */
static bool
make_constants_private(uint8_t *base)
{
    void *copy =
        mmap(NULL, CONSTANTS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) {
        return false;
    }
    memcpy(copy, base, CONSTANTS_BYTES);
    if (mprotect(copy, CONSTANTS_BYTES, PROT_READ) != 0 ||
        mremap(copy, CONSTANTS_BYTES, CONSTANTS_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, base) ==
            MAP_FAILED) {
        munmap(copy, CONSTANTS_BYTES);
        return false;
    }
    return true;
}

static struct segment *
segment_new(void)
{
    struct segment *segment = calloc(1, sizeof(*segment));
    CHECK(segment != NULL);
    segment->fd = segment->run_fd = -1;
    return segment;
}

/* Takes the descriptor, whatever the result. */
static bool
map_data(struct segment *segment, int fd, uint64_t bytes)
{
    segment->fd = fd;
    segment->base = fd < 0 ? NULL : hugepage_map(fd, bytes);
    segment->bytes = bytes;
    segment->superblock = (struct superblock *)(void *)segment->base;
    return segment->base != NULL;
}

static bool
map_run(struct segment *segment, int fd, uint64_t bytes)
{
    segment->run_fd = fd;
    segment->run_base = fd < 0 ? NULL : hugepage_map(fd, bytes);
    segment->run_bytes = bytes;
    segment->run = (struct run_head *)(void *)segment->run_base;
    return segment->run_base != NULL;
}

/* The parts of both mappings, whose constants are private. */
static void
find_parts(struct segment *segment)
{
    segment->held = segment_at(segment, segment->superblock->held_at);
    segment->slots = run_at(segment, segment->run->slots_at);
    segment->locks = run_at(segment, segment->run->locks_at);
}

/* Only under the pages: the parts before them are sparse. */
static bool
back_by_huge_pages(const struct segment *segment, const struct segment_settings *settings,
                   const struct superblock *plan, char *sentence)
{
    uint64_t data_at = plan->data_at;
    hugepage_ask(segment->base, data_at, segment->bytes - data_at);
    return !settings->large_pages ||
           hugepage_require(segment->fd, segment->base, data_at, sentence, SEGMENT_SENTENCE_MAX);
}

static enum segment_status
refuse_shortage(const struct segment_settings *settings, char *sentence)
{
    snprintf(sentence, SEGMENT_SENTENCE_MAX,
             "memory_limit: the host or its cgroup has no memory left for the tables of a cache "
             "of %llu MB; free some or lower -m",
             (unsigned long long)settings->memory_limit_bytes >> 20);
    return SEGMENT_SHORTAGE;
}

static unsigned
slots_at_start(const struct segment_settings *settings)
{
    return SLOT_WORKER_FIRST + settings->worker_count;
}

/* Makes and maps the run for data whose head is filled. */
static enum segment_status
create_run(struct segment *segment, const struct segment_settings *settings, struct run_head *plan,
           char *sentence)
{
    struct superblock *superblock = segment->superblock;
    run_plan(settings, superblock->shard_count, system_page_bytes(), plan);
    if (!map_run(segment, make_memfd(RUN_NAME, plan->bytes), plan->bytes)) {
        return fail(sentence, segment->run_fd < 0 ? "memfd_create" : "mmap");
    }
    if (!run_populate(segment->run_fd, segment->run_base, plan, superblock->shard_count,
                      slots_at_start(settings))) {
        return refuse_shortage(settings, sentence);
    }
    plan->boot_base_ns = data_begin_clock(superblock);
    plan->data_is_file = segment->is_file;
    run_fill(segment->run, plan, superblock, settings);
    if (atomic_load(&superblock->held_high) < slots_at_start(settings)) {
        atomic_store(&superblock->held_high, slots_at_start(settings));
    }
    if (!make_constants_private(segment->base) || !make_constants_private(segment->run_base)) {
        return fail(sentence, "mremap");
    }
    find_parts(segment);
    return SEGMENT_OK;
}

/* Fills the mapped, zeroed data and makes the run for it. */
static enum segment_status
create_both(struct segment *segment, const struct segment_settings *settings,
            const struct data_format *format, struct plan *plan, char *sentence)
{
    if (!data_populate(segment->fd, segment->base, &plan->data, format->shard_bytes,
                       slots_at_start(settings))) {
        return refuse_shortage(settings, sentence);
    }
    if (!back_by_huge_pages(segment, settings, &plan->data, sentence)) {
        return SEGMENT_SHORTAGE;
    }
    data_fill(segment->superblock, &plan->data, format, settings);
    return create_run(segment, settings, &plan->run, sentence);
}

/* What a function that makes a segment ends with. */
static enum segment_status
finish(enum segment_status status, struct segment *segment, struct plan *plan, struct segment **out)
{
    free(plan);
    if (status == SEGMENT_OK) {
        *out = segment;
    } else {
        segment_close(segment);
    }
    return status;
}

enum segment_status
segment_create(const struct segment_settings *settings, const struct data_format *format,
               struct segment **out, char *sentence)
{
    struct plan *plan = plan_new();
    struct segment *segment = segment_new();
    struct memory_limit host;
    hostmem_total(&host);
    enum segment_status status =
        data_plan(settings, format->shard_bytes, &host, system_page_bytes(), &plan->data, sentence);
    if (status == SEGMENT_OK &&
        !map_data(segment, make_memfd(DATA_NAME, plan->data.bytes), plan->data.bytes)) {
        status = fail(sentence, segment->fd < 0 ? "memfd_create" : "mmap");
    }
    if (status == SEGMENT_OK) {
        status = create_both(segment, settings, format, plan, sentence);
    }
    return finish(status, segment, plan, out);
}

/* ---- files ---------------------------------------------------------------------------------- */

/* Duplicates the descriptor and locks its file for this node: the lock is its processes' as long as
 * one of them has the descriptor. -1: the sentence says why not. */
static int
lock_file(int fd, struct stat *file, char *sentence)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fstat(fd, file) != 0 || !S_ISREG(file->st_mode)) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "the data is to lie in a regular file");
        return -1;
    }
    if (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 errno == EAGAIN || errno == EACCES
                     ? "the file is in use by another process: a node has it open; stop that node, "
                       "or use another file"
                     : "cannot lock the file: %s",
                 strerror(errno));
        return -1;
    }
    int own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own_fd < 0) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "cannot use the file: %s", strerror(errno));
    }
    return own_fd;
}

enum segment_status
segment_create_in(int fd, const struct segment_settings *settings, const struct data_format *format,
                  struct segment **out, char *sentence)
{
    struct plan *plan = plan_new();
    struct segment *segment = segment_new();
    struct stat file;
    segment->is_file = true;
    segment->fd = lock_file(fd, &file, sentence);
    enum segment_status status = segment->fd < 0 ? SEGMENT_FAILED : SEGMENT_OK;
    if (status == SEGMENT_OK) {
        status = data_plan_file((uint64_t)file.st_size, settings, format->shard_bytes,
                                system_page_bytes(), &plan->data, sentence);
    }
    /* What the file held is gone: its bytes are to be zeroes. */
    if (status == SEGMENT_OK &&
        (ftruncate(segment->fd, 0) != 0 || ftruncate(segment->fd, file.st_size) != 0 ||
         !map_data(segment, segment->fd, plan->data.bytes))) {
        status = fail(sentence, "the file");
    }
    if (status == SEGMENT_OK) {
        status = create_both(segment, settings, format, plan, sentence);
    }
    return finish(status, segment, plan, out);
}

/* Settings that data which exists does not agree with. */
static enum segment_status
refuse_settings(const struct superblock *superblock, const struct segment_settings *settings,
                char *sentence)
{
    if (superblock->eviction_policy != settings->eviction_policy) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "eviction_policy: %s is asked for, and the file was laid out for %s; use that, or "
                 "another file",
                 policy_names[settings->eviction_policy],
                 policy_names[superblock->eviction_policy]);
        return SEGMENT_BAD_SETTING;
    }
    if (superblock->page_bytes < system_page_bytes()) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the file has pages of %u bytes, and this host's are of %llu: use a host whose "
                 "pages are not larger",
                 superblock->page_bytes, (unsigned long long)system_page_bytes());
        return SEGMENT_FAILED;
    }
    return data_check_limit(superblock, settings, sentence);
}

/* Reads the head before anything is mapped: what a file lacks at its end is SIGBUS. */
static enum segment_status
read_head(int fd, const struct stat *file, const struct segment_settings *settings,
          const struct data_format *format, struct superblock *head, char *sentence)
{
    if (file->st_size < (off_t)sizeof(*head) ||
        pread(fd, head, sizeof(*head), 0) != (ssize_t)sizeof(*head)) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the file holds no data of a node: it has %llu bytes, and the head alone has %zu",
                 (unsigned long long)file->st_size, sizeof(*head));
        return SEGMENT_FAILED;
    }
    if (data_refuse(head, (uint64_t)file->st_size, format, true, sentence)) {
        return SEGMENT_FAILED;
    }
    return refuse_settings(head, settings, sentence);
}

enum segment_status
segment_reopen(int fd, const struct segment_settings *settings, const struct data_format *format,
               struct segment **out, char *sentence)
{
    struct plan *plan = plan_new();
    struct segment *segment = segment_new();
    struct stat file;
    segment->is_file = true;
    segment->fd = lock_file(fd, &file, sentence);
    enum segment_status status =
        segment->fd < 0 ? SEGMENT_FAILED
                        : read_head(segment->fd, &file, settings, format, &plan->data, sentence);
    if (status == SEGMENT_OK && !map_data(segment, segment->fd, plan->data.bytes)) {
        status = fail(sentence, "the file");
    }
    uint32_t held_high = status == SEGMENT_OK ? atomic_load(&segment->superblock->held_high) : 0;
    held_high = held_high < SLOT_COUNT ? held_high : SLOT_COUNT;
    unsigned slots = slots_at_start(settings);
    if (status == SEGMENT_OK &&
        !data_populate(segment->fd, segment->base, &plan->data, format->shard_bytes,
                       held_high > slots ? held_high : slots)) {
        status = refuse_shortage(settings, sentence);
    } else if (status == SEGMENT_OK &&
               !back_by_huge_pages(segment, settings, &plan->data, sentence)) {
        status = SEGMENT_SHORTAGE;
    }
    if (status == SEGMENT_OK) {
        status = create_run(segment, settings, &plan->run, sentence);
    }
    if (status == SEGMENT_OK) {
        segment->held_left = held_high;
        pool_reopen(segment);
        /* Copies from other nodes that no leader has confirmed stay hidden. */
        atomic_store(&track_head_of(segment)->copies, COPIES_DEAD);
    }
    return finish(status, segment, plan, out);
}

/* ---- attaching ------------------------------------------------------------------------------ */

/* The size of a file that cannot become smaller under a mapping; 0: it is no such. */
static uint64_t
sealed_bytes(int fd, bool must_be_sealed, size_t bytes_min)
{
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW;
    struct stat file;
    int found = fcntl(fd, F_GET_SEALS);
    bool is_sealed = found >= 0 && (found & seals) == seals;
    return fstat(fd, &file) == 0 && (is_sealed || !must_be_sealed) &&
                   file.st_size >= (off_t)bytes_min
               ? (uint64_t)file.st_size
               : 0;
}

/* Maps the run and then the data. False: the sentence says why not. */
static bool
attach_both(struct segment *segment, int fd, int run_fd, const struct data_format *format,
            char *sentence)
{
    uint64_t bytes = sealed_bytes(run_fd, true, sizeof(struct run_head));
    if (bytes == 0) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "this is no segment of a node");
        return false;
    }
    if (!map_run(segment, fcntl(run_fd, F_DUPFD_CLOEXEC, 3), bytes) ||
        !make_constants_private(segment->run_base)) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "cannot map the node's segment: %s",
                 strerror(errno));
        return false;
    }
    if (run_refuse(segment->run, bytes, sentence)) {
        return false;
    }
    segment->is_file = segment->run->data_is_file;
    bytes = sealed_bytes(fd, !segment->is_file, sizeof(struct superblock));
    if (bytes == 0) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "this is no segment of a node");
        return false;
    }
    if (!map_data(segment, fcntl(fd, F_DUPFD_CLOEXEC, 3), bytes) ||
        !make_constants_private(segment->base)) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "cannot map the node's segment: %s",
                 strerror(errno));
        return false;
    }
    if (data_refuse(segment->superblock, bytes, format, false, sentence)) {
        return false;
    }
    if (segment->run->data_check != segment->superblock->constants_check) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the two parts of the node's segment are not of one node");
        return false;
    }
    find_parts(segment);
    return true;
}

enum segment_status
segment_attach(int fd, int run_fd, const struct data_format *format, struct segment **out,
               char *sentence)
{
    struct segment *segment = segment_new();
    segment->attached = true;
    if (!attach_both(segment, fd, run_fd, format, sentence)) {
        segment_close(segment);
        return SEGMENT_FAILED;
    }
    *out = segment;
    return SEGMENT_OK;
}

void
segment_close(struct segment *segment)
{
    if (segment->base != NULL) {
        munmap(segment->base, segment->bytes);
    }
    if (segment->run_base != NULL) {
        munmap(segment->run_base, segment->run_bytes);
    }
    if (segment->fd >= 0) {
        close(segment->fd);
    }
    if (segment->run_fd >= 0) {
        close(segment->run_fd);
    }
    free(segment->own_settings);
    free(segment);
}

/* ---- slots ---------------------------------------------------------------------------------- */

static void
claim_for(struct process_slot *slot, int32_t pid)
{
    atomic_store(&slot->serving, 0);
    atomic_store(&slot->locked_shard, 0);
    atomic_store(&slot->wanted_shard, 0);
    atomic_store(&slot->waiters, 0);
    atomic_store(&slot->dumps, 0);
    atomic_store(&slot->watchers, 0);
    atomic_store(&slot->watch_classes, 0);
    atomic_store(&slot->stuck, 0);
    atomic_store(&slot->pid, pid);
}

void
segment_claim_slot(struct segment *segment, unsigned slot_index)
{
    CHECK(slot_index < segment_slot_count(segment));
    claim_for(&segment->slots[slot_index], (int32_t)getpid());
}

bool
segment_open_attached(struct segment *segment, int32_t pid, unsigned *slot_index, char *sentence)
{
    struct superblock *superblock = segment->superblock;
    struct run_head *run = segment->run;
    unsigned first = SLOT_WORKER_FIRST + run->boot_settings.worker_count;
    unsigned high = segment->attached_high;
    unsigned index = 0;
    while (index < high && segment->attached_open[index]) {
        index++;
    }
    if (index == ATTACHED_MAX) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "%d processes are attached, and that is the limit: detach one (close()) or let it "
                 "end",
                 ATTACHED_MAX);
        return false;
    }
    if (index == high) {
        uint64_t slot = first + index;
        if (!populate(segment->run_fd, segment->run_base,
                      run->slots_at + slot * sizeof(struct process_slot),
                      sizeof(struct process_slot)) ||
            !populate(segment->fd, segment->base,
                      superblock->held_at + slot * sizeof(struct held_table),
                      sizeof(struct held_table))) {
            snprintf(sentence, SEGMENT_SENTENCE_MAX,
                     "the host or its cgroup has no memory left for one more attached process");
            return false;
        }
    }
    claim_for(&segment->slots[first + index], pid);
    segment->attached_open[index] = true;
    if (index == high) {
        segment->attached_high = high + 1;
        if (atomic_load(&superblock->held_high) < first + index + 1) {
            atomic_store(&superblock->held_high, first + index + 1);
        }
        /* Pairs with the acquire load in segment_slot_count(). */
        atomic_store_explicit(&run->attached_high, high + 1, memory_order_release);
    }
    *slot_index = first + index;
    return true;
}

void
segment_close_attached(struct segment *segment, unsigned slot_index)
{
    unsigned first = SLOT_WORKER_FIRST + segment->run->boot_settings.worker_count;
    if (slot_index >= first && slot_index - first < ATTACHED_MAX) {
        segment->attached_open[slot_index - first] = false;
    }
}

static void
copy_own_settings(struct segment_settings *to, const struct segment_settings *from)
{
    atomic_store(&to->requests_per_event, atomic_load(&from->requests_per_event));
    atomic_store(&to->flush_enabled, atomic_load(&from->flush_enabled));
    atomic_store(&to->shutdown_enabled, atomic_load(&from->shutdown_enabled));
    atomic_store(&to->dump_enabled, atomic_load(&from->dump_enabled));
    atomic_store(&to->watch_enabled, atomic_load(&from->watch_enabled));
}

void
segment_settings_now(const struct segment *segment, struct segment_settings *settings)
{
    const struct segment_settings *shared = &segment->run->settings;
    *settings = segment->run->boot_settings;
#define COPY(field) atomic_store(&settings->field, atomic_load(&shared->field))
    COPY(memory_limit_bytes);
    COPY(requests_per_event);
    COPY(verbosity);
    COPY(flush_enabled);
    COPY(shutdown_enabled);
    COPY(dump_enabled);
    COPY(watch_enabled);
    COPY(detail_enabled);
    COPY(lru_crawler);
    COPY(lru_segmented);
    COPY(temp_lru);
    COPY(slab_automove);
    COPY(slab_automove_window);
    COPY(slab_automove_ratio);
    COPY(slab_automove_freeratio);
    COPY(lru_crawler_sleep_us);
    COPY(lru_crawler_tocrawl);
    COPY(hot_lru_pct);
    COPY(warm_lru_pct);
    COPY(temporary_ttl_s);
    COPY(hot_max_factor);
    COPY(warm_max_factor);
#undef COPY
}

void
segment_note_settings(struct segment *segment)
{
    if (segment->own_settings == NULL) {
        segment->own_settings = calloc(1, sizeof(*segment->own_settings));
        CHECK(segment->own_settings != NULL);
    }
    copy_own_settings(segment->own_settings, &segment->run->settings);
}

/* What says that it has a shard's lock, and has no process that takes one. */
static void
say_no_lock(struct process_slot *slot)
{
    if (atomic_load(&slot->locked_shard) != 0 || atomic_load(&slot->wanted_shard) != 0) {
        atomic_store(&slot->locked_shard, 0);
        atomic_store(&slot->wanted_shard, 0);
    }
}

void
segment_reassert(struct segment *segment)
{
    unsigned first = segment_worker_end(segment);
    say_no_lock(&segment->slots[SLOT_SUPERVISOR]);
    say_no_lock(&segment->slots[SLOT_ACCEPTOR]);
    say_no_lock(&segment->slots[SLOT_DISCOVERY]);
    for (unsigned i = 0; i < segment->attached_high; i++) {
        if (!segment->attached_open[i]) {
            say_no_lock(&segment->slots[first + i]);
        }
    }
    _Atomic uint32_t *high = &segment->run->attached_high;
    if (atomic_load(high) != segment->attached_high) {
        atomic_store(high, segment->attached_high);
    }
    if (segment->own_settings != NULL) {
        copy_own_settings(&segment->run->settings, segment->own_settings);
    }
}

uint64_t
segment_connection_count(const struct segment *segment)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < segment->run->boot_settings.worker_count; i++) {
        const struct process_slot *slot = &segment->slots[SLOT_WORKER_FIRST + i];
        uint64_t closed = atomic_load_explicit(&slot->conns_closed, memory_order_relaxed);
        uint64_t assigned = atomic_load_explicit(&slot->conns_assigned, memory_order_relaxed);
        count += assigned > closed ? assigned - closed : 0;
    }
    return count;
}
