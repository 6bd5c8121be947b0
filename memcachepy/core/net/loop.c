#include "net/loop.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

bool
loop_claim(struct segment *segment, unsigned slot_index)
{
    int32_t supervisor_pid = segment->superblock->settings.supervisor_pid;
    if (supervisor_pid > 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        /* It may have died before the line above. */
        if (getppid() != supervisor_pid && getpid() != supervisor_pid) {
            return false;
        }
    }
    segment_claim_slot(segment, slot_index);
    return true;
}

bool
loop_watch(int epoll_fd, int fd, uint32_t events, uint64_t tag)
{
    struct epoll_event event = {.events = events, .data.u64 = tag};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}
