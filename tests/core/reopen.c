/* Data in a file, closed and opened again: by a run with other settings, after a reboot of the
 * host, after the death of all processes in the middle of something, and refused where it has to
 * be.
 *
 * usage: reopen FILE keeps | reboots | refuses | holds | fingerprint
 *        reopen FILE dies | killed ROUNDS SEED */
#include "expect.h"
#include "settings.h"
#include "ledger.h"

#include "base/boot_id.h"
#include "base/clock.h"
#include "store/clocks.h"
#include "store/flush.h"
#include "store/shrink.h"
#include "store/sweep.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>

#define MIB (UINT64_C(1) << 20)
#define FILE_BYTES (64 * MIB)
#define LIMIT_BYTES (32 * MIB)
#define DEAD (SLOT_WORKER_FIRST + 7)

/* ---- clocks that the test moves ------------------------------------------------------------- */

static int64_t boot_ahead_ns, wall_ahead_ns;
static uint8_t boot_number; /* 0: the host's own */
static bool boot_is_unknown;

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
bool __real_boot_id_read(uint8_t id[BOOT_ID_BYTES]);
bool __wrap_boot_id_read(uint8_t id[BOOT_ID_BYTES]);

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = __real_clock_gettime(clock, now);
    int64_t ahead_ns = clock == CLOCK_BOOTTIME   ? boot_ahead_ns
                       : clock == CLOCK_REALTIME ? wall_ahead_ns
                                                 : 0;
    int64_t ns = (int64_t)now->tv_sec * NS_PER_S + now->tv_nsec + ahead_ns;
    *now = (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
    return result;
}

bool
__wrap_boot_id_read(uint8_t id[BOOT_ID_BYTES])
{
    bool found = __real_boot_id_read(id);
    EXPECT(found); /* Every Linux has one. */
    id[0] ^= boot_number;
    return !boot_is_unknown;
}

/* The host is off for so many seconds by its system clock, and its boot-time clock stands somewhere
 * else then. */
static void
reboot(int64_t off_s, int64_t boot_clock_s)
{
    boot_number++;
    boot_ahead_ns += boot_clock_s * NS_PER_S - (int64_t)clock_boot_ns();
    wall_ahead_ns += off_s * NS_PER_S;
}

/* ---- the file ------------------------------------------------------------------------------- */

static const char *path;
static struct segment *segment;
static struct store *store;
static char sentence[SEGMENT_SENTENCE_MAX];

static struct segment_settings
some_settings(void)
{
    return small_settings(LIMIT_BYTES, 8);
}

/* A run that is laid out in quite another way. */
static struct segment_settings
other_settings(void)
{
    struct segment_settings settings = some_settings();
    settings.memory_limit_bytes = 48 * MIB;
    settings.conn_limit = 20000;
    settings.worker_count = 1;
    settings.worker_logbuf_bytes = 1u << 20;
    settings.growth_factor = 2;
    return settings;
}

static int
open_file(void)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT(fd >= 0);
    return fd;
}

static void
use(void)
{
    segment_claim_slot(segment, SLOT_SUPERVISOR);
    store = store_open(segment, SLOT_SUPERVISOR);
}

static void
create(void)
{
    int fd = open_file();
    struct segment_settings settings = some_settings();
    EXPECT(ftruncate(fd, 0) == 0 && ftruncate(fd, (off_t)FILE_BYTES) == 0);
    if (store_create_in(fd, &settings, &segment, sentence) != SEGMENT_OK) {
        puts(sentence);
        exit(1);
    }
    close(fd);
    use();
}

static void
close_all(void)
{
    store_close(store);
    segment_close(segment);
}

static struct reopened
reopen(struct segment_settings settings)
{
    struct reopened reopened;
    int fd = open_file();
    if (store_reopen(fd, &settings, &segment, &reopened, sentence) != SEGMENT_OK) {
        puts(sentence);
        exit(1);
    }
    close(fd);
    use();
    return reopened;
}

/* ---- what is kept --------------------------------------------------------------------------- */

#define ITEMS 400

static uint8_t value[700000], found_value[700000 + 4096];

static uint32_t
len_of(unsigned index)
{
    static const uint32_t lens[] = {0, 1, 20, 100, 500, 2000, 8000, 9000, 70000, 650000};
    return lens[index % 10] + index / 10;
}

