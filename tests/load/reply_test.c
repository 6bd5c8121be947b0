/* Replies in every fragmentation: each script is read whole, byte by byte, and cut at every pair of
 * places, from buffers that end at an unreadable page, and must mean the same each time. */
#include "load/reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static char *page_end; /* The first unreadable byte. */

struct text {
    char bytes[4096];
    size_t len;
};

static void
append(struct text *text, const char *bytes, size_t len)
{
    if (text->len + len > sizeof(text->bytes)) {
        abort();
    }
    memcpy(text->bytes + text->len, bytes, len);
    text->len += len;
}

static void
describe(struct text *seen, const struct reply_reader *reader, enum reply reply)
{
    static const char *const names[] = {"more",   "value",   "data",    "end",    "stored",
                                        "mg-hit", "mg-miss", "refused", "strange"};
    char line[700];
    int len = 0;
    switch (reply) {
    case REPLY_DATA: /* The same however it is cut: only bytes and the end count. */
        append(seen, reader->data, reader->data_len);
        if (reader->value_done) {
            append(seen, "<done>", 6);
        }
        return;
    case REPLY_VALUE:
        len = snprintf(line, sizeof(line), "<value %.*s %llu %llu>", (int)reader->key_len,
                       reader->key_len == 0 ? "" : reader->key,
                       (unsigned long long)reader->client_flags,
                       (unsigned long long)reader->value_len);
        break;
    case REPLY_REFUSED:
        len = snprintf(line, sizeof(line), "<refused %.*s>", (int)reader->line_len, reader->line);
        break;
    case REPLY_MORE:
    case REPLY_END:
    case REPLY_STORED:
    case REPLY_META_HIT:
    case REPLY_META_MISS:
    case REPLY_STRANGE:
        len = snprintf(line, sizeof(line), "<%s>", names[reply]);
        break;
    }
    append(seen, line, (size_t)len);
}

/* False after a strange reply. */
static bool
feed(struct reply_reader *reader, struct text *seen, const char *bytes, size_t len)
{
    char *start = page_end - len;
    memcpy(start, bytes, len);
    const char *at = start;
    for (;;) {
        enum reply reply = reply_next(reader, &at, page_end);
        if (reply == REPLY_MORE) {
            return true;
        }
        describe(seen, reader, reply);
        if (reply == REPLY_STRANGE) {
            return false;
        }
    }
}

/* An expectation that begins with * is of the end only. */
static bool
agrees(const struct text *seen, const char *expected)
{
    size_t len = strlen(expected);
    if (expected[0] == '*') {
        len--;
        return seen->len >= len && memcmp(seen->bytes + seen->len - len, expected + 1, len) == 0;
    }
    return seen->len == len && memcmp(seen->bytes, expected, len) == 0;
}

static void
check(const char *script, size_t len, const char *expected, size_t first, size_t second)
{
    struct reply_reader reader;
    struct text seen = {.len = 0};
    reply_reader_init(&reader);
    bool alive = feed(&reader, &seen, script, first);
    alive = alive && feed(&reader, &seen, script + first, second - first);
    (void)(alive && feed(&reader, &seen, script + second, len - second));
    if (!agrees(&seen, expected)) {
        printf("cut at %zu and %zu\n  script   %.*s\n  expected %s\n  seen     %.*s\n", first,
               second, (int)len, script, expected, (int)seen.len, seen.bytes);
        exit(1);
    }
}

static void
check_every_cut(const char *script, const char *expected)
{
    size_t len = strlen(script);
    for (size_t first = 0; first <= len; first++) {
        for (size_t second = first; second <= len; second++) {
            check(script, len, expected, first, second);
        }
    }
    struct reply_reader reader;
    struct text seen = {.len = 0};
    reply_reader_init(&reader);
    for (size_t i = 0; i < len && feed(&reader, &seen, script + i, 1); i++) {
    }
    if (!agrees(&seen, expected)) {
        printf("byte by byte\n  script   %s\n  seen     %.*s\n", script, (int)seen.len, seen.bytes);
        exit(1);
    }
}

int
main(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + page, page, PROT_NONE) != 0) {
        return 2;
    }
    page_end = pages + page;

    check_every_cut("END\r\n", "<end>");
    check_every_cut("STORED\r\nSTORED\r\nEND\r\n", "<stored><stored><end>");
    check_every_cut("VALUE k 7 5\r\nhello\r\nEND\r\n", "<value k 7 5>hello<done><end>");
    check_every_cut("VALUE k 0 0\r\n\r\nVALUE l 0 2\r\n\r\n\r\nEND\r\nEND\r\n",
                    "<value k 0 0><done><value l 0 2>\r\n<done><end><end>");
    check_every_cut("VALUE k 4294967295 3 18446744073709551615\r\nEND\r\nEND\r\n",
                    "<value k 4294967295 3>END<done><end>");
    check_every_cut("VA 3\r\nabc\r\nEN\r\nHD\r\nVA 0 c5 t-1\r\n\r\n",
                    "<value  0 3>abc<done><mg-miss><mg-hit><value  0 0><done>");
    check_every_cut("SERVER_ERROR out of memory\r\nERROR\r\nNOT_STORED\r\n",
                    "<refused SERVER_ERROR out of memory><refused ERROR><refused NOT_STORED>");
    check_every_cut("CLIENT_ERROR bad data chunk\r\nSTORED\r\n",
                    "<refused CLIENT_ERROR bad data chunk><stored>");
    check_every_cut("ENDX\r\n", "<strange>");
    check_every_cut("END\n", "<strange>");
    check_every_cut("\r\n", "<strange>");
    check_every_cut("ERRORS\r\n", "<strange>");
    check_every_cut("VALUE k 0\r\n", "<strange>");
    check_every_cut("VALUE k 0 5x\r\n", "<strange>");
    check_every_cut("VALUE k x 5\r\n", "<strange>");
    check_every_cut("VALUE k 0 99999999999999999999\r\n", "<strange>");
    check_every_cut("VALUE k 0 1\r\nab\r\n", "*<strange>");

    static char endless[600];
    memset(endless, 'x', sizeof(endless));
    check(endless, sizeof(endless), "<strange>", 0, 0);
    check(endless, sizeof(endless), "<strange>", 100, 300);
    check(endless, sizeof(endless), "<strange>", 511, 512);
    puts("all fragmentations agree");
    return 0;
}
