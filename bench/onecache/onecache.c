/* One cache: S3-FIFO over bytes, without slab classes, shards or pages, under a trace of keys. What
 * a store that loses nothing to slab classes could reach.
 *
 *   onecache IDS KEY_LEN VALUE_LEN|LENS WINDOW MEMORY_BYTES OVERHEAD_BYTES
 *
 * The arguments are those of readthrough.c. An item costs its key, its value and OVERHEAD_BYTES. A
 * line is printed for every WINDOW requests: how many of them missed, and the bytes of their
 * values; then a line with the evictions and the items that are left.
 *
 * New items enter probation, a FIFO queue. An item that is to leave memory is taken from probation
 * while that holds at least a tenth of the memory, else from main. The oldest item of probation
 * moves to main if it was hit, else it is evicted and its key remembered by the ghost, which holds
 * as many keys as the cache holds items; a missing key that the ghost holds enters main. Main is a
 * FIFO queue with reinsertion: its oldest item loses one of at most three counts and enters again,
 * or is evicted if it has none. Items enter main without a count. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROBATION_PART 10
#define COUNT_MAX 3
#define KEY_COUNT_FIRST 1024u

enum place { ABSENT, PROBATION, MAIN };

struct key {
    uint64_t id;
    uint32_t bytes;    /* of its item, while it is cached */
    uint8_t place;     /* enum place */
    uint8_t count;     /* of hits, at most COUNT_MAX */
    uint8_t in_ghost;  /* of the newest ghost entry: it is not forgotten */
    uint32_t ghost_at; /* low bits of the position of its newest ghost entry */
};

/* Keys in the order in which they entered, as indices of `cache.keys`. */
struct queue {
    uint32_t *indices;
    uint64_t head, tail; /* positions; the oldest is at head */
    uint64_t mask;
    uint64_t bytes; /* of the items */
};

static struct {
    const uint64_t *ids;
    const uint32_t *lens; /* NULL: all are `len` */
    uint32_t len;
    uint32_t key_len;
    size_t count;
} trace;

static struct {
    struct key *keys; /* all that were ever asked for */
    uint64_t key_count;
    uint32_t *table; /* by hash, indices of keys plus one; 0: empty */
    uint64_t table_mask;
    struct queue probation, main, ghost;
    uint64_t memory_bytes, overhead_bytes;
    uint64_t items, ghost_keys, evictions;
} cache;

static void
die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("onecache: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static const void *
map_file(const char *path, size_t *bytes)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0 || status.st_size == 0) {
        die("%s cannot be read or is empty", path);
    }
    *bytes = (size_t)status.st_size;
    void *map = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        die("%s cannot be mapped", path);
    }
    close(fd);
    return map;
}

static uint64_t
number(const char *text, const char *name, uint64_t min, uint64_t max)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (*end != '\0' || value < min || value > max) {
        die("%s is %s; the range is %llu to %llu", name, text, (unsigned long long)min,
            (unsigned long long)max);
    }
    return value;
}

/* Zeroed. */
static void *
allocate(uint64_t count, size_t bytes)
{
    void *memory = calloc(count, bytes);
    if (memory == NULL) {
        die("out of memory");
    }
    return memory;
}

static uint64_t
power_of_two_from(uint64_t least)
{
    uint64_t power = 1;
    while (power < least) {
        power *= 2;
    }
    return power;
}

/* The place of a key in the table, or the empty one where it belongs. */
static uint32_t *
table_place(uint64_t id)
{
    uint64_t at = (id * UINT64_C(0x9e3779b97f4a7c15)) >> 20;
    for (;; at++) {
        uint32_t *place = &cache.table[at & cache.table_mask];
        if (*place == 0 || cache.keys[*place - 1].id == id) {
            return place;
        }
    }
}

/* Twice as many keys. */
static void
grow(void)
{
    uint64_t room = 2 * (cache.table_mask + 1);
    free(cache.table);
    cache.table = allocate(room, sizeof(*cache.table));
    cache.table_mask = room - 1;
    cache.keys = realloc(cache.keys, room / 2 * sizeof(*cache.keys));
    if (cache.keys == NULL) {
        die("out of memory");
    }
    for (uint64_t i = 0; i < cache.key_count; i++) {
        *table_place(cache.keys[i].id) = (uint32_t)i + 1;
    }
}

static struct key *
find(uint64_t id)
{
    uint32_t *place = table_place(id);
    if (*place == 0) {
        if (cache.key_count > cache.table_mask / 2) {
            grow();
            place = table_place(id);
        }
        cache.keys[cache.key_count] = (struct key){.id = id};
        *place = (uint32_t)++cache.key_count;
    }
    return &cache.keys[*place - 1];
}

static void
push(struct queue *queue, const struct key *key)
{
    queue->indices[queue->tail++ & queue->mask] = (uint32_t)(key - cache.keys);
    queue->bytes += key->bytes;
}

static struct key *
pop(struct queue *queue)
{
    struct key *key = &cache.keys[queue->indices[queue->head++ & queue->mask]];
    queue->bytes -= key->bytes;
    return key;
}

