/* A read-through client: replays a trace of keys against a memcached server on a UNIX socket. A
 * key that is missing is set before anything is asked for that might depend on it.
 *
 *   readthrough SOCKET IDS KEY_LEN VALUE_LEN|LENS WINDOW DEPTH
 *
 * IDS is a file of native 64-bit numbers, a request each; a key is KEY_LEN hexadecimal digits of
 * its number, as in _core.Segment.replay. LENS is a file of native 32-bit numbers, the bytes of
 * each request's value. A line is printed for every WINDOW requests: how many of them missed.
 *
 * Up to DEPTH keys go into one get, and the sets of what it missed, without a reply, go in front of
 * the next. A get ends before a key that it already holds, so no request looks for a key whose set
 * is still to come: what differs from one request at a time is that a set comes at most DEPTH - 1
 * requests of other keys later. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define KEY_LEN_MAX 250u
#define DEPTH_MAX 64u
#define VALUE_LEN_MAX (1u << 20)
#define LINE_BYTES_MAX (KEY_LEN_MAX + 64u)

static struct {
    const uint64_t *ids;
    const uint32_t *lens; /* NULL: all are `len` */
    uint32_t len;
    uint32_t key_len;
    size_t count;
} trace;

static int server;
static char *out;
static size_t out_len, out_room;
static char in[256u << 10];
static size_t in_at, in_end;

static void
die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("readthrough: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static const void *
map_file(const char *path, size_t *bytes)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0 || status.st_size == 0) {
        die("%s: %s", path, fd < 0 ? strerror(errno) : "is empty");
    }
    *bytes = (size_t)status.st_size;
    void *map = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        die("%s: %s", path, strerror(errno));
    }
    close(fd);
    return map;
}

static uint32_t
number(const char *text, const char *name, uint32_t min, uint32_t max)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end != '\0' || value < min || value > max) {
        die("%s is %s; the range is %u to %u", name, text, min, max);
    }
    return (uint32_t)value;
}

static void
connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof(address)) != 0) {
        die("%s: %s", path, strerror(errno));
    }
}

/* ---- bytes out and in ------------------------------------------------------------------------ */

static char *
out_space(size_t bytes)
{
    if (out_room - out_len < bytes) {
        out_room = 2 * out_room + bytes;
        out = realloc(out, out_room);
        if (out == NULL) {
            die("out of memory");
        }
    }
    return out + out_len;
}

static void
out_send(void)
{
    for (size_t at = 0; at < out_len;) {
        ssize_t sent = send(server, out + at, out_len - at, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR) {
            die("send: %s", strerror(errno));
        }
        at += sent > 0 ? (size_t)sent : 0;
    }
    out_len = 0;
}

static void
in_fill(void)
{
    memmove(in, in + in_at, in_end - in_at);
    in_end -= in_at;
    in_at = 0;
    ssize_t received = recv(server, in + in_end, sizeof(in) - in_end, 0);
    if (received == 0 || (received < 0 && errno != EINTR)) {
        die("the server closed the connection");
    }
    in_end += received > 0 ? (size_t)received : 0;
}

/* The next line, without its CRLF; valid until the next call. */
static const char *
in_line(size_t *len)
{
    for (;;) {
        char *end = memchr(in + in_at, '\n', in_end - in_at);
        if (end != NULL) {
            const char *line = in + in_at;
            *len = (size_t)(end - line) - 1;
            in_at = (size_t)(end + 1 - in);
            return line;
        }
        if (in_end - in_at > LINE_BYTES_MAX) {
            die("a line of the reply does not end");
        }
        in_fill();
    }
}

