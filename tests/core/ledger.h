/* What the crash tests share: a ledger of what was acknowledged, random operations that keep it,
 * and the comparison of a segment with it. Each child writes only keys of its own, so its ledger is
 * exact. */
#ifndef TESTS_CORE_LEDGER_H
#define TESTS_CORE_LEDGER_H

#include "base/crash.h"
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
    uint64_t number; /* of a counter; fill is 0 then */
};

struct ledger {
    struct belief now[KEY_COUNT];
    /* The operation under way: what was before stands in `now`, what will be here. */
    int under_way; /* key, or -1 */
    struct belief next;
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

/* One random operation; values are filled with one byte so that a tear shows. */
static inline void
operate(struct store *store, uint8_t *buffer)
{
    int index = (int)draw(KEY_COUNT);
    struct belief *now = &ledger->now[index];
    char text[32];
    struct key key;
    make_key(store, &key, text, index);
    struct belief next = {.exists = true,
                          .fill = (uint8_t)(1 + draw(255)),
                          .value_len = draw_len(),
                          .client_flags = (uint32_t)draw(2) * 77};
    struct put put = {.key = key, .value = buffer, .client_flags = next.client_flags};
    uint64_t number;
    switch (draw(8)) {
    case 0:
        begin(index, (struct belief){0});
        acknowledge(store_delete(store, &key) == DELETE_DONE || !now->exists);
        return;
    case 1:
        if (now->exists && now->fill != 0 && now->value_len + 100 < VALUE_MAX) {
            next = *now;
            next.value_len += 100;
            put.mode = draw(2) ? PUT_APPEND : PUT_PREPEND;
            put.value_len = 100;
            memset(buffer, now->fill, 100);
            begin(index, next);
            acknowledge(store_put(store, &put) == PUT_STORED);
        }
        return;
    case 2:
        if (now->exists && now->fill == 0) {
            next = *now;
            next.number += 3;
            begin(index, next);
            acknowledge(store_arith(store, &key, true, 3, &number) == ARITH_DONE);
            return;
        }
        next = (struct belief){.exists = true, .value_len = 1, .number = 0};
        put.client_flags = 0;
        put.value_len = 1;
        buffer[0] = '0';
        begin(index, next);
        acknowledge(store_put(store, &put) == PUT_STORED);
        return;
    case 3: {
        struct pin pin;
        if (store_pin(store, &key, &pin) == PIN_OK) {
            begin(index, (struct belief){0});
            acknowledge(store_delete(store, &key) == DELETE_DONE);
            store_unpin(store, &pin);
        }
        return;
    }
    default:
        put.value_len = next.value_len;
        memset(buffer, next.fill, next.value_len);
        begin(index, next);
        acknowledge(store_put(store, &put) == PUT_STORED);
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
    if (belief->fill == 0) {
        char text[32];
        memcpy(text, bytes, found->value_len < 31 ? found->value_len : 31);
        text[found->value_len < 31 ? found->value_len : 31] = '\0';
        return strtoull(text, NULL, 10) == belief->number;
    }
    if (found->value_len != belief->value_len || found->client_flags != belief->client_flags) {
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
        if (index == ledger->under_way && agrees(&ledger->next, exists, &found, bytes)) {
            *now = ledger->next;
        } else if (!agrees(now, exists, &found, bytes)) {
            die_of(exists ? "holds what nobody acknowledged" : "is lost", index);
        }
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
    if (atomic_load(&pool->present_count) + absent != populated) {
        printf("%u pages are counted as present, %" PRIu64 " are\n",
               atomic_load(&pool->present_count), populated - absent);
        return false;
    }
    return true;
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

static struct segment *
segment_make(unsigned megabytes)
{
    struct segment_settings settings = {.memory_limit_bytes = (uint64_t)megabytes << 20,
                                        .item_size_max_bytes = 1u << 20,
                                        .growth_factor = 1.25,
                                        .item_size_min_bytes = 8,
                                        .conn_limit = 10,
                                        .worker_count = 8,
                                        .eviction_policy = POLICY_S3FIFO,
                                        .cas_enabled = true};
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
