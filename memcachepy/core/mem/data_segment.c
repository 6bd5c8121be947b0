/* See data_segment.h. */
#include "mem/data_segment.h"

#include "base/boot_id.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/crash.h"
#include "base/xxh64.h"
#include "mem/freemap.h"
#include "mem/hostmem.h"
#include "mem/page.h"
#include "mem/populate.h"
#include "mem/ref.h"
#include "mem/run_segment.h"
#include "mem/slabclass.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* A shard covers 512 to 1,023 pages of the limit: enough for its classes, of each of which it has
 * half a page unused; and locks for several writers. */
#define SHARD_PAGES_MIN 512

#define SMALL_PAGE_SHIFT 14
#define LARGE_PAGE_SHIFT 16
#define LARGE_PAGE_FROM_BYTES (UINT64_C(256) << 20)

/* A table takes at most a quarter of its shard's share of the reserve. */
#define TABLE_PART 4

#define SLACK_BYTES 8192 /* more than an item's header and KEY_LEN_MAX */

/* The node's clock starts a little above 0, so that 0 and 1 are never now. */
#define CLOCK_BASE_S 2

/* The end of what expiry words reach. */
#define NODE_NS_MAX (INT32_MAX * UINT64_C(1000000000))

/* 2020-01-01: moments of the system clock count from here, or from the segment's creation if the
 * clock stood earlier then, so that a clock that is set back later still has moments to come. */
#define WALL_BASE_MAX_S UINT64_C(1577836800)

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

/* X(name, bit): what data may need a reader to know, by this release or by one before it. A bit
 * keeps its meaning for ever. This release knows how to read none of them. */
#define FEATURE_LIST(X)                                                                            \
    X("databases", 0)                                                                              \
    X("extended items", 1)                                                                         \
    X("collections", 2)                                                                            \
    X("commits", 3)

#define FEATURES_KNOWN UINT64_C(0)

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

/* ---- layout --------------------------------------------------------------------------------- */

/* Places the parts for so many pages. */
static void
place_parts(struct superblock *superblock, uint32_t page_count, size_t shard_bytes)
{
    uint64_t pages_of_shard = page_count / superblock->shard_count;
    uint64_t shard_count = superblock->shard_count;
    superblock->table_pages_max = (uint32_t)round_up(pages_of_shard / TABLE_PART + 2, 16);
    uint64_t at = sizeof(struct superblock);
    superblock->held_at = place(&at, (uint64_t)SLOT_COUNT * sizeof(struct held_table), 4096);
    superblock->shards_at = place(&at, shard_count * shard_bytes, 4096);
    superblock->words_at = place(&at, shard_count * sizeof(uint64_t), 4096);
    superblock->tables_at = place(&at, shard_count * superblock->table_pages_max * 4, 4096);
    superblock->freemap_at = place(&at, freemap_bytes(page_count), 4096);
    superblock->pages_at = place(&at, (uint64_t)page_count * sizeof(struct page), 4096);
    superblock->data_at = place(&at, (uint64_t)page_count << superblock->page_shift, EXTENT_BYTES);
    /* Read, at most, by a process that takes damaged bytes at the very end for an item. */
    place(&at, SLACK_BYTES, 4096);
    superblock->page_bytes = 1u << superblock->page_shift;
    superblock->page_count_max = page_count;
    superblock->bytes = at;
}

bool
data_lay_out(uint64_t bytes, size_t shard_bytes, struct superblock *superblock)
{
    /* The most pages that fit: more take more room. */
    uint64_t fits = 0;
    uint64_t above = (bytes >> superblock->page_shift) + 1;
    above = above < PAGE_COUNT_MAX ? above : PAGE_COUNT_MAX + UINT64_C(1);
    while (above - fits > 1) {
        uint64_t middle = fits + (above - fits) / 2;
        place_parts(superblock, (uint32_t)middle, shard_bytes);
        if (superblock->bytes <= bytes) {
            fits = middle;
        } else {
            above = middle;
        }
    }
    place_parts(superblock, (uint32_t)fits, shard_bytes);
    superblock->bytes = bytes;
    return fits != 0;
}

static enum segment_status
make_classes(const struct segment_settings *settings, struct superblock *superblock, char *sentence)
{
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
    superblock->eviction_policy = settings->eviction_policy;
    return SEGMENT_OK;
}

enum segment_status
data_plan(const struct segment_settings *settings, size_t shard_bytes,
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
    place_parts(superblock, (uint32_t)page_count, shard_bytes);
    return make_classes(settings, superblock, sentence);
}

