/* The log ring under kills: a writer is killed again and again at any instruction, a reader
 * meanwhile gets whole entries only, in their order, and is told how many it missed.
 *
 *     logring <seed> <kills> */
#include "expect.h"

#include "mem/logring.h"
#include "store/store.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static uint32_t random_state;

static uint32_t
draw(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % below;
}

/* The text says how long it is, and is the same byte all over. */
static void
write_one(struct segment *segment, struct process_slot *slot, uint32_t value)
{
    struct log_entry entry = {.head = {.kind = LOG_ITEM_GET, .log_class = LOG_FETCHERS}};
    entry.head.value_len = value;
    entry.head.text_len = (uint8_t)(value % (LOG_TEXT_MAX + 1));
    memset(entry.text, (int)(value & 0xFF), entry.head.text_len);
    logring_write(segment, slot, &entry);
}

static void
expect_whole(const struct log_entry *entry)
{
    uint32_t value = entry->head.value_len;
    EXPECT(entry->head.kind == LOG_ITEM_GET && entry->head.log_class == LOG_FETCHERS);
    EXPECT(entry->head.text_len == value % (LOG_TEXT_MAX + 1));
    for (unsigned i = 0; i < entry->head.text_len; i++) {
        EXPECT(entry->text[i] == (value & 0xFF));
    }
}

/* What the reader has seen. */
struct seen {
    struct log_position position;
    uint64_t entries, lost, last_gid;
};

/* A writer at full speed would keep a reader without a limit for ever. */
static void
read_up_to(const struct segment *segment, struct seen *seen, uint64_t limit)
{
    struct log_entry entry;
    while (seen->entries < limit && logring_read(segment, SLOT_WORKER_FIRST, &seen->position,
                                                 &entry, &seen->lost) == LOG_READ_ENTRY) {
        expect_whole(&entry);
        EXPECT(entry.head.gid > seen->last_gid);
        seen->last_gid = entry.head.gid;
        seen->entries++;
    }
}

static void
write_for_ever(struct segment *segment)
{
    for (uint32_t value = draw(1u << 20);; value++) {
        write_one(segment, &segment->slots[SLOT_WORKER_FIRST], value);
    }
}

/* What a process wrote that had gone wrong is passed over, and counts as missed. */
static void
expect_impossible_entries_are_passed_over(struct segment *segment, struct seen *seen)
{
    struct process_slot *slot = &segment->slots[SLOT_WORKER_FIRST];
    struct log_entry wrong = {.head = {.kind = LOG_ITEM_GET, .log_class = LOG_FETCHERS}};
    uint64_t lost = seen->lost;
    uint64_t entries = seen->entries;
    wrong.head.text_len = LOG_TEXT_MAX + 1;
    logring_write(segment, slot, &wrong);
    write_one(segment, slot, 7);
    read_up_to(segment, seen, UINT64_MAX);
    EXPECT(seen->entries == entries + 1 && seen->lost == lost + 1);
}

/* ---- who watches ---------------------------------------------------------------------------- */

/* After so many instructions each; with a sanitizer there are many more of them. */
#ifdef __SANITIZE_ADDRESS__
#define INSTRUCTIONS_STEP 53
#else
#define INSTRUCTIONS_STEP 1
#endif

