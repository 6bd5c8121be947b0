/* Two nodes in one process, what clients do in them, and what the leader of a change does. */
#ifndef TESTS_WARM_COPIES_NODES_H
#define TESTS_WARM_COPIES_NODES_H

#include "../core/ledger.h"

#include "base/clock.h"
#include "store/copy.h"
#include "store/flush.h"
#include "store/hashtable.h"
#include "store/slab.h"
#include "store/track.h"
#include "store/walk.h"

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                 \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define MEGABYTES 16
#define SHIFT 20
#define SLOT_LEADER SLOT_WORKER_FIRST
#define SLOT_CLIENT (SLOT_WORKER_FIRST + 1)
#define LONG_VALUE 100000

/* A node: a client's handle on it and the leader's. */
struct node {
    struct segment *segment;
    struct store *client, *leader;
};

static struct node from, to;
static uint64_t session = 1;
static uint8_t buffer[VALUE_MAX];

static struct node
node_make(void)
{
    struct node node = {.segment = segment_make(MEGABYTES)};
    segment_claim_slot(node.segment, SLOT_LEADER);
    segment_claim_slot(node.segment, SLOT_CLIENT);
    node.leader = store_open(node.segment, SLOT_LEADER);
    node.client = store_open(node.segment, SLOT_CLIENT);
    return node;
}

/* Time passes for those who look once per batch of requests. */
static void
tick(void)
{
    struct store *stores[] = {from.client, from.leader, to.client, to.leader};
    for (unsigned i = 0; i < 4; i++) {
        store_tick(stores[i]);
    }
}

static void
show(void)
{
    track_renew(to.segment, clock_mono_ns() + UINT64_C(3600000000000));
}

static void
begin_session(void)
{
    struct track_source source;
    session += 2;
    EXPECT(store_copy_begin(from.leader, session, SHIFT) == COPY_BEGUN);
    EXPECT(store_copy_begin(to.leader, session, SHIFT) == COPY_BEGUN);
    EXPECT(track_source_of(from.segment, &source));
    track_accept(to.segment, &source, 1);
    tick();
    show();
}

static void
walk_to_end(enum copy_end end, uint64_t *kept, uint64_t *dropped)
{
    struct dump_cursor cursor = {0};
    enum dump_result result;
    *kept = *dropped = 0;
    do {
        result = store_copy_end(to.leader, &cursor, end, kept, dropped);
        EXPECT(result != DUMP_BUSY);
    } while (result == DUMP_MORE);
}

static void
end_session(enum copy_end end)
{
    uint64_t kept, dropped;
    walk_to_end(end, &kept, &dropped);
    track_end(to.segment, COPIES_OWN);
    track_end(from.segment, COPIES_OWN);
    tick();
}

/* ---- what clients do, by the key's text ------------------------------------------------------ */

static struct key
key_of(struct store *store, const char *text)
{
    struct key key;
    key_init(store, &key, text, (uint32_t)strlen(text));
    return key;
}

static void
set_len(struct node *node, const char *text, char fill, uint32_t len)
{
    memset(buffer, fill, len);
    struct put put = {.key = key_of(node->client, text), .value = buffer, .value_len = len};
    EXPECT(store_put(node->client, &put) == PUT_STORED);
}

static void
set(struct node *node, const char *text, char fill)
{
    set_len(node, text, fill, 1);
}

/* The value's first byte; 0: a miss. By the way without the lock and the one with it. */
static char
get(struct node *node, const char *text)
{
    struct key key = key_of(node->client, text);
    struct belief found = {0};
    char value = read_value(node->client, &key, buffer, &found) ? (char)buffer[0] : 0;
    struct fetch fetch = {.key = key, .wants_value = true};
    struct view view = {0};
    enum fetch_result result = store_fetch(node->client, &fetch, &view);
    if (result == FETCH_HIT) {
        EXPECT((char)view.value[0] == value);
        EXPECT(store_view_confirm(node->client, &view, VIEW_PEEK));
    }
    store_unpin(node->client, &fetch.pin);
    EXPECT((result == FETCH_HIT || result == FETCH_HIT_LARGE) == (value != 0));
    return value;
}

static void delete(struct node *node, const char *text)
{
    struct key key = key_of(node->client, text);
    EXPECT(store_delete(node->client, &key) != DELETE_BUSY);
}

/* ---- what the leader does -------------------------------------------------------------------- */

/* Read, and not yet stored. */
struct under_way {
    struct copy copy;
    uint8_t value[1 << 16];
    const char *text;
};

static void
read_from(const char *text, struct under_way *item)
{
    struct dump_item dumped = {.key_len = (uint8_t)strlen(text), .hits = 2};
    memcpy(dumped.key, text, dumped.key_len);
    item->text = text;
    EXPECT(store_copy_read(from.leader, &dumped, item->value, &item->copy) == COPY_STORED);
}

static enum copy_result
store_to(struct under_way *item)
{
    bool ended;
    struct copy copy = item->copy;
    struct key key = key_of(from.leader, item->text);
    copy.key = key_of(to.leader, item->text);
    copy.expire_word = expire_word_for(from.leader, to.leader, copy.expire_word, &ended);
    EXPECT(!ended);
    return copy.value == NULL ? store_copy_long(from.leader, &key, to.leader, &copy)
                              : store_copy(to.leader, &copy);
}

static enum copy_result
copy(const char *text)
{
    static struct under_way item;
    read_from(text, &item);
    return store_to(&item);
}

static void
expect_empty(struct node *node, const char *when)
{
    expect_sound(node->segment, node->client, when);
    store_flush_all(node->client, 0);
    while (flush_left_items(node->client)) {
        (void)flush_sweep(node->client, UINT32_MAX);
    }
    expect_nothing_left(node->segment, node->client);
}

#endif
