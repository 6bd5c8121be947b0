/* Words that another process has written over: of a shard whose owner died, of a process slot.
 *
 * Each is damaged by a process that dies with the shard's lock. Whoever repairs then must live, the
 * shard be sound, and the store serve. Prints "ok"; exits 1 at the first thing wrong. */
#include "expect.h"
#include "settings.h"

#include "base/crash.h"
#include "mem/page.h"
#include "store/check.h"
#include "store/mend.h"
#include "store/recover.h"
#include "store/shard.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEYS 4000
#define DEAD (SLOT_WORKER_FIRST + 1)

static struct segment *segment;

static void
set_all(struct store *store)
{
    static const uint8_t value[20000];
    for (int i = 0; i < KEYS; i++) {
        char text[32];
        struct put put = {.value = value, .value_len = i % 40 == 0 ? 20000 : (uint32_t)i % 500};
        key_init(store, &put.key, text, (uint32_t)snprintf(text, sizeof(text), "k%d", i));
        EXPECT(store_put(store, &put) == PUT_STORED);
    }
}

static void
print_problem(void *context, const char *sentence)
{
    (void)context;
    fprintf(stderr, "%s\n", sentence);
}

typedef void damage_fn(struct shard *shard, struct process_slot *slot);

/* In a process that takes the shard's lock, calls `damage` and dies. */
static void
die_after(damage_fn *damage)
{
    pid_t pid = fork();
    if (pid == 0) {
        segment_claim_slot(segment, DEAD);
        struct store *store = store_open(segment, DEAD);
        EXPECT(shard_lock(store, &store->shards[0]));
        damage(&store->shards[0], &segment->slots[DEAD]);
        raise(SIGKILL);
    }
    int status;
    EXPECT(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

static void
check_and_serve(struct store *store)
{
    EXPECT(store_check(store, print_problem, NULL) == 0);
    set_all(store);
    EXPECT(store_check(store, print_problem, NULL) == 0);
}

#define DAMAGES(X)                                                                                 \
    X(reclaiming, shard->reclaiming = 0xF0000000u)                                                 \
    X(reclaiming_last, shard->reclaiming_last = 0xF0000000u)                                       \
    X(reclaiming_inside, shard->reclaiming = shard->cell_free)                                     \
    X(cell_free, shard->cell_free = 0xF0000000u)                                                   \
    X(cell_count, shard->cell_count = 0xFFFFFFF0u)                                                 \
    X(partial, shard->classes[5].partial = 0x7FFFFFFFu)                                            \
    X(hand_page, shard->classes[5].hand_page = 0x7FFFFFFFu)                                        \
    X(hand_slot, shard->classes[5].hand_slot = 0x7FFFFFFFu)                                        \
    X(free_head, page_entry(segment, shard->classes[5].partial - 1)->free_head = 60000)            \
    X(free_count, page_entry(segment, shard->classes[5].partial - 1)->free_count = 60000)          \
    X(page_class, page_entry(segment, shard->classes[5].hand_page - 1)->owner = 1 << 8 | 200)      \
    X(page_shard, page_entry(segment, shard->classes[5].hand_page - 1)->owner = 0x7FFFFF05)        \
    X(ring_head, shard->classes[5].ring_head = 0xF0000000u)                                        \
    X(ring_tail, shard->classes[5].ring_tail = 0xF0000000u)                                        \
    X(ring_popped, shard->classes[5].ring_popped = 60000)                                          \
    X(ghost_pages, shard->ghost_page_count = 3; shard->ghost_pages[1] = 0xFFFFFFF0u)               \
    X(ghost_count, shard->ghost_page_count = 0xFFFFFFF0u)                                          \
    X(table_pages, shard->table_page_count = 0xFFFFFFF0u)                                          \
    X(bucket_capacity, shard->bucket_capacity = 0xFFFFFFF0u)                                       \
    X(page_count, shard->page_count = 0xFFFFFFF0u)                                                 \
    X(empty_pages, shard->empty_pages = 0xFFFFFFF0u)                                               \
    X(open_version, shard->open_version = 0xFFFFFFFFFFF0u)                                         \
    X(open_version_odd, shard->open_version = segment->superblock->data_at + 2)                    \
    X(open_version_free, shard->open_version = segment->superblock->data_at + 4)                   \
    X(journal_count, shard->journal.count = 0xFFFFFFF0u)                                           \
    X(journal_at, shard->journal.words[0].at = 0xFFFFFFF0u; shard->journal.count = 1)              \
    X(journal_head, shard->journal.words[0].at = offsetof(struct superblock, boot_base_ns),        \
      shard->journal.words[0].old = 0xFFFF;                                                        \
      shard->journal.count = 1)                                                                    \
    X(index, shard->index = 0xFFFFFFF0u)                                                           \
    X(slot_locked, slot->locked_shard = 0x0FFFFFF0u)                                               \
    X(slot_wanted, slot->wanted_shard = 0xFFFFFFF0u)                                               \
    X(slot_page, held->page_in_flight = 0x7FFFFFFFu)                                               \
    X(slot_pin_high, held->pin_high = 0x0FFFFFFFu)                                                 \
    X(slot_upload_high, held->upload_high = 0x0FFFFFFFu)                                           \
    X(slot_pin, held->pin_high = 1; held->pins[0].head_ref = 0xFFFFFFF0u)                          \
    X(slot_upload, held->upload_high = 1; held->uploads[0].head_ref = 0xFFFFFFF0u)                 \
    X(slot_pin_item, held->pin_high = 1; held->pins[0].head_ref = shard->cell_free)                \
    X(slot_upload_item, held->upload_high = 1; held->uploads[0].head_ref = shard->cell_free)       \
    X(attached_high, segment->run->attached_high = 0xFFFFFFF0u)

#define X(name, ...)                                                                               \
    static void damage_##name(struct shard *shard, struct process_slot *slot)                      \
    {                                                                                              \
        struct held_table *held = &segment->held[DEAD];                                            \
        (void)shard, (void)slot, (void)held;                                                       \
        __VA_ARGS__;                                                                               \
    }
DAMAGES(X)
#undef X

static void
damage_nothing(struct shard *shard, struct process_slot *slot)
{
    (void)shard, (void)slot;
}

/* Dies in the repair. */
static void
repair_and_die(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct store *store = store_open(segment, DEAD + 1);
        crash_arm("shard_repaired", 1);
        (void)!shard_lock(store, &store->shards[0]);
        _exit(0);
    }
    int status;
    EXPECT(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

static void
a_shard_that_no_repair_survives_is_emptied(struct store *store)
{
    struct recovery recovery;
    uint64_t items = store->shards[0].sums.curr_items;
    EXPECT(items > 0);
    die_after(damage_nothing);
    for (unsigned i = 0; i < REPAIR_ATTEMPTS_MAX; i++) {
        EXPECT(store->shards[0].sums.curr_items == items);
        repair_and_die();
    }
    EXPECT(store_recover(store, DEAD, &recovery));
    EXPECT(store->shards[0].sums.curr_items == 0 && store->shards[0].repair_attempts == 0);
    EXPECT(segment->run->emptied_count == 1 && segment->run->emptied_shard == 0);
    check_and_serve(store);
}

static void
a_suspect_ones_shard_is_rebuilt(struct store *store)
{
    struct recovery recovery;
    uint64_t items = store->shards[0].sums.curr_items;
    die_after(damage_nothing);
    EXPECT(store_recover_suspect(store, DEAD, &recovery));
    EXPECT(recovery.shards_rebuilt == 1 && store->shards[0].sums.curr_items == items);
    check_and_serve(store);
}

/* glibc's mutex: the word that the kernel knows, and the kind. */
#define LOCK_WORD 0
#define LOCK_KIND 4

static void
a_lock_that_nobody_holds_is_mended(struct store *store, unsigned index, int damage)
{
    struct shard *shard = &store->shards[1];
    ((int *)(void *)&store->locks[1].lock)[index] = damage;
    EXPECT(!shard_try_lock(store, shard));
    EXPECT(store_mend_locks(store) == 0);
    EXPECT(store_mend_locks(store) == 0);
    EXPECT(store_mend_locks(store) == 1);
    EXPECT(shard_lock(store, shard));
    shard_unlock(store, shard);
    check_and_serve(store);
}

static void
a_lock_that_a_live_process_holds_is_left_alone(struct store *store)
{
    EXPECT(shard_lock(store, &store->shards[1]));
    for (unsigned i = 0; i < 5; i++) {
        EXPECT(store_mend_locks(store) == 0);
    }
    shard_unlock(store, &store->shards[1]);
    EXPECT(store_mend_locks(store) == 0);
}

int
main(void)
{
    struct segment_settings settings = small_settings(32u << 20, 4);
    char sentence[SEGMENT_SENTENCE_MAX];
    EXPECT(store_create(&settings, &segment, sentence) == SEGMENT_OK);
    segment_claim_slot(segment, SLOT_SUPERVISOR);
    struct store *store = store_open(segment, SLOT_SUPERVISOR);
    set_all(store);
    const struct {
        const char *name;
        damage_fn *damage;
    } damages[] = {
#define X(name, ...) {#name, damage_##name},
        DAMAGES(X)
#undef X
    };
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        struct recovery recovery;
        fprintf(stderr, "%s\n", damages[i].name);
        die_after(damages[i].damage);
        EXPECT(store_recover(store, DEAD, &recovery));
        check_and_serve(store);
    }
    EXPECT(segment->run->emptied_count == 0);
    a_suspect_ones_shard_is_rebuilt(store);
    a_shard_that_no_repair_survives_is_emptied(store);
    /* No thread has so high a number; a mutex that is not robust. */
    a_lock_that_nobody_holds_is_mended(store, LOCK_WORD, 0x3FFFFFF0);
    a_lock_that_nobody_holds_is_mended(store, LOCK_KIND, 0);
    a_lock_that_a_live_process_holds_is_left_alone(store);
    store_close(store);
    segment_close(segment);
    puts("ok");
    return 0;
}
