/* The operations that are killed after each of their instructions: the state each begins in, what
 * it does, and by what it is seen that it did just that. */
#ifndef TESTS_CRASH_OPERATIONS_H
#define TESTS_CRASH_OPERATIONS_H

#include "probe.h"
#include "stepper.h"
#include "world.h"

/* Lengths of values: two that share no class, two whose items are chains of three and four chunks.
 */
#define SMALL 20
#define MEDIUM 900
#define NEARLY_A_CHUNK 7900
#define CHAIN 20000
#define LONGER_CHAIN 28000

struct operation {
    const char *name;
    void (*prepare)(struct world *world);
    bool (*run)(struct world *world);
    change_fn *did; /* NULL: the facts are enough */
    uint32_t pages; /* limit; 0: all that there are */
    unsigned megabytes;
    enum eviction_policy policy;
    bool piecemeal; /* what it changes may have happened in part */
    bool keeps;     /* no fact changes */
    bool rebuilds;  /* a death may cost a rebuild */
};

/* ---- preparing ------------------------------------------------------------------------------ */

/* Stores keys from `first` on until one of them makes `did` true; the state is the one before it,
 * and that key is the operation's. */
static void
store_until(struct world *world, unsigned first, uint32_t value_len, change_fn *did)
{
    for (unsigned index = first; index < KEYS_MAX; index++) {
        struct snapshot snapshot;
        snapshot_take(&snapshot, world);
        use_put(world, index, value_len, index);
        struct probe before = probe_take(world);
        (void)!store_key(world, index, value_len, index);
        struct probe after = probe_take(world);
        bool found = did(&before, &after);
        if (found) {
            snapshot_restore(&snapshot, world);
        }
        snapshot_free(&snapshot);
        if (found) {
            return;
        }
    }
    printf("no state was found that the operation begins in\n");
    exit(2);
}

static void
store_some(struct world *world, unsigned first, unsigned count, uint32_t value_len)
{
    for (unsigned i = first; i < first + count; i++) {
        if (store_key(world, i, value_len, i) != PUT_STORED) {
            printf("key %u was not stored\n", i);
            exit(2);
        }
    }
}

/* Values of several lengths, so that several classes have pages. */
static void
store_a_few(struct world *world)
{
    store_some(world, 0, 12, SMALL);
    store_some(world, 12, 6, MEDIUM);
    store_some(world, 18, 2, CHAIN);
}

/* ---- set and its kin ------------------------------------------------------------------------ */

static bool
run_put(struct world *world)
{
    return store_put(world->victim, &world->put) == PUT_STORED;
}

static void
prepare_set_new(struct world *world)
{
    store_a_few(world);
    use_put(world, 30, SMALL, 99);
}

static void
prepare_set_over(struct world *world)
{
    store_a_few(world);
    use_put(world, 3, SMALL, 99);
}

static void
prepare_set_over_dead(struct world *world)
{
    store_a_few(world);
    use_put(world, 3, SMALL, 98);
    world->put.expire = store_expiry(world->victim, -1);
    (void)!store_put(world->victim, &world->put);
    use_put(world, 3, SMALL, 99);
    world->put.mode = PUT_ADD;
}

static void
prepare_set_larger(struct world *world)
{
    store_a_few(world);
    use_put(world, 3, MEDIUM, 99);
}

/* The class has a page for the old item alone, and an empty one. */
static void
prepare_last_of_page(struct world *world)
{
    store_a_few(world);
    store_some(world, 40, 3, NEARLY_A_CHUNK);
    delete_key(world, 40);
    delete_key(world, 41);
    use_put(world, 42, SMALL, 99);
}

static void
prepare_cas(struct world *world)
{
    store_a_few(world);
    uint64_t cas = world->put.cas_new;
    use_put(world, 19, SMALL, 99);
    world->put.mode = PUT_CAS;
    world->put.cas_unique = cas;
}

static void
prepare_append(struct world *world)
{
    store_a_few(world);
    use_put(world, 3, 7, 99);
    world->put.mode = PUT_APPEND;
}

static void
prepare_prepend(struct world *world)
{
    prepare_append(world);
    world->put.mode = PUT_PREPEND;
}

static void
prepare_append_into_chain(struct world *world)
{
    store_a_few(world);
    use_put(world, 13, NEARLY_A_CHUNK, 99);
    world->put.mode = PUT_APPEND;
}

