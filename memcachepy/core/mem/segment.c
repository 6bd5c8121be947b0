/* Creating and mapping the segment; see segment.h for its parts. */
#include "mem/segment.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/xxh64.h"
#include "mem/config_table.h"
#include "mem/conn_table.h"
#include "mem/freemap.h"
#include "mem/hostmem.h"
#include "mem/hugepage.h"
#include "mem/logring.h"
#include "mem/page.h"
#include "mem/populate.h"
#include "mem/prefix_table.h"
#include "mem/ref.h"
#include "mem/slabclass.h"
#include "mem/track.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* A shard covers 512 to 1,023 pages of the limit: enough for its classes, of each of which it has
 * half a page unused; and locks for several writers. */
#define SHARD_PAGES_MIN 512

#define SMALL_PAGE_SHIFT 14
#define LARGE_PAGE_SHIFT 16
#define LARGE_PAGE_FROM_BYTES (UINT64_C(256) << 20)

/* A table takes at most a quarter of its shard's share of the reserve. */
#define TABLE_PART 4

#define SLACK_BYTES 4096

/* The node's clock starts a little above 0, so that 0 and 1 are never now. */
#define CLOCK_BASE_S 2

/* 2020-01-01: moments of the system clock count from here, or from the segment's creation if the
 * clock stood earlier then, so that a clock that is set back later still has moments to come. */
#define WALL_BASE_MAX_S UINT64_C(1577836800)

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

const char *const policy_names[POLICY_COUNT] = {
    [POLICY_S3FIFO] = "s3fifo",
    [POLICY_S3FIFO_BYTES] = "s3fifo-bytes",
    [POLICY_NOEVICTION] = "noeviction",
    [POLICY_ALLKEYS_LRU] = "allkeys-lru",
    [POLICY_ALLKEYS_LFU] = "allkeys-lfu",
    [POLICY_ALLKEYS_RANDOM] = "allkeys-random",
    [POLICY_VOLATILE_LRU] = "volatile-lru",
    [POLICY_VOLATILE_LFU] = "volatile-lfu",
    [POLICY_VOLATILE_RANDOM] = "volatile-random",
    [POLICY_VOLATILE_TTL] = "volatile-ttl",
};

const char *const binding_names[BINDING_COUNT] = {
    [BINDING_AUTO] = "auto-negotiate",
    [BINDING_ASCII] = "ascii",
    [BINDING_BINARY] = "binary",
};

static uint32_t
shard_count_for(uint64_t memory_limit_bytes, uint32_t page_shift)
{
    uint32_t count = 1;
    while ((uint64_t)count * 2 * SHARD_PAGES_MIN <= memory_limit_bytes >> page_shift) {
        count *= 2;
    }
    return count;
}

/* At least a system page: what is smaller cannot be given back to the host by itself. */
static uint32_t
page_shift_for(uint64_t memory_limit_bytes, uint64_t system_page_bytes)
{
    uint32_t shift =
        memory_limit_bytes < LARGE_PAGE_FROM_BYTES ? SMALL_PAGE_SHIFT : LARGE_PAGE_SHIFT;
    while (UINT64_C(1) << shift < system_page_bytes) {
        shift++;
    }
    return shift;
}

/* The smallest unit whose refs reach the limit and, where that costs nothing more, the whole host.
 */
static uint32_t
unit_shift_for(uint64_t memory_limit_bytes)
{
    uint32_t shift = UNIT_SHIFT_MIN;
    while (shift < UNIT_SHIFT_MAX && UINT64_C(1) << (32 + shift) < memory_limit_bytes +
                                                                       memory_limit_bytes / 16 +
                                                                       EXTENT_BYTES) {
        shift++;
    }
    return shift;
}

static uint64_t
place(uint64_t *at, uint64_t bytes, uint64_t alignment)
{
    uint64_t offset = round_up(*at, alignment);
    *at = offset + bytes;
    return offset;
}

