/* What the loops of acceptor and worker have in common: how they begin and why they end. */
#ifndef NET_LOOP_H
#define NET_LOOP_H

#include "mem/segment.h"

enum loop_end {
    LOOP_STOPPED,  /* Asked to, by the node's state. */
    LOOP_ORPHANED, /* The supervisor is gone. */
    LOOP_FAILED,   /* The system refused what a loop cannot do without; errno says what. */
};

/* Claims the slot, and sees to it that this process does not outlive its supervisor. False: it is
 * gone already. */
bool loop_claim(struct segment *segment, unsigned slot_index) MUST_CHECK;

static inline enum node_state
loop_node_state(const struct segment *segment)
{
    uint32_t state = atomic_load_explicit(&segment->run->node_state, memory_order_acquire);
    /* What is no state is damage, and the supervisor writes it again. */
    return state <= NODE_STOPPING ? (enum node_state)state : NODE_RUNNING;
}

/* Adds a descriptor; `tag` comes back with its events. */
bool loop_watch(int epoll_fd, int fd, uint32_t events, uint64_t tag) MUST_CHECK;

#endif