static void
prepare_append_to_chain(struct world *world)
{
    store_a_few(world);
    use_put(world, 18, 100, 99);
    world->put.mode = PUT_APPEND;
}

static void
prepare_prepend_to_chain(struct world *world)
{
    prepare_append_to_chain(world);
    world->put.mode = PUT_PREPEND;
}

static void
prepare_set_chain(struct world *world)
{
    store_a_few(world);
    use_put(world, 30, CHAIN, 99);
}

static void
prepare_set_chain_over_chain(struct world *world)
{
    store_a_few(world);
    use_put(world, 18, LONGER_CHAIN, 99);
}

static void
prepare_set_over_chain(struct world *world)
{
    store_a_few(world);
    use_put(world, 18, SMALL, 99);
}

/* ---- delete, arithmetic, touch, reads ------------------------------------------------------- */

static bool
run_delete(struct world *world)
{
    return store_delete(world->victim, &world->key) == DELETE_DONE;
}

static void
second_pins(struct world *world, unsigned index)
{
    struct key key;
    char text[32];
    struct pin pin;
    key_make(world->second, &key, text, index);
    if (store_pin(world->second, &key, &pin) != PIN_OK) {
        printf("the second process could not pin\n");
        exit(2);
    }
}

static void
prepare_delete_chain(struct world *world)
{
    store_a_few(world);
    use_key(world, 18);
}

static void
prepare_delete_pinned(struct world *world)
{
    prepare_delete_chain(world);
    second_pins(world, 18);
}

static void
store_number(struct world *world, unsigned index, const char *digits)
{
    use_put(world, index, (uint32_t)strlen(digits), 0);
    memcpy(world->value, digits, strlen(digits));
    (void)!store_put(world->victim, &world->put);
}

static void
prepare_incr(struct world *world)
{
    store_a_few(world);
    store_number(world, 5, "41");
}

/* The longer number needs a larger class: 28 of header, 5 of key, and 15 or 16 digits. */
static void
prepare_incr_longer(struct world *world)
{
    store_a_few(world);
    store_number(world, 3, "999999999999999");
}

static bool
run_incr(struct world *world)
{
    uint64_t number;
    return store_arith(world->victim, &world->key, true, 1, &number) == ARITH_DONE;
}

static bool
run_decr(struct world *world)
{
    uint64_t number;
    return store_arith(world->victim, &world->key, false, 1, &number) == ARITH_DONE;
}

static bool
run_incr_with(struct world *world)
{
    struct arith arith = {.key = world->key,
                          .increment = true,
                          .delta = 1,
                          .creates = true,
                          .initial = 41,
                          .create_expire = store_expiry(world->victim, 7000),
                          .touches = true,
                          .expire = store_expiry(world->victim, 6000),
                          .cas_given = {.given = true, .unique = 5}};
    return store_arith_with(world->victim, &arith) == ARITH_DONE;
}

static bool
run_touch(struct world *world)
{
    struct expiry expire = store_expiry(world->victim, 5000);
    return store_touch(world->victim, &world->key, expire) == TOUCH_DONE;
}

static bool
run_get(struct world *world)
{
    struct view view = {0};
    enum view_result result;
    do {
        result = store_view(world->victim, &world->key, &view);
        if (result != VIEW_HIT) {
            return false;
        }
        memcpy(read_buffer, view.value, view.value_len);
    } while (!store_view_confirm(world->victim, &view, VIEW_BUMP));
    return true;
}

static bool
run_gat(struct world *world)
{
    return run_touch(world) && run_get(world);
}

static void
prepare_get_expired(struct world *world)
{
    store_a_few(world);
    use_put(world, 3, SMALL, 98);
    world->put.expire = store_expiry(world->victim, -1);
    (void)!store_put(world->victim, &world->put);
}

static bool
run_get_expired(struct world *world)
{
    struct view view = {0};
    return store_view(world->victim, &world->key, &view) == VIEW_EXPIRED;
}

/* ---- what the meta commands do --------------------------------------------------------------- */

static bool
remove_with(struct world *world, struct removal removal)
{
    removal.key = world->key;
    removal.expire = store_expiry(world->victim, 5000);
    return store_remove(world->victim, &removal) == REMOVE_DONE;
}

static bool
run_invalidate(struct world *world)
{
    return remove_with(world, (struct removal){.invalidates = true, .sets_expire = true});
}

static bool
run_empty(struct world *world)
{
    return remove_with(world, (struct removal){.empties = true, .client_flags = 7});
}

