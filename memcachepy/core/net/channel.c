#include "net/channel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

union descriptor_space {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
};

enum channel_result
channel_send(int channel_fd, int fd)
{
    char byte = 0;
    struct iovec piece = {&byte, 1};
    union descriptor_space space = {0};
    struct msghdr message = {
        .msg_iov = &piece,
        .msg_iovlen = 1,
        .msg_control = space.bytes,
        .msg_controllen = sizeof(space.bytes),
    };
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(control), &fd, sizeof(int));
    ssize_t sent;
    do {
        sent = sendmsg(channel_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent == 1) {
        return CHANNEL_OK;
    }
    /* ETOOMANYREFS: too many descriptors in flight, which is a full channel too. */
    return errno == EAGAIN || errno == ETOOMANYREFS || errno == ENOBUFS ? CHANNEL_AGAIN
                                                                        : CHANNEL_FAILED;
}

enum channel_result
channel_receive(int channel_fd, int *fd)
{
    char byte;
    struct iovec piece = {&byte, 1};
    union descriptor_space space;
    struct msghdr message = {
        .msg_iov = &piece,
        .msg_iovlen = 1,
        .msg_control = space.bytes,
        .msg_controllen = sizeof(space.bytes),
    };
    ssize_t received;
    do {
        received = recvmsg(channel_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (received < 0 && errno == EINTR);
    if (received < 0) {
        return errno == EAGAIN ? CHANNEL_AGAIN : CHANNEL_FAILED;
    }
    if (received == 0) {
        return CHANNEL_FAILED;
    }
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    if (control == NULL || control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS ||
        control->cmsg_len != CMSG_LEN(sizeof(int))) {
        return CHANNEL_LOST;
    }
    memcpy(fd, CMSG_DATA(control), sizeof(int));
    return CHANNEL_OK;
}
