/* Loads items into an empty store and says how long one set takes at worst, and what in it: the CPU
 * time of this thread in every single store_put(), in every step of a hash table's growth and in
 * every growth of the pool, on average, at the 99.99th percentile and at most.
 *
 * usage: growth ITEMS MEGABYTES VALUE_BYTES [maintained]
 * With `maintained` a process does what the node's maintainer does. Prints one line for each. */
#include "base/clock.h"
#include "base/span.h"
#include "store/store.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define SERIES_MAX 16
#define BAR_NS 1000000u

struct series {
    const char *name;
    uint32_t *cpu_ns;
    uint64_t count, room;
};

/* Process-wide, for the spans know no context. */
static struct series series[SERIES_MAX];

static struct series *
series_named(const char *name)
{
    for (unsigned i = 0; i < SERIES_MAX; i++) {
        if (series[i].name == NULL) {
            series[i].name = name;
        }
        if (strcmp(series[i].name, name) == 0) {
            return &series[i];
        }
    }
    exit(2);
}

/* Touches its memory before it is timed. */
static void
series_reserve(struct series *of, uint64_t room)
{
    of->cpu_ns = realloc(of->cpu_ns, room * sizeof(*of->cpu_ns));
    if (of->cpu_ns == NULL) {
        exit(2);
    }
    memset(of->cpu_ns + of->count, 0, (room - of->count) * sizeof(*of->cpu_ns));
    of->room = room;
}

void
span_ended(const char *name, uint64_t cpu_ns)
{
    struct series *of = series_named(name);
    if (of->count == of->room) {
        exit(2);
    }
    of->cpu_ns[of->count++] = cpu_ns < UINT32_MAX ? (uint32_t)cpu_ns : UINT32_MAX;
}

static int
by_size(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void
series_print(struct series *of)
{
    if (of->count == 0) {
        return;
    }
    qsort(of->cpu_ns, of->count, sizeof(*of->cpu_ns), by_size);
    uint64_t sum = 0, over = 0;
    for (uint64_t i = 0; i < of->count; i++) {
        sum += of->cpu_ns[i];
        over += of->cpu_ns[i] > BAR_NS;
    }
    printf("%s count=%" PRIu64 " mean_us=%.3f p9999_us=%.1f max_us=%.1f over_1ms=%" PRIu64 "\n",
           of->name, of->count, (double)sum / (double)of->count / 1e3,
           of->cpu_ns[of->count - 1 - of->count / 10000] / 1e3, of->cpu_ns[of->count - 1] / 1e3,
           over);
}

static pid_t
start_maintainer(struct segment *segment)
{
    pid_t pid = fork();
    if (pid != 0) {
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    segment_claim_slot(segment, SLOT_MAINTAINER);
    struct store *store = store_open(segment, SLOT_MAINTAINER);
    for (;;) {
        usleep(store_maintain(store) ? 1000 : 500000);
    }
}

static uint64_t
load(struct store *store, uint64_t items, uint32_t value_len)
{
    uint8_t *value = calloc(1, value_len + 1);
    uint64_t refused = 0;
    for (uint64_t i = 0; i < items; i++) {
        char text[32];
        struct put put = {.value = value, .value_len = value_len};
        key_init(store, &put.key, text, (uint32_t)sprintf(text, "key-%012" PRIu64, i));
        uint64_t before = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
        enum put_result result = store_put(store, &put);
        span_ended("put", clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - before);
        refused += result != PUT_STORED;
    }
    free(value);
    return refused;
}

int
main(int argc, char **argv)
{
    if (argc < 4) {
        return 2;
    }
    uint64_t items = strtoull(argv[1], NULL, 10);
    struct segment_settings settings = {.memory_limit_bytes = strtoull(argv[2], NULL, 10) << 20,
                                        .item_size_max_bytes = 1u << 20,
                                        .growth_factor = 1.25,
                                        .item_size_min_bytes = 8,
                                        .slab_automove = 1,
                                        .conn_limit = 10,
                                        .worker_count = 1,
                                        .eviction_policy = POLICY_S3FIFO,
                                        .cas_enabled = true};
    struct segment *segment;
    char sentence[SEGMENT_SENTENCE_MAX];
    if (store_create(&settings, &segment, sentence) != SEGMENT_OK) {
        puts(sentence);
        return 2;
    }
    segment_claim_slot(segment, SLOT_WORKER_FIRST);
    struct store *store = store_open(segment, SLOT_WORKER_FIRST);
    series_reserve(series_named("put"), items);
    series_reserve(series_named("table_grow_step"), items + 1);
    series_reserve(series_named("pool_grow"), items / 10 + 1000);
    pid_t maintainer = argc > 4 ? start_maintainer(segment) : 0;
    uint64_t refused = load(store, items, (uint32_t)atoi(argv[3]));
    struct store_sums sums;
    store_sum(store, &sums);
    printf("items=%" PRIu64 " refused=%" PRIu64 " evictions=%" PRIu64 " table_buckets=%" PRIu64
           " table_pages=%" PRIu64 " pages=%" PRIu64 "\n",
           sums.curr_items, refused, sums.evictions, sums.table_buckets, sums.table_pages,
           sums.pages);
    for (unsigned i = 0; i < SERIES_MAX && series[i].name != NULL; i++) {
        series_print(&series[i]);
    }
    if (maintainer > 0) {
        kill(maintainer, SIGKILL);
        waitpid(maintainer, NULL, 0);
    }
    store_close(store);
    segment_close(segment);
    return 0;
}