/* Places the parts for so many pages. */
static void
place_parts(struct superblock *superblock, const struct segment_settings *settings,
            uint32_t page_count, size_t shard_bytes, uint64_t system_page_bytes)
{
    uint64_t pages_of_shard = page_count / superblock->shard_count;
    superblock->table_pages_max = (uint32_t)round_up(pages_of_shard / TABLE_PART + 2, 16);
    uint64_t at = sizeof(struct superblock);
    superblock->slots_at = place(&at, (uint64_t)SLOT_COUNT * sizeof(struct process_slot), 4096);
    superblock->logs_at = place(&at, (uint64_t)SLOT_COUNT * superblock->log_ring_bytes, 4096);
    superblock->shards_at = place(&at, superblock->shard_count * (uint64_t)shard_bytes, 4096);
    superblock->words_at = place(&at, superblock->shard_count * sizeof(uint64_t), 4096);
    superblock->tables_at =
        place(&at, (uint64_t)superblock->shard_count * superblock->table_pages_max * 4, 4096);
    superblock->prefixes_at = place(&at, prefix_table_bytes(), 4096);
    superblock->conns_at = place(&at, conn_table_bytes(settings), 4096);
    superblock->configs_at = place(&at, config_table_bytes(), 4096);
    /* Other nodes map this part alone. */
    superblock->tracks_at = place(&at, track_bytes(), system_page_bytes);
    superblock->freemap_at = place(&at, freemap_bytes(page_count), 4096);
    superblock->pages_at = place(&at, (uint64_t)page_count * sizeof(struct page), 4096);
    superblock->data_at = place(&at, (uint64_t)page_count << superblock->page_shift, EXTENT_BYTES);
    /* Read, at most, by a process that takes damaged bytes at the very end for an item. */
    place(&at, SLACK_BYTES, 4096);
    superblock->page_count_max = page_count;
    superblock->reserve_bytes = at;
}

enum segment_status
segment_lay_out(const struct segment_settings *settings, size_t shard_bytes,
                const struct memory_limit *host, uint64_t system_page_bytes,
                struct superblock *superblock, char *sentence)
{
    memset(superblock, 0, sizeof(*superblock));
    uint64_t limit = settings->memory_limit_bytes;
    if (limit > host->bytes) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "memory_limit: %llu MB are asked for, but %s allows %llu MB; use -m %llu or less, "
                 "or raise that limit",
                 (unsigned long long)limit >> 20, host->owner,
                 (unsigned long long)host->bytes >> 20, (unsigned long long)host->bytes >> 20);
        return SEGMENT_SHORTAGE;
    }
    superblock->page_shift = page_shift_for(limit, system_page_bytes);
    superblock->page_bytes = 1u << superblock->page_shift;
    superblock->unit_shift = unit_shift_for(limit);
    superblock->shard_count = shard_count_for(limit, superblock->page_shift);
    /* What the refs reach, less room for the parts before the pages. */
    uint64_t reach = UINT64_C(1) << (32 + superblock->unit_shift);
    uint64_t reserve = host->bytes > limit ? host->bytes : limit;
    reserve = reserve < reach - reach / 32 ? reserve : reach - reach / 32;
    uint64_t page_count = reserve >> superblock->page_shift;
    page_count = page_count < PAGE_COUNT_MAX ? page_count : PAGE_COUNT_MAX;
    if (page_count << superblock->page_shift < limit) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "memory_limit: %llu MB is more than references reach; the range is 1 to %llu MB",
                 (unsigned long long)limit >> 20, (unsigned long long)(reach - reach / 32) >> 20);
        return SEGMENT_BAD_SETTING;
    }
    uint32_t unit = 1u << superblock->unit_shift;
    uint32_t count = settings->slab_sizes[0] != '\0'
                         ? slabclass_from_list(superblock->chunk_bytes, superblock->page_bytes,
                                               unit, settings->slab_sizes)
                         : slabclass_make(superblock->chunk_bytes, superblock->page_bytes, unit,
                                          settings->item_size_min_bytes, settings->growth_factor);
    if (count == 0) {
        snprintf(
            sentence, SEGMENT_SENTENCE_MAX,
            "growth_factor: %.4g gives more than %d slab classes; the range is above 1, at least "
            "about 1.1 with an item_size_min of %u",
            settings->growth_factor, SLAB_CLASS_COUNT_MAX - 1, settings->item_size_min_bytes);
        return SEGMENT_BAD_SETTING;
    }
    superblock->class_count = count;
    for (uint32_t class_id = 1; class_id <= count; class_id++) {
        superblock->chunks_per_page[class_id] =
            slabclass_chunks_per_page(superblock->page_bytes, superblock->chunk_bytes[class_id]);
    }
    superblock->log_ring_bytes = logring_bytes(settings->worker_logbuf_bytes);
    place_parts(superblock, settings, (uint32_t)page_count, shard_bytes, system_page_bytes);
    return SEGMENT_OK;
}

