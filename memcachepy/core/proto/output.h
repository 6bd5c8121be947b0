/* Replies on their way out: bytes, and between them the values that are sent from where they lie.
 *
 *     bytes    [ "VALUE a 0 1000000\r\n" | "\r\nVALUE b 0 5\r\n....." ]
 *     pins                              ^ pins[0].at
 *
 * One output is shared by all connections of a process while their replies are made; what the
 * kernel does not take at once is kept by the connection in an output of its own. */
#ifndef PROTO_OUTPUT_H
#define PROTO_OUTPUT_H

#include "base/number.h"
#include "base/platform.h"
#include "store/store.h"

#include <string.h>

/* With this much waiting no further request of the connection is executed. */
#define OUTPUT_HIGH_WATER_BYTES (128u << 10)

/* What a single reply may need above it: a value of one chunk (at most half of 64 KiB). Longer ones
 * ask for their room with output_reserve(). */
#define OUTPUT_REPLY_BYTES_MAX (64u << 10)

/* What an output has room for before it grows. */
#define OUTPUT_USUAL_BYTES (OUTPUT_HIGH_WATER_BYTES + OUTPUT_REPLY_BYTES_MAX)

/* Writers of short texts may write a whole vector and count only a part. */
#define OUTPUT_SLACK_BYTES 64

struct output_pin {
    uint32_t at;   /* The value goes before bytes[at]. */
    uint32_t sent; /* Bytes of it that have gone. */
    struct pin pin;
};

struct output {
    uint8_t *bytes;
    uint32_t begin, end; /* bytes[begin .. end) wait. */
    uint32_t capacity;
    uint32_t pin_begin, pin_end; /* pins[pin_begin .. pin_end) wait. */
    uint32_t pin_capacity;
    struct output_pin *pins;
    uint64_t pinned_bytes; /* Of their values, as a whole. */
};

/* Allocates room for the high water and one reply. */
bool output_init(struct output *output) MUST_CHECK;

/* Makes room for `bytes` more, for replies that may be longer than OUTPUT_REPLY_BYTES_MAX. What was
 * taken beyond the usual goes back once all is sent. False: out of memory, nothing has changed. */
bool output_grow(struct output *output, size_t bytes) MUST_CHECK;

static inline bool
output_reserve(struct output *output, size_t bytes)
{
    return LIKELY(bytes <= output->capacity - output->end) || output_grow(output, bytes);
}

/* Unpins what is pinned and frees the memory; the struct is as after zeroing. */
void output_free(struct output *output, struct store *store);

static inline bool
output_is_empty(const struct output *output)
{
    return output->begin == output->end && output->pin_begin == output->pin_end;
}

static inline bool
output_has_pins(const struct output *output)
{
    return output->pin_begin != output->pin_end;
}

/* Drops all that waits; the memory stays. */
void output_clear(struct output *output, struct store *store);

/* Enough waits: send before going on. */
static inline bool
output_is_full(const struct output *output)
{
    return output->end - output->begin + output->pinned_bytes >= OUTPUT_HIGH_WATER_BYTES;
}

/* Adds bytes; below the high water there is always room for a reply. */
static inline void
output_add(struct output *output, const void *bytes, size_t len)
{
    memcpy(output->bytes + output->end, bytes, len);
    output->end += (uint32_t)len;
}

#define OUTPUT_TEXT(output, text) output_add((output), (text), sizeof(text) - 1)

/* Writes a number at `at`, returns the place behind it. */
static inline uint8_t *
output_number(uint8_t *at, uint64_t number)
{
    if (number < 10) {
        *at = (uint8_t)('0' + number);
        return at + 1;
    }
    return at + number_format_u64(number, (char *)at);
}

/* Takes over the pin, to be sent here. False: out of memory, the pin is still the caller's. */
bool output_add_pin(struct output *output, const struct pin *pin) MUST_CHECK;

/* The next pieces to send, in order; returns how many were filled, 0 when nothing waits or a pinned
 * value is damaged: then the connection can only be closed. */
unsigned output_pieces(const struct output *output, struct store *store, struct iovec *pieces,
                       unsigned count);

/* Forgets the first `len` bytes of the pieces: they are sent. Unpins values that are through. */
void output_advance(struct output *output, struct store *store, size_t len);

/* Moves all that waits in `from` to `to`, which is empty and then owns memory for just that. */
bool output_move(struct output *from, struct output *to) MUST_CHECK;

#endif
