#include "net/loop.h"

#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

/* What ps and top show. */
static void
name_process(unsigned slot_index)
{
    char name[16];
    if (slot_index == SLOT_ACCEPTOR) {
        snprintf(name, sizeof(name), "mcpy-acceptor");
    } else if (slot_index == SLOT_MAINTAINER) {
        snprintf(name, sizeof(name), "mcpy-maintainer");
    } else if (slot_index == SLOT_DISCOVERY) {
        snprintf(name, sizeof(name), "mcpy-discovery");
    } else {
        snprintf(name, sizeof(name), "mcpy-worker-%u", (slot_index - SLOT_WORKER_FIRST) % 1000);
    }
    prctl(PR_SET_NAME, name);
}

bool
loop_claim(struct segment *segment, unsigned slot_index)
{
    int32_t supervisor_pid = segment->run->boot_settings.supervisor_pid;
    if (supervisor_pid > 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        /* It may have died before the line above. */
        if (getppid() != supervisor_pid && getpid() != supervisor_pid) {
            return false;
        }
    }
    name_process(slot_index);
    segment_claim_slot(segment, slot_index);
    return true;
}

bool
loop_watch(int epoll_fd, int fd, uint32_t events, uint64_t tag)
{
    struct epoll_event event = {.events = events, .data.u64 = tag};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}