static void
key_of(unsigned index, struct key *key, char text[32])
{
    key_init(store, key, text, (uint32_t)sprintf(text, "key-%u", index));
}

static bool
put_item(unsigned index, int64_t exptime)
{
    char text[32];
    struct put put = {.mode = PUT_SET,
                      .client_flags = index % 3 * 7,
                      .expire = store_expiry(store, exptime),
                      .value = value,
                      .value_len = len_of(index)};
    memset(value, (int)(index % 251), put.value_len);
    key_of(index, &put.key, text);
    return store_put(store, &put) == PUT_STORED;
}

/* The item as it was stored, with its cas and the seconds that it has left; -2: it is not there. */
static int64_t
look_at(unsigned index, uint64_t *cas)
{
    struct key key;
    char text[32];
    struct belief found = {0};
    key_of(index, &key, text);
    if (!read_value(store, &key, found_value, &found)) {
        return -2;
    }
    EXPECT(found.value_len == len_of(index) && found.client_flags == index % 3 * 7);
    for (uint32_t i = 0; i < found.value_len; i++) {
        EXPECT(found_value[i] == index % 251);
    }
    *cas = found.cas;
    return store_ttl_s(store, found.expire_word);
}

static void
offsets_are_those(const struct superblock *of, const struct superblock *as)
{
    EXPECT(memcmp(of->constants, as->constants, CONSTANTS_BYTES) == 0);
}

static void
all_is_kept_by_a_run_with_other_settings(void)
{
    static struct superblock before;
    uint64_t cas[ITEMS], now, last_cas = 0;
    unsigned kept = 0;
    create();
    EXPECT(put_item(1, 0));
    store_flush_all(store, 0);
    for (unsigned i = 0; i < 3; i++) {
        store_flush_all(store, 0);
    }
    uint64_t flush = atomic_load(&segment->superblock->flush[0]);
    for (unsigned i = 2; i < ITEMS; i++) {
        EXPECT(put_item(i, i % 4 == 0 ? 1000 : 0));
    }
    for (unsigned i = 2; i < ITEMS; i++) {
        cas[i] = 0;
        kept += look_at(i, &cas[i]) != -2;
        last_cas = cas[i] > last_cas ? cas[i] : last_cas;
    }
    EXPECT(look_at(1, &now) == -2);
    EXPECT(kept > ITEMS - 50); /* Some are evicted: 32 MiB are less than all. */
    struct store_sums sums;
    store_sum(store, &sums);
    uint64_t items = sums.curr_items;
    memcpy(before.constants, segment->superblock->constants, CONSTANTS_BYTES);
    close_all();
    for (unsigned round = 0; round < 4; round++) {
        struct reopened reopened = reopen(round % 2 == 0 ? other_settings() : some_settings());
        EXPECT(reopened.shards_repaired == 0 && reopened.shards_rebuilt == 0);
        EXPECT(reopened.pins_released == 0 && reopened.uploads_freed == 0);
        offsets_are_those(segment->superblock, &before);
        expect_sound(segment, store, "reopened");
        store_sum(store, &sums);
        EXPECT(sums.curr_items == items && sums.total_items == 0 && sums.evictions == 0);
        EXPECT(atomic_load(&segment->superblock->flush[0]) == flush);
        EXPECT(look_at(1, &now) == -2);
        for (unsigned i = 2; i < ITEMS; i++) {
            int64_t ttl_s = look_at(i, &now);
            EXPECT(ttl_s == -2 ? cas[i] == 0 : now == cas[i]);
            EXPECT(ttl_s == -2 || (i % 4 == 0 ? ttl_s > 990 && ttl_s <= 1001 : ttl_s == -1));
        }
        EXPECT(put_item(ITEMS + round, 0) && look_at(ITEMS + round, &now) == -1);
        EXPECT(now > last_cas);
        last_cas = now;
        items++;
        close_all();
    }
    /* It may be used as before, and shrinks to what it is allowed. */
    struct segment_settings settings = some_settings();
    settings.memory_limit_bytes = 8 * MIB;
    (void)reopen(settings);
    for (unsigned i = 0; i < 100000 && store_maintain(store); i++) {
    }
    for (unsigned i = 0; i < 2 * ITEMS; i++) {
        (void)put_item(i, 0);
        (void)!store_maintain(store);
    }
    EXPECT(atomic_load(&segment->superblock->pool.present_count) <= 8 * MIB / 16384);
    expect_sound(segment, store, "shrunk");
    close_all();
}

