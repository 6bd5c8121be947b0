/* What the operations' first states are made of: keys that lie where an operation needs them. */
#ifndef TESTS_CRASH_PREPARE_H
#define TESTS_CRASH_PREPARE_H

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

#endif
