/* The wire's grammar below the commands: lines, tokens, numbers.
 *
 * Nothing here owns memory or keeps state: results are slices of the caller's bytes and a place to
 * go on from. *More* (the line has no end yet) and *wrong* (a number that is none) are never mixed.
 * No function reads at or past `end`. */
#ifndef PROTO_PARSE_H
#define PROTO_PARSE_H

#include "base/platform.h"

#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* Bytes inside somebody else's buffer. */
struct slice {
    const uint8_t *bytes;
    uint32_t len;
};

/* memcached looks at 23 tokens of a line; what follows is skipped. */
#define TOKEN_COUNT_MAX 23

struct line {
    struct slice tokens[TOKEN_COUNT_MAX];
    unsigned count;
    bool indented;       /* Starts with a space: no command has that. */
    uint32_t len;        /* With its line feed. */
    const uint8_t *next; /* The byte after it. */
};

enum parse_result {
    PARSE_OK,
    PARSE_MORE, /* No line feed before `end`. */
};

/* The first space or line feed in [at, end), or end. */
static inline const uint8_t *
parse_token_end(const uint8_t *at, const uint8_t *end)
{
#if defined(__SSE2__)
    const __m128i space = _mm_set1_epi8(' ');
    const __m128i feed = _mm_set1_epi8('\n');
    while (end - at >= 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)at);
        __m128i found = _mm_or_si128(_mm_cmpeq_epi8(bytes, space), _mm_cmpeq_epi8(bytes, feed));
        unsigned mask = (unsigned)_mm_movemask_epi8(found);
        if (mask != 0) {
            return at + __builtin_ctz(mask);
        }
        at += 16;
    }
#endif
    /* Eight at a time: a byte is zero where x - 1 borrows and x had no high bit. False alarms stand
     * only above the first true one, so the lowest is right (both machines are little-endian). */
    const uint64_t ones = 0x0101010101010101u;
    while (end - at >= 8) {
        uint64_t bytes;
        memcpy(&bytes, at, sizeof(bytes));
        uint64_t spaces = bytes ^ (ones * ' ');
        uint64_t feeds = bytes ^ (ones * '\n');
        uint64_t found = (((spaces - ones) & ~spaces) | ((feeds - ones) & ~feeds)) & (ones * 0x80);
        if (found != 0) {
            return at + __builtin_ctzll(found) / 8;
        }
        at += 8;
    }
    while (at < end && *at != ' ' && *at != '\n') {
        at++;
    }
    return at;
}

static inline const uint8_t *
parse_skip_spaces(const uint8_t *at, const uint8_t *end)
{
    while (at < end && *at == ' ') {
        at++;
    }
    return at;
}

/* The line feed of the line that starts at `at`, NULL if it has not come. */
static inline const uint8_t *
parse_line_feed(const uint8_t *at, const uint8_t *end)
{
    return at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
}

/* Splits the line that starts at `at`; a carriage return before its line feed is not part of it. */
enum parse_result parse_line(const uint8_t *at, const uint8_t *end, struct line *line) MUST_CHECK;

static inline bool
slice_is(struct slice slice, const char *text)
{
    size_t len = strlen(text);
    return slice.len == len && memcmp(slice.bytes, text, len) == 0;
}

/* Digits only. */
bool parse_u64(struct slice token, uint64_t *number) MUST_CHECK;

/* Digits, at most `max`. */
bool parse_u64_max(struct slice token, uint64_t max, uint64_t *number) MUST_CHECK;

/* Digits after an optional sign, within 64 bits. */
bool parse_i64(struct slice token, int64_t *number) MUST_CHECK;

#endif
