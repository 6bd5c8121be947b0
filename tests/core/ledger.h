/* What the crash tests share: a ledger of what was acknowledged, random operations that keep it,
 * and the comparison of a segment with it. Each child writes only keys of its own, so its ledger is
 * exact. */
#ifndef TESTS_CORE_LEDGER_H
#define TESTS_CORE_LEDGER_H

#include "settings.h"

#include "base/crash.h"
#include "mem/freemap.h"
#include "mem/page.h"
#include "store/check.h"
#include "store/recover.h"
#include "store/store.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY_COUNT 60
#define VALUE_MAX 120000

/* What the parent believes about a key: written by the child, around each operation. */
struct belief {
    bool exists;
    uint8_t fill;
    uint32_t value_len;
    uint32_t client_flags;
    uint32_t expire_word;
    uint64_t number; /* of a counter; fill is 0 then */
    uint64_t cas;    /* 0: given by an operation that did not say it */
};

struct ledger {
    struct belief now[KEY_COUNT];
    /* The operation under way: what was before stands in `now`, what will be here. */
    int under_way; /* key, or -1 */
    struct belief next;
    uint64_t cas_floor_of[KEY_COUNT]; /* the newest that the key is known to have had */
    uint64_t operations;
    unsigned child; /* part of its keys' names */
};

/* This process's, in memory that survives it. */
static struct ledger *ledger;
static uint64_t random_state;

