/* Copies from one segment to another, in one process: each order of events by hand, and a death of
 * the leader at every crash point.
 *
 * usage: copies [COUNT SEED]
 * Without arguments the orders; with them COUNT deaths. Prints "ok" or a summary; exits 1 at the
 * first thing wrong. */
#include "copies_deaths.h"
#include "copies_nodes.h"

#include <sys/mman.h>

/* ---- orders of events ------------------------------------------------------------------------ */

static void
a_change_between_reading_and_storing_hides_the_copy(void)
{
    static struct under_way item;
    set(&from, "a", '1');
    begin_session();
    read_from("a", &item);
    set(&from, "a", '2');
    EXPECT(store_to(&item) == COPY_STORED);
    EXPECT(get(&to, "a") == 0);
    end_session(COPY_CONFIRM);
    EXPECT(get(&to, "a") == 0 && get(&from, "a") == '2');
}

static void
change_by_set(const struct key *key)
{
    struct put put = {.key = *key, .value = buffer, .value_len = 1};
    EXPECT(store_put(from.client, &put) == PUT_STORED);
}

static void
change_by_append(const struct key *key)
{
    struct put put = {.key = *key, .mode = PUT_APPEND, .value = buffer, .value_len = 1};
    EXPECT(store_put(from.client, &put) == PUT_STORED);
}

static void
change_by_a_long_set(const struct key *key)
{
    struct put put = {.key = *key, .value = buffer, .value_len = LONG_VALUE};
    EXPECT(store_put(from.client, &put) == PUT_STORED);
}

static void
change_by_a_refused_set(const struct key *key)
{
    struct put put = {.key = *key, .value = buffer, .value_len = 2u << 20};
    EXPECT(store_put(from.client, &put) == PUT_TOO_LARGE);
}

static void
change_by_delete(const struct key *key)
{
    EXPECT(store_delete(from.client, key) == DELETE_DONE);
}

static void
change_by_incr(const struct key *key)
{
    uint64_t number;
    EXPECT(store_arith(from.client, key, true, 1, &number) == ARITH_DONE);
}

static void
change_by_touch(const struct key *key)
{
    EXPECT(store_touch(from.client, key, store_expiry(from.client, 1000)) == TOUCH_DONE);
}

static void
change_by_fetch(const struct key *key)
{
    struct fetch fetch = {
        .key = *key, .touches = true, .expire = store_expiry(from.client, 1000), .bump = VIEW_GET};
    struct view view = {0};
    EXPECT(store_fetch(from.client, &fetch, &view) == FETCH_HIT);
    EXPECT(store_view_confirm(from.client, &view, VIEW_GET));
}

static void
change_by_invalidation(const struct key *key)
{
    struct removal removal = {.key = *key, .invalidates = true};
    EXPECT(store_remove(from.client, &removal) == REMOVE_DONE);
}

static void
change_by_emptying(const struct key *key)
{
    struct removal removal = {.key = *key, .empties = true};
    EXPECT(store_remove(from.client, &removal) == REMOVE_DONE);
}

static void
change_by_removal(const struct key *key)
{
    struct removal removal = {.key = *key};
    EXPECT(store_remove(from.client, &removal) == REMOVE_DONE);
}

static void
change_by_flush(const struct key *key)
{
    (void)key;
    store_flush_all(from.client, 0);
}

static void
change_by_a_flush_for_later(const struct key *key)
{
    (void)key;
    store_flush_all(from.client, 100);
    from.segment->superblock->flush[0] &= UINT16_MAX; /* For those who come after this. */
}

typedef void change_fn(const struct key *key);
static change_fn *const changes[] = {change_by_set,
                                     change_by_append,
                                     change_by_a_long_set,
                                     change_by_a_refused_set,
                                     change_by_delete,
                                     change_by_incr,
                                     change_by_touch,
                                     change_by_fetch,
                                     change_by_emptying,
                                     change_by_invalidation,
                                     change_by_removal,
                                     change_by_flush,
                                     change_by_a_flush_for_later};

static void
every_change_in_the_old_home_hides_the_copy_at_once(void)
{
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        set(&from, "changing", '5');
        set(&from, "other", '6');
        begin_session();
        EXPECT(copy("changing") == COPY_STORED && copy("other") == COPY_STORED);
        EXPECT(get(&to, "changing") == '5' && get(&to, "other") == '6');
        struct key key = key_of(from.client, "changing");
        memset(buffer, '7', LONG_VALUE);
        changes[i](&key);
        EXPECT(get(&to, "changing") == 0);
        EXPECT(get(&to, "other") == (store_copy_holds(from.leader) ? '6' : 0));
        end_session(COPY_CONFIRM);
        EXPECT(get(&to, "changing") == 0);
        delete (&to, "other");
        delete (&from, "changing");
    }
}