/* ---- clocks --------------------------------------------------------------------------------- */

/* A second of the clocks, as the maintainer sees it. */
static void
let_pass(int64_t seconds)
{
    boot_ahead_ns += seconds * NS_PER_S;
    wall_ahead_ns += seconds * NS_PER_S;
    (void)!store_maintain(store);
}

static void
ttl_is(int64_t relative_s, int64_t absolute_s)
{
    uint64_t cas;
    int64_t ttl_s = look_at(3, &cas);
    EXPECT(ttl_s >= relative_s - 2 && ttl_s <= relative_s + 2);
    ttl_s = look_at(5, &cas);
    EXPECT(ttl_s >= absolute_s - 2 && ttl_s <= absolute_s + 2);
}

static void
ttls_go_on_over_a_reboot(void)
{
    create();
    EXPECT(put_item(3, 10000));
    EXPECT(put_item(5, (int64_t)store_wall_s(store) + 10000));
    let_pass(100);
    ttl_is(9900, 9900);
    close_all();
    /* The same boot: by the boot-time clock, whatever the system's does. */
    boot_ahead_ns += 100 * NS_PER_S;
    wall_ahead_ns += 500 * NS_PER_S;
    (void)reopen(other_settings());
    ttl_is(9800, 9400);
    let_pass(1);
    close_all();
    /* Another one: by the system's, from where it was seen last. */
    reboot(1000, 5);
    (void)reopen(some_settings());
    ttl_is(8800, 8400);
    let_pass(100);
    ttl_is(8700, 8300);
    close_all();
    /* That was set back meanwhile: no time has passed. */
    reboot(-300, 1000000);
    (void)reopen(some_settings());
    ttl_is(8700, 8600);
    let_pass(100);
    close_all();
    /* And without a boot id each start is one of another boot. */
    boot_is_unknown = true;
    wall_ahead_ns += 200 * NS_PER_S;
    (void)reopen(some_settings());
    ttl_is(8400, 8300);
    close_all();
    (void)reopen(some_settings());
    ttl_is(8400, 8300);
    let_pass(8398);
    let_pass(10);
    uint64_t cas;
    EXPECT(look_at(3, &cas) == -2 && look_at(5, &cas) == -2);
    close_all();
    boot_is_unknown = false;
}

/* ---- what is refused ------------------------------------------------------------------------ */

static void
refused(const struct segment_settings *settings, enum segment_status status, const char *words)
{
    struct reopened reopened;
    struct segment *none = NULL;
    int fd = open_file();
    EXPECT(store_reopen(fd, settings, &none, &reopened, sentence) == status && none == NULL);
    if (strstr(sentence, words) == NULL) {
        printf("\"%s\" and not \"%s\"\n", sentence, words);
        exit(1);
    }
    close(fd);
}

/* Writes into the head and makes its hash agree, or not. */
static void
change_head(uint64_t offset, uint64_t word, size_t bytes, bool agrees)
{
    static struct superblock head;
    int fd = open_file();
    EXPECT(pread(fd, &head, sizeof(head), 0) == (ssize_t)sizeof(head));
    memcpy((uint8_t *)&head + offset, &word, bytes);
    head.constants_check = agrees ? data_constants_check(&head) : head.constants_check;
    EXPECT(pwrite(fd, &head, sizeof(head), 0) == (ssize_t)sizeof(head));
    close(fd);
}

#define CHANGE(field, word, agrees)                                                                \
    change_head(offsetof(struct superblock, field), word, sizeof(((struct superblock *)0)->field), \
                agrees)

static void
resize(uint64_t bytes)
{
    int fd = open_file();
    EXPECT(ftruncate(fd, (off_t)bytes) == 0);
    close(fd);
}

