/* Several writing and reading processes on one segment, killed by SIGKILL at random moments for a
 * while: nothing acknowledged is lost, nothing is torn, the segment stays sound.
 *
 * usage: torture CHILDREN KILLS SEED */
#include "ledger.h"
#include "repair_times.h"

#include <sys/prctl.h>
#include <time.h>

/* Reads keys of everybody; a value of several bytes is a tear unless it is a counter. */
static void
read_somewhere(struct store *store, struct ledger *ledgers, unsigned children)
{
    static uint8_t bytes[VALUE_MAX];
    struct ledger *own = ledger;
    struct key key;
    char text[32];
    struct belief found = {0};
    ledger = &ledgers[draw(children)];
    make_key(store, &key, text, (int)draw(KEY_COUNT));
    ledger = own;
    if (!read_value(store, &key, bytes, &found) || found.value_len == 0 ||
        (bytes[0] >= '0' && bytes[0] <= '9')) {
        return;
    }
    for (uint32_t i = 1; i < found.value_len; i++) {
        if (bytes[i] != bytes[0]) {
            printf("%s is torn at byte %u of %u\n", text, i, found.value_len);
            fflush(stdout);
            _exit(3);
        }
    }
}

static void
child(struct segment *segment, unsigned index, struct ledger *ledgers, unsigned children,
      uint64_t seed)
{
    static uint8_t buffer[VALUE_MAX];
    random_state = seed;
    ledger = &ledgers[index];
    segment_claim_slot(segment, SLOT_WORKER_FIRST + index);
    struct store *store = store_open(segment, SLOT_WORKER_FIRST + index);
    for (;;) {
        operate(store, buffer);
        read_somewhere(store, ledgers, children);
    }
}

static pid_t
spawn(struct segment *segment, unsigned index, struct ledger *ledgers, unsigned children,
      uint64_t seed)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        child(segment, index, ledgers, children, seed);
    }
    return pid;
}

int
main(int argc, char **argv)
{
    if (argc < 4) {
        return 2;
    }
    unsigned children = (unsigned)atoi(argv[1]), kills = (unsigned)atoi(argv[2]);
    uint64_t seed = strtoull(argv[3], NULL, 10);
    pid_t pids[8];
    /* Large enough that nothing is evicted: then every acknowledged value must be there. */
    struct segment *segment = segment_make(128);
    struct ledger *ledgers = ledgers_make(children);
    struct store *store = store_open(segment, SLOT_SUPERVISOR);
    for (unsigned i = 0; i < children; i++) {
        pids[i] = spawn(segment, i, ledgers, children, seed * 31 + i + 1);
    }
    random_state = seed;
    struct recovery sum = {0};
    struct repair_times times = {0};
    for (unsigned i = 0; i < kills; i++) {
        struct timespec pause = {.tv_nsec = (long)(200000 + draw(3000000))};
        nanosleep(&pause, NULL);
        unsigned index = (unsigned)draw(children);
        int status;
        kill(pids[index], SIGKILL);
        waitpid(pids[index], &status, 0);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
            printf("child %u ended by itself, status %d, seed %" PRIu64 "\n", index, status, seed);
            return 1;
        }
        struct recovery recovery;
        recover_timed(store, SLOT_WORKER_FIRST + index, &recovery, &times);
        sum.shards_repaired += recovery.shards_repaired;
        sum.shards_rebuilt += recovery.shards_rebuilt;
        sum.uploads_freed += recovery.uploads_freed;
        sum.pins_released += recovery.pins_released;
        ledger = &ledgers[index];
        verify(store);
        pids[index] = spawn(segment, index, ledgers, children, seed * 7919 + i);
    }
    uint64_t operations = 0;
    for (unsigned i = 0; i < children; i++) {
        struct recovery recovery;
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
        store_recover(store, SLOT_WORKER_FIRST + i, &recovery);
    }
    for (unsigned i = 0; i < children; i++) {
        ledger = &ledgers[i];
        verify(store);
        operations += ledger->operations;
    }
    expect_sound(segment, store, "at the end");
    for (unsigned i = 0; i < children; i++) {
        ledger = &ledgers[i];
        delete_everything(store);
    }
    expect_sound(segment, store, "when all is deleted");
    expect_nothing_left(segment, store);
    repair_times_print(&times);
    printf("%u kills, %" PRIu64 " operations, %" PRIu64 " repairs by the parent, %" PRIu64
           " rebuilds, %" PRIu64 " uploads and %" PRIu64 " pins freed\n",
           kills, operations, sum.shards_repaired, sum.shards_rebuilt, sum.uploads_freed,
           sum.pins_released);
    store_close(store);
    segment_close(segment);
    return sum.shards_rebuilt == 0 ? 0 : 1;
}