static void
a_delete_of_what_is_not_there_counts(void)
{
    set(&from, "a", '1');
    begin_session();
    EXPECT(copy("a") == COPY_STORED);
    /* As an eviction does it, which no client knows of. */
    struct table_place place;
    struct key key = key_of(from.client, "a");
    struct shard *shard = shard_of_hash(from.client, key.hash);
    EXPECT(shard_lock(from.client, shard));
    table_find(from.client, shard, key.bytes, key.len, key.hash, &place);
    item_unlink_place(from.client, shard, &place, UNLINK_EVICT + EVICTED_MAIN);
    shard_unlock(from.client, shard);
    EXPECT(get(&to, "a") == '1');
    EXPECT(store_delete(from.client, &key) == DELETE_NOT_FOUND);
    EXPECT(get(&to, "a") == 0);
    end_session(COPY_CONFIRM);
}

static void
what_changed_in_the_new_home_is_not_replaced(void)
{
    set(&from, "set", '1');
    set(&from, "deleted", '1');
    set(&from, "flushed", '1');
    begin_session();
    set(&to, "set", '2');
    delete (&to, "deleted");
    EXPECT(copy("set") == COPY_CHANGED && get(&to, "set") == '2');
    EXPECT(copy("deleted") == COPY_CHANGED && get(&to, "deleted") == 0);
    store_flush_all(to.client, 0);
    EXPECT(copy("flushed") == COPY_OVER && get(&to, "flushed") == 0);
    end_session(COPY_CONFIRM);
    /* A flush just after the copy was found wanted: it has the epoch of the beginning. */
    begin_session();
    EXPECT(copy("flushed") == COPY_STORED && get(&to, "flushed") == '1');
    store_flush_all(to.client, 0);
    EXPECT(get(&to, "flushed") == 0);
    end_session(COPY_CONFIRM);
}

static void
what_lay_there_from_earlier_times_is_replaced(void)
{
    set(&to, "a", '0');
    set(&from, "a", '1');
    begin_session();
    EXPECT(copy("a") == COPY_STORED && get(&to, "a") == '1');
    end_session(COPY_CONFIRM);
    EXPECT(get(&to, "a") == '1');
}

static void
what_a_client_makes_of_a_copy_is_its_own(void)
{
    set(&from, "appended", '1');
    set(&from, "touched", '1');
    begin_session();
    EXPECT(copy("appended") == COPY_STORED && copy("touched") == COPY_STORED);
    struct put put = {.key = key_of(to.client, "appended"),
                      .mode = PUT_APPEND,
                      .value = (const uint8_t *)"2",
                      .value_len = 1};
    EXPECT(store_put(to.client, &put) == PUT_STORED && put.stored_len == 2);
    struct key touched = key_of(to.client, "touched");
    EXPECT(store_touch(to.client, &touched, store_expiry(to.client, 1000)) == TOUCH_DONE);
    set(&from, "appended", '3');
    EXPECT(get(&to, "appended") == '1');
    /* A new expiry makes no new value. */
    set(&from, "touched", '3');
    EXPECT(get(&to, "touched") == 0);
    /* What is hidden is not there for anybody. */
    EXPECT(store_touch(to.client, &touched, store_expiry(to.client, 0)) == TOUCH_NOT_FOUND);
    put = (struct put){
        .key = touched, .mode = PUT_ADD, .value = (const uint8_t *)"4", .value_len = 1};
    EXPECT(store_put(to.client, &put) == PUT_STORED && get(&to, "touched") == '4');
    end_session(COPY_CONFIRM);
    EXPECT(get(&to, "appended") == '1' && get(&to, "touched") == '4');
}

static void
long_values_are_copied_and_hidden_too(void)
{
    set_len(&from, "long", '1', LONG_VALUE);
    set_len(&from, "longer", '1', LONG_VALUE + 1000);
    begin_session();
    EXPECT(copy("long") == COPY_STORED && copy("longer") == COPY_STORED);
    struct key key = key_of(to.client, "long");
    struct belief found = {0};
    EXPECT(read_value(to.client, &key, buffer, &found) && found.value_len == LONG_VALUE);
    EXPECT(buffer[0] == '1' && memcmp(buffer, buffer + 1, LONG_VALUE - 1) == 0);
    delete (&from, "long");
    EXPECT(get(&to, "long") == 0);
    set(&to, "long", '2');
    end_session(COPY_CONFIRM);
    EXPECT(get(&to, "long") == '2' && get(&to, "longer") == '1');
}