static void
what_is_no_data_of_this_release_is_refused(void)
{
    static struct superblock head;
    struct segment_settings settings = some_settings();
    create();
    EXPECT(put_item(4, 0));
    memcpy(head.constants, segment->superblock->constants, CONSTANTS_BYTES);
    refused(&settings, SEGMENT_FAILED, "in use by another process");
    close_all();

    CHANGE(features_needed, 1, true);
    refused(&settings, SEGMENT_FAILED, "needs \"databases\" (feature bit 0)");
    CHANGE(features_needed, UINT64_C(1) << 40, true);
    refused(&settings, SEGMENT_FAILED, "needs feature bit 40,");
    CHANGE(features_needed, 0, true);
    CHANGE(features_used, UINT64_C(1) << 40, true); /* It is no matter to a reader. */
    (void)reopen(settings);
    close_all();
    CHANGE(features_used, 0, true);

    CHANGE(layout_version, SEGMENT_LAYOUT_VERSION + 1, true);
    refused(&settings, SEGMENT_FAILED, "has layout version");
    CHANGE(layout_version, SEGMENT_LAYOUT_VERSION, true);
    CHANGE(fingerprint, 0, true);
    refused(&settings, SEGMENT_FAILED, "another build (00000000)");
    CHANGE(fingerprint, head.fingerprint, true);
    CHANGE(magic, 0, true);
    refused(&settings, SEGMENT_FAILED, "holds no data of a node");
    change_head(0, *(const uint64_t *)(const void *)head.magic, 8, true);
    CHANGE(data_at, head.data_at + 4096, false);
    refused(&settings, SEGMENT_FAILED, "its head has been written over");
    CHANGE(data_at, head.data_at + 4096, true); /* No such file has its pages there. */
    refused(&settings, SEGMENT_FAILED, "its head has been written over");
    CHANGE(data_at, head.data_at, true);

    resize(FILE_BYTES - 4096);
    refused(&settings, SEGMENT_FAILED, "says it has 67108864 bytes and has 67104768");
    resize(FILE_BYTES + 4096);
    refused(&settings, SEGMENT_FAILED, "says it has 67108864 bytes and has 67112960");
    resize(FILE_BYTES);

    settings.memory_limit_bytes = 64 * MIB;
    refused(&settings, SEGMENT_BAD_SETTING, "has room for");
    settings = some_settings();
    settings.eviction_policy = POLICY_ALLKEYS_LFU;
    refused(&settings, SEGMENT_BAD_SETTING,
            "allkeys-lfu is asked for, and the file was laid out for s3fifo");
    settings = some_settings();
    (void)reopen(settings); /* Nothing of this has done it harm. */
    uint64_t cas;
    EXPECT(look_at(4, &cas) == -1);
    close_all();

    resize(100);
    refused(&settings, SEGMENT_FAILED, "the head alone has");
    path = "/dev/null";
    refused(&settings, SEGMENT_FAILED, "regular file");
}

/* ---- what processes held -------------------------------------------------------------------- */

