/* What a process outside the node holds of it: the mapping, a process slot, a connection.
 *
 * It is of use only in the process that opened it and only while its node lives. The first is told
 * by a page that the kernel wipes in every forked child; the second is looked at every few
 * milliseconds of use, together with the clocks. Plain C: nothing here knows of Python. */
#ifndef PY_ATTACHMENT_H
#define PY_ATTACHMENT_H

#include "base/clock.h"
#include "store/store.h"

#include <sys/types.h>

#define FAREWELL_BYTES_MAX 256

/* A descriptor, and what it was opened as: a program that closes all of its descriptors does not
 * ask whose they are, and the numbers come back as other files. */
struct own_fd {
    int fd;
    dev_t device;
    ino_t inode;
};

/* All zero: not attached. */
struct attachment {
    struct segment *segment;
    struct store *store;
    uint32_t *ours; /* 1; 0 in a forked child */
    struct own_fd data_fd, run_fd, connection;
    char farewell[FAREWELL_BYTES_MAX];
    size_t farewell_len;
    uint64_t look_at_ns;
};

/* Of a closed attachment. The segment's two descriptors are duplicated; the connection's becomes
 * the attachment's if it succeeds. The farewell is sent over it when the slot is no longer used.
 * False: the sentence (SEGMENT_SENTENCE_MAX bytes) says why. */
bool attachment_open(struct attachment *attachment, int data_fd, int run_fd, unsigned slot,
                     int connection_fd, const void *farewell, size_t farewell_len,
                     char *sentence) MUST_CHECK;

/* Lets go of everything. A forked child lets go of its copies only: slot and connection are its
 * parent's. Nothing to do if it is closed. */
void attachment_close(struct attachment *attachment);

/* Reads the clocks; false if the node has ended. */
bool attachment_look(struct attachment *attachment, uint64_t now_ns) MUST_CHECK;

/* Whether the store may be used by this very process just now. */
static inline bool
attachment_is_usable(struct attachment *attachment)
{
    if (UNLIKELY(attachment->segment == NULL || *attachment->ours == 0)) {
        return false;
    }
    uint64_t now_ns = clock_read_ns(CLOCK_MONOTONIC_COARSE);
    return LIKELY(now_ns < attachment->look_at_ns) || attachment_look(attachment, now_ns);
}

#endif