static bool
run_empty_stale(struct world *world)
{
    return remove_with(world, (struct removal){.empties = true, .invalidates = true});
}

static bool
run_fetch(struct world *world)
{
    struct fetch fetch = {.key = world->key,
                          .bump = VIEW_GET,
                          .touches = true,
                          .expire = store_expiry(world->victim, 5000),
                          .wins = true,
                          .vivifies = true,
                          .create_expire = store_expiry(world->victim, 7000)};
    struct view view;
    switch ((int)store_fetch(world->victim, &fetch, &view)) {
    case FETCH_HIT:
        memcpy(read_buffer, view.value, view.value_len);
        return store_view_confirm(world->victim, &view, VIEW_GET);
    case FETCH_HIT_LARGE:
        return true;
    default:
        return false;
    }
}

/* The operation is the first to ask for a stale item. */
static void
prepare_win(struct world *world)
{
    prepare_set_over(world);
    (void)!run_invalidate(world);
}

static void
prepare_win_chain(struct world *world)
{
    prepare_delete_chain(world);
    (void)!run_invalidate(world);
}

/* It has an older cas than the item, which somebody was told to store anew. */
static void
prepare_set_stale(struct world *world)
{
    prepare_win(world);
    (void)!run_fetch(world);
    world->put.mode = PUT_CAS;
    world->put.cas_unique = 1;
    world->put.invalidates = true;
    world->put.binary_key = true;
}

static void
prepare_vivify(struct world *world)
{
    prepare_set_new(world);
    world->put.mode = PUT_APPEND;
    world->put.vivifies = true;
    world->put.binary_key = true;
    world->put.cas_given = 5;
}

static void
prepare_vivify_chain(struct world *world)
{
    prepare_vivify(world);
    fill_value(world, CHAIN, 99);
    world->put.value_len = CHAIN;
}

/* ---- flush_all ------------------------------------------------------------------------------ */

static bool
run_flush_all(struct world *world)
{
    store_flush_all(world->victim, 0);
    return true;
}

static bool
run_flush_all_later(struct world *world)
{
    store_flush_all(world->victim, 100000);
    return true;
}

/* One flush before the number of flushes may come back: it frees what is dead. */
static void
prepare_flush_all_sweep(struct world *world)
{
    atomic_store(&world->segment->superblock->flush, 0x7FFF);
    store_a_few(world);
}

/* ---- table ---------------------------------------------------------------------------------- */

static void
prepare_nothing(struct world *world)
{
    use_put(world, 0, SMALL, 99);
}

static void
prepare_split(struct world *world)
{
    store_until(world, 0, SMALL, split);
}

static void
prepare_table_page(struct world *world)
{
    store_until(world, 0, 1, took_table_page);
}

static void
prepare_overflow(struct world *world)
{
    store_until(world, 0, SMALL, took_overflow);
}

static void
prepare_piece_of_ring(struct world *world)
{
    store_until(world, 0, SMALL, took_piece_of_ring);
}

static void
prepare_rebuild(struct world *world)
{
    store_a_few(world);
}

static bool
run_rebuild(struct world *world)
{
    store_rebuild(world->victim);
    return true;
}

/* ---- pages and eviction --------------------------------------------------------------------- */

static void
prepare_page_attach(struct world *world)
{
    store_until(world, 20, MEDIUM, took_page);
}

static void
prepare_evict(struct world *world)
{
    store_until(world, 0, MEDIUM, evicted);
}

/* Most of what the hand meets first has been read. */
static void
prepare_evict_read(struct world *world)
{
    prepare_evict(world);
    struct key own = world->key;
    for (unsigned i = 0; i + 1 < world->key_count; i += i % 5 == 3 ? 2 : 1) {
        key_make(world->victim, &world->key, world->key_text, i);
        (void)!(run_get(world) && run_get(world));
    }
    world->key = own;
    key_make(world->victim, &world->key, world->key_text, world->key_count - 1);
}

static void
prepare_ghost_page(struct world *world)
{
    store_until(world, 0, MEDIUM, took_ghost_page);
}

static void
prepare_evict_chain(struct world *world)
{
    store_until(world, 0, CHAIN, evicted);
}

/* Everything belongs to the class of medium values; a small one is the first of its class. */
static void
prepare_steal_page(struct world *world)
{
    prepare_evict(world);
    use_put(world, world->key_count, 300, 99);
}

