/* Words about what is under way that another process has written over: of an upload, of a pin, of a
 * lock. What was held may be another key's by then: it must neither be written to nor shown. Prints
 * "ok"; exits 1 at the first thing wrong. */
#include "expect.h"

#include "ledger.h"

#include "mem/lock.h"
#include "mem/logring.h"
#include "mem/page.h"
#include "mem/prefix_table.h"
#include "mem/track.h"
#include "store/check.h"
#include "store/hashtable.h"
#include "store/mend.h"
#include "store/own.h"
#include "store/rebuild.h"
#include "store/shard.h"
#include "store/slab.h"
#include "store/walk.h"

#include <time.h>

#define MEGABYTES 8
#define LONG_BYTES 200000
#define OTHERS 60

static struct segment *segment;
static struct store *store;
static struct process_slot *slot;
static struct held_table *held;
static uint8_t value[LONG_BYTES];

static struct put
put_of(const char *key, char fill)
{
    memset(value, fill, sizeof(value));
    struct put put = {.mode = PUT_SET, .value = value, .value_len = sizeof(value)};
    key_init(store, &put.key, key, (uint32_t)strlen(key));
    return put;
}

static void
ignore_problem(void *context, const char *sentence)
{
    (void)context, (void)sentence;
}

/* Other keys take every chunk that is free, and more. */
static void
store_others(void)
{
    for (int i = 0; i < OTHERS; i++) {
        char key[32];
        snprintf(key, sizeof(key), "other%d", i);
        struct put put = put_of(key, 'o');
        EXPECT(store_put(store, &put) == PUT_STORED);
    }
}

static void
expect_others_whole(void)
{
    unsigned found = 0;
    for (int i = 0; i < OTHERS; i++) {
        char text[32];
        struct key key;
        struct pin pin = {0};
        struct iovec piece;
        key_init(store, &key, text, (uint32_t)snprintf(text, sizeof(text), "other%d", i));
        if (store_pin(store, &key, &pin) != PIN_OK) {
            continue; /* Evicted. */
        }
        while (store_pin_pieces(store, &pin, &piece, 1) == 1) {
            for (size_t j = 0; j < piece.iov_len; j++) {
                EXPECT(((const char *)piece.iov_base)[j] == 'o');
            }
            store_pin_advance(store, &pin, piece.iov_len);
        }
        EXPECT(pin.consumed == LONG_BYTES);
        store_unpin(store, &pin);
        found++;
    }
    EXPECT(found > 5);
}

static void
begin_upload(struct upload *upload)
{
    uint8_t *space;
    enum put_result result;
    struct put put = put_of("long", 'u');
    EXPECT(store_upload_begin(store, &put, upload) == PUT_STORED);
    for (unsigned i = 0; i < 4; i++) {
        uint32_t room = store_upload_space(store, upload, &space, &result);
        EXPECT(room > 0);
        memset(space, 'u', room);
        store_upload_advance(store, upload, room);
    }
    EXPECT(store_upload_space(store, upload, &space, &result) > 0);
    EXPECT(store_upload_has_space(store, upload));
}

static void
expect_sound_and_empty(void)
{
    EXPECT(store_flush_all(store, 0));
    struct key key;
    key_init(store, &key, "long", 4);
    (void)!store_delete(store, &key);
    expect_sound(segment, store, "at the end");
}

static void
an_upload_whose_entry_is_lost_writes_into_no_other_value(void)
{
    uint8_t *space;
    enum put_result result;
    struct upload upload = {0};
    begin_upload(&upload);
    held->uploads[upload.index].head_ref = 0;
    store_rebuild(store);
    EXPECT(!store_upload_has_space(store, &upload));
    store_others();
    EXPECT(!store_upload_has_space(store, &upload));
    EXPECT(store_upload_space(store, &upload, &space, &result) == 0 && result == PUT_NO_MEMORY);
    store_upload_abort(store, &upload);
    expect_others_whole();
    expect_sound_and_empty();
}

/* The entry names again what others have by now. */
static void
an_upload_whose_chunks_were_given_away_is_not_published(void)
{
    struct put put = put_of("long", 'u');
    struct upload upload = {0};
    begin_upload(&upload);
    uint32_t head = held->uploads[upload.index].head_ref;
    held->uploads[upload.index].head_ref = 0;
    store_rebuild(store);
    store_others();
    held->uploads[upload.index].head_ref = head;
    upload.received = upload.value_len;
    EXPECT(store_upload_commit(store, &put, &upload) == PUT_NO_MEMORY);
    struct pin pin = {0};
    EXPECT(store_pin(store, &put.key, &pin) == PIN_GONE);
    expect_others_whole();
    expect_sound_and_empty();
}

