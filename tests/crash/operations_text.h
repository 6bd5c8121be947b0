/* What the classic text commands do to an item: set and its kin, delete, arithmetic, touch, reads.
 */
#ifndef TESTS_CRASH_OPERATIONS_TEXT_H
#define TESTS_CRASH_OPERATIONS_TEXT_H

#include "prepare.h"

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
    struct view view;
    struct fetch fetch = {.key = world->key,
                          .wants_value = true,
                          .bump = VIEW_BUMP,
                          .touches = true,
                          .expire = store_expiry(world->victim, 5000)};
    if (store_fetch(world->victim, &fetch, &view) != FETCH_HIT) {
        return false;
    }
    memcpy(read_buffer, view.value, view.value_len);
    return store_view_confirm(world->victim, &view, VIEW_BUMP);
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

#endif