/* All pages are the other shard's. */
static void
prepare_donation(struct world *world)
{
    struct key key;
    char text[32];
    struct probe before = probe_take(world), after = before;
    unsigned index = 0;
    while (!evicted(&before, &after)) {
        key_make(world->victim, &key, text, index);
        if (shard_of_hash(world->victim, key.hash) != world->victim->shards) {
            (void)!store_key(world, index, MEDIUM, index);
        }
        index++;
        after = probe_take(world);
    }
    do {
        use_put(world, index++, SMALL, 99);
    } while (key_shard(world) != world->victim->shards);
}

/* ---- what the maintainer does --------------------------------------------------------------- */

/* Expired items among others. */
static void
prepare_sweep(struct world *world)
{
    store_a_few(world);
    for (unsigned i = 3; i < 20; i += 5) {
        use_put(world, i, i == 18 ? CHAIN : SMALL, 98);
        world->put.expire = store_expiry(world->victim, -1);
        (void)!store_put(world->victim, &world->put);
    }
}

static bool
run_sweep(struct world *world)
{
    while (store_sweep(world->victim)) {
    }
    return true;
}

/* The limit is lowered by two pages below what is used. */
static void
prepare_shrink(struct world *world)
{
    prepare_evict(world);
    struct probe probe = probe_take(world);
    uint64_t pages = probe.pages[0] + probe.pages[1] - 2;
    if (!store_set_memory_limit(world->victim, pages << world->victim->page_shift)) {
        printf("the limit was refused\n");
        exit(2);
    }
}

static bool
run_shrink(struct world *world)
{
    while (store_shrink(world->victim)) {
    }
    return true;
}

/* `slabs reassign` of a full page. */
static bool
run_reassign(struct world *world)
{
    uint32_t from = store_class_id(world->victim, world->put.key.len, 0, world->put.value_len);
    return store_reassign(world->victim, (int32_t)from, (int32_t)from + 1) == REASSIGN_DONE;
}

/* A page that nobody has goes to a class that has none. */
static bool
run_adopt(struct world *world)
{
    uint32_t to = store_class_id(world->victim, 10, 0, NEARLY_A_CHUNK);
    return store_reassign(world->victim, 0, (int32_t)to) == REASSIGN_DONE;
}

/* ---- uploads and pins ----------------------------------------------------------------------- */

static void
upload_fill(struct world *world, uint32_t until)
{
    enum put_result result = PUT_STORED;
    while (world->upload.received < until) {
        uint8_t *space;
        uint32_t room = store_upload_space(world->victim, &world->upload, &space, &result);
        if (room == 0) {
            printf("the upload found no room\n");
            exit(2);
        }
        uint32_t left = until - world->upload.received;
        room = room < left ? room : left;
        memcpy(space, world->value + world->upload.received, room);
        store_upload_advance(world->victim, &world->upload, room);
    }
}

static bool
run_upload_begin(struct world *world)
{
    return store_upload_begin(world->victim, &world->put, &world->upload) == PUT_STORED;
}

static void
prepare_upload(struct world *world, unsigned index, enum put_mode mode, uint32_t received)
{
    store_a_few(world);
    use_put(world, index, CHAIN, 99);
    world->put.mode = mode;
    if (!run_upload_begin(world)) {
        printf("the upload could not begin\n");
        exit(2);
    }
    upload_fill(world, received);
}

/* The head is full: the next piece needs a chunk. */
static void
prepare_upload_extend(struct world *world)
{
    prepare_upload(world, 30, PUT_SET, 0);
    uint8_t *space;
    enum put_result result;
    upload_fill(world, store_upload_space(world->victim, &world->upload, &space, &result));
}

static bool
run_upload_extend(struct world *world)
{
    uint8_t *space;
    enum put_result result;
    return store_upload_space(world->victim, &world->upload, &space, &result) > 0;
}

static void
prepare_upload_commit(struct world *world)
{
    prepare_upload(world, 30, PUT_SET, CHAIN);
}

static void
prepare_upload_commit_over(struct world *world)
{
    prepare_upload(world, 18, PUT_SET, CHAIN);
}

static void
prepare_upload_commit_vivify(struct world *world)
{
    prepare_upload(world, 30, PUT_APPEND, CHAIN);
    world->put.vivifies = true;
}

static void
prepare_upload_commit_append(struct world *world)
{
    prepare_upload(world, 18, PUT_APPEND, CHAIN);
}

