/* Kills a process after every single instruction of one operation, for operations of every kind,
 * and looks after each death: the segment is sound, what was not answered happened whole or not at
 * all, what was answered did, everything else is as it was, the cache works on, and no chunk and no
 * page is lost. The program is the code as released, without debugging aids.
 *
 * With REPAIRS, deaths of each operation are then repaired by a process that is killed after every
 * single instruction of the repair: the one with the longest journal, one with a chain half freed,
 * and others at random, up to so many.
 *
 * usage: single_step SEED REPAIRS [OPERATION [FIRST [LAST]]]
 *        single_step list
 * Prints a row an operation; exits 1 if anything was wrong. */
#include "../core/repair_times.h"
#include "operations.h"
#include "stepper.h"
#include "world.h"

#include <sched.h>
#include <stdarg.h>
#include <time.h>

#define PROBLEMS_SHOWN_MAX 5

/* What is looked for after a death. */
struct trial {
    const struct operation *operation;
    struct world *world;
    struct progress *progress;
    struct snapshot start;
    struct fact *before, *after; /* by key, without and with the operation */
    uint64_t seed;
    unsigned problems, kills, played, diverged;
    uint64_t cas_max;  /* of what was found after the death */
    const char *phase; /* "operation", or "repair" after so many of its instructions */
    uint32_t at, repair_at;
    bool victim_answered;
    /* Where the journal was longest, and where a chain was first half freed. */
    uint32_t longest, longest_at, reclaiming_at;
};

static uint64_t random_state;

static uint32_t
draw(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state % below);
}

static struct repair_times repair_times;

static void PRINTF_LIKE(2, 3) problem(struct trial *trial, const char *format, ...)
{
    if (trial->problems++ >= PROBLEMS_SHOWN_MAX) {
        return;
    }
    printf("%s, dead after %u instructions", trial->operation->name, trial->at);
    if (trial->phase != NULL) {
        printf(", its repairer after %u", trial->repair_at);
    }
    printf(", seed %" PRIu64 ": ", trial->seed);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
}

/* ---- the processes that die ----------------------------------------------------------------- */

static void
victim(void *context)
{
    struct trial *trial = context;
    bool done = trial->operation->run(trial->world);
    trial->progress->failed = !done;
    trial->progress->answered = true;
    trial->progress->finished = true;
}

static void
repairer(void *context)
{
    struct trial *trial = context;
    struct recovery recovery;
    store_recover(trial->world->second, SLOT_VICTIM, &recovery);
    trial->progress->finished = true;
}

/* ---- the verdict ---------------------------------------------------------------------------- */

static void
check_facts(struct trial *trial, bool answered)
{
    struct world *world = trial->world;
    unsigned kept = 0, changed = 0;
    trial->cas_max = 0;
    /* A reader may be the first to meet what the dead one left. */
    struct store *reader = trial->at % 2 ? world->judge : world->second;
    for (unsigned i = 0; i < world->key_count; i++) {
        struct fact found = read_fact(reader, i);
        const struct fact *before = &trial->before[i], *after = &trial->after[i];
        bool is_before = facts_equal(&found, before);
        bool is_after = facts_equal(&found, after);
        if (facts_equal(before, after) ? !is_before : !is_before && !is_after) {
            problem(trial,
                    "key %u is neither as before nor as after: exists %d, %u bytes, flags %u, "
                    "expires %u, cas %" PRIu64 " (before %d, %u, %u, %u, %" PRIu64 ")",
                    i, found.exists, found.value_len, found.client_flags, found.expire_word,
                    found.cas, before->exists, before->value_len, before->client_flags,
                    before->expire_word, before->cas);
        }
        if (!is_before && trial->operation->tracks && !fact_is_tracked(world, i)) {
            problem(trial, "key %u has changed, and its bit is not set", i);
        }
        trial->cas_max = found.cas > trial->cas_max ? found.cas : trial->cas_max;
        kept += !is_after;
        changed += !is_before;
    }
    if (answered && kept > 0) {
        problem(trial, "%u keys are as before an operation that was answered", kept);
    }
    if (kept > 0 && changed > 0 && !trial->operation->piecemeal) {
        problem(trial, "half happened: %u keys as before, %u as after", kept, changed);
    }
}

static void
print_sentence(void *context, const char *sentence)
{
    const struct trial *trial = context;
    if (trial->problems < PROBLEMS_SHOWN_MAX) {
        printf("  %s\n", sentence);
    }
}