/* In a slot that the next run does not have. */
static void
hold_and_die(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        segment_claim_slot(segment, DEAD);
        store = store_open(segment, DEAD);
        struct key key;
        char text[32];
        static struct pin pins[2];
        static struct upload uploads[2];
        key_of(8, &key, text);
        EXPECT(store_pin(store, &key, &pins[0]) == PIN_OK);
        EXPECT(store_delete(store, &key) == DELETE_DONE); /* Only the pin keeps it now. */
        key_of(18, &key, text);
        EXPECT(store_pin(store, &key, &pins[1]) == PIN_OK);
        for (unsigned i = 0; i < 2; i++) {
            struct put put = {.mode = PUT_SET, .value_len = 100000};
            key_of(5000 + i, &put.key, text);
            EXPECT(store_upload_begin(store, &put, &uploads[i]) == PUT_STORED);
            uint8_t *space;
            enum put_result result;
            uint32_t len = store_upload_space(store, &uploads[i], &space, &result);
            EXPECT(len > 0);
            memset(space, 'x', len);
            store_upload_advance(store, &uploads[i], len);
        }
        EXPECT(pool_take(segment, store->held) != PAGE_NONE);
        raise(SIGKILL);
    }
    int status;
    EXPECT(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void
what_processes_held_is_released(void)
{
    create();
    for (unsigned i = 0; i < 30; i++) {
        EXPECT(put_item(i, 0));
    }
    while (freemap_count(segment, UINT32_MAX) < 16) { /* The uploads take some, too. */
        EXPECT(pool_grow(segment));
    }
    hold_and_die();
    close_all();
    struct reopened reopened = reopen(other_settings());
    EXPECT(reopened.pins_released == 2 && reopened.uploads_freed == 2);
    EXPECT(atomic_load(&segment->held[DEAD].page_in_flight) == 0);
    EXPECT(atomic_load(&segment->superblock->held_high) == SLOT_WORKER_FIRST + 1);
    expect_sound(segment, store, "released");
    uint64_t cas;
    EXPECT(look_at(8, &cas) == -2 && look_at(18, &cas) == -1 && look_at(5000, &cas) == -2);
    for (unsigned i = 0; i < 30; i++) {
        struct key key;
        char text[32];
        key_of(i, &key, text);
        (void)!store_delete(store, &key);
    }
    expect_nothing_left(segment, store);
    close_all();
}

/* ---- deaths of all -------------------------------------------------------------------------- */

#define OPERATIONS_MAX 1500
#define FILLER_COUNT 20000
#define DELETE_EVERY 8

static void
fill(unsigned index)
{
    char text[32];
    struct put put = {.mode = PUT_SET, .value = (const uint8_t *)"1", .value_len = 1};
    key_init(store, &put.key, text, (uint32_t)sprintf(text, "filler%u", index));
    (void)!store_put(store, &put);
}

static struct segment_settings
settings_of_round(unsigned round)
{
    struct segment_settings settings = round % 2 == 0 ? some_settings() : other_settings();
    settings.worker_count = 1 + round % 5;
    settings.memory_limit_bytes = 24 * MIB;
    return settings;
}

/* A node's whole life: it may end while it opens the file. */
static void
live(unsigned round, unsigned pass, uint64_t seed)
{
    static uint8_t buffer[VALUE_MAX];
    random_state = seed;
    crash_arm("*", pass);
    (void)reopen(settings_of_round(round));
    store_close(store);
    segment_claim_slot(segment, SLOT_WORKER_FIRST);
    store = store_open(segment, SLOT_WORKER_FIRST);
    for (unsigned i = 0; i < OPERATIONS_MAX; i++) {
        if (i % 64 == 0) {
            (void)!store_maintain(store);
        }
        fill((unsigned)draw(FILLER_COUNT));
        operate(store, buffer);
    }
    _exit(0);
}

static void
the_death_of_all_loses_nothing_acknowledged(unsigned rounds, uint64_t seed)
{
    unsigned deaths = 0;
    uint64_t repaired = 0, rebuilt = 0;
    ledger = ledgers_make(1);
    create();
    close_all();
    for (unsigned i = 0; i < rounds; i++) {
        unsigned pass = i % 4 == 0 ? 1 + i / 4 % 20 : 1 + i * 13 % 3000;
        char when[128];
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            live(i, pass, seed + i * 2654435761u);
        }
        int status;
        EXPECT(waitpid(pid, &status, 0) == pid);
        if (WIFSIGNALED(status) ? WTERMSIG(status) != SIGKILL : WEXITSTATUS(status) != 0) {
            printf("round %u, pass %u, seed %" PRIu64 ": the child ended with %x\n", i, pass, seed,
                   (unsigned)status);
            exit(1);
        }
        deaths += WIFSIGNALED(status);
        struct reopened reopened = reopen(settings_of_round(i + 1));
        repaired += reopened.shards_repaired;
        rebuilt += reopened.shards_rebuilt;
        snprintf(when, sizeof(when), "round %u, pass %u, seed %" PRIu64, i, pass, seed);
        expect_sound(segment, store, when);
        verify(store);
        if (i % DELETE_EVERY == DELETE_EVERY - 1) {
            delete_everything(store);
            for (unsigned j = 0; j < FILLER_COUNT; j++) {
                char text[32];
                struct key key;
                key_init(store, &key, text, (uint32_t)sprintf(text, "filler%u", j));
                (void)!store_delete(store, &key);
            }
            store->sweep = (struct sweep_pass){0};
            while (store_sweep(store)) {
            }
            expect_sound(segment, store, when);
            expect_nothing_left(segment, store);
        }
        close_all();
    }
    printf("%u deaths, %" PRIu64 " shards repaired, %" PRIu64 " rebuilt, %" PRIu64 " operations\n",
           deaths, repaired, rebuilt, ledger->operations);
    EXPECT(rebuilt == 0); /* An undo is enough. */
    EXPECT(deaths >= rounds / 2 && repaired != 0);
}

