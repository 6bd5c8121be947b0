/* Whatever filled the cache before, a set that fits succeeds.
 *
 * Fills a segment with phases of values of many sizes and expects every set to be stored. What does
 * not fit may be refused: more pages than the limit has, less those of tables and those in which a
 * pinned value or an upload lies. In turns the workers are handles of one process, so that
 * what is refused can be judged exactly; at the same time they are processes, which hand in longer
 * values as the protocol does: piece by piece, waiting for the share of uploads.
 *
 * usage: room turns|processes MEGABYTES ITEM_BYTES_MAX POLICY WORKERS SEED PHASE...
 * PHASE: MIN-MAX:VOLUME:KEYS:EXPIRED:DELETED:HELD value bytes; percent of the memory to write;
 *        different keys; percent of sets that expire at once, that are followed by a delete, and
 *        that are preceded by an upload that stays half-finished or by a pin */
#include "settings.h"

#include "store/check.h"
#include "store/slab.h"
#include "store/store.h"
#include "store/walk.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS_HERE_MAX 8
#define HELD_HERE_MAX 64
#define SETS_MIN 40
#define SETS_MAX 400000

struct phase {
    uint64_t value_min, value_max;
    unsigned volume_percent, key_count, expired_percent, deleted_percent, held_percent;
};

/* A half-finished upload or a pin that its worker keeps. */
struct kept {
    struct store *store;
    struct upload upload;
    struct pin pin;
};

struct run {
    struct segment *segment;
    struct store *workers[WORKERS_HERE_MAX];
    unsigned worker_count;
    uint64_t memory_bytes, item_bytes_max;
    uint8_t *value;
    struct kept kept[HELD_HERE_MAX]; /* a ring, oldest first */
    unsigned kept_first, kept_count;
    uint64_t random_state;
    unsigned refused;
};

static uint64_t
draw(struct run *run, uint64_t below)
{
    run->random_state ^= run->random_state << 13;
    run->random_state ^= run->random_state >> 7;
    run->random_state ^= run->random_state << 17;
    return run->random_state % below;
}

static bool
happens(struct run *run, unsigned percent)
{
    return draw(run, 100) < percent;
}

/* As many of each power of two. */
static uint32_t
draw_len(struct run *run, const struct phase *phase)
{
    double low = log((double)phase->value_min + 1);
    double high = log((double)phase->value_max + 1);
    double at = low + (high - low) * (double)draw(run, 1u << 20) / (1u << 20);
    uint64_t len = (uint64_t)(exp(at) - 0.5);
    return (uint32_t)(len < phase->value_max ? len : phase->value_max);
}

/* ---- what fits ------------------------------------------------------------------------------ */

struct count {
    const struct store *store;
    uint64_t fixed_pages; /* of tables, and with a chunk that cannot go */
};

static bool
is_held(const struct store *store, const struct item *item)
{
    uint32_t kind = state_kind(chunk_state((void *)item));
    return kind == CHUNK_UPLOAD || kind == CHUNK_DETACHED ||
           (kind == CHUNK_LIVE && item_is_pinned(store, ref_of(store, item), NULL));
}

static void
count_page(void *context, uint32_t number, uint32_t kind)
{
    struct count *count = context;
    const struct store *store = count->store;
    bool fixed = kind == PAGE_KIND_TABLE;
    for (uint32_t slot = 0; !fixed && slot < slab_chunks_per_page(store, kind); slot++) {
        struct item *item = ref_at(store, chunk_ref(store, number, kind, slot));
        if (state_kind(chunk_state(item)) == CHUNK_CONT) {
            item = ref_at(store, (struct ref){((struct continuation *)(void *)item)->head});
        }
        fixed = is_held(store, item);
    }
    count->fixed_pages += fixed;
}

/* Pages that can be emptied for a set. */
static uint64_t
movable_pages(const struct store *store)
{
    struct count count = {.store = store};
    for (uint32_t i = 0; i < store->superblock->shard_count; i++) {
        each_page(store, &store->shards[i], count_page, &count);
    }
    return atomic_load(&store->superblock->pool.effective_count) - count.fixed_pages;
}

/* Pages that a set takes at most: of its chunks, of its last one, and two of the table. */
static uint64_t
needed_pages(const struct store *store, uint64_t value_len)
{
    uint64_t chunks =
        1 + (value_len + PLAIN_KEY_LEN_MAX) / (store->chunk_bytes_max - ITEM_HEADER_BYTES);
    return (chunks + 1) / 2 + 3;
}

/* ---- holding -------------------------------------------------------------------------------- */

static void
keep_no_more(struct run *run)
{
    struct kept *oldest = &run->kept[run->kept_first];
    store_upload_abort(oldest->store, &oldest->upload);
    store_unpin(oldest->store, &oldest->pin);
    run->kept_first = (run->kept_first + 1) % HELD_HERE_MAX;
    run->kept_count--;
}