enum segment_status
data_check_limit(const struct superblock *superblock, const struct segment_settings *settings,
                 char *sentence)
{
    uint64_t limit = settings->memory_limit_bytes;
    uint64_t room = (uint64_t)superblock->page_count_max << superblock->page_shift;
    if (limit <= room) {
        return SEGMENT_OK;
    }
    snprintf(
        sentence, SEGMENT_SENTENCE_MAX,
        "memory_limit: %llu MB are asked for, but the file of %llu bytes has room for %llu MB; "
        "use -m %llu or less, or a larger file",
        (unsigned long long)limit >> 20, (unsigned long long)superblock->bytes,
        (unsigned long long)room >> 20, (unsigned long long)room >> 20);
    return SEGMENT_BAD_SETTING;
}

enum segment_status
data_plan_file(uint64_t bytes, const struct segment_settings *settings, size_t shard_bytes,
               uint64_t system_page_bytes, struct superblock *superblock, char *sentence)
{
    memset(superblock, 0, sizeof(*superblock));
    superblock->page_shift = page_shift_for(bytes, system_page_bytes);
    superblock->unit_shift = unit_shift_for(bytes);
    superblock->shard_count = shard_count_for(bytes, superblock->page_shift);
    if (bytes >> 32 >> superblock->unit_shift != 0 ||
        !data_lay_out(bytes, shard_bytes, superblock)) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the file has %llu bytes; a data segment takes at least about 8 MB, and at most "
                 "1 TB",
                 (unsigned long long)bytes);
        return SEGMENT_BAD_SETTING;
    }
    enum segment_status status = data_check_limit(superblock, settings, sentence);
    return status == SEGMENT_OK ? make_classes(settings, superblock, sentence) : status;
}

/* ---- what is refused ------------------------------------------------------------------------ */

/* What the data of another build must have alike: where its fields lie and what their values mean.
 * Nothing here depends on the compiler or on its libraries. */
static uint32_t
data_fingerprint(const struct data_format *format)
{
#define FIELD(type, field) offsetof(struct type, field), sizeof(((struct type *)0)->field)
    static const uint8_t vector[] = "memcachepy";
    const struct siphash_key key = {{UINT64_C(0x0123456789abcdef), UINT64_C(0xfedcba9876543210)}};
    const uint64_t facts[] = {
        SEGMENT_LAYOUT_VERSION,
        sizeof(struct superblock),
        CONSTANTS_BYTES,
        FIELD(superblock, bytes),
        FIELD(superblock, held_at),
        FIELD(superblock, shards_at),
        FIELD(superblock, words_at),
        FIELD(superblock, tables_at),
        FIELD(superblock, freemap_at),
        FIELD(superblock, pages_at),
        FIELD(superblock, data_at),
        FIELD(superblock, spare_at),
        FIELD(superblock, page_bytes),
        FIELD(superblock, page_shift),
        FIELD(superblock, unit_shift),
        FIELD(superblock, shard_count),
        FIELD(superblock, table_pages_max),
        FIELD(superblock, page_count_max),
        FIELD(superblock, class_count),
        FIELD(superblock, eviction_policy),
        FIELD(superblock, chunk_bytes),
        FIELD(superblock, chunks_per_page),
        FIELD(superblock, hash_key),
        FIELD(superblock, wall_base_s),
        FIELD(superblock, constants_check),
        FIELD(superblock, boot_id),
        FIELD(superblock, boot_base_ns),
        FIELD(superblock, seen),
        FIELD(superblock, seen_index),
        FIELD(superblock, held_high),
        FIELD(superblock, last_cas),
        FIELD(superblock, flush),
        FIELD(superblock, flush_swept),
        FIELD(superblock, pool),
        FIELD(superblock, spare),
        FIELD(clocks_seen, node_ns),
        FIELD(clocks_seen, wall_ns),
        sizeof(struct page_pool),
        FIELD(page_pool, populated_count),
        FIELD(page_pool, present_count),
        FIELD(page_pool, absent_from),
        FIELD(page_pool, effective_count),
        FIELD(page_pool, cursor),
        FIELD(page_pool, populated_check),
        FIELD(page_pool, effective_check),
        sizeof(struct held_table),
        FIELD(held_table, page_in_flight),
        FIELD(held_table, pin_high),
        FIELD(held_table, upload_high),
        FIELD(held_table, pins),
        FIELD(held_table, uploads),
        FIELD(held_ref, head_ref),
        FIELD(held_ref, bytes),
        sizeof(struct page),
        FIELD(page, owner),
        FIELD(page, free_head),
        FIELD(page, free_count),
        FIELD(page, class_next),
        FIELD(page, class_prev),
        FIELD(page, partial_next),
        FIELD(page, partial_prev),
        PAGE_FREE,
        PAGE_ABSENT,
        PAGE_KIND_GHOST,
        PAGE_KIND_TABLE,
        PAGE_KIND_IN_HAND,
        PAGE_OWNER_PROCESS,
        page_owner(1, 1),
        SLOT_COUNT,
        POLICY_S3FIFO,
        POLICY_S3FIFO_BYTES,
        POLICY_NOEVICTION,
        POLICY_ALLKEYS_LRU,
        POLICY_ALLKEYS_LFU,
        POLICY_ALLKEYS_RANDOM,
        POLICY_VOLATILE_LRU,
        POLICY_VOLATILE_LFU,
        POLICY_VOLATILE_RANDOM,
        POLICY_VOLATILE_TTL,
        /* The hash function, and the one that tracks keys and tells an item from damage. */
        siphash13(vector, sizeof(vector) - 1, &key),
        xxh64(vector, sizeof(vector) - 1, 0),
        format->shard_bytes,
        format->fingerprint,
    };
#undef FIELD
    return (uint32_t)xxh64((const uint8_t *)facts, sizeof(facts), 0);
}

