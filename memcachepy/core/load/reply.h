/* Replies without a socket: bytes in, what they mean out, one step a call.
 *
 * Bytes may come in any fragmentation. Whole lines are judged where they lie; only a line cut by
 * the end of a read is copied, into the reader. Value bytes are handed out as they come and never
 * kept. Inlined, because a generator that parses slower than the server writes would measure
 * itself. */
#ifndef LOAD_REPLY_H
#define LOAD_REPLY_H

#include "base/platform.h"

#include <string.h>

#define REPLY_LINE_MAX 512 /* A VALUE line needs at most 6 + 250 + 11 + 11 + 21 bytes. */

enum reply {
    REPLY_MORE,  /* All bytes are used. */
    REPLY_VALUE, /* A hit begins: reader->key, key_len (0 after mg), client_flags, value_len. */
    REPLY_DATA, /* Bytes of its value: reader->data, data_len, data_at; the last when value_done. */
    REPLY_END,  /* A get is complete. */
    REPLY_STORED,    /* A set is complete. */
    REPLY_META_HIT,  /* mg: HD, a hit without a value. */
    REPLY_META_MISS, /* mg: EN. */
    REPLY_REFUSED,   /* An error or NOT_STORED: reader->line, line_len. */
    REPLY_STRANGE,   /* No reply of this protocol: the stream is lost. reader->line, line_len. */
};

struct reply_reader {
    uint64_t value_len;
    uint64_t value_left; /* Value bytes still to come. */
    unsigned end_left;   /* Bytes of the value's CRLF still to come. */
    unsigned kept_len;   /* Of a line that is not complete. */
    uint64_t client_flags;
    const char *key;
    size_t key_len;
    const char *data;
    size_t data_len;
    uint64_t data_at;
    bool value_done;
    bool meta;        /* The value came from mg: no END follows it. */
    const char *line; /* Without its line end. */
    size_t line_len;
    char kept[REPLY_LINE_MAX];
};

void reply_reader_init(struct reply_reader *reader);

/* Judges any line that is not the frequent VALUE, END or STORED. */
enum reply reply_judge_line(struct reply_reader *reader, const char *line, size_t len);

/* Finds the end of the line at *at and completes it with what was kept; NULL when it is not there.
 * A line too long for any reply comes back cut. */
const char *reply_complete_kept(struct reply_reader *reader, const char **at, const char *end,
                                size_t *len);

static inline enum reply
reply_data(struct reply_reader *reader, const char **at, const char *end)
{
    size_t here = (size_t)(end - *at);
    size_t part = reader->value_left < here ? (size_t)reader->value_left : here;
    reader->data = *at;
    reader->data_len = part;
    reader->data_at = reader->value_len - reader->value_left;
    reader->value_left -= part;
    *at += part;
    unsigned tail =
        (unsigned)((size_t)(end - *at) < reader->end_left ? (size_t)(end - *at) : reader->end_left);
    for (unsigned i = 0; i < tail; i++) {
        char expected = reader->end_left == 2 ? '\r' : '\n';
        reader->end_left--;
        if (UNLIKELY(*(*at)++ != expected)) {
            reader->line = "(a value that does not end where its length says)";
            reader->line_len = strlen(reader->line);
            return REPLY_STRANGE;
        }
    }
    reader->value_done = reader->end_left == 0;
    return REPLY_DATA;
}

/* Takes one step through [*at, end) and moves *at. Slices point into those bytes or the reader and
 * hold until the next call. After REPLY_STRANGE the reader must not be used again. */
static inline enum reply
reply_next(struct reply_reader *reader, const char **at, const char *end)
{
    if (*at == end) {
        return REPLY_MORE;
    }
    if (reader->end_left != 0) {
        return reply_data(reader, at, end);
    }
    const char *line = *at;
    size_t len;
    if (UNLIKELY(reader->kept_len != 0)) {
        line = reply_complete_kept(reader, at, end, &len);
        return line == NULL ? REPLY_MORE : reply_judge_line(reader, line, len);
    }
    if (end - line >= 5 && memcmp(line, "END\r\n", 5) == 0) {
        *at = line + 5;
        return REPLY_END;
    }
    if (end - line >= 8 && memcmp(line, "STORED\r\n", 8) == 0) {
        *at = line + 8;
        return REPLY_STORED;
    }
    const char *newline = memchr(line, '\n', (size_t)(end - line));
    if (UNLIKELY(newline == NULL || newline - line >= REPLY_LINE_MAX)) {
        line = reply_complete_kept(reader, at, end, &len);
        return line == NULL ? REPLY_MORE : reply_judge_line(reader, line, len);
    }
    *at = newline + 1;
    return reply_judge_line(reader, line, (size_t)(newline + 1 - line));
}

#endif