static struct kept *
keep_next(struct run *run, struct store *store)
{
    if (run->kept_count == HELD_HERE_MAX) {
        keep_no_more(run);
    }
    struct kept *kept = &run->kept[(run->kept_first + run->kept_count) % HELD_HERE_MAX];
    *kept = (struct kept){.store = store};
    return kept;
}

/* Uploads a part of the value; false if the store had no room for it. */
static bool
upload_part(struct store *store, struct upload *upload, uint32_t bytes)
{
    while (upload->received < bytes) {
        uint8_t *space;
        enum put_result result;
        uint32_t room = store_upload_space(store, upload, &space, &result);
        if (room == 0) {
            return false;
        }
        /* Others come in between, as they do while a value arrives. */
        sched_yield();
        uint32_t left = bytes - upload->received;
        store_upload_advance(store, upload, room < left ? room : left);
    }
    return true;
}

/* Leaves an upload half-finished, or the key's value pinned. */
static bool
hold_something(struct run *run, struct store *store, const struct put *put)
{
    struct kept *kept = keep_next(run, store);
    if (happens(run, 50)) {
        run->kept_count += store_pin(store, &put->key, &kept->pin) == PIN_OK;
        return true;
    }
    enum put_result begun = PUT_WAIT;
    if (put->value_len > store_put_len_max(store, put->key.len)) {
        begun = store_upload_begin(store, put, &kept->upload);
    }
    run->kept_count += begun == PUT_STORED;
    if (begun != PUT_STORED) {
        return begun == PUT_WAIT;
    }
    return upload_part(store, &kept->upload, (uint32_t)draw(run, put->value_len));
}

/* ---- sets ----------------------------------------------------------------------------------- */

static enum put_result
set_in_pieces(struct run *run, struct store *store, struct put *put)
{
    struct upload upload = {0};
    enum put_result result;
    while ((result = store_upload_begin(store, put, &upload)) == PUT_WAIT) {
        if (run->kept_count > 0) {
            keep_no_more(run); /* As a node gives up who stalls while others wait. */
        } else {
            usleep(100);
        }
    }
    if (result != PUT_STORED) {
        return result;
    }
    if (!upload_part(store, &upload, put->value_len)) {
        store_upload_abort(store, &upload);
        return PUT_NO_MEMORY;
    }
    return store_upload_commit(store, put, &upload);
}

static bool
is_there(struct store *store, const struct put *put)
{
    struct view view = {0};
    enum view_result result = store_view(store, &put->key, &view);
    return result == VIEW_HIT_LARGE ||
           (result == VIEW_HIT && store_view_confirm(store, &view, VIEW_PEEK));
}

/* The set is done; false if it was refused although it fits. */
static bool
set_succeeds(struct run *run, struct store *store, struct put *put, bool in_pieces, bool alone)
{
    enum put_result result = in_pieces ? set_in_pieces(run, store, put) : store_put(store, put);
    if (result == PUT_STORED) {
        if (alone && !is_there(store, put)) {
            printf("stored and not there: ");
            return false;
        }
        return true;
    }
    if (!alone) {
        return false;
    }
    uint64_t movable = movable_pages(store);
    uint64_t needed = needed_pages(store, put->value_len);
    printf("result %d, %llu pages could be had, %llu are needed at most: ", result,
           (unsigned long long)movable, (unsigned long long)needed);
    return movable < needed;
}

static bool
step(struct run *run, const struct phase *phase, struct store *store, bool alone)
{
    char text[32];
    struct put put = {.value = run->value, .value_len = draw_len(run, phase)};
    /* Of processes that write at the same time each has its own keys. */
    int len = sprintf(text, "%d-%llu", alone ? 0 : (int)getpid(),
                      (unsigned long long)draw(run, phase->key_count));
    key_init(store, &put.key, text, (uint32_t)len);
    if (happens(run, phase->held_percent) && !hold_something(run, store, &put)) {
        printf("an upload found no room: ");
    }
    bool expires = happens(run, phase->expired_percent);
    put.expire = store_expiry(store, expires ? 1 : 0);
    bool large = put.value_len > store_put_len_max(store, put.key.len);
    bool in_pieces = large && (!alone || happens(run, 50));
    bool succeeds = set_succeeds(run, store, &put, in_pieces, alone);
    if (happens(run, phase->deleted_percent)) {
        (void)!store_delete(store, &put.key);
    }
    if (!succeeds) {
        printf("%u bytes %s\n", put.value_len, in_pieces ? "in pieces" : "at once");
    }
    return succeeds;
}

/* False at the first set that was refused. */
static bool
phase_run(struct run *run, const struct phase *phase, unsigned number, bool alone)
{
    uint64_t left = run->memory_bytes / 100 * phase->volume_percent;
    for (unsigned i = 0; i < SETS_MAX && (i < SETS_MIN || left > 0); i++) {
        struct store *store = run->workers[draw(run, run->worker_count)];
        store_tick(store);
        if (!step(run, phase, store, alone)) {
            printf("refused: phase %u, set %u\n", number, i);
            return false;
        }
        uint64_t bytes = (phase->value_min + phase->value_max) / 2 + 60;
        left -= bytes < left ? bytes : left;
    }
    if (phase->expired_percent > 0 && alone) {
        atomic_fetch_add(&run->segment->run->advance_s, 10);
    }
    return true;
}

