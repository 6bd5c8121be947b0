#include "bench.h"

#include "mem/segment.h"
#include "store/check.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A segment is replaced after so many inputs. */
#define SEGMENT_INPUTS 500

/* A clock at its end (after 68 years) begins no pass of the sweep any more. */
#define UPTIME_S_MAX 1000000000

/* More steps of the maintainer than any sweep here takes. */
#define MAINTAIN_STEPS_MAX 100000

void
die(const char *why)
{
    fprintf(stderr, "fuzz_protocol: %s\n", why);
    abort();
}

void
bench_open(struct bench *bench)
{
    if (bench->segment != NULL) {
        return;
    }
    struct segment_settings settings = {
        /* Small and large pages in turn. */
        .memory_limit_bytes = (bench->segments++ % 2 == 0 ? 16u : 256u) << 20,
        .item_size_max_bytes = 1u << 20,
        .growth_factor = 1.25,
        .item_size_min_bytes = 40,
        .conn_limit = 16,
        .worker_count = WORKER_COUNT,
        .requests_per_event = 20,
        .backlog = 16,
        .eviction_policy = POLICY_S3FIFO,
        .cas_enabled = true,
        .flush_enabled = true,
        .dump_enabled = true,
        .watch_enabled = true,
        .slab_reassign = true,
        .prefix_delimiter = ':',
    };
    char sentence[SEGMENT_SENTENCE_MAX];
    if (store_create(&settings, &bench->segment, sentence) != SEGMENT_OK) {
        die(sentence);
    }
    for (unsigned i = 0; i < WORKER_COUNT; i++) {
        struct worker *worker = &bench->workers[i];
        segment_claim_slot(bench->segment, SLOT_WORKER_FIRST + i);
        worker->store = store_open(bench->segment, SLOT_WORKER_FIRST + i);
        if (worker->store == NULL) {
            die("no store");
        }
        worker->protocol = protocol_new(worker->store);
        if (worker->protocol == NULL) {
            die("no protocol");
        }
    }
    bench->inputs = 0;
}

static void
tick(struct bench *bench)
{
    for (unsigned i = 0; i < WORKER_COUNT; i++) {
        store_tick(bench->workers[i].store);
    }
}

void
bench_empty(struct bench *bench)
{
    struct store *store = bench->workers[0].store;
    tick(bench);
    store_flush_all(store, 0);
    tick(bench);
    atomic_store(&store_superblock(store)->last_cas, 0);
    for (unsigned i = 0; i < CONFIG_COUNT_MAX; i++) {
        atomic_store(&store_run(store)->configs.states[i], 0);
    }
}

void
bench_advance(struct bench *bench, int64_t seconds)
{
    if (store_uptime_s(bench->workers[0].store) + seconds < UPTIME_S_MAX) {
        atomic_fetch_add(&bench->segment->run->advance_s, seconds);
    }
    tick(bench);
}

static void
print_finding(void *context, const char *sentence)
{
    unsigned *count = context;
    (*count)++;
    fprintf(stderr, "fuzz_protocol: %s\n", sentence);
}

void
bench_check(struct bench *bench)
{
    unsigned count = 0;
    if (store_check(bench->workers[0].store, print_finding, &count) != 0 || count != 0) {
        die("the segment does not agree with itself");
    }
    for (unsigned i = 0; i < WORKER_COUNT; i++) {
        const struct process_slot *slot = &bench->segment->slots[SLOT_WORKER_FIRST + i];
        const struct held_table *held = &bench->segment->held[SLOT_WORKER_FIRST + i];
        if (atomic_load(&slot->held_bytes) != 0) {
            die("bytes are held by nobody");
        }
        for (unsigned at = 0; at < PIN_COUNT_MAX; at++) {
            if (atomic_load(&held->pins[at].head_ref) != 0) {
                die("a pin is left");
            }
        }
        for (unsigned at = 0; at < UPLOAD_COUNT_MAX; at++) {
            if (atomic_load(&held->uploads[at].head_ref) != 0) {
                die("an upload is left");
            }
        }
    }
}

/* What was flushed is swept: a chunk that nobody finds again would still be counted. */
static void
check_nothing_stays(struct bench *bench)
{
    struct store *store = bench->workers[0].store;
    bench_empty(bench);
    struct store_sums sums = {0};
    for (unsigned steps = 0; steps < MAINTAIN_STEPS_MAX; steps++) {
        if (!store_maintain(store)) {
            store_sum(store, &sums);
            if (sums.curr_items == 0) {
                return;
            }
            /* The next pass begins a few seconds later. */
            atomic_fetch_add(&bench->segment->run->advance_s, 1);
            tick(bench);
        }
    }
    fprintf(stderr, "%llu items at second %u\n", (unsigned long long)sums.curr_items,
            store_uptime_s(store));
    die("items stay that were flushed");
}

void
bench_close(struct bench *bench)
{
    if (bench->segment == NULL) {
        return;
    }
    bench_check(bench);
    check_nothing_stays(bench);
    bench_check(bench);
    for (unsigned i = 0; i < WORKER_COUNT; i++) {
        protocol_free(bench->workers[i].protocol);
        store_close(bench->workers[i].store);
    }
    segment_close(bench->segment);
    bench->segment = NULL;
}

void
bench_played(struct bench *bench)
{
    if (++bench->inputs == SEGMENT_INPUTS) {
        bench_close(bench);
    }
}