/* ---- deaths at any instruction -------------------------------------------------------------- */

#define WORKERS 3

static void
work(unsigned index, uint64_t seed)
{
    static uint8_t buffer[VALUE_MAX];
    random_state = seed;
    ledger += index;
    EXPECT(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    segment_claim_slot(segment, SLOT_WORKER_FIRST + index);
    store = store_open(segment, SLOT_WORKER_FIRST + index);
    for (;;) {
        fill((unsigned)draw(FILLER_COUNT));
        (void)!store_maintain(store);
        operate(store, buffer);
    }
}

/* A node of several workers, in a process group of its own. */
static void
serve(unsigned round, uint64_t seed)
{
    struct segment_settings settings = settings_of_round(round);
    settings.worker_count = WORKERS + round % 3;
    EXPECT(setpgid(0, 0) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    (void)reopen(settings);
    for (unsigned i = 0; i < WORKERS; i++) {
        if (fork() == 0) {
            work(i, seed + i);
        }
    }
    for (;;) {
        pause();
    }
}

static uint64_t
operations_of(const struct ledger *ledgers)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < WORKERS; i++) {
        sum += *(const volatile uint64_t *)&ledgers[i].operations;
    }
    return sum;
}

static void
workers_killed_together_lose_nothing_acknowledged(unsigned rounds, uint64_t seed)
{
    struct ledger *ledgers = ledgers_make(WORKERS);
    uint64_t repaired = 0, released = 0;
    EXPECT(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0); /* The workers are waited for, too. */
    create();
    close_all();
    for (unsigned i = 0; i < rounds; i++) {
        char when[128];
        fflush(stdout);
        random_state = seed + i * 2654435761u;
        uint64_t until = operations_of(ledgers) + 1 + draw(500);
        ledger = ledgers;
        pid_t pid = fork();
        if (pid == 0) {
            serve(i, random_state);
        }
        while (operations_of(ledgers) < until) {
            int status;
            EXPECT(waitpid(-1, &status, WNOHANG) == 0); /* None of them ends by itself. */
            sched_yield();
        }
        EXPECT(kill(-pid, SIGKILL) == 0);
        while (wait(NULL) > 0) {
        }
        struct reopened reopened = reopen(settings_of_round(i + 1));
        repaired += reopened.shards_repaired;
        released += reopened.uploads_freed + reopened.pins_released;
        EXPECT(reopened.shards_rebuilt == 0);
        snprintf(when, sizeof(when), "round %u, seed %" PRIu64, i, seed);
        expect_sound(segment, store, when);
        for (unsigned j = 0; j < WORKERS; j++) {
            ledger = &ledgers[j];
            verify(store);
        }
        close_all();
    }
    printf("%" PRIu64 " shards repaired, %" PRIu64 " uploads and pins released, %" PRIu64
           " operations\n",
           repaired, released, operations_of(ledgers));
}

int
main(int argc, char **argv)
{
    EXPECT(argc > 2);
    path = argv[1];
    if (strcmp(argv[2], "keeps") == 0) {
        all_is_kept_by_a_run_with_other_settings();
    } else if (strcmp(argv[2], "reboots") == 0) {
        ttls_go_on_over_a_reboot();
    } else if (strcmp(argv[2], "refuses") == 0) {
        what_is_no_data_of_this_release_is_refused();
    } else if (strcmp(argv[2], "holds") == 0) {
        what_processes_held_is_released();
    } else if (strcmp(argv[2], "fingerprint") == 0) {
        create();
        printf("%u ", segment->superblock->fingerprint);
        close_all();
    } else {
        EXPECT(argc > 4);
        unsigned rounds = (unsigned)atoi(argv[3]);
        uint64_t seed = strtoull(argv[4], NULL, 10);
        if (strcmp(argv[2], "dies") == 0) {
            the_death_of_all_loses_nothing_acknowledged(rounds, seed);
        } else {
            workers_killed_together_lose_nothing_acknowledged(rounds, seed);
        }
    }
    puts("ok");
    return 0;
}
