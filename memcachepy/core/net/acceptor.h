/* The acceptor's loop: accepts on every listener and passes each connection to a worker. */
#ifndef NET_ACCEPTOR_H
#define NET_ACCEPTOR_H

#include "net/loop.h"

/* channel_fds[i] leads to the worker in slot SLOT_WORKER_FIRST + i. Returns as soon as the node's
 * state is no longer NODE_RUNNING. All descriptors stay the caller's. */
enum loop_end acceptor_run(struct segment *segment, unsigned slot_index, const int *listener_fds,
                           unsigned listener_count, const int *channel_fds, unsigned worker_count,
                           int wake_fd, int liveness_fd) MUST_CHECK;

#endif