static void
flags_marks_and_the_end_are_kept(void)
{
    memset(buffer, '1', 1);
    struct put put = {.key = key_of(from.client, "a"),
                      .value = buffer,
                      .value_len = 1,
                      .client_flags = 1234567,
                      .binary_key = true,
                      .expire = store_expiry(from.client, 100)};
    EXPECT(store_put(from.client, &put) == PUT_STORED);
    struct removal stale = {.key = put.key, .invalidates = true};
    EXPECT(store_remove(from.client, &stale) == REMOVE_DONE);
    begin_session();
    EXPECT(copy("a") == COPY_STORED);
    struct view view = {0};
    struct key key = key_of(to.client, "a");
    EXPECT(store_peek(to.client, &key, &view) == VIEW_HIT);
    EXPECT(view.client_flags == 1234567);
    EXPECT((view.bits & (MARK_BINARY_KEY | MARK_STALE)) == (MARK_BINARY_KEY | MARK_STALE));
    int64_t ttl_s = store_ttl_s(to.client, view.expire_word);
    EXPECT(ttl_s == 99 || ttl_s == 100);
    /* Who was told to store it anew may do so in either home. */
    struct fetch win = {.key = put.key, .wins = true};
    EXPECT(store_fetch(from.client, &win, &view) == FETCH_HIT && win.won);
    EXPECT(store_view_confirm(from.client, &view, VIEW_PEEK));
    struct dump_item dumped = {.key_len = 1, .key = {'a'}};
    struct copy none;
    EXPECT(store_copy_read(from.leader, &dumped, buffer, &none) == COPY_GONE);
    end_session(COPY_DROP);
}

static void
the_end_is_never_later_and_at_most_a_second_earlier(void)
{
    struct run_head *run = to.segment->run;
    uint64_t base_ns = run->boot_base_ns;
    EXPECT(mprotect(run->constants, CONSTANTS_BYTES, PROT_READ | PROT_WRITE) == 0);
    for (unsigned i = 0; i < 1000; i++) {
        bool ended;
        run->boot_base_ns = base_ns - draw(UINT64_C(5000000000));
        atomic_store(&run->advance_s, (int64_t)draw(1000));
        store_tick(to.client);
        uint32_t word = from.client->now_s + 1 + (uint32_t)draw(100000);
        uint32_t copied = expire_word_for(from.client, to.client, word << 1, &ended);
        /* Both as moments of the boot-time clock. */
        int64_t end_ns = (int64_t)(from.segment->run->boot_base_ns + word * UINT64_C(1000000000));
        int64_t copied_ns = (int64_t)(run->boot_base_ns + (copied >> 1) * UINT64_C(1000000000)) -
                            atomic_load(&run->advance_s) * INT64_C(1000000000);
        EXPECT(copied_ns <= end_ns && copied_ns > end_ns - 1000000000);
        EXPECT(!(copied & 1));
        uint32_t wall = expire_word_for(from.client, to.client, 2000000001, &ended);
        EXPECT(wall == 2000000001);
    }
    run->boot_base_ns = base_ns;
    atomic_store(&run->advance_s, 0);
    tick();
    bool ended;
    expire_word_for(from.client, to.client, from.client->now_s << 1, &ended);
    EXPECT(ended);
    EXPECT(expire_word_for(from.client, to.client, 0, &ended) == 0 && !ended);
}

static void
copies_need_a_leader_that_looks(void)
{
    set(&from, "a", '1');
    begin_session();
    EXPECT(copy("a") == COPY_STORED && get(&to, "a") == '1');
    track_renew(to.segment, clock_mono_ns() - 2 * TRACK_LEASE_NS);
    EXPECT(get(&to, "a") == 0);
    show();
    EXPECT(get(&to, "a") == '1');
    /* Who has not mapped the sources sees no copies. */
    struct track_mapping *mapping = to.client->tracks;
    to.client->tracks = NULL;
    EXPECT(get(&to, "a") == 0);
    to.client->tracks = mapping;
    EXPECT(get(&to, "a") == '1');
    end_session(COPY_CONFIRM);
    EXPECT(to.client->tracks == NULL && get(&to, "a") == '1');
    set(&from, "a", '2');
    EXPECT(get(&to, "a") == '1');
}

