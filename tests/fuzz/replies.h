/* Whether the bytes that a connection is answered are a sequence of whole replies. */
#ifndef FUZZ_REPLIES_H
#define FUZZ_REPLIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The longest line or packet head is far shorter. */
#define REPLY_LINE_MAX 8192

/* Zeroed is initialised. */
struct reply_reader {
    bool binary; /* Packets, not lines: set by who knows what the connection began with. */
    uint8_t line[REPLY_LINE_MAX];
    size_t line_len;  /* Of an unfinished line or head. */
    size_t data_len;  /* Bytes of a value that are still to come, its CRLF not counted. */
    unsigned end_len; /* Of that CRLF. */
};

/* NULL, or what is wrong. */
const char *replies_read(struct reply_reader *reader, const uint8_t *bytes, size_t len);

/* Whether nothing is unfinished. */
bool replies_are_whole(const struct reply_reader *reader);

#endif