static void
an_upload_whose_entry_names_anything_is_freed(void)
{
    struct upload upload = {0};
    begin_upload(&upload);
    held->uploads[upload.index].head_ref = 0xFFFFFFF0u;
    EXPECT(!store_upload_has_space(store, &upload));
    store_upload_abort(store, &upload);
    EXPECT(held->uploads[upload.index].head_ref == 0);
    expect_sound_and_empty();
}

/* "long" is stored, pinned, and then is other keys'; returns the pin, with a part of it sent. */
static struct pin
pin_and_lose(uint32_t *head)
{
    struct put put = put_of("long", 'l');
    struct pin pin = {0};
    struct iovec piece;
    EXPECT(store_put(store, &put) == PUT_STORED);
    EXPECT(store_pin(store, &put.key, &pin) == PIN_OK);
    EXPECT(store_pin_pieces(store, &pin, &piece, 1) == 1);
    store_pin_advance(store, &pin, piece.iov_len);
    *head = held->pins[pin.index].head_ref;
    held->pins[pin.index].head_ref = 0;
    EXPECT(store_delete(store, &put.key) == DELETE_DONE);
    store_others();
    return pin;
}

static void
a_pin_whose_entry_is_lost_shows_nothing_more(void)
{
    uint32_t head;
    struct iovec pieces[8];
    struct pin pin = pin_and_lose(&head);
    EXPECT(store_pin_pieces(store, &pin, pieces, 8) == 0);
    /* The entry names again what others have by now. */
    held->pins[pin.index].head_ref = head;
    EXPECT(store_pin_pieces(store, &pin, pieces, 8) == 0);
    store_unpin(store, &pin);
    expect_others_whole();
    expect_sound_and_empty();
}

/* Behind the head of the chain, at no chunk's beginning, stands what looks like its continuation.
 */
static void
a_continuation_begins_where_a_chunk_does(void)
{
    struct put put = put_of("long", 'l');
    struct pin pin = {0};
    EXPECT(store_put(store, &put) == PUT_STORED);
    EXPECT(store_pin(store, &put.key, &pin) == PIN_OK);
    struct ref head = {pin.head_ref};
    uint32_t next = *item_next(ref_at(store, head));
    struct ref inside = {next + 64};
    memcpy(ref_at(store, inside), ref_at(store, (struct ref){next}), CONTINUATION_HEADER_BYTES);
    EXPECT(cont_is_of(store, (struct ref){next}, head.units));
    EXPECT(!cont_is_of(store, inside, head.units));
    store_unpin(store, &pin);
    expect_sound_and_empty();
}

static void
name_in_lock(struct shared_lock *lock, pid_t thread)
{
    ((int *)(void *)&lock->mutex)[0] = thread;
}

static void
a_lock_that_names_a_thread_without_it_is_taken_by_that_thread(void)
{
    struct shard *shard = &store->shards[0];
    name_in_lock(&segment->locks[shard->index].lock, getpid());
    EXPECT(shard_lock(store, shard));
    shard_unlock(store, shard);
    EXPECT(lock_owner(&segment->locks[shard->index].lock) == 0);
    name_in_lock(&segment->run->growth.grow_lock, getpid());
    EXPECT(pool_set_limit(segment, (uint64_t)MEGABYTES << 20));
    expect_sound_and_empty();
}