static void
check_sound(struct trial *trial, const char *when)
{
    if (store_check(trial->world->judge, print_sentence, trial) != 0) {
        problem(trial, "the segment is not sound %s", when);
    }
    if (!pages_add_up(trial->world)) {
        problem(trial, "a page is lost %s", when);
    }
}

/* Every page is empty, or the table's or the ghost's. */
static void
check_nothing_is_left(struct trial *trial)
{
    struct world *world = trial->world;
    for (uint32_t i = 0; i < world->segment->superblock->shard_count; i++) {
        const struct shard *shard = &world->judge->shards[i];
        uint32_t pages = shard->table_page_count + shard->ghost_page_count;
        for (uint32_t class_id = 1; class_id <= world->segment->superblock->class_count;
             class_id++) {
            const struct class_list *list = &shard->classes[class_id];
            pages += list->page_count;
            if (list->empty_count != list->page_count) {
                problem(trial, "class %u has %u pages, %u empty, though no key is left", class_id,
                        list->page_count, list->empty_count);
            }
        }
        if (pages != shard->page_count) {
            problem(trial, "%u pages of a shard, %u of its classes, table and ghost",
                    shard->page_count, pages);
        }
    }
    for (unsigned i = SLOT_SUPERVISOR; i <= SLOT_SECOND; i++) {
        const struct process_slot *slot = &world->segment->slots[i];
        const struct held_table *held = &world->segment->held[i];
        if (atomic_load(&slot->held_bytes) != 0 || atomic_load(&held->page_in_flight) != 0) {
            problem(trial, "slot %u still holds something", i);
        }
    }
}

/* The configuration is what it was or what it was to be, and may be changed. */
static void
check_config(struct trial *trial, bool answered)
{
    bool (*run)(struct world *) = trial->operation->run;
    if (run != run_config_set && run != run_config_delete) {
        return;
    }
    int before = trial->operation->prepare == prepare_config ? CONFIG_OLD : 0;
    int after = run == run_config_set ? CONFIG_NEW : 0;
    int found = config_number(trial->world);
    if (found != after && (answered || found != before)) {
        problem(trial, "a configuration is %d and was %d", found, before);
    }
    if (!config_store(trial->world, CONFIG_LATER) || config_number(trial->world) != CONFIG_LATER) {
        problem(trial, "no configuration can be set any more");
    }
}

/* The cache works on: stores, with a newer cas than any, and loses nothing when all is deleted. */
static void
check_service(struct trial *trial)
{
    struct world *world = trial->world;
    struct recovery recovery;
    store_recover(world->judge, SLOT_SECOND, &recovery);
    static const uint32_t lengths[] = {SMALL, MEDIUM, CHAIN};
    for (unsigned i = 0; i < 3; i++) {
        struct put put = {.key = world->key, .value = read_buffer, .value_len = lengths[i]};
        if (world->key.len == 0) {
            key_make(world->judge, &put.key, world->key_text, 0);
        }
        if (store_put(world->judge, &put) != PUT_STORED) {
            problem(trial, "%u bytes were refused", lengths[i]);
        } else if (put.cas_new <= trial->cas_max) {
            problem(trial, "cas %" PRIu64 " was given after %" PRIu64, put.cas_new, trial->cas_max);
        }
    }
    for (unsigned i = 0; i < world->key_count; i++) {
        struct key key;
        char text[32];
        key_make(world->judge, &key, text, i);
        (void)!store_delete(world->judge, &key);
    }
    check_sound(trial, "when all is deleted");
    check_nothing_is_left(trial);
}

/* The victim is dead, and the repairer if there was one. */
static void
judge(struct trial *trial, bool answered)
{
    struct world *world = trial->world;
    uint64_t rebuilds = probe_take(world).rebuilds;
    struct recovery recovery;
    if (trial->phase != NULL) {
        store_recover(world->judge, SLOT_SECOND, &recovery);
    } else if (trial->at % 2) {
        /* Every other time it is a reader who finds what the dead one left. */
        check_facts(trial, answered);
    }
    if (trial->operation->rebuilds) {
        store_recover(world->judge, SLOT_VICTIM, &recovery);
    } else {
        recover_timed(world->judge, SLOT_VICTIM, &recovery, &repair_times);
    }
    if (probe_take(world).rebuilds != rebuilds && !trial->operation->rebuilds) {
        problem(trial, "an undo was not enough");
    }
    check_sound(trial, "after the repair");
    check_facts(trial, answered);
    check_config(trial, answered);
    check_service(trial);
    snapshot_restore(&trial->start, world);
}

/* ---- a sweep -------------------------------------------------------------------------------- */

struct part {
    uint32_t first, last; /* instructions */
};