static enum segment_status
fail(char *sentence, const char *what)
{
    snprintf(sentence, SEGMENT_SENTENCE_MAX, "cannot create the shared memory: %s: %s", what,
             strerror(errno));
    return SEGMENT_FAILED;
}

static enum segment_status
map(uint64_t bytes, struct segment *segment, char *sentence)
{
    int fd = memfd_create("memcachepy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return fail(sentence, "memfd_create");
    }
    if (ftruncate(fd, (off_t)bytes) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        enum segment_status status = fail(sentence, "ftruncate");
        close(fd);
        return status;
    }
    void *base = hugepage_map(fd, bytes);
    if (base == NULL) {
        enum segment_status status = fail(sentence, "mmap");
        close(fd);
        return status;
    }
    segment->base = base;
    segment->bytes = bytes;
    segment->fd = fd;
    return SEGMENT_OK;
}

/* Everything before the pages that a node of this limit touches. The rest is populated as it grows.
 */
static bool
populate_parts(const struct segment *segment, const struct superblock *plan,
               const struct segment_settings *settings, size_t shard_bytes)
{
    uint64_t slots =
        (uint64_t)(SLOT_WORKER_FIRST + settings->worker_count) * sizeof(struct process_slot);
    uint64_t shards = plan->shard_count * (uint64_t)shard_bytes;
    return populate(segment->fd, segment->base, 0, sizeof(struct superblock)) &&
           populate(segment->fd, segment->base, plan->slots_at, slots) &&
           populate(segment->fd, segment->base, plan->shards_at, shards) &&
           populate(segment->fd, segment->base, plan->words_at,
                    plan->shard_count * sizeof(uint64_t)) &&
           populate(segment->fd, segment->base, plan->tracks_at, TRACK_HEAD_PRESENT_BYTES) &&
           populate(segment->fd, segment->base, plan->freemap_at,
                    freemap_present_bytes(plan->page_count_max));
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

static uint32_t
fingerprint(size_t shard_bytes)
{
    const uint64_t facts[] = {
        sizeof(struct superblock),           sizeof(struct process_slot), sizeof(struct page),
        sizeof(struct shared_lock),          sizeof(pthread_mutex_t),     shard_bytes,
#ifdef __GLIBC__
        __GLIBC__ * 1000u + __GLIBC_MINOR__,
#else
                              0,
#endif
    };
    uint32_t value = SEGMENT_LAYOUT_VERSION;
    for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) {
        value = value * 31 + (uint32_t)facts[i];
    }
    return value;
}

static uint64_t
constants_check(const struct superblock *superblock)
{
    return xxh64((const uint8_t *)superblock, offsetof(struct superblock, constants_check), 0);
}

/* Lays a private, read-only copy over the constants of the mapping. False: no memory. */
static bool
make_constants_private(struct segment *segment)
{
    void *copy =
        mmap(NULL, CONSTANTS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) {
        return false;
    }
    memcpy(copy, segment->base, CONSTANTS_BYTES);
    if (mprotect(copy, CONSTANTS_BYTES, PROT_READ) != 0 ||
        mremap(copy, CONSTANTS_BYTES, CONSTANTS_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
               segment->base) == MAP_FAILED) {
        munmap(copy, CONSTANTS_BYTES);
        return false;
    }
    return true;
}