static void
in_skip(size_t bytes)
{
    for (;;) {
        size_t here = in_end - in_at < bytes ? in_end - in_at : bytes;
        in_at += here;
        bytes -= here;
        if (bytes == 0) {
            return;
        }
        in_fill();
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

static void
key_write(uint64_t id, char *key)
{
    for (uint32_t i = trace.key_len; i-- > 0; id >>= 4) {
        key[i] = "0123456789abcdef"[id & 15];
    }
}

static void
put_key(uint64_t id)
{
    key_write(id, out_space(trace.key_len));
    out_len += trace.key_len;
}

static void
put_set(size_t request)
{
    uint32_t len = trace.lens != NULL ? trace.lens[request] : trace.len;
    memcpy(out_space(4), "set ", 4);
    out_len += 4;
    put_key(trace.ids[request]);
    out_len += (size_t)sprintf(out_space(64), " 0 0 %u noreply\r\n", len);
    memset(out_space(len + 2), 0, len);
    memcpy(out + out_len + len, "\r\n", 2);
    out_len += len + 2;
}

/* How many requests from here fit one get: all of different keys. */
static size_t
batch_len(size_t first, size_t max)
{
    for (size_t i = 1; i < max; i++) {
        for (size_t j = 0; j < i; j++) {
            if (trace.ids[first + i] == trace.ids[first + j]) {
                return i;
            }
        }
    }
    return max;
}

static void
put_get(size_t first, size_t count)
{
    memcpy(out_space(3), "get", 3);
    out_len += 3;
    for (size_t i = 0; i < count; i++) {
        *out_space(1) = ' ';
        out_len++;
        put_key(trace.ids[first + i]);
    }
    memcpy(out_space(2), "\r\n", 2);
    out_len += 2;
}

/* Reads the reply to a get; the requests that missed. */
static size_t
take_reply(size_t first, size_t count, bool *missed)
{
    char key[KEY_LEN_MAX];
    size_t at = 0, misses = 0;
    for (;;) {
        size_t len;
        const char *line = in_line(&len);
        if (len == 3 && memcmp(line, "END", 3) == 0) {
            for (; at < count; at++) {
                missed[at] = true;
                misses++;
            }
            return misses;
        }
        if (len > 13 && memcmp(line, "SERVER_ERROR ", 13) == 0) {
            continue; /* a set that was refused, or a value that could not be sent */
        }
        if (len < 6 + trace.key_len || memcmp(line, "VALUE ", 6) != 0) {
            die("the server says: %.*s", (int)len, line);
        }
        /* Values come in the order of the keys. */
        for (;; at++) {
            if (at == count) {
                die("the server sent a key that was not asked for: %.*s", (int)len, line);
            }
            key_write(trace.ids[first + at], key);
            if (memcmp(line + 6, key, trace.key_len) == 0) {
                break;
            }
            missed[at] = true;
            misses++;
        }
        missed[at++] = false;
        const char *space = memrchr(line, ' ', len);
        in_skip(strtoul(space + 1, NULL, 10) + 2);
    }
}

int
main(int argc, char **argv)
{
    if (argc != 7) {
        die("usage: readthrough SOCKET IDS KEY_LEN VALUE_LEN|LENS WINDOW DEPTH");
    }
    size_t bytes;
    trace.ids = map_file(argv[2], &bytes);
    trace.count = bytes / 8;
    trace.key_len = number(argv[3], "KEY_LEN", 1, KEY_LEN_MAX);
    if (argv[4][0] >= '0' && argv[4][0] <= '9') {
        trace.len = number(argv[4], "VALUE_LEN", 0, VALUE_LEN_MAX);
    } else {
        trace.lens = map_file(argv[4], &bytes);
        if (bytes / 4 != trace.count) {
            die("%s has %zu sizes for %zu requests", argv[4], bytes / 4, trace.count);
        }
    }
    size_t window = number(argv[5], "WINDOW", 1, UINT32_MAX);
    size_t depth = number(argv[6], "DEPTH", 1, DEPTH_MAX);
    connect_to(argv[1]);
    uint64_t misses = 0;
    for (size_t at = 0; at < trace.count;) {
        size_t max = trace.count - at < depth ? trace.count - at : depth;
        size_t window_rest = window - at % window;
        size_t count = batch_len(at, window_rest < max ? window_rest : max);
        bool missed[DEPTH_MAX];
        put_get(at, count);
        out_send();
        misses += take_reply(at, count, missed);
        for (size_t i = 0; i < count; i++) {
            if (missed[i]) {
                put_set(at + i);
            }
        }
        at += count;
        if (at % window == 0 || at == trace.count) {
            printf("%llu\n", (unsigned long long)misses);
            misses = 0;
        }
    }
    /* An answer to this says that the last sets have been executed. */
    memcpy(out_space(9), "version\r\n", 9);
    out_len += 9;
    out_send();
    in_line(&bytes);
    return 0;
}