static uint32_t
journal_words(struct world *world)
{
    uint32_t words = 0;
    for (uint32_t i = 0; i < world->segment->superblock->shard_count; i++) {
        words += atomic_load(&world->judge->shards[i].journal.count);
    }
    return words;
}

static bool
is_reclaiming(struct world *world)
{
    for (uint32_t i = 0; i < world->segment->superblock->shard_count; i++) {
        if (world->judge->shards[i].reclaiming != 0) {
            return true;
        }
    }
    return false;
}

/* Steps after the nearest breakpoint up to which a real kill is affordable. */
#define STEPS_MAX 64

typedef void verdict_fn(struct trial *trial, uint32_t at);

/* One process's deaths after instructions `first` on, as long as no breakpoint is near; returns
 * where it left off. */
static uint32_t
walk(struct trial *trial, const struct path *path, uint32_t first, uint32_t last, body_fn *body,
     verdict_fn *verdict)
{
    uint32_t at = first;
    pid_t pid = stepper_bring(path, first, body, trial, trial->progress);
    struct snapshot alive;
    snapshot_take(&alive, trial->world);
    for (;; at++) {
        trial->diverged += pid == 0 || stepper_place(pid) != path->at[at];
        snapshot_renew(&alive, trial->world);
        struct progress progress = *trial->progress;
        if (pid != 0) {
            play_death(pid);
        }
        trial->played++;
        verdict(trial, at);
        if (pid == 0 || at == last || at + 1 - path->resume[at + 1] <= STEPS_MAX) {
            break;
        }
        snapshot_restore(&alive, trial->world);
        *trial->progress = progress;
        if (!stepper_step(pid)) {
            pid = 0;
        }
    }
    if (pid != 0) {
        /* Its lock's word lies in memory that others use by now. */
        snapshot_restore(&alive, trial->world);
        stepper_kill(pid);
        snapshot_restore(&trial->start, trial->world);
    }
    snapshot_free(&alive);
    return at;
}

/* A death after each instruction from `first` to `last`, and a verdict on each. */
static void
die_after_each(struct trial *trial, const struct path *path, uint32_t first, uint32_t last,
               body_fn *body, verdict_fn *verdict)
{
    for (uint32_t at = first; at <= last; at++) {
        if (at - path->resume[at] > STEPS_MAX) {
            at = walk(trial, path, at, last, body, verdict);
            continue;
        }
        trial->diverged += !kill_after(path, at, body, trial, trial->progress);
        trial->kills++;
        verdict(trial, at);
    }
}

static void
verdict_on_victim(struct trial *trial, uint32_t at)
{
    trial->at = at;
    uint32_t words = journal_words(trial->world);
    if (words > trial->longest) {
        trial->longest = words;
        trial->longest_at = at;
    }
    if (trial->reclaiming_at == 0 && words > 3 && is_reclaiming(trial->world)) {
        trial->reclaiming_at = at;
    }
    judge(trial, trial->progress->answered);
}

static void
verdict_on_repairer(struct trial *trial, uint32_t at)
{
    trial->repair_at = at;
    judge(trial, trial->victim_answered);
}

/* Kills the repairer of one death after each instruction of its repair. */
static void
sweep_repair(struct trial *trial, const struct path *path, uint32_t at)
{
    struct world *world = trial->world;
    trial->at = at;
    kill_after(path, at, victim, trial, trial->progress);
    trial->victim_answered = trial->progress->answered;
    struct snapshot start = trial->start;
    snapshot_take(&trial->start, world);
    struct path repair;
    path_record(&repair, repairer, trial, trial->progress);
    snapshot_restore(&trial->start, world);
    trial->phase = "repair";
    die_after_each(trial, &repair, 0, repair.count - 1, repairer, verdict_on_repairer);
    trial->phase = NULL;
    snapshot_free(&trial->start);
    trial->start = start;
    path_free(&repair);
    snapshot_restore(&trial->start, world);
}

/* The facts without the operation and with all of it; whether it did what its name says. */
static void
learn(struct trial *trial)
{
    struct world *world = trial->world;
    trial->before = read_facts(world, world->judge);
    snapshot_restore(&trial->start, world);
    struct probe before = probe_take(world);
    *trial->progress = (struct progress){0};
    pid_t pid = stepper_start(victim, trial);
    ptrace(PTRACE_CONT, pid, NULL, NULL);
    while (!trial->progress->finished) {
        sched_yield();
    }
    kill(pid, SIGKILL);
    int status;
    waitpid(pid, &status, 0);
    struct probe after = probe_take(world);
    const struct operation *operation = trial->operation;
    if (trial->progress->failed || (operation->did != NULL && !operation->did(&before, &after))) {
        printf("%s: it did not do what it is named for\n", operation->name);
        exit(2);
    }
    struct recovery recovery;
    store_recover(world->judge, SLOT_VICTIM, &recovery);
    trial->after = read_facts(world, world->judge);
    unsigned differences = 0;
    for (unsigned i = 0; i < world->key_count; i++) {
        differences += !facts_equal(&trial->before[i], &trial->after[i]);
    }
    if ((differences == 0) != operation->keeps) {
        printf("%s: %u facts change\n", operation->name, differences);
        exit(2);
    }
    snapshot_restore(&trial->start, world);
}