/* Begins to watch and ends, again and again; stops after each. */
static void
switch_for_ever(struct segment *segment)
{
    struct process_slot *slot = &segment->slots[SLOT_WORKER_FIRST];
    EXPECT(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
    raise(SIGUSR1);
    for (uint32_t i = 0;; i++) {
        logring_watch(segment, slot, i % 2 == 0 ? LOG_FETCHERS : 0);
        raise(SIGUSR1);
    }
}

/* True: the child has stopped by itself. */
static bool
child_goes_on(pid_t child, enum __ptrace_request how)
{
    int status;
    EXPECT(ptrace(how, child, NULL, NULL) == 0);
    EXPECT(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    return WSTOPSIG(status) == SIGUSR1;
}

/* Another process begins or ends to watch after any instruction of one that ends or begins. */
static void
expect_nothing_stays_watched(struct segment *segment)
{
    struct process_slot *slot = &segment->slots[SLOT_WORKER_FIRST + 1];
    int status;
    pid_t child = fork();
    if (child == 0) {
        switch_for_ever(segment);
    }
    EXPECT(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    bool whole = false;
    logring_watch(segment, slot, LOG_EVICTIONS);
    for (unsigned instructions = 0; !whole; instructions += INSTRUCTIONS_STEP) {
        for (unsigned round = 0; round < 2; round++) {
            whole = false;
            for (unsigned i = 0; i < instructions && !whole; i++) {
                whole = child_goes_on(child, PTRACE_SINGLESTEP);
            }
            logring_watch(segment, slot, round == 0 ? 0 : LOG_EVICTIONS);
            while (!whole && !child_goes_on(child, PTRACE_CONT)) {
            }
            EXPECT(atomic_load(&segment->run->watched) ==
                   (round == 0 ? LOG_FETCHERS : LOG_EVICTIONS));
        }
    }
    EXPECT(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
    logring_watch(segment, slot, 0);
}

int
main(int argc, char **argv)
{
    struct segment_settings settings = {.memory_limit_bytes = 16u << 20,
                                        .item_size_max_bytes = 1u << 20,
                                        .growth_factor = 1.25,
                                        .item_size_min_bytes = 8,
                                        .conn_limit = 10,
                                        .worker_count = 2,
                                        .worker_logbuf_bytes = 32u << 10,
                                        .eviction_policy = POLICY_S3FIFO};
    struct segment *segment;
    char sentence[SEGMENT_SENTENCE_MAX];
    EXPECT(argc == 3);
    random_state = (uint32_t)strtoul(argv[1], NULL, 10) | 1;
    EXPECT(store_create(&settings, &segment, sentence) == SEGMENT_OK);
    segment_claim_slot(segment, SLOT_WORKER_FIRST);
    struct process_slot *slot = &segment->slots[SLOT_WORKER_FIRST];
    write_one(segment, slot, 1); /* Nobody has asked for memory: nothing happens. */
    EXPECT(atomic_load(&segment->run->log_gid) == 0);
    EXPECT(logring_populate(segment));
    struct seen seen = {0};
    logring_begin(segment, SLOT_WORKER_FIRST, &seen.position);
    for (int i = 0; i < atoi(argv[2]); i++) {
        pid_t child = fork();
        if (child == 0) {
            write_for_ever(segment);
        }
        uint64_t enough = seen.entries + 1 + draw(200);
        while (seen.entries < enough) {
            read_up_to(segment, &seen, enough);
        }
        kill(child, SIGKILL);
        EXPECT(waitpid(child, NULL, 0) == child);
        read_up_to(segment, &seen, UINT64_MAX);
    }
    /* An entry whose writer died before it was whole counts as missed, and no other is unaccounted.
     */
    uint64_t before = seen.entries + seen.lost;
    for (uint32_t value = 0; value < 1000; value++) {
        write_one(segment, slot, value);
        read_up_to(segment, &seen, UINT64_MAX);
    }
    EXPECT(seen.entries + seen.lost >= before + 1000);
    EXPECT(seen.entries + seen.lost <= before + 1001);
    EXPECT(seen.position.number == seen.entries + seen.lost);
    /* A reader that was away is told what it missed. */
    uint64_t lost = seen.lost;
    for (uint32_t value = 0; value < 1000; value++) {
        write_one(segment, slot, value);
    }
    uint64_t entries = seen.entries;
    read_up_to(segment, &seen, UINT64_MAX);
    EXPECT(seen.lost > lost && seen.entries > entries);
    EXPECT(seen.lost - lost + seen.entries - entries == 1000);
    expect_impossible_entries_are_passed_over(segment, &seen);
    /* Who watches is counted over all processes. */
    expect_nothing_stays_watched(segment);
    EXPECT(!log_is_watched(segment->run, UINT32_MAX));
    logring_watch(segment, slot, LOG_FETCHERS);
    logring_watch(segment, &segment->slots[SLOT_WORKER_FIRST + 1], LOG_EVICTIONS);
    EXPECT(log_is_watched(segment->run, LOG_FETCHERS));
    EXPECT(log_is_watched(segment->run, LOG_EVICTIONS));
    logring_watch(segment, slot, 0);
    EXPECT(!log_is_watched(segment->run, LOG_FETCHERS));
    EXPECT(log_is_watched(segment->run, LOG_EVICTIONS));
    for (unsigned i = 0; i < WATCHERS_MAX; i++) {
        EXPECT(logring_add_watcher(segment, &segment->slots[SLOT_WORKER_FIRST + i % 2]));
    }
    EXPECT(!logring_add_watcher(segment, slot) && logring_watchers(segment) == WATCHERS_MAX);
    segment_close(segment);
    puts("ok");
    return 0;
}