static bool
phases_run(struct run *run, const struct phase *phases, unsigned count, bool alone)
{
    for (unsigned i = 0; i < count; i++) {
        if (!phase_run(run, &phases[i], i, alone)) {
            return false;
        }
    }
    while (run->kept_count > 0) {
        keep_no_more(run);
    }
    return true;
}

static bool
run_in_turns(struct run *run, const struct phase *phases, unsigned count)
{
    for (unsigned i = 0; i < run->worker_count; i++) {
        segment_claim_slot(run->segment, SLOT_WORKER_FIRST + i);
        run->workers[i] = store_open(run->segment, SLOT_WORKER_FIRST + i);
    }
    bool passed = phases_run(run, phases, count, true);
    for (unsigned i = 0; i < run->worker_count; i++) {
        store_close(run->workers[i]);
    }
    return passed;
}

static bool
run_in_processes(struct run *run, const struct phase *phases, unsigned count)
{
    unsigned process_count = run->worker_count;
    run->worker_count = 1;
    for (unsigned i = 0; i < process_count; i++) {
        if (fork() == 0) {
            alarm(120);
            run->random_state += i * 7919;
            segment_claim_slot(run->segment, SLOT_WORKER_FIRST + i);
            run->workers[0] = store_open(run->segment, SLOT_WORKER_FIRST + i);
            bool passed = phases_run(run, phases, count, false);
            fflush(stdout);
            _exit(!passed);
        }
    }
    int failed = 0, status;
    while (wait(&status) > 0) {
        failed |= status;
    }
    return !failed;
}

/* ---- the command line ----------------------------------------------------------------------- */

static void
print_problem(void *context, const char *sentence)
{
    (void)context;
    puts(sentence);
}

static bool
parse_phase(const char *text, struct phase *phase)
{
    unsigned long long low, high;
    int fields = sscanf(text, "%llu-%llu:%u:%u:%u:%u:%u", &low, &high, &phase->volume_percent,
                        &phase->key_count, &phase->expired_percent, &phase->deleted_percent,
                        &phase->held_percent);
    phase->value_min = low;
    phase->value_max = high;
    return fields == 7 && low <= high && phase->key_count > 0;
}

static uint32_t
parse_policy(const char *text)
{
    uint32_t policy = 0;
    while (policy < POLICY_COUNT && strcmp(policy_names[policy], text) != 0) {
        policy++;
    }
    return policy;
}

int
main(int argc, char **argv)
{
    struct phase phases[16];
    unsigned phase_count = argc > 7 ? (unsigned)argc - 7 : 0;
    if (phase_count == 0 || phase_count > 16) {
        return 2;
    }
    struct run run = {.memory_bytes = strtoull(argv[2], NULL, 10) << 20,
                      .item_bytes_max = strtoull(argv[3], NULL, 10),
                      .worker_count = (unsigned)atoi(argv[5]),
                      .random_state = (strtoull(argv[6], NULL, 10) + 1) * 0x9E3779B97F4A7C15u};
    struct segment_settings settings = small_settings(run.memory_bytes, WORKERS_HERE_MAX);
    settings.item_size_max_bytes = run.item_bytes_max;
    settings.eviction_policy = parse_policy(argv[4]);
    char sentence[SEGMENT_SENTENCE_MAX];
    if (settings.eviction_policy == POLICY_COUNT || run.worker_count > WORKERS_HERE_MAX ||
        store_create(&settings, &run.segment, sentence) != SEGMENT_OK) {
        return 2;
    }
    /* So that a seed repeats the run. */
    struct superblock *superblock = run.segment->superblock;
    if (mprotect(superblock->constants, CONSTANTS_BYTES, PROT_READ | PROT_WRITE) != 0) {
        return 2;
    }
    superblock->hash_key = (struct siphash_key){{run.random_state, 0}};
    run.value = calloc(1, run.item_bytes_max);
    for (unsigned i = 0; i < phase_count; i++) {
        if (!parse_phase(argv[7 + i], &phases[i])) {
            return 2;
        }
        /* What -I lets in, with memcached's overhead and the longest key. */
        uint64_t largest = run.item_bytes_max - 64 - 32;
        phases[i].value_max = phases[i].value_max < largest ? phases[i].value_max : largest;
    }
    bool passed = strcmp(argv[1], "turns") == 0 ? run_in_turns(&run, phases, phase_count)
                                                : run_in_processes(&run, phases, phase_count);
    struct store *store = store_open(run.segment, SLOT_SUPERVISOR);
    unsigned problems = store_check(store, print_problem, NULL);
    store_close(store);
    segment_close(run.segment);
    free(run.value);
    printf("%s, %u problems\n", passed ? "all stored" : "refused", problems);
    return !passed || problems != 0;
}