static unsigned
sweep(const struct operation *operation, struct progress *progress, uint64_t seed, unsigned repairs,
      const struct part *part)
{
    struct timespec began, ended;
    clock_gettime(CLOCK_MONOTONIC, &began);
    struct trial trial = {.operation = operation, .progress = progress, .seed = seed};
    trial.world =
        world_open(operation->megabytes ? operation->megabytes : 2,
                   operation->pages ? operation->pages : PAGES_MAX, operation->policy, seed);
    segment_claim_slot(trial.world->segment, SLOT_VICTIM);
    operation->prepare(trial.world);
    snapshot_take(&trial.start, trial.world);
    learn(&trial);
    struct path path;
    path_record(&path, victim, &trial, progress);
    snapshot_restore(&trial.start, trial.world);
    uint32_t last = part->last < path.count ? part->last : path.count - 1;
    trial.longest_at = part->first;
    die_after_each(&trial, &path, part->first, last, victim, verdict_on_victim);
    unsigned kills = trial.kills, played = trial.played;
    /* The repair of a rebuild is a rebuild: that was swept already. */
    for (unsigned i = 0; i < repairs && !operation->rebuilds; i++) {
        uint32_t at = i == 0 ? trial.longest_at
                      : i == 1 && trial.reclaiming_at != 0
                          ? trial.reclaiming_at
                          : part->first + draw(last + 1 - part->first);
        sweep_repair(&trial, &path, at);
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double seconds =
        (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9;
    printf("%-22s %8u %8u %8u %8u %8u %8u %7.1f\n", operation->name, path.count, kills, played,
           trial.longest, trial.kills + trial.played - kills - played, trial.problems, seconds);
    if (trial.diverged != 0) {
        printf("  (%u were elsewhere than the recorded run)\n", trial.diverged);
    }
    fflush(stdout);
    path_free(&path);
    snapshot_free(&trial.start);
    free(trial.before);
    free(trial.after);
    world_close(trial.world);
    return trial.problems;
}

/* Repeated string instructions stop the stepper at each byte; the vector ones are as good. */
static void
without_string_instructions(char **argv)
{
    if (getenv("GLIBC_TUNABLES") == NULL) {
        setenv("GLIBC_TUNABLES",
               "glibc.cpu.x86_rep_movsb_threshold=1000000000:"
               "glibc.cpu.x86_rep_stosb_threshold=1000000000",
               1);
        execv("/proc/self/exe", argv);
    }
}

/* Parent and child take turns: on one processor a turn costs half. */
static void
stay_on_one_processor(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((unsigned)sched_getcpu(), &one);
    sched_setaffinity(0, sizeof(one), &one);
}

int
main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (unsigned i = 0; i < OPERATION_COUNT; i++) {
            puts(operations[i].name);
        }
        return 0;
    }
    if (argc < 3) {
        return 2;
    }
    without_string_instructions(argv);
    stay_on_one_processor();
    uint64_t seed = strtoull(argv[1], NULL, 10);
    random_state = seed * 2 + 1;
    unsigned repairs = (unsigned)atoi(argv[2]);
    const char *only = argc > 3 ? argv[3] : NULL;
    struct part part = {argc > 4 ? (uint32_t)atoi(argv[4]) : 0,
                        argc > 5 ? (uint32_t)atoi(argv[5]) : UINT32_MAX};
    struct progress *progress =
        mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned problems = 0, swept = 0;
    printf("%-22s %8s %8s %8s %8s %8s %8s %7s\n", "operation", "instr.", "kills", "played",
           "journal", "repairs", "problems", "s");
    for (unsigned i = 0; i < OPERATION_COUNT; i++) {
        if (only == NULL || strcmp(only, operations[i].name) == 0) {
            problems += sweep(&operations[i], progress, seed, repairs, &part);
            swept++;
        }
    }
    if (swept == 0) {
        printf("there is no operation %s\n", only);
        return 2;
    }
    repair_times_print(&repair_times);
    return problems != 0;
}
