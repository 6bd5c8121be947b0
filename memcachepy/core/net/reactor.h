/* A worker's loop: serves the connections that arrive on its channel. */
#ifndef NET_REACTOR_H
#define NET_REACTOR_H

#include "net/loop.h"

/* channel_fd receives descriptors (net/channel.h), wake_fd becomes readable when the node's state
 * has changed, liveness_fd when the supervisor is gone. All descriptors stay the caller's.
 *
 * NODE_STOPPING: answers what was received by then, sends it within five seconds, closes, returns.
 * NODE_DRAINING: serves until the last connection has closed, then returns. */
enum loop_end reactor_run(struct segment *segment, unsigned slot_index, int channel_fd, int wake_fd,
                          int liveness_fd) MUST_CHECK;

#endif
