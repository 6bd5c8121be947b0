/* Kills a child by SIGKILL at the n-th pass through any crash point, for n = 1, 2, 3 …, while it
 * changes one segment, and checks after each death: the segment is sound, every acknowledged
 * operation happened (value, flags, expiry, cas and counters as they were told), the unanswered one
 * happened whole or not at all, and, when all is deleted, no memory leaked.
 *
 * usage: crash_sweep FIRST STEP COUNT SEED [POINT]
 * Prints a summary; exits 1 at the first thing wrong. */
#include "ledger.h"
#include "repair_times.h"

#include "store/shrink.h"
#include "store/sweep.h"

#define MEGABYTES 16
#define OPERATIONS_MAX 4000
#define FILLER_COUNT 30000

/* So many deaths, and all is deleted: what is left then was lost. */
#define DELETE_EVERY 8

/* Gives free pages to the host, evicting nothing, and lifts the limit again. */
static void
shrink_and_grow(struct segment *segment, struct store *store)
{
    struct store_sums sums;
    store_sum(store, &sums);
    uint64_t bytes = sums.pages << segment->superblock->page_shift;
    if (store_set_memory_limit(store, bytes)) {
        while (store_shrink(store)) {
        }
    }
    if (!store_set_memory_limit(store, MEGABYTES << 20)) {
        die_of("the limit was not lifted", -1);
    }
}

/* Keys beside the ledger's: so many that tables split, and some that are dead at once and left to
 * the sweep. */
static void
fill(struct store *store, const char *kind, int index, struct expiry expire)
{
    char text[32];
    struct put put = {
        .mode = PUT_SET, .value = (const uint8_t *)"1", .value_len = 1, .expire = expire};
    key_init(store, &put.key, text, (uint32_t)sprintf(text, "%s%d", kind, index));
    (void)!store_put(store, &put);
}

static void
delete_fillers(struct store *store)
{
    for (int index = 0; index < FILLER_COUNT; index++) {
        char text[32];
        struct key key;
        key_init(store, &key, text, (uint32_t)sprintf(text, "filler%d", index));
        (void)!store_delete(store, &key);
    }
    store->sweep = (struct sweep_pass){0};
    while (store_sweep(store)) {
    }
}

static void
child(struct segment *segment, unsigned slot, unsigned pass, const char *point, uint64_t seed)
{
    random_state = seed;
    static uint8_t buffer[VALUE_MAX];
    segment_claim_slot(segment, slot);
    struct store *store = store_open(segment, slot);
    crash_arm(point, pass);
    for (int i = 0; i < OPERATIONS_MAX; i++) {
        if (i % 64 == 0) {
            shrink_and_grow(segment, store);
            store->sweep = (struct sweep_pass){0};
            (void)!store_sweep(store);
        }
        for (int j = 0; j < 3; j++) {
            fill(store, "filler", (int)draw(FILLER_COUNT), (struct expiry){0});
        }
        if (i % 4 == 0) {
            fill(store, "dead", (int)draw(FILLER_COUNT), store_expiry(store, -1));
        }
        operate(store, buffer);
    }
    store_close(store);
    _exit(0);
}

int
main(int argc, char **argv)
{
    if (argc < 5) {
        return 2;
    }
    unsigned first = (unsigned)atoi(argv[1]), step = (unsigned)atoi(argv[2]);
    unsigned count = (unsigned)atoi(argv[3]), deaths = 0;
    uint64_t seed = strtoull(argv[4], NULL, 10);
    const char *point = argc > 5 ? argv[5] : "*";
    struct repair_times times = {0};
    struct segment *segment = segment_make(MEGABYTES);
    ledger = ledgers_make(1);
    struct store *store = store_open(segment, SLOT_SUPERVISOR);
    for (unsigned i = 0; i < count; i++) {
        unsigned pass = first + i * step;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            child(segment, SLOT_WORKER_FIRST, pass, point, seed + i * 2654435761u);
        }
        int status;
        waitpid(pid, &status, 0);
        if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL) {
            printf("pass %u: the child died of signal %d\n", pass, WTERMSIG(status));
            return 1;
        }
        deaths += WIFSIGNALED(status);
        struct recovery recovery;
        char when[128];
        recover_timed(store, SLOT_WORKER_FIRST, &recovery, &times);
        snprintf(when, sizeof(when), "after pass %u of %s, seed %" PRIu64, pass, point, seed);
        expect_sound(segment, store, when);
        if (recovery.shards_rebuilt != 0) {
            printf("%s: an undo was not enough\n", when);
            return 1;
        }
        verify(store);
        if (i % DELETE_EVERY == DELETE_EVERY - 1) {
            delete_everything(store);
            delete_fillers(store);
            expect_sound(segment, store, when);
            expect_nothing_left(segment, store);
        }
    }
    repair_times_print(&times);
    printf("%u deaths, %" PRIu64 " operations, sound after each\n", deaths, ledger->operations);
    store_close(store);
    segment_close(segment);
    return 0;
}