uint64_t
data_constants_check(const struct superblock *superblock)
{
    return xxh64((const uint8_t *)superblock, offsetof(struct superblock, constants_check), 0);
}

/* The lowest of the features that this release does not know. */
static void
name_feature(uint64_t features, char *name, size_t room)
{
    static const struct {
        const char *name;
        unsigned bit;
    } list[] = {
#define X(name, bit) {name, bit},
        FEATURE_LIST(X)
#undef X
    };
    unsigned bit = (unsigned)__builtin_ctzll(features);
    snprintf(name, room, "feature bit %u", bit);
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        if (list[i].bit == bit) {
            snprintf(name, room, "\"%s\" (feature bit %u)", list[i].name, bit);
        }
    }
}

/* Whether the parts lie where the size and the shape have them, and the classes are some. */
static bool
is_laid_out(const struct superblock *superblock, size_t shard_bytes)
{
    struct superblock again;
    if (superblock->page_shift < SMALL_PAGE_SHIFT || superblock->page_shift > LARGE_PAGE_SHIFT ||
        superblock->unit_shift < UNIT_SHIFT_MIN || superblock->unit_shift > UNIT_SHIFT_MAX ||
        superblock->shard_count == 0 || superblock->shard_count > PAGE_COUNT_MAX ||
        (superblock->shard_count & (superblock->shard_count - 1)) != 0 ||
        superblock->class_count == 0 || superblock->class_count >= SLAB_CLASS_COUNT_MAX ||
        superblock->eviction_policy >= POLICY_COUNT) {
        return false;
    }
    memcpy(again.constants, superblock->constants, sizeof(again.constants));
    return data_lay_out(superblock->bytes, shard_bytes, &again) &&
           memcmp(again.constants, superblock->constants, sizeof(again.constants)) == 0;
}

static void
say_damaged(bool is_file, char *sentence)
{
    snprintf(sentence, SEGMENT_SENTENCE_MAX,
             is_file ? "the file is damaged: its head has been written over"
                     : "the node's segment is damaged: another process has written over its head; "
                       "restart the node");
}

bool
data_refuse(const struct superblock *superblock, uint64_t bytes, const struct data_format *format,
            bool is_file, char *sentence)
{
    const char *what = is_file ? "the file" : "the node's segment";
    const char *release = is_file ? "release that made it" : "same release as the node";
    uint64_t unknown = superblock->features_needed & ~FEATURES_KNOWN;
    if (memcmp(superblock->magic, SEGMENT_MAGIC, sizeof(SEGMENT_MAGIC)) != 0) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 is_file ? "the file holds no data of a node" : "this is no segment of a node");
    } else if (superblock->layout_version != SEGMENT_LAYOUT_VERSION) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "%s has layout version %u and this memcachepy reads %u: use the %s", what,
                 superblock->layout_version, SEGMENT_LAYOUT_VERSION, release);
    } else if (superblock->fingerprint != data_fingerprint(format)) {
        snprintf(
            sentence, SEGMENT_SENTENCE_MAX,
            "%s was made by another build (%08x) than this memcachepy (%08x): its data is laid "
            "out in another way; use the %s",
            what, superblock->fingerprint, data_fingerprint(format), release);
    } else if (superblock->bytes != bytes) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "%s says it has %llu bytes and has %llu", what,
                 (unsigned long long)superblock->bytes, (unsigned long long)bytes);
    } else if (superblock->constants_check != data_constants_check(superblock)) {
        say_damaged(is_file, sentence);
    } else if (unknown != 0) {
        char name[64];
        name_feature(unknown, name, sizeof(name));
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "%s needs %s, which this memcachepy does not know: use the %s", what, name,
                 release);
    } else if (!is_laid_out(superblock, format->shard_bytes)) {
        say_damaged(is_file, sentence);
    } else {
        return false;
    }
    return true;
}

