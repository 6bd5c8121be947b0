/* Descriptors on their way from the acceptor to a worker: one byte with one descriptor each, over a
 * stream socket pair whose ends the supervisor keeps, so that what is queued survives both
 * processes. */
#ifndef NET_CHANNEL_H
#define NET_CHANNEL_H

#include "base/platform.h"

enum channel_result {
    CHANNEL_OK,
    CHANNEL_AGAIN, /* Full, or empty. */
    CHANNEL_LOST,  /* A message whose descriptor could not be installed. */
    CHANNEL_FAILED,
};

/* Never blocks. The descriptor stays the caller's, who closes it after CHANNEL_OK. */
enum channel_result channel_send(int channel_fd, int fd) MUST_CHECK;

/* Never blocks. *fd is set with CHANNEL_OK and then the caller's. */
enum channel_result channel_receive(int channel_fd, int *fd) MUST_CHECK;

#endif