static bool
run_upload_commit(struct world *world)
{
    return store_upload_commit(world->victim, &world->put, &world->upload) == PUT_STORED;
}

static bool
run_upload_abort(struct world *world)
{
    store_upload_abort(world->victim, &world->upload);
    return true;
}

static bool
run_pin(struct world *world)
{
    return store_pin(world->victim, &world->key, &world->pin) == PIN_OK;
}

static void
prepare_unpin(struct world *world)
{
    prepare_delete_chain(world);
    (void)!run_pin(world);
}

/* The key is gone: the pin is all that keeps the chain. */
static void
prepare_unpin_last(struct world *world)
{
    prepare_unpin(world);
    delete_key(world, 18);
}

static bool
run_unpin(struct world *world)
{
    store_unpin(world->victim, &world->pin);
    return true;
}

/* ---- recovery ------------------------------------------------------------------------------- */

static void
second_dies(void *context)
{
    struct world *world = context;
    segment_claim_slot(world->segment, SLOT_SECOND);
    struct put put = world->put;
    struct upload upload;
    (void)!store_upload_begin(world->second, &put, &upload);
    second_pins(world, 19);
    struct key key;
    char text[32];
    key_make(world->second, &key, text, 19);
    (void)!store_delete(world->second, &key);
    put.mode = PUT_SET;
    put.value_len = SMALL;
    (void)!store_put(world->second, &put);
}

/* The second process died in a transaction, with an upload and the last pin of a deleted chain. */
static void
prepare_recover(struct world *world)
{
    store_a_few(world);
    use_put(world, 30, CHAIN, 99);
    pid_t pid = stepper_start(second_dies, world);
    const struct journal *journal = &key_shard(world)->journal;
    const struct process_slot *slot = &world->segment->slots[SLOT_SECOND];
    while (atomic_load(&slot->pin_high) == 0 || atomic_load(&journal->count) < 7) {
        if (!stepper_step(pid)) {
            printf("the second process outlived what it should die in\n");
            exit(2);
        }
    }
    stepper_kill(pid);
}

static bool
run_recover(struct world *world)
{
    struct recovery recovery;
    store_recover(world->victim, SLOT_SECOND, &recovery);
    return recovery.uploads_freed == 1 && recovery.pins_released == 1;
}

static bool
repaired(const struct probe *before, const struct probe *after)
{
    return before->held > 0 && after->held == 0;
}

