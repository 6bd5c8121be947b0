/* Pins and uploads whose release a stopped process is in the way of, and which their process or the
 * recovery of its slot releases later. */
#include "expect.h"
#include "ledger.h"

#include "store/flush.h"
#include "store/held.h"

#define MEGABYTES 16
#define LONG_BYTES 900000

static struct segment *segment;
static struct store *store;
static uint8_t value[LONG_BYTES];

static struct put
put_of(struct store *of, const char *key)
{
    struct put put = {.mode = PUT_SET, .value = value, .value_len = sizeof(value)};
    key_init(of, &put.key, key, (uint32_t)strlen(key));
    return put;
}

/* A process that is stopped with the lock of the key's shard. */
static pid_t
stop_holder(const struct key *key)
{
    unsigned index = shard_of_hash(store, key->hash)->index;
    pid_t pid = fork();
    if (pid == 0) {
        segment_claim_slot(segment, SLOT_WORKER_FIRST + 1);
        struct store *holder = store_open(segment, SLOT_WORKER_FIRST + 1);
        if (!shard_lock(holder, &holder->shards[index])) {
            _exit(9);
        }
        raise(SIGSTOP);
        shard_unlock(holder, &holder->shards[index]);
        store_close(holder);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, WUNTRACED);
    EXPECT(WIFSTOPPED(status));
    return pid;
}

static void
let_go(pid_t holder)
{
    int status;
    kill(holder, SIGCONT);
    waitpid(holder, &status, 0);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    struct recovery recovery;
    EXPECT(store_recover(store, SLOT_WORKER_FIRST + 1, &recovery));
}

static uint64_t
held_bytes(void)
{
    struct store_sums sums;
    store_sum(store, &sums);
    return sums.held_bytes;
}

static unsigned
entries_of(unsigned slot_index)
{
    const struct held_table *held = &segment->held[slot_index];
    unsigned count = 0;
    for (unsigned i = 0; i < PIN_COUNT_MAX; i++) {
        count += atomic_load(&held->pins[i].head_ref) != 0;
    }
    for (unsigned i = 0; i < UPLOAD_COUNT_MAX; i++) {
        count += atomic_load(&held->uploads[i].head_ref) != 0;
    }
    return count;
}

static void
begin_upload(struct store *of, const struct put *put, struct upload *upload)
{
    uint8_t *space;
    enum put_result result;
    EXPECT(store_upload_begin(of, put, upload) == PUT_STORED);
    for (unsigned i = 0; i < 4; i++) {
        uint32_t room = store_upload_space(of, upload, &space, &result);
        EXPECT(room > 0);
        memset(space, 'u', room);
        store_upload_advance(of, upload, room);
    }
}

static void
expect_empty(void)
{
    struct key key;
    key_init(store, &key, "long", 4);
    (void)!store_delete(store, &key);
    store_flush_all(store, 0);
    while (flush_left_items(store)) {
        EXPECT(flush_sweep(store, UINT32_MAX));
    }
    expect_sound(segment, store, "at the end");
    expect_nothing_left(segment, store);
}

/* Several of each, more than one tick tries. */
static void
what_could_not_be_released_is_released_by_a_later_tick(void)
{
    struct put put = put_of(store, "long");
    struct pin pins[3] = {0};
    struct upload uploads[5] = {0};
    put.value_len = 200000;
    EXPECT(store_put(store, &put) == PUT_STORED);
    for (unsigned i = 0; i < 3; i++) {
        EXPECT(store_pin(store, &put.key, &pins[i]) == PIN_OK);
    }
    for (unsigned i = 0; i < 5; i++) {
        begin_upload(store, &put, &uploads[i]);
    }
    pid_t holder = stop_holder(&put.key);
    for (unsigned i = 0; i < 3; i++) {
        store_unpin(store, &pins[i]);
    }
    for (unsigned i = 0; i < 5; i++) {
        store_upload_abort(store, &uploads[i]);
    }
    /* Their share is free at once, and no tick waits for the stopped process. */
    EXPECT(held_bytes() == 0 && entries_of(SLOT_WORKER_FIRST) == 8 && store_holds_entries(store));
    for (unsigned i = 0; i < 100; i++) {
        store_tick(store);
    }
    EXPECT(entries_of(SLOT_WORKER_FIRST) == 8);
    let_go(holder);
    store_tick(store);
    unsigned left = entries_of(SLOT_WORKER_FIRST);
    EXPECT(left > 0 && left < 8);
    store_tick(store);
    EXPECT(entries_of(SLOT_WORKER_FIRST) == 0 && !store_holds_entries(store));
    /* A value that is larger than the share is let in as long as nothing is held. */
    put.value_len = sizeof(value);
    EXPECT(store_put(store, &put) == PUT_STORED);
    EXPECT(store_pin(store, &put.key, &pins[0]) == PIN_OK);
    store_unpin(store, &pins[0]);
    EXPECT(held_bytes() == 0);
    expect_empty();
}

static void
a_process_that_ends_leaves_them_to_the_recovery_of_its_slot(void)
{
    struct put put = put_of(store, "long");
    put.value_len = 200000;
    EXPECT(store_put(store, &put) == PUT_STORED);
    int ready[2], go[2];
    char byte = 0;
    EXPECT(pipe(ready) == 0 && pipe(go) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        segment_claim_slot(segment, SLOT_WORKER_FIRST + 2);
        struct store *own = store_open(segment, SLOT_WORKER_FIRST + 2);
        struct put of_own = put_of(own, "long");
        struct pin pin = {0};
        struct upload upload = {0};
        of_own.value_len = 200000;
        EXPECT(store_pin(own, &of_own.key, &pin) == PIN_OK);
        begin_upload(own, &of_own, &upload);
        EXPECT(write(ready[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1);
        store_unpin(own, &pin);
        store_upload_abort(own, &upload);
        store_close(own);
        _exit(0);
    }
    EXPECT(read(ready[0], &byte, 1) == 1);
    pid_t holder = stop_holder(&put.key);
    EXPECT(write(go[1], &byte, 1) == 1);
    int status;
    waitpid(pid, &status, 0);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    struct recovery recovery;
    for (unsigned i = 0; i < 3; i++) {
        EXPECT(!store_recover(store, SLOT_WORKER_FIRST + 2, &recovery));
        EXPECT(atomic_load(&segment->slots[SLOT_WORKER_FIRST + 2].pid) == pid);
        EXPECT(entries_of(SLOT_WORKER_FIRST + 2) == 2);
    }
    let_go(holder);
    EXPECT(store_recover(store, SLOT_WORKER_FIRST + 2, &recovery));
    EXPECT(recovery.uploads_freed == 1 && recovery.pins_released == 1);
    EXPECT(entries_of(SLOT_WORKER_FIRST + 2) == 0 && held_bytes() == 0);
    EXPECT(atomic_load(&segment->slots[SLOT_WORKER_FIRST + 2].pid) == 0);
    expect_empty();
}

int
main(void)
{
    segment = segment_make(MEGABYTES);
    ledger = ledgers_make(1);
    segment_claim_slot(segment, SLOT_WORKER_FIRST);
    store = store_open(segment, SLOT_WORKER_FIRST);
    memset(value, 'v', sizeof(value));
    what_could_not_be_released_is_released_by_a_later_tick();
    a_process_that_ends_leaves_them_to_the_recovery_of_its_slot();
    store_close(store);
    segment_close(segment);
    printf("ok\n");
    return 0;
}
