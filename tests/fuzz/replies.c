/* Knows how each line begins and how many bytes follow it; what the words of a line mean is for
 * transcripts. */
#include "replies.h"

#include "proto/command.h"

#include <stdio.h>
#include <string.h>

#define BINARY_HEAD_BYTES 24
#define BINARY_BODY_MAX (2u << 20)

/* A line that is exactly this, or that begins so where a space or a star of ours follows. */
static const char *const LINES[] = {
    "END",
    "STORED",
    "NOT_STORED",
    "EXISTS",
    "NOT_FOUND",
    "DELETED",
    "TOUCHED",
    "OK",
    "RESET",
    "ERROR",
    "ERROR *",
    "CLIENT_ERROR *",
    "SERVER_ERROR *",
    "SERVER_ERROR: *",
    "VERSION *",
    "STAT *",
    "ITEM *",
    "PREFIX *",
    "HD",
    "HD *",
    "EN",
    "EN *",
    "NF",
    "NF *",
    "NS",
    "NS *",
    "EX",
    "EX *",
    "MN",
    "ME *",
    "mg *",
    "BUSY *",
    "BADCLASS *",
    "NOSPARE *",
    "SAME *",
    "NOTSTARTED *",
    "MEMLIMIT_TOO_SMALL *",
    "MEMLIMIT_ADJUST_FAILED *",
    "WATCHER_TOO_MANY *",
    "WATCHER_FAILED *",
};

/* These end in a line feed alone. */
static const char *const FEED_LINES[] = {"key=", "ts=", "skipped="};

static bool
is_known(const char *line, size_t len)
{
    for (size_t i = 0; i < sizeof(LINES) / sizeof(LINES[0]); i++) {
        size_t known = strlen(LINES[i]);
        bool open = LINES[i][known - 1] == '*';
        known -= open;
        if ((open ? len >= known : len == known) && memcmp(line, LINES[i], known) == 0) {
            return true;
        }
    }
    for (unsigned i = 0; i < COMMAND_COUNT; i++) {
        const struct command *command = &command_table[i];
        size_t name = command->name_len, help = strlen(command->help);
        if (len == name + 1 + help && memcmp(line, command->name, name) == 0 &&
            memcmp(line + name + 1, command->help, help) == 0) {
            return true;
        }
    }
    return false;
}

static bool
is_number(const char *line, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (line[i] < '0' || line[i] > '9') {
            return false;
        }
    }
    return len > 0 && len <= 20;
}

/* The number at a word's place, counted from 0; -1: there is none. */
static long
number_at(const char *line, size_t len, unsigned place)
{
    size_t at = 0;
    for (unsigned word = 0; word < place; word++) {
        while (at < len && line[at] != ' ') {
            at++;
        }
        if (at++ >= len) {
            return -1;
        }
    }
    long number = 0;
    size_t from = at;
    while (at < len && line[at] >= '0' && line[at] <= '9' && at - from < 10) {
        number = number * 10 + (line[at++] - '0');
    }
    return at == from || (at < len && line[at] != ' ') ? -1 : number;
}

static const char *
read_line(struct reply_reader *reader)
{
    const char *line = (const char *)reader->line;
    size_t len = reader->line_len - 1;
    reader->line_len = 0;
    if (len == 0 || line[len - 1] != '\r') {
        for (size_t i = 0; i < sizeof(FEED_LINES) / sizeof(FEED_LINES[0]); i++) {
            if (strncmp(line, FEED_LINES[i], strlen(FEED_LINES[i])) == 0) {
                return NULL;
            }
        }
        return "a line ends without a carriage return";
    }
    len--;
    bool value =
        (len > 6 && memcmp(line, "VALUE ", 6) == 0) || (len > 7 && memcmp(line, "CONFIG ", 7) == 0);
    if (value || (len > 3 && memcmp(line, "VA ", 3) == 0)) {
        long bytes = number_at(line, len, value ? 3 : 1);
        if (bytes < 0) {
            return "a value without its length";
        }
        reader->data_len = (size_t)bytes;
        reader->end_len = 2;
        return NULL;
    }
    return is_known(line, len) || is_number(line, len) ? NULL : "a line of no known form";
}

static const char *
read_head(struct reply_reader *reader)
{
    const uint8_t *head = reader->line;
    unsigned key_len = (unsigned)head[2] << 8 | head[3];
    uint32_t body_len =
        (uint32_t)head[8] << 24 | (uint32_t)head[9] << 16 | (uint32_t)head[10] << 8 | head[11];
    reader->line_len = 0;
    if (head[0] != 0x81) {
        return "a packet without the magic of a response";
    }
    if (head[5] != 0) {
        return "a packet with a data type";
    }
    if (key_len + head[4] > body_len) {
        return "a packet shorter than its key and extras";
    }
    if (body_len > BINARY_BODY_MAX) {
        return "a packet longer than any item";
    }
    reader->data_len = body_len;
    return NULL;
}

/* One byte of a line or head. */
static const char *
read_byte(struct reply_reader *reader, uint8_t byte)
{
    if (reader->end_len > 0) {
        return byte == (reader->end_len-- == 2 ? '\r' : '\n') ? NULL
                                                              : "a value without its line end";
    }
    reader->line[reader->line_len++] = byte;
    if (reader->binary) {
        return reader->line_len == BINARY_HEAD_BYTES ? read_head(reader) : NULL;
    }
    if (byte == '\n') {
        const char *wrong = read_line(reader);
        if (wrong != NULL) {
            fprintf(stderr, "the line: %.200s\n", (const char *)reader->line);
        }
        return wrong;
    }
    return reader->line_len == REPLY_LINE_MAX ? "a line without end" : NULL;
}

const char *
replies_read(struct reply_reader *reader, const uint8_t *bytes, size_t len)
{
    size_t at = 0;
    while (at < len) {
        if (reader->data_len > 0) {
            size_t part = len - at < reader->data_len ? len - at : reader->data_len;
            reader->data_len -= part;
            at += part;
            continue;
        }
        const char *wrong = read_byte(reader, bytes[at++]);
        if (wrong != NULL) {
            return wrong;
        }
    }
    return NULL;
}

bool
replies_are_whole(const struct reply_reader *reader)
{
    return reader->line_len == 0 && reader->data_len == 0 && reader->end_len == 0;
}
