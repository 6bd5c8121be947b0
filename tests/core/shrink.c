/* The memory limit moves up and down while processes set and get, and each of them dies by SIGKILL
 * at some crash point: the segment stays sound, values are never mixed up, and what is above the
 * limit goes back to the host.
 *
 * usage: shrink MEGABYTES WRITERS ROUNDS SEED */
#include "ledger.h"

#include "base/clock.h"
#include "store/shrink.h"

#include <sys/stat.h>

#define KEYS 4000
#define OPERATIONS_MAX 3000
#define PASSES_MAX 60000

/* What the directory of pages and of tables may take beside pages, and an extent under way. */
#define OVERHEAD_BYTES (3u << 20)

/* A value is one byte, repeated; which one its key says. */
static uint8_t
fill_of(uint64_t number)
{
    return (uint8_t)(number * 31 + 7);
}

static void
set_or_get(struct store *store, uint8_t *buffer)
{
    uint64_t number = draw(KEYS);
    char text[32];
    struct key key;
    key_init(store, &key, text, (uint32_t)sprintf(text, "key-%" PRIu64, number));
    if (draw(2)) {
        struct put put = {.key = key, .value = buffer, .value_len = draw_len() / 4};
        memset(buffer, fill_of(number), put.value_len);
        if (store_put(store, &put) != PUT_STORED) {
            die_of("was not stored", (int)number);
        }
        return;
    }
    struct belief found = {0};
    if (read_value(store, &key, buffer, &found)) {
        for (uint32_t i = 0; i < found.value_len; i++) {
            if (buffer[i] != fill_of(number)) {
                die_of("holds another key's value", (int)number);
            }
        }
    }
}

static void
move_limit(struct store *store, unsigned megabytes)
{
    unsigned least = megabytes / 8 + 1;
    uint64_t bytes = (least + draw(megabytes - least + 1)) << 20;
    if (!store_set_memory_limit(store, bytes)) {
        return; /* The tables may have become too large for it. */
    }
    for (unsigned i = 0; i < 200 && store_shrink(store); i++) {
    }
}

static void
child(struct segment *segment, unsigned slot, unsigned megabytes, bool moves)
{
    static uint8_t buffer[VALUE_MAX];
    segment_claim_slot(segment, slot);
    struct store *store = store_open(segment, slot);
    crash_arm("*", 1 + (unsigned)draw(moves ? PASSES_MAX / 10 : PASSES_MAX));
    for (int i = 0; i < OPERATIONS_MAX; i++) {
        if (moves && i % 4 == 0) {
            move_limit(store, megabytes);
        }
        set_or_get(store, buffer);
    }
    store_close(store);
    _exit(0);
}

static uint64_t
file_bytes(const struct segment *segment)
{
    struct stat about;
    if (fstat(segment->fd, &about) != 0) {
        exit(2);
    }
    return (uint64_t)about.st_blocks * 512;
}

/* With nobody else there, all that is above the limit goes. */
static void
expect_within_limit(struct segment *segment, struct store *store, const char *when)
{
    while (store_shrink(store)) {
    }
    uint64_t limit = atomic_load(&segment->run->settings.memory_limit_bytes);
    uint64_t bytes = file_bytes(segment);
    if (pool_is_over(segment) || bytes > limit + OVERHEAD_BYTES) {
        printf("%s: %" PRIu64 " KiB in use of a limit of %" PRIu64 " KiB\n", when, bytes >> 10,
               limit >> 10);
        exit(1);
    }
}

int
main(int argc, char **argv)
{
    if (argc < 5) {
        return 2;
    }
    unsigned megabytes = (unsigned)atoi(argv[1]), writers = (unsigned)atoi(argv[2]);
    unsigned rounds = (unsigned)atoi(argv[3]), deaths = 0;
    uint64_t seed = strtoull(argv[4], NULL, 10);
    struct segment *segment = segment_make(megabytes);
    ledger = ledgers_make(1);
    struct store *store = store_open(segment, SLOT_SUPERVISOR);
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i <= writers; i++) {
            fflush(stdout);
            if (fork() == 0) {
                random_state = (seed + 1) * 7919 + round * 131 + i;
                bool moves = i == writers;
                child(segment, moves ? SLOT_MAINTAINER : SLOT_WORKER_FIRST + i, megabytes, moves);
            }
        }
        int status;
        while (wait(&status) > 0) {
            if (WIFEXITED(status) ? WEXITSTATUS(status) != 0 : WTERMSIG(status) != SIGKILL) {
                printf("round %u: a child ended with status %#x\n", round, status);
                return 1;
            }
            deaths += WIFSIGNALED(status);
        }
        struct recovery recovery;
        for (unsigned i = 0; i < writers; i++) {
            store_recover(store, SLOT_WORKER_FIRST + i, &recovery);
        }
        store_recover(store, SLOT_MAINTAINER, &recovery);
        char when[64];
        snprintf(when, sizeof(when), "after round %u, seed %" PRIu64, round, seed);
        expect_sound(segment, store, when);
        expect_within_limit(segment, store, when);
        expect_sound(segment, store, when);
    }
    printf("%u deaths, sound and within the limit after each round\n", deaths);
    store_close(store);
    segment_close(segment);
    return deaths == 0;
}
