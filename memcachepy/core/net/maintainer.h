/* The maintainer's loop: what the store needs done beside requests. */
#ifndef NET_MAINTAINER_H
#define NET_MAINTAINER_H

#include "net/loop.h"

/* wake_fd becomes readable when the node's state has changed, liveness_fd when the supervisor is
 * gone. Returns as soon as the state is no longer NODE_RUNNING: nobody depends on it. All
 * descriptors stay the caller's. */
enum loop_end maintainer_run(struct segment *segment, unsigned slot_index, int wake_fd,
                             int liveness_fd) MUST_CHECK;

#endif