static void
a_leader_that_dies_hides_its_copies(void)
{
    struct recovery recovery;
    uint64_t kept, dropped;
    set(&from, "a", '1');
    for (unsigned order = 0; order < 2; order++) {
        begin_session();
        EXPECT(copy("a") == COPY_STORED && get(&to, "a") == '1');
        EXPECT(store_recover(order == 0 ? from.client : to.client, SLOT_LEADER, &recovery));
        EXPECT(get(&to, "a") == 0);
        EXPECT(store_recover(order == 0 ? to.client : from.client, SLOT_LEADER, &recovery));
        EXPECT(get(&to, "a") == 0);
        segment_claim_slot(from.segment, SLOT_LEADER);
        segment_claim_slot(to.segment, SLOT_LEADER);
        walk_to_end(COPY_DROP, &kept, &dropped);
        EXPECT(dropped == 1);
    }
    begin_session();
    EXPECT(copy("a") == COPY_STORED && get(&to, "a") == '1');
    end_session(COPY_CONFIRM);
    EXPECT(get(&to, "a") == '1');
}

static void
a_session_needs_both_nodes_and_no_flush_that_waits(void)
{
    begin_session();
    EXPECT(store_copy_begin(from.client, session + 2, SHIFT) == COPY_TAKEN);
    end_session(COPY_CONFIRM);
    store_flush_all(from.client, 100);
    EXPECT(store_copy_begin(from.leader, session + 4, SHIFT) == COPY_FLUSHING);
    from.segment->superblock->flush[0] &= UINT16_MAX;
    begin_session();
    end_session(COPY_CONFIRM);
}

static void
step_system_clock(int64_t seconds)
{
    atomic_fetch_add(&from.segment->run->wall_step_s, seconds);
    atomic_fetch_add(&to.segment->run->wall_step_s, seconds);
    tick();
}

static void
a_hidden_copy_that_has_expired_does_not_come_back_with_the_clock(void)
{
    struct recovery recovery;
    uint64_t kept, dropped;
    struct put put = {.key = key_of(from.client, "a"), .value = buffer, .value_len = 1};
    buffer[0] = '1';
    put.expire = store_expiry(from.client, (int64_t)store_wall_s(from.client) + 1000);
    EXPECT(store_put(from.client, &put) == PUT_STORED);
    begin_session();
    EXPECT(copy("a") == COPY_STORED && get(&to, "a") == '1');
    EXPECT(store_recover(from.client, SLOT_LEADER, &recovery));
    EXPECT(store_recover(to.client, SLOT_LEADER, &recovery));
    segment_claim_slot(from.segment, SLOT_LEADER);
    segment_claim_slot(to.segment, SLOT_LEADER);
    delete (&from, "a");
    step_system_clock(2000);
    walk_to_end(COPY_DROP, &kept, &dropped);
    step_system_clock(-2000);
    begin_session();
    end_session(COPY_CONFIRM);
    EXPECT(get(&to, "a") == 0);
}

static void
orders(void)
{
    static void (*const all[])(void) = {
        a_change_between_reading_and_storing_hides_the_copy,
        every_change_in_the_old_home_hides_the_copy_at_once,
        a_delete_of_what_is_not_there_counts,
        what_changed_in_the_new_home_is_not_replaced,
        what_lay_there_from_earlier_times_is_replaced,
        what_a_client_makes_of_a_copy_is_its_own,
        long_values_are_copied_and_hidden_too,
        flags_marks_and_the_end_are_kept,
        the_end_is_never_later_and_at_most_a_second_earlier,
        copies_need_a_leader_that_looks,
        a_leader_that_dies_hides_its_copies,
        a_session_needs_both_nodes_and_no_flush_that_waits,
        a_hidden_copy_that_has_expired_does_not_come_back_with_the_clock,
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        char when[32];
        all[i]();
        snprintf(when, sizeof(when), "after order %zu", i);
        expect_empty(&from, when);
        expect_empty(&to, when);
    }
    printf("ok\n");
}

int
main(int argc, char **argv)
{
    random_state = 88172645463325252u;
    from = node_make();
    to = node_make();
    if (argc > 2) {
        sweep((unsigned)atoi(argv[1]), strtoull(argv[2], NULL, 10));
    } else {
        orders();
    }
    struct store *stores[] = {from.client, from.leader, to.client, to.leader};
    for (unsigned i = 0; i < 4; i++) {
        store_close(stores[i]);
    }
    segment_close(from.segment);
    segment_close(to.segment);
    return 0;
}
