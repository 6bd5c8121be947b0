/* Changes while items are copied to other nodes: whoever sees one sees the key's bit, too. */
#ifndef TESTS_CRASH_OPERATIONS_TRACK_H
#define TESTS_CRASH_OPERATIONS_TRACK_H

#include "operations_meta.h"
#include "operations_upload.h"

#include "store/copy.h"
#include "store/track.h"

/* The judge, who never dies, leads the session. */
static void
begin_tracking(struct world *world)
{
    if (store_copy_begin(world->judge, 1, TRACK_SHIFT_MIN) != COPY_BEGUN) {
        printf("no session was begun\n");
        exit(2);
    }
}

static void
prepare_tracked_set(struct world *world)
{
    prepare_set_over(world);
    begin_tracking(world);
}

static void
prepare_tracked_incr(struct world *world)
{
    prepare_incr(world);
    begin_tracking(world);
}

static void
prepare_tracked_commit(struct world *world)
{
    prepare_upload_commit_over(world);
    begin_tracking(world);
}

/* By the key's bit, or for all that is there. */
static bool
fact_is_tracked(const struct world *world, unsigned index)
{
    struct key key;
    char text[32];
    key_make(world->judge, &key, text, index);
    return track_is_set(world->judge, &key) ||
           atomic_load(&track_head_of(world->segment)->session) == 0;
}

#endif