static void
superblock_fill(struct superblock *superblock, const struct superblock *plan,
                const struct segment_settings *settings, size_t shard_bytes)
{
    *superblock = *plan;
    superblock->layout_version = SEGMENT_LAYOUT_VERSION;
    superblock->fingerprint = fingerprint(shard_bytes);
    superblock->settings = *settings;
    superblock->boot_settings = *settings;
    uint64_t wall_s = clock_wall_ns() / 1000000000u;
    superblock->wall_base_s =
        wall_s - CLOCK_BASE_S < WALL_BASE_MAX_S ? wall_s - CLOCK_BASE_S : WALL_BASE_MAX_S;
    superblock->boot_base_ns = clock_boot_ns() - CLOCK_BASE_S * UINT64_C(1000000000);
    struct page_pool *pool = &superblock->pool;
    lock_init(&pool->grow_lock);
    lock_init(&superblock->configs.lock);
    uint32_t limit = (uint32_t)(settings->memory_limit_bytes >> superblock->page_shift);
    atomic_store(&pool->effective_count, limit);
    atomic_store(&pool->limit_check, ~settings->memory_limit_bytes);
    atomic_store(&pool->populated_check, UINT32_MAX);
    atomic_store(&pool->effective_check, ~limit);
    memcpy(superblock->magic, SEGMENT_MAGIC, sizeof(SEGMENT_MAGIC));
    superblock->constants_check = constants_check(superblock);
}

enum segment_status
segment_create(const struct segment_settings *settings, size_t shard_bytes, struct segment **out,
               char *sentence)
{
    struct superblock *plan = aligned_alloc(CACHE_LINE_BYTES, sizeof(*plan));
    struct segment *segment = calloc(1, sizeof(*segment));
    CHECK(plan != NULL && segment != NULL);
    struct memory_limit host;
    hostmem_total(&host);
    enum segment_status status = segment_lay_out(settings, shard_bytes, &host,
                                                 (uint64_t)sysconf(_SC_PAGESIZE), plan, sentence);
    if (status == SEGMENT_OK) {
        status = map(plan->reserve_bytes, segment, sentence);
    }
    if (status == SEGMENT_OK && !populate_parts(segment, plan, settings, shard_bytes)) {
        snprintf(
            sentence, SEGMENT_SENTENCE_MAX,
            "memory_limit: the host or its cgroup has no memory left for the tables of a cache "
            "of %llu MB; free some or lower -m",
            (unsigned long long)settings->memory_limit_bytes >> 20);
        status = SEGMENT_SHORTAGE;
    } else if (status == SEGMENT_OK && !back_by_huge_pages(segment, settings, plan, sentence)) {
        status = SEGMENT_SHORTAGE;
    }
    if (status == SEGMENT_SHORTAGE && segment->base != NULL) {
        munmap(segment->base, segment->bytes);
        close(segment->fd);
    }
    if (status != SEGMENT_OK) {
        free(plan);
        free(segment);
        return status;
    }
    segment->superblock = (struct superblock *)(void *)segment->base;
    segment->slots = (struct process_slot *)(void *)(segment->base + plan->slots_at);
    struct siphash_key *key = &plan->hash_key;
    CHECK(getrandom(key, sizeof(*key), 0) == sizeof(*key));
    superblock_fill(segment->superblock, plan, settings, shard_bytes);
    free(plan);
    if (!make_constants_private(segment)) {
        status = fail(sentence, "mremap");
        segment_close(segment);
        return status;
    }
    *out = segment;
    return SEGMENT_OK;
}

/* Why the mapped file must not be used; false if it may. */
static bool
refuse_superblock(const struct superblock *superblock, uint64_t bytes, size_t shard_bytes,
                  char *sentence)
{
    if (memcmp(superblock->magic, SEGMENT_MAGIC, sizeof(SEGMENT_MAGIC)) != 0) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "this is no segment of a node");
    } else if (superblock->layout_version != SEGMENT_LAYOUT_VERSION) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the node's segment has layout version %u and this memcachepy reads %u: use the "
                 "same release as the node",
                 superblock->layout_version, SEGMENT_LAYOUT_VERSION);
    } else if (superblock->fingerprint != fingerprint(shard_bytes)) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the node's segment was made by another build (%08x) than this memcachepy (%08x): "
                 "its sizes or its libc differ; use the node's own environment",
                 superblock->fingerprint, fingerprint(shard_bytes));
    } else if (superblock->reserve_bytes != bytes) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the node's segment says it has %llu bytes and has %llu",
                 (unsigned long long)superblock->reserve_bytes, (unsigned long long)bytes);
    } else if (superblock->constants_check != constants_check(superblock)) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the node's segment is damaged: another process has written over its head; "
                 "restart the node");
    } else {
        return false;
    }
    return true;
}

