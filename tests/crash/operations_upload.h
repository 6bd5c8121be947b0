/* What is held over several requests: uploads and pins, and what is left of them after a death. */
#ifndef TESTS_CRASH_OPERATIONS_UPLOAD_H
#define TESTS_CRASH_OPERATIONS_UPLOAD_H

#include "operations_text.h"

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
    const struct held_table *held = &world->segment->held[SLOT_SECOND];
    while (atomic_load(&held->pin_high) == 0 || atomic_load(&journal->count) < 7) {
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

#endif