/* ---- the head ------------------------------------------------------------------------------- */

void
data_fill(struct superblock *superblock, const struct superblock *plan,
          const struct data_format *format, const struct segment_settings *settings)
{
    *superblock = *plan;
    superblock->layout_version = SEGMENT_LAYOUT_VERSION;
    superblock->fingerprint = data_fingerprint(format);
    CHECK(getrandom(&superblock->hash_key, sizeof(superblock->hash_key), 0) ==
          sizeof(superblock->hash_key));
    uint64_t wall_ns = clock_wall_ns();
    uint64_t wall_s = wall_ns / 1000000000u;
    superblock->wall_base_s =
        wall_s - CLOCK_BASE_S < WALL_BASE_MAX_S ? wall_s - CLOCK_BASE_S : WALL_BASE_MAX_S;
    data_note_clocks(superblock, CLOCK_BASE_S * UINT64_C(1000000000), wall_ns);
    struct page_pool *pool = &superblock->pool;
    uint32_t limit = (uint32_t)(settings->memory_limit_bytes >> superblock->page_shift);
    atomic_store(&pool->effective_count, limit);
    atomic_store(&pool->effective_check, ~limit);
    atomic_store(&pool->populated_check, UINT32_MAX);
    memcpy(superblock->magic, SEGMENT_MAGIC, sizeof(SEGMENT_MAGIC));
    superblock->constants_check = data_constants_check(superblock);
}

bool
data_populate(int fd, uint8_t *base, const struct superblock *plan, size_t shard_bytes,
              unsigned slot_count)
{
    uint64_t shard_count = plan->shard_count;
    return populate(fd, base, 0, sizeof(struct superblock)) &&
           populate(fd, base, plan->held_at, (uint64_t)slot_count * sizeof(struct held_table)) &&
           populate(fd, base, plan->shards_at, shard_count * shard_bytes) &&
           populate(fd, base, plan->words_at, shard_count * sizeof(uint64_t)) &&
           populate(fd, base, plan->freemap_at, freemap_present_bytes(plan->page_count_max));
}

/* ---- clocks --------------------------------------------------------------------------------- */

void
data_note_clocks(struct superblock *superblock, uint64_t node_ns, uint64_t wall_ns)
{
    uint32_t index = (atomic_load(&superblock->seen_index) & 1) ^ 1;
    atomic_store(&superblock->seen[index].node_ns, node_ns);
    atomic_store(&superblock->seen[index].wall_ns, wall_ns);
    CRASH_POINT(clocks_not_noted);
    atomic_store(&superblock->seen_index, index);
}

/* The boot-time clock is of no use after a reboot: the node's then goes on from where it was seen
 * last, by as much as the system's clock has gone on since. So it does where the boot-time clock is
 * behind: in a time namespace of another offset. */
uint64_t
data_begin_clock(struct superblock *superblock)
{
    uint8_t boot_id[BOOT_ID_BYTES] = {0};
    bool is_known = boot_id_read(boot_id);
    uint64_t boot_ns = clock_boot_ns();
    uint64_t wall_ns = clock_wall_ns();
    uint64_t base_ns = atomic_load(&superblock->boot_base_ns);
    const struct clocks_seen *seen = &superblock->seen[atomic_load(&superblock->seen_index) & 1];
    uint64_t node_ns = atomic_load(&seen->node_ns);
    uint64_t seen_wall_ns = atomic_load(&seen->wall_ns);
    node_ns = node_ns < NODE_NS_MAX ? node_ns : NODE_NS_MAX;
    bool is_same = is_known && memcmp(superblock->boot_id, boot_id, sizeof(boot_id)) == 0;
    if (!is_same || (int64_t)(boot_ns - base_ns) < (int64_t)node_ns) {
        node_ns += wall_ns > seen_wall_ns ? wall_ns - seen_wall_ns : 0;
        base_ns = boot_ns - node_ns;
        /* A death in between leaves a base that is of no boot. */
        memset(superblock->boot_id, 0, sizeof(superblock->boot_id));
        atomic_store(&superblock->boot_base_ns, base_ns);
        CRASH_POINT(boot_not_noted);
        if (is_known) {
            memcpy(superblock->boot_id, boot_id, sizeof(boot_id));
        }
    }
    data_note_clocks(superblock, boot_ns - base_ns, wall_ns);
    return base_ns;
}
