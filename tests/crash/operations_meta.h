/* What the meta commands do to an item: invalidate, empty, win, vivify. */
#ifndef TESTS_CRASH_OPERATIONS_META_H
#define TESTS_CRASH_OPERATIONS_META_H

#include "operations_text.h"

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

#endif