enum segment_status
segment_attach(int fd, size_t shard_bytes, struct segment **out, char *sentence)
{
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW;
    struct stat file;
    if (fstat(fd, &file) != 0) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "cannot attach: %s", strerror(errno));
        return SEGMENT_FAILED;
    }
    /* Sealed, for otherwise the file could shrink under the mapping. */
    if ((fcntl(fd, F_GET_SEALS) & seals) != seals || fcntl(fd, F_GET_SEALS) < 0 ||
        file.st_size < (off_t)sizeof(struct superblock)) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "this is no segment of a node");
        return SEGMENT_FAILED;
    }
    uint64_t bytes = (uint64_t)file.st_size;
    int own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    void *base = hugepage_map(fd, bytes);
    if (own_fd < 0 || base == NULL) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "cannot map the node's segment: %s",
                 strerror(errno));
        if (base != NULL) {
            munmap(base, bytes);
        }
        if (own_fd >= 0) {
            close(own_fd);
        }
        return SEGMENT_FAILED;
    }
    struct segment *segment = calloc(1, sizeof(*segment));
    CHECK(segment != NULL);
    *segment = (struct segment){
        .base = base, .bytes = bytes, .fd = own_fd, .superblock = base, .attached = true};
    if (!make_constants_private(segment)) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "cannot map the node's segment: %s",
                 strerror(errno));
        segment_close(segment);
        return SEGMENT_FAILED;
    }
    if (refuse_superblock(segment->superblock, bytes, shard_bytes, sentence)) {
        segment_close(segment);
        return SEGMENT_FAILED;
    }
    segment->slots = (struct process_slot *)(void *)(segment->base + segment->superblock->slots_at);
    *out = segment;
    return SEGMENT_OK;
}

void
segment_close(struct segment *segment)
{
    munmap(segment->base, segment->bytes);
    close(segment->fd);
    free(segment->own_settings);
    free(segment);
}

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
    unsigned first = SLOT_WORKER_FIRST + superblock->boot_settings.worker_count;
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
        uint64_t offset =
            superblock->slots_at + (uint64_t)(first + index) * sizeof(struct process_slot);
        if (!populate(segment->fd, segment->base, offset, sizeof(struct process_slot))) {
            snprintf(sentence, SEGMENT_SENTENCE_MAX,
                     "the host or its cgroup has no memory left for one more attached process");
            return false;
        }
    }
    claim_for(&segment->slots[first + index], pid);
    segment->attached_open[index] = true;
    if (index == high) {
        segment->attached_high = high + 1;
        /* Pairs with the acquire load in segment_slot_count(). */
        atomic_store_explicit(&superblock->attached_high, high + 1, memory_order_release);
    }
    *slot_index = first + index;
    return true;
}

void
segment_close_attached(struct segment *segment, unsigned slot_index)
{
    unsigned first = SLOT_WORKER_FIRST + segment->superblock->boot_settings.worker_count;
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
    const struct segment_settings *shared = &segment->superblock->settings;
    *settings = segment->superblock->boot_settings;
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
    copy_own_settings(segment->own_settings, &segment->superblock->settings);
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
    _Atomic uint32_t *high = &segment->superblock->attached_high;
    if (atomic_load(high) != segment->attached_high) {
        atomic_store(high, segment->attached_high);
    }
    if (segment->own_settings != NULL) {
        copy_own_settings(&segment->superblock->settings, segment->own_settings);
    }
}

uint64_t
segment_connection_count(const struct segment *segment)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < segment->superblock->boot_settings.worker_count; i++) {
        const struct process_slot *slot = &segment->slots[SLOT_WORKER_FIRST + i];
        uint64_t closed = atomic_load_explicit(&slot->conns_closed, memory_order_relaxed);
        uint64_t assigned = atomic_load_explicit(&slot->conns_assigned, memory_order_relaxed);
        count += assigned > closed ? assigned - closed : 0;
    }
    return count;
}