/* A process that lives and does nothing; `claims` are its words wanted_shard and locked_shard. */
static pid_t
idle_process(uint32_t wanted, uint32_t locked)
{
    pid_t pid = fork();
    if (pid == 0) {
        segment_claim_slot(segment, SLOT_WORKER_FIRST + 1);
        segment->slots[SLOT_WORKER_FIRST + 1].wanted_shard = wanted;
        segment->slots[SLOT_WORKER_FIRST + 1].locked_shard = locked;
        raise(SIGSTOP);
        for (;;) {
            pause();
        }
    }
    int status;
    EXPECT(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    return pid;
}

static void
kill_and_reap(pid_t pid)
{
    int status;
    EXPECT(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
}

static void
end(pid_t pid)
{
    struct recovery recovery;
    kill_and_reap(pid);
    EXPECT(store_recover(store, SLOT_WORKER_FIRST + 1, &recovery));
}

static unsigned
mended_in_three_looks(void)
{
    unsigned mended = 0;
    for (unsigned i = 0; i < 3; i++) {
        mended += store_mend_locks(store);
    }
    return mended;
}

static void
a_lock_that_names_a_process_without_it_is_mended(void)
{
    struct shard *shard = &store->shards[0];
    pid_t pid = idle_process(0, 0);
    name_in_lock(&segment->locks[shard->index].lock, pid);
    EXPECT(mended_in_three_looks() == 1);
    EXPECT(shard_lock(store, shard));
    shard_unlock(store, shard);
    end(pid);
    /* One word that says so is damage, if the lock names nobody. */
    pid = idle_process(0, 1);
    name_in_lock(&segment->locks[shard->index].lock, 0x3FFFFFF0);
    EXPECT(mended_in_three_looks() == 1);
    end(pid);
    /* A slot that is to be recovered says it in vain, though its process may live: it has left. */
    pid = idle_process(1, 1);
    name_in_lock(&segment->locks[shard->index].lock, 0x3FFFFFF0);
    EXPECT(mended_in_three_looks() == 0);
    segment->ended[SLOT_WORKER_FIRST + 1] = true;
    EXPECT(mended_in_three_looks() == 1);
    segment->ended[SLOT_WORKER_FIRST + 1] = false;
    end(pid);
    /* What holds it says so, and is left alone. */
    pid = idle_process(1, 1);
    name_in_lock(&segment->locks[shard->index].lock, pid);
    EXPECT(mended_in_three_looks() == 0);
    kill_and_reap(pid);
    EXPECT(mended_in_three_looks() == 1);
    struct recovery recovery;
    EXPECT(store_recover(store, SLOT_WORKER_FIRST + 1, &recovery));
    expect_sound_and_empty();
}

/* The pool's lock is said by no word of a slot. */
static void
a_sleeping_process_does_not_have_the_lock_of_the_pool(void)
{
    struct shared_lock *lock = &segment->run->growth.grow_lock;
    pid_t pid = idle_process(0, 0);
    name_in_lock(lock, pid);
    EXPECT(mended_in_three_looks() == 0); /* It is stopped, and may have been within. */
    EXPECT(kill(pid, SIGCONT) == 0);
    unsigned mended = 0;
    for (unsigned i = 0; i < 5000 && mended == 0; i++) {
        mended += store_mend_locks(store);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    EXPECT(mended == 1);
    end(pid);
    expect_sound_and_empty();
}

static void
absent_pages_are_found_whatever_is_said_of_where_they_begin(void)
{
    struct page_pool *pool = &segment->superblock->pool;
    store_others();
    EXPECT(store_set_memory_limit(store, (uint64_t)MEGABYTES << 19));
    for (unsigned i = 0; i < 100000 && pool_is_over(segment); i++) {
        (void)!store_maintain(store);
    }
    EXPECT(!pool_is_over(segment));
    EXPECT(store_set_memory_limit(store, (uint64_t)MEGABYTES << 20));
    pool->absent_from = 0x7FFFFFFF;
    uint32_t present = atomic_load(&pool->present_count);
    (void)pool_grow(segment);
    EXPECT(pool_grow(segment));
    EXPECT(atomic_load(&pool->present_count) > present);
    expect_sound_and_empty();
}

/* As a second later. */
static void
look_at_own(void)
{
    store->own.looked_at_s = 0;
    store_look_at_own(store, true);
}

static void
entries_that_the_process_does_not_use_are_cleared(void)
{
    struct put put = put_of("long", 'l');
    struct pin pin = {0};
    EXPECT(store_put(store, &put) == PUT_STORED);
    for (unsigned i = 0; i < PIN_COUNT_MAX; i++) {
        held->pins[i].head_ref = 0xFFFFFFF0u - i;
        held->uploads[i].head_ref = i + 1;
    }
    EXPECT(store_pin(store, &put.key, &pin) == PIN_WAIT);
    look_at_own();
    EXPECT(store_pin(store, &put.key, &pin) == PIN_OK);
    /* And what it uses stays. */
    look_at_own();
    EXPECT(held->pins[pin.index].head_ref == pin.head_ref && pin.head_ref != 0);
    /* One that keeps an unlinked chain: that is freed. */
    held->pins[700].head_ref = pin.head_ref;
    held->pin_high = 701;
    EXPECT(store_delete(store, &put.key) == DELETE_DONE);
    store_unpin(store, &pin);
    EXPECT(state_kind(chunk_state(ref_at(store, (struct ref){pin.head_ref}))) == CHUNK_DETACHED);
    look_at_own();
    EXPECT(state_kind(chunk_state(ref_at(store, (struct ref){pin.head_ref}))) == CHUNK_FREE);
    EXPECT(held->pin_high < 701);
    expect_sound_and_empty();
}

static void
words_of_the_own_slot_are_written_again(void)
{
    int32_t pid = slot->pid;
    slot->pid = 1;
    slot->serving = 0;
    slot->dumps = slot->watchers = slot->watch_classes = 77;
    segment->run->watched = 77;
    look_at_own();
    logring_settle(segment);
    EXPECT(slot->pid == pid && slot->serving == 1);
    EXPECT(slot->dumps == 0 && slot->watchers == 0 && slot->watch_classes == 0);
    EXPECT(segment->run->watched == 0);
}

/* The first word of a ring counts its cells. */
static void
a_reader_goes_on_where_a_ring_went_back(void)
{
    struct log_position position;
    struct log_entry entry = {.head = {.kind = LOG_DELETED, .text_len = 1}, .text = "k"};
    uint64_t lost = 0;
    EXPECT(logring_populate(segment));
    unsigned index = (unsigned)(slot - segment->slots);
    uint64_t *written = (uint64_t *)(void *)(segment->run_base + segment->run->logs_at +
                                             (uint64_t)index * segment->run->log_ring_bytes);
    for (unsigned i = 0; i < 10; i++) {
        logring_write(segment, slot, &entry);
    }
    logring_begin(segment, index, &position);
    EXPECT(*written == 10 && position.cell == 10);
    *written = 3;
    logring_write(segment, slot, &entry);
    EXPECT(logring_read(segment, index, &position, &entry, &lost) == LOG_READ_END);
    logring_write(segment, slot, &entry);
    EXPECT(logring_read(segment, index, &position, &entry, &lost) == LOG_READ_ENTRY);
}

static void
prefixes_are_asked_memory_for_whatever_the_moment_says(void)
{
    segment->run->prefix_retry_at_s = UINT32_MAX;
    EXPECT(prefix_table_find(segment, (const uint8_t *)"p", 1) != NULL);
}

static void
a_session_without_an_owner_ends(void)
{
    struct track_head *head = track_head_of(segment);
    uint64_t now_ns = UINT64_C(1) << 40;
    head->owner = 0xFFFFFFF0u;
    segment->run->tracking = 0xFFFFFFF0u;
    for (unsigned i = 0; i < 5; i++) {
        now_ns += UINT64_C(2000000000);
        (void)track_audit(segment, &store->track_audit, now_ns);
    }
    EXPECT(head->owner == 0 && segment->run->tracking == 0);
    EXPECT(track_begin(segment, SLOT_WORKER_FIRST, 1, TRACK_SHIFT_MIN) == TRACK_OK);
    for (unsigned i = 0; i < 5; i++) {
        now_ns += UINT64_C(2000000000);
        EXPECT(!track_audit(segment, &store->track_audit, now_ns));
    }
    track_end(segment, COPIES_OWN);
}

/* A chunk of no kind is in no list, and no item is: it would never be used again. */
static void
a_flush_leaves_no_damaged_chunk(void)
{
    struct put put = put_of("long", 'l');
    put.value_len = 100;
    EXPECT(store_put(store, &put) == PUT_STORED);
    struct table_place place;
    struct shard *shard = shard_of_hash(store, put.key.hash);
    table_find(store, shard, put.key.bytes, put.key.len, put.key.hash, &place);
    EXPECT(place.bucket != NULL);
    struct ref beside = {place.ref.units + slab_chunk_bytes(store, class_of_ref(store, place.ref)) /
                                               (1u << segment->superblock->unit_shift)};
    atomic_fetch_or((_Atomic uint32_t *)ref_at(store, beside), 7);
    EXPECT(store_check(store, ignore_problem, NULL) != 0);
    store->audit_flush_at_ns = 0; /* It may have been done a moment ago. */
    EXPECT(store_flush_all(store, 0));
    for (unsigned i = 0; i < 100000 && store_check(store, ignore_problem, NULL) != 0; i++) {
        (void)!store_maintain(store);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    expect_sound_and_empty();
}

/* A store finds them before it begins, and has the shard rebuilt: it does not die. */
static void
words_that_a_store_follows_are_looked_at_before(void)
{
    struct put put = put_of("short", 's');
    put.value_len = 100;
    EXPECT(store_put(store, &put) == PUT_STORED);
    uint32_t class_id = store_class_id(store, put.key.len, 0, put.value_len);
    struct shard *shard = shard_of_hash(store, put.key.hash);
    struct class_list *list = &shard->classes[class_id];
    for (unsigned i = 0; i < 8; i++) {
        uint64_t rebuilds = shard->sums.rebuilds;
        struct page *page = page_entry(segment, list->partial - 1);
        switch (i) {
        case 0:
            list->partial = 0x7FFFFFFF;
            break;
        case 1:
            page->free_head = 60000;
            break;
        case 2:
            page->owner = page_owner(0, class_id + 1);
            break;
        case 3:
            list->ring_head = 0xFFFFFFF0u;
            break;
        case 4:
            list->ring_tail = 0xFFFFFFF0u;
            break;
        case 5:
            list->ring_pushed = 60000;
            break;
        case 6:
            list->ring_count = 5;
            list->ring_head = 0;
            break;
        case 7:
            list->partial = 0;
            break;
        }
        EXPECT(store_put(store, &put) == PUT_STORED);
        EXPECT(shard->sums.rebuilds == rebuilds + 1);
    }
    shard->cell_free = 0xFFFFFFF0u;
    EXPECT(store_put(store, &put) == PUT_STORED);
    store_rebuild(store);
    expect_sound_and_empty();
}

static void
a_check_of_damaged_words_tells_and_ends(void)
{
    struct put put = put_of("long", 'c');
    EXPECT(store_put(store, &put) == PUT_STORED);
    struct shard *shard = shard_of_key(store, &put.key);
    for (unsigned i = 0; i < 4; i++) {
        struct table_place place;
        table_find(store, shard, put.key.bytes, put.key.len, put.key.hash, &place);
        struct class_list *list = &shard->classes[class_of_ref(store, place.ref)];
        struct page *page = page_entry(segment, list->hand_page - 1);
        switch (i) {
        case 0:
            page->class_next = 0x7FFFFFFF;
            break;
        case 1:
            page->free_head = 60000;
            break;
        case 2:
            atomic_store(&place.bucket->ref[place.slot], 0xFFFFFFF0u);
            break;
        case 3: /* A chain that is a circle. */
            ((struct continuation *)ref_at(store, (struct ref){*item_next(place.item)}))->next =
                *item_next(place.item);
            break;
        }
        EXPECT(store_check(store, ignore_problem, NULL) != 0);
        store_rebuild(store);
        EXPECT(store_put(store, &put) == PUT_STORED);
    }
    expect_sound_and_empty();
}

int
main(void)
{
    segment = segment_make(MEGABYTES);
    ledger = ledgers_make(1);
    segment_claim_slot(segment, SLOT_WORKER_FIRST);
    store = store_open(segment, SLOT_WORKER_FIRST);
    slot = store_slot(store);
    held = store->held;
    an_upload_whose_entry_is_lost_writes_into_no_other_value();
    an_upload_whose_chunks_were_given_away_is_not_published();
    an_upload_whose_entry_names_anything_is_freed();
    a_pin_whose_entry_is_lost_shows_nothing_more();
    a_continuation_begins_where_a_chunk_does();
    a_lock_that_names_a_thread_without_it_is_taken_by_that_thread();
    a_lock_that_names_a_process_without_it_is_mended();
    a_sleeping_process_does_not_have_the_lock_of_the_pool();
    absent_pages_are_found_whatever_is_said_of_where_they_begin();
    entries_that_the_process_does_not_use_are_cleared();
    words_of_the_own_slot_are_written_again();
    a_reader_goes_on_where_a_ring_went_back();
    prefixes_are_asked_memory_for_whatever_the_moment_says();
    a_session_without_an_owner_ends();
    a_flush_leaves_no_damaged_chunk();
    words_that_a_store_follows_are_looked_at_before();
    a_check_of_damaged_words_tells_and_ends();
    store_close(store);
    segment_close(segment);
    puts("ok");
    return 0;
}