static uint64_t
draw(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

static void
make_key(struct store *store, struct key *key, char *text, int index)
{
    int len = sprintf(text, "key-%u-%d", ledger->child, index);
    key_init(store, key, text, (uint32_t)len);
}

static void
begin(int index, struct belief next)
{
    ledger->next = next;
    atomic_signal_fence(memory_order_seq_cst);
    ledger->under_way = index;
    atomic_signal_fence(memory_order_seq_cst);
}

static void
acknowledge(bool happened)
{
    if (happened) {
        ledger->now[ledger->under_way] = ledger->next;
    }
    atomic_signal_fence(memory_order_seq_cst);
    ledger->under_way = -1;
    ledger->operations++;
}

static uint32_t
draw_len(void)
{
    switch (draw(4)) {
    case 0:
        return (uint32_t)draw(30);
    case 1:
        return (uint32_t)draw(3000);
    case 2:
        return (uint32_t)draw(9000);
    default:
        return (uint32_t)draw(VALUE_MAX);
    }
}

static void
die_of(const char *what, int index)
{
    printf("key %d: %s\n", index, what);
    exit(1);
}

/* The result of a put that was begun. */
static void
acknowledge_put(const struct put *put, enum put_result result)
{
    if (result == PUT_STORED) {
        ledger->next.cas = put->cas_new;
        ledger->cas_floor_of[ledger->under_way] = put->cas_new;
    }
    acknowledge(result == PUT_STORED);
}

static void
put_new(struct store *store, struct put *put, struct belief next, int index, uint8_t *buffer)
{
    put->value_len = next.value_len;
    memset(buffer, next.fill, next.value_len);
    begin(index, next);
    acknowledge_put(put, store_put(store, put));
}

/* Adds to what is there; a counter or nothing is left alone. */
static void
put_concat(struct store *store, struct put *put, int index, uint8_t *buffer)
{
    struct belief next = ledger->now[index];
    if (!next.exists || next.fill == 0 || next.value_len + 100 >= VALUE_MAX) {
        return;
    }
    next.value_len += 100;
    next.cas = 0;
    put->mode = draw(2) ? PUT_APPEND : PUT_PREPEND;
    put->value_len = 100;
    memset(buffer, next.fill, 100);
    begin(index, next);
    acknowledge_put(put, store_put(store, put));
}

static void
count_up(struct store *store, struct put *put, struct belief next, int index, uint8_t *buffer)
{
    const struct belief *now = &ledger->now[index];
    uint64_t number;
    if (now->exists && now->fill == 0) {
        next = *now;
        next.number += 3;
        next.cas = 0;
        begin(index, next);
        acknowledge(store_arith(store, &put->key, true, 3, &number) == ARITH_DONE);
        return;
    }
    next.fill = 0;
    next.value_len = 1;
    put->value_len = 1;
    buffer[0] = '0';
    begin(index, next);
    acknowledge_put(put, store_put(store, put));
}

/* A value that comes in pieces, and sometimes not whole. */
static void
put_upload(struct store *store, struct put *put, struct belief next, int index)
{
    struct upload upload;
    next.value_len = (uint32_t)(20000 + draw(60000));
    put->value_len = next.value_len;
    if (store_upload_begin(store, put, &upload) != PUT_STORED) {
        return;
    }
    uint32_t abort_at = (uint32_t)draw(2 * next.value_len);
    uint8_t *space;
    enum put_result result;
    uint32_t room;
    while ((room = store_upload_space(store, &upload, &space, &result)) > 0 &&
           upload.received < abort_at) {
        memset(space, next.fill, room);
        store_upload_advance(store, &upload, room);
    }
    if (upload.received < upload.value_len) {
        store_upload_abort(store, &upload);
        return;
    }
    begin(index, next);
    acknowledge_put(put, store_upload_commit(store, put, &upload));
}

/* Leaves the item stale, and sometimes with another expiry. */
static void
invalidate(struct store *store, const struct key *key, struct expiry expire, int index)
{
    struct removal removal = {
        .key = *key, .invalidates = true, .sets_expire = draw(2), .expire = expire};
    struct belief next = ledger->now[index];
    next.cas = 0;
    if (removal.sets_expire) {
        next.expire_word = expire.word;
    }
    begin(index, next);
    acknowledge(store_remove(store, &removal) == REMOVE_DONE);
}

/* Leaves an empty value. */
static void
empty(struct store *store, const struct key *key, struct expiry expire, int index)
{
    struct removal removal = {.key = *key, .empties = true, .expire = expire};
    struct belief next = ledger->now[index];
    next.fill = 1;
    next.value_len = next.client_flags = 0;
    next.expire_word = expire.word;
    begin(index, next);
    acknowledge(store_remove(store, &removal) == REMOVE_DONE);
}

/* Touches what is there, and wins if it is stale. */
static void
fetch(struct store *store, const struct key *key, struct expiry expire, int index)
{
    struct fetch fetch = {
        .key = *key, .bump = VIEW_GET, .touches = true, .expire = expire, .wins = true};
    struct view view;
    struct belief next = ledger->now[index];
    next.expire_word = expire.word;
    begin(index, next);
    enum fetch_result result = store_fetch(store, &fetch, &view);
    if (result == FETCH_HIT) {
        (void)!store_view_confirm(store, &view, VIEW_GET);
    }
    acknowledge(result == FETCH_HIT || result == FETCH_HIT_LARGE);
}

/* One random operation; values are filled with one byte so that a tear shows. */
static inline void
operate(struct store *store, uint8_t *buffer)
{
    int index = (int)draw(KEY_COUNT);
    struct belief *now = &ledger->now[index];
    char text[32];
    struct key key;
    make_key(store, &key, text, index);
    struct expiry expire = store_expiry(store, draw(2) ? 0 : (int64_t)(100000 + draw(100000)));
    struct belief next = {.exists = true,
                          .fill = (uint8_t)(1 + draw(255)),
                          .value_len = draw_len(),
                          .client_flags = (uint32_t)draw(2) * 77,
                          .expire_word = expire.word};
    struct put put = {
        .key = key, .value = buffer, .client_flags = next.client_flags, .expire = expire};
    switch (draw(15)) {
    case 0:
        begin(index, (struct belief){0});
        acknowledge(store_delete(store, &key) == DELETE_DONE || !now->exists);
        return;
    case 1:
        put_concat(store, &put, index, buffer);
        return;
    case 2:
    case 3:
        count_up(store, &put, next, index, buffer);
        return;
    case 4: {
        struct pin pin;
        if (store_pin(store, &key, &pin) == PIN_OK) {
            begin(index, (struct belief){0});
            acknowledge(store_delete(store, &key) == DELETE_DONE);
            store_unpin(store, &pin);
        }
        return;
    }
    case 5:
        next = *now;
        next.expire_word = expire.word;
        begin(index, next);
        acknowledge(store_touch(store, &key, expire) == TOUCH_DONE);
        return;
    case 6:
        put_upload(store, &put, next, index);
        return;
    case 7:
        put.mode = PUT_CAS;
        put.cas_unique = now->cas;
        put_new(store, &put, next, index, buffer);
        return;
    case 12:
        invalidate(store, &key, expire, index);
        return;
    case 13:
        fetch(store, &key, expire, index);
        return;
    case 14:
        empty(store, &key, expire, index);
        return;
    case 8:
        put.mode = draw(2) ? PUT_ADD : PUT_REPLACE;
        put_new(store, &put, next, index, buffer);
        return;
    default:
        put_new(store, &put, next, index, buffer);
        return;
    }
}

/* Reads the key's value whole; false if it is not there. */
static bool
read_value(struct store *store, const struct key *key, uint8_t *out, struct belief *found)
{
    struct view view = {0};
    for (;;) {
        enum view_result result = store_view(store, key, &view);
        if (result == VIEW_HIT) {
            memcpy(out, view.value, view.value_len);
            if (!store_view_confirm(store, &view, VIEW_PEEK)) {
                continue;
            }
            found->value_len = view.value_len;
            found->client_flags = view.client_flags;
            found->expire_word = view.expire_word;
            found->cas = view.cas;
            return true;
        }
        if (result != VIEW_HIT_LARGE) {
            return false;
        }
        struct pin pin;
        if (store_pin(store, key, &pin) != PIN_OK) {
            return false;
        }
        struct iovec piece;
        uint32_t at = 0;
        while (store_pin_pieces(store, &pin, &piece, 1) == 1) {
            memcpy(out + at, piece.iov_base, piece.iov_len);
            at += (uint32_t)piece.iov_len;
            store_pin_advance(store, &pin, piece.iov_len);
        }
        found->value_len = at;
        found->client_flags = pin.client_flags;
        found->expire_word = view.expire_word;
        found->cas = pin.cas;
        store_unpin(store, &pin);
        return true;
    }
}

static bool
agrees(const struct belief *belief, bool exists, const struct belief *found, const uint8_t *bytes)
{
    if (!belief->exists || !exists) {
        return belief->exists == exists;
    }
    if (found->client_flags != belief->client_flags || found->expire_word != belief->expire_word) {
        return false;
    }
    if (belief->cas != 0 && found->cas != belief->cas) {
        return false;
    }
    if (belief->fill == 0) {
        char text[32];
        uint32_t len = found->value_len < 31 ? found->value_len : 31;
        memcpy(text, bytes, len);
        text[len] = '\0';
        return strtoull(text, NULL, 10) == belief->number;
    }
    if (found->value_len != belief->value_len) {
        return false;
    }
    for (uint32_t i = 0; i < found->value_len; i++) {
        if (bytes[i] != belief->fill) {
            return false;
        }
    }
    return true;
}

static inline void
verify(struct store *store)
{
    static uint8_t bytes[VALUE_MAX];
    for (int index = 0; index < KEY_COUNT; index++) {
        char text[32];
        struct key key;
        make_key(store, &key, text, index);
        struct belief found = {0};
        bool exists = read_value(store, &key, bytes, &found);
        struct belief *now = &ledger->now[index];
        if (!agrees(now, exists, &found, bytes)) {
            if (index != ledger->under_way || !agrees(&ledger->next, exists, &found, bytes)) {
                die_of(exists ? "holds what nobody acknowledged" : "is lost", index);
            }
            *now = ledger->next;
        }
        if (exists && now->cas == 0 && found.cas <= ledger->cas_floor_of[index]) {
            die_of("has a cas that is not newer", index);
        }
        now->cas = found.cas;
        ledger->cas_floor_of[index] = found.cas;
    }
    ledger->under_way = -1;
}

static void
print_problem(void *context, const char *sentence)
{
    (void)context;
    printf("%s\n", sentence);
}

/* Pages that shards own, free ones and absent ones make all that were populated. */
static bool
pages_add_up(struct segment *segment, struct store *store)
{
    struct store_sums sums;
    store_sum(store, &sums);
    const struct page_pool *pool = &segment->superblock->pool;
    uint32_t populated = atomic_load(&pool->populated_count);
    uint64_t free_pages = 0, absent = 0;
    for (uint32_t i = 0; i < populated; i++) {
        uint32_t owner = atomic_load(&page_entry(segment, i)->owner);
        free_pages += owner == PAGE_FREE;
        absent += owner == PAGE_ABSENT;
    }
    if (free_pages + sums.pages + absent != populated) {
        printf("%" PRIu64 " pages are free, %" PRIu64 " owned, %" PRIu64 " absent, of %u\n",
               free_pages, sums.pages, absent, populated);
        return false;
    }
    if (freemap_count(segment, UINT32_MAX) != free_pages) {
        printf("%" PRIu64 " pages are free, %u are found\n", free_pages,
               freemap_count(segment, UINT32_MAX));
        return false;
    }
    if (atomic_load(&pool->present_count) + absent != populated) {
        printf("%u pages are counted as present, %" PRIu64 " are\n",
               atomic_load(&pool->present_count), populated - absent);
        return false;
    }
    return true;
}

/* When all keys are gone, every page is empty, or the table's or the ghost's. */
static inline void
expect_nothing_left(struct segment *segment, struct store *store)
{
    const struct superblock *superblock = segment->superblock;
    for (uint32_t i = 0; i < superblock->shard_count; i++) {
        const struct shard *shard = &store->shards[i];
        for (uint32_t class_id = 1; class_id <= superblock->class_count; class_id++) {
            const struct class_list *list = &shard->classes[class_id];
            if (list->empty_count != list->page_count) {
                printf("class %u has %u pages, %u of them empty, though no key is left\n", class_id,
                       list->page_count, list->empty_count);
                exit(1);
            }
        }
    }
    struct store_sums sums;
    store_sum(store, &sums);
    if (sums.held_bytes != 0 || sums.curr_items != 0) {
        printf("%" PRIu64 " bytes are held, %" PRIu64 " items left\n", sums.held_bytes,
               sums.curr_items);
        exit(1);
    }
}

static inline void
delete_everything(struct store *store)
{
    for (int index = 0; index < KEY_COUNT; index++) {
        char text[32];
        struct key key;
        make_key(store, &key, text, index);
        (void)!store_delete(store, &key);
        ledger->now[index] = (struct belief){0};
    }
}

static struct ledger *
ledgers_make(unsigned count)
{
    struct ledger *made = mmap(NULL, count * sizeof(*made), PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED) {
        exit(2);
    }
    for (unsigned i = 0; i < count; i++) {
        made[i].under_way = -1;
        made[i].child = i;
    }
    return made;
}

static inline struct segment *
segment_make(unsigned megabytes)
{
    struct segment_settings settings = small_settings((uint64_t)megabytes << 20, 8);
    struct segment *segment;
    char sentence[SEGMENT_SENTENCE_MAX];
    if (store_create(&settings, &segment, sentence) != SEGMENT_OK) {
        printf("%s\n", sentence);
        exit(2);
    }
    return segment;
}

/* Ends the test at the first thing that does not agree. */
static void
expect_sound(struct segment *segment, struct store *store, const char *when)
{
    if (store_check(store, print_problem, NULL) != 0 || !pages_add_up(segment, store)) {
        printf("%s\n", when);
        exit(1);
    }
}

#endif