static const struct operation operations[] = {
    {.name = "first_set", prepare_nothing, run_put, .did = grew},
    {.name = "set_new", prepare_set_new, run_put},
    {.name = "set_over", prepare_set_over, run_put},
    {.name = "set_larger", prepare_set_larger, run_put},
    {.name = "set_over_last_of_page", prepare_last_of_page, run_put, .did = gave_page},
    {.name = "add_over_dead", prepare_set_over_dead, run_put},
    {.name = "cas", prepare_cas, run_put},
    {.name = "append", prepare_append, run_put},
    {.name = "prepend", prepare_prepend, run_put},
    {.name = "delete", prepare_set_over, run_delete},
    {.name = "delete_last_of_page", prepare_last_of_page, run_delete, .did = gave_page},
    {.name = "incr", prepare_incr, run_incr},
    {.name = "incr_longer", prepare_incr_longer, run_incr},
    {.name = "decr", prepare_incr, run_decr},
    {.name = "incr_with", prepare_incr, run_incr_with},
    {.name = "incr_creates", prepare_set_new, run_incr_with},
    {.name = "invalidate", prepare_set_over, run_invalidate},
    {.name = "invalidate_chain", prepare_delete_chain, run_invalidate},
    {.name = "empty", prepare_set_over, run_empty},
    {.name = "empty_stale", prepare_set_over, run_empty_stale},
    {.name = "empty_chain", prepare_delete_chain, run_empty},
    {.name = "win", prepare_win, run_fetch},
    {.name = "win_chain", prepare_win_chain, run_fetch},
    {.name = "fetch_creates", prepare_set_new, run_fetch},
    {.name = "fetch_touches", prepare_set_over, run_fetch},
    {.name = "set_stale", prepare_set_stale, run_put},
    {.name = "vivify", prepare_vivify, run_put},
    {.name = "vivify_chain", prepare_vivify_chain, run_put},
    {.name = "touch", prepare_set_over, run_touch},
    {.name = "gat", prepare_set_over, run_gat},
    {.name = "get", prepare_set_over, run_get, .keeps = true},
    {.name = "get_expired", prepare_get_expired, run_get_expired, .did = reclaimed, .keeps = true},
    {.name = "flush_all", prepare_set_over, run_flush_all},
    {.name = "flush_all_later", prepare_set_over, run_flush_all_later, .keeps = true},
    {.name = "flush_all_sweep", prepare_flush_all_sweep, run_flush_all, .did = reclaimed},
    {.name = "table_split", prepare_split, run_put, .did = split},
    {.name = "table_page", prepare_table_page, run_put, .did = took_table_page},
    {.name = "table_overflow", prepare_overflow, run_put, .did = took_overflow},
    {.name = "page_attach", prepare_page_attach, run_put, .did = took_page},
    {.name = "evict", prepare_evict, run_put, .did = evicted, .pages = 24, .piecemeal = true},
    {.name = "evict_chain",
     prepare_evict_chain,
     run_put,
     .did = evicted,
     .pages = 24,
     .piecemeal = true},
    {.name = "steal_page",
     prepare_steal_page,
     run_put,
     .did = evicted,
     .pages = 24,
     .piecemeal = true},
    {.name = "donation",
     prepare_donation,
     run_put,
     .did = took_from_others,
     .pages = 24,
     .megabytes = 16,
     .piecemeal = true},
    {.name = "set_chain", prepare_set_chain, run_put},
    {.name = "set_chain_over_chain", prepare_set_chain_over_chain, run_put},
    {.name = "set_over_chain", prepare_set_over_chain, run_put},
    {.name = "append_into_chain", prepare_append_into_chain, run_put},
    {.name = "append_to_chain", prepare_append_to_chain, run_put},
    {.name = "prepend_to_chain", prepare_prepend_to_chain, run_put},
    {.name = "delete_chain", prepare_delete_chain, run_delete},
    {.name = "delete_pinned", prepare_delete_pinned, run_delete},
    {.name = "upload_begin", prepare_set_chain, run_upload_begin, .did = held_more, .keeps = true},
    {.name = "upload_extend", prepare_upload_extend, run_upload_extend, .keeps = true},
    {.name = "upload_commit", prepare_upload_commit, run_upload_commit},
    {.name = "upload_commit_over", prepare_upload_commit_over, run_upload_commit},
    {.name = "upload_commit_append", prepare_upload_commit_append, run_upload_commit},
    {.name = "upload_commit_vivify", prepare_upload_commit_vivify, run_upload_commit},
    {.name = "upload_abort",
     prepare_upload_commit,
     run_upload_abort,
     .did = repaired,
     .keeps = true},
    {.name = "pin", prepare_delete_chain, run_pin, .did = held_more, .keeps = true},
    {.name = "unpin", prepare_unpin, run_unpin, .did = repaired, .keeps = true},
    {.name = "unpin_last", prepare_unpin_last, run_unpin, .did = repaired, .keeps = true},
    {.name = "recover", prepare_recover, run_recover, .did = repaired, .keeps = true},
    {.name = "evict_read",
     prepare_evict_read,
     run_put,
     .did = evicted,
     .pages = 24,
     .piecemeal = true},
    {.name = "evict_sampled",
     prepare_evict,
     run_put,
     .did = evicted,
     .pages = 24,
     .policy = POLICY_ALLKEYS_LFU,
     .piecemeal = true},
    {.name = "ghost_page",
     prepare_ghost_page,
     run_put,
     .did = took_ghost_page,
     .pages = 24,
     .piecemeal = true},
    {.name = "piece_of_ring", prepare_piece_of_ring, run_put, .did = took_piece_of_ring},
    {.name = "sweep", prepare_sweep, run_sweep, .did = reclaimed, .keeps = true},
    {.name = "reassign",
     prepare_evict,
     run_reassign,
     .did = evicted,
     .pages = 24,
     .piecemeal = true},
    {.name = "adopt", store_a_few, run_adopt, .did = took_page, .keeps = true},
    {.name = "shrink", prepare_shrink, run_shrink, .did = shrank, .pages = 24, .piecemeal = true},
    {.name = "rebuild",
     prepare_rebuild,
     run_rebuild,
     .did = rebuilt,
     .keeps = true,
     .rebuilds = true},
};
#define OPERATION_COUNT (sizeof(operations) / sizeof(operations[0]))

#endif