/* Takes the oldest entry of the ghost out of it; one that is not its key's newest says nothing. */
static void
ghost_drop_oldest(void)
{
    struct queue *ghost = &cache.ghost;
    struct key *key = &cache.keys[ghost->indices[ghost->head & ghost->mask]];
    if (key->in_ghost && key->ghost_at == (uint32_t)ghost->head) {
        key->in_ghost = 0;
        cache.ghost_keys--;
    }
    ghost->head++;
}

static void
ghost_remember(struct key *key)
{
    struct queue *ghost = &cache.ghost;
    if (ghost->tail - ghost->head > ghost->mask) {
        ghost_drop_oldest();
    }
    key->in_ghost = 1;
    key->ghost_at = (uint32_t)ghost->tail;
    ghost->indices[ghost->tail++ & ghost->mask] = (uint32_t)(key - cache.keys);
    cache.ghost_keys++;
    while (cache.ghost_keys > cache.items) {
        ghost_drop_oldest();
    }
}

static void
evicted(struct key *key)
{
    key->place = ABSENT;
    cache.items--;
    cache.evictions++;
}

/* Moves or evicts one item. */
static void
evict_step(void)
{
    struct queue *probation = &cache.probation, *main_queue = &cache.main;
    bool from_probation = probation->bytes >= cache.memory_bytes / PROBATION_PART;
    if (from_probation || main_queue->head == main_queue->tail) {
        struct key *key = pop(probation);
        if (key->count > 0) {
            key->place = MAIN;
            key->count = 0;
            push(main_queue, key);
        } else {
            evicted(key);
            ghost_remember(key);
        }
        return;
    }
    struct key *key = pop(main_queue);
    if (key->count > 0) {
        key->count--;
        push(main_queue, key);
    } else {
        evicted(key);
    }
}

static void
store(struct key *key, uint64_t bytes)
{
    if (bytes > cache.memory_bytes) {
        return;
    }
    bool returned = key->in_ghost;
    if (returned) {
        key->in_ghost = 0;
        cache.ghost_keys--;
    }
    while (cache.probation.bytes + cache.main.bytes + bytes > cache.memory_bytes) {
        evict_step();
    }
    key->bytes = (uint32_t)bytes;
    key->count = 0;
    key->place = returned ? MAIN : PROBATION;
    push(returned ? &cache.main : &cache.probation, key);
    cache.items++;
}

/* Whether the request missed. */
static bool
request(size_t at, uint32_t value_len)
{
    struct key *key = find(trace.ids[at]);
    if (key->place != ABSENT) {
        key->count += key->count < COUNT_MAX;
        return false;
    }
    store(key, cache.overhead_bytes + trace.key_len + value_len);
    return true;
}

static void
make_queue(struct queue *queue, uint64_t room)
{
    queue->mask = power_of_two_from(room) - 1;
    queue->indices = allocate(queue->mask + 1, sizeof(*queue->indices));
}

int
main(int argc, char **argv)
{
    if (argc != 7) {
        die("usage: onecache IDS KEY_LEN VALUE_LEN|LENS WINDOW MEMORY_BYTES OVERHEAD_BYTES");
    }
    size_t bytes;
    trace.ids = map_file(argv[1], &bytes);
    trace.count = bytes / 8;
    trace.key_len = (uint32_t)number(argv[2], "KEY_LEN", 1, 250);
    if (argv[3][0] >= '0' && argv[3][0] <= '9') {
        trace.len = (uint32_t)number(argv[3], "VALUE_LEN", 0, UINT32_MAX / 2);
    } else {
        trace.lens = map_file(argv[3], &bytes);
        if (bytes / 4 != trace.count) {
            die("%s has %zu sizes for %zu requests", argv[3], bytes / 4, trace.count);
        }
    }
    size_t window = number(argv[4], "WINDOW", 1, UINT32_MAX);
    cache.memory_bytes = number(argv[5], "MEMORY_BYTES", PROBATION_PART, UINT64_C(1) << 40);
    cache.overhead_bytes = number(argv[6], "OVERHEAD_BYTES", 1, 1 << 20);
    cache.table_mask = KEY_COUNT_FIRST - 1;
    grow();
    make_queue(&cache.probation, trace.count);
    make_queue(&cache.main, trace.count);
    make_queue(&cache.ghost, trace.count);
    uint64_t misses = 0, missed_bytes = 0;
    for (size_t at = 0; at < trace.count; at++) {
        uint32_t value_len = trace.lens != NULL ? trace.lens[at] : trace.len;
        if (request(at, value_len)) {
            misses++;
            missed_bytes += value_len;
        }
        if ((at + 1) % window == 0 || at + 1 == trace.count) {
            printf("%llu %llu\n", (unsigned long long)misses, (unsigned long long)missed_bytes);
            misses = missed_bytes = 0;
        }
    }
    printf("%llu %llu\n", (unsigned long long)cache.evictions, (unsigned long long)cache.items);
    return 0;
}
