/* The floor: the least that a server in one process can do for a request over this kernel.
 *
 * It does epoll, recv, finds the line ends, and sends a canned reply: for a get one VALUE of 100
 * bytes per key and END, for a set STORED after its data block is skipped by length. No parsing of
 * keys, no store, no limits, no error handling: what a real server costs more than this is its own.
 *
 *   floor PORT            listens on 127.0.0.1
 *   floor /path/of/socket
 *
 * It prints "ready" and serves until it is killed. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define INPUT_BYTES (64u << 10)
#define OUTPUT_BYTES (1u << 20)
#define EVENTS_MAX 256
#define FD_MAX 65536

/* What a read left over: an incomplete line, or how much of a data block is still to come. */
struct rest {
    uint32_t skip;
    uint32_t len;
    char line[16 << 10];
};

static struct rest *rests[FD_MAX];
static char input[sizeof(((struct rest *)0)->line) + INPUT_BYTES];
static char output[OUTPUT_BYTES];
static char value[64 + 100 + 2];
static size_t value_len;

static int
listen_on(const char *where)
{
    bool is_path = strchr(where, '/') != NULL;
    struct sockaddr_in tcp = {.sin_family = AF_INET,
                              .sin_port = htons((uint16_t)atoi(where)),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    int fd = socket(is_path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int on = 1;
    int status;
    if (is_path) {
        snprintf(path.sun_path, sizeof(path.sun_path), "%s", where);
        unlink(where);
        status = bind(fd, (struct sockaddr *)&path, sizeof(path));
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        status = bind(fd, (struct sockaddr *)&tcp, sizeof(tcp));
    }
    if (status != 0 || listen(fd, 1024) != 0) {
        perror(where);
        exit(1);
    }
    return fd;
}

/* The fifth word of "set <key> <flags> <exptime> <bytes>\r\n", and its CRLF. */
static uint32_t
data_block_len(const char *line, const char *end)
{
    const char *last = end;
    while (last > line && last[-1] != ' ') {
        last--;
    }
    return (uint32_t)strtoul(last, NULL, 10) + 2;
}

static size_t
reply_to(const char *line, const char *end, char *out)
{
    if (line[0] == 's') {
        memcpy(out, "STORED\r\n", 8);
        return 8;
    }
    char *start = out;
    for (const char *space = line; (space = memchr(space, ' ', (size_t)(end - space))) != NULL;
         space++) {
        memcpy(out, value, value_len);
        out += value_len;
    }
    memcpy(out, "END\r\n", 5);
    return (size_t)(out + 5 - start);
}

static void
drop(int fd)
{
    free(rests[fd]);
    rests[fd] = NULL;
    close(fd);
}

static void
serve(int fd)
{
    struct rest *rest = rests[fd];
    size_t had = rest == NULL ? 0 : rest->len;
    uint32_t skip = rest == NULL ? 0 : rest->skip;
    if (had > 0) {
        memcpy(input, rest->line, had);
    }
    ssize_t got = recv(fd, input + had, INPUT_BYTES, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) {
            drop(fd);
        }
        return;
    }
    const char *at = input;
    const char *end = input + had + got;
    size_t out_len = 0;
    for (;;) {
        uint32_t part = skip < (size_t)(end - at) ? skip : (uint32_t)(end - at);
        at += part;
        skip -= part;
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        if (skip > 0 || newline == NULL) {
            break;
        }
        out_len += reply_to(at, newline, output + out_len);
        skip = at[0] == 's' ? data_block_len(at, newline) : 0;
        at = newline + 1;
    }
    if (out_len > 0 && send(fd, output, out_len, MSG_NOSIGNAL) != (ssize_t)out_len) {
        drop(fd); /* No reader this slow is part of a measurement. */
        return;
    }
    size_t left = (size_t)(end - at);
    if (left == 0 && skip == 0) {
        if (rest != NULL) {
            rest->len = rest->skip = 0;
        }
        return;
    }
    if (rest == NULL) {
        rest = rests[fd] = calloc(1, sizeof(*rest));
    }
    if (rest == NULL || left > sizeof(rest->line)) {
        drop(fd);
        return;
    }
    memcpy(rest->line, at, left);
    rest->len = (uint32_t)left;
    rest->skip = skip;
}

static void
accept_all(int epoll_fd, int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) {
            return;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (fd >= FD_MAX || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
            close(fd);
        }
    }
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: floor PORT | PATH\n");
        return 64;
    }
    value_len = (size_t)sprintf(value, "VALUE key:000000000000 0 100\r\n%0100d\r\n", 0);
    int listener = listen_on(argv[1]);
    int epoll_fd = epoll_create1(0);
    struct epoll_event listening = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &listening);
    puts("ready");
    fflush(stdout);
    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener) {
                accept_all(epoll_fd, listener);
            } else {
                serve(events[i].data.fd);
            }
        }
    }
}
