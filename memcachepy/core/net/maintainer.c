/* The maintainer: calls store_maintain() in the background, at leisure while there is nothing to do
 * and in small steps while there is. Workers never wait for it: a node serves with its maintainer
 * stopped or dead, and evicts and reclaims as it did before there was one. */
#include "net/maintainer.h"

#include "store/own.h"
#include "store/store.h"

#include <poll.h>
#include <stdint.h>
#include <unistd.h>

#define IDLE_MS 500

/* Between two steps of work that is left: leaves most of a core to those who serve. */
#define PAUSE_MS 1

/* Sleeps until the time is over or somebody wakes it. False: the supervisor is gone. */
static bool
wait_for_wake(int wake_fd, int liveness_fd, int timeout_ms)
{
    struct pollfd polled[2] = {
        {.fd = wake_fd, .events = POLLIN},
        {.fd = liveness_fd, .events = POLLIN},
    };
    if (poll(polled, 2, timeout_ms) > 0 && polled[0].revents != 0) {
        uint64_t count;
        ssize_t taken = read(wake_fd, &count, sizeof(count));
        (void)taken;
    }
    return polled[1].revents == 0;
}

enum loop_end
maintainer_run(struct segment *segment, unsigned slot_index, int wake_fd, int liveness_fd)
{
    if (!loop_claim(segment, slot_index)) {
        return LOOP_ORPHANED;
    }
    struct store *store = store_open(segment, slot_index);
    atomic_store_explicit(&segment->slots[slot_index].serving, 1, memory_order_release);
    bool alive = true;
    while (alive && loop_node_state(segment) == NODE_RUNNING) {
        bool more = store_maintain(store);
        store_look_at_own(store, true);
        alive = wait_for_wake(wake_fd, liveness_fd, more ? PAUSE_MS : IDLE_MS);
    }
    store_close(store);
    return alive ? LOOP_STOPPED : LOOP_ORPHANED;
}
