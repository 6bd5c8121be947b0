#include "proto/output.h"

#include "base/check.h"

#include <stdlib.h>

#define OUTPUT_BYTES_MAX (1u << 30)

bool
output_init(struct output *output)
{
    *output = (struct output){.capacity = OUTPUT_USUAL_BYTES};
    output->bytes = malloc(output->capacity + OUTPUT_SLACK_BYTES);
    return output->bytes != NULL;
}

static bool
resize(struct output *output, uint32_t capacity)
{
    uint8_t *bytes = realloc(output->bytes, capacity + OUTPUT_SLACK_BYTES);
    if (bytes == NULL) {
        return false;
    }
    output->bytes = bytes;
    output->capacity = capacity;
    return true;
}

bool
output_grow(struct output *output, size_t bytes)
{
    size_t capacity = (output->end + bytes) + (output->end + bytes) / 2;
    return capacity < OUTPUT_BYTES_MAX && resize(output, (uint32_t)capacity);
}

/* All that waited has gone. */
static void
rewind_empty(struct output *output)
{
    output->begin = output->end = 0;
    output->pin_begin = output->pin_end = 0;
    if (UNLIKELY(output->capacity > OUTPUT_USUAL_BYTES)) {
        (void)resize(output, OUTPUT_USUAL_BYTES);
    }
}

void
output_clear(struct output *output, struct store *store)
{
    for (uint32_t i = output->pin_begin; i < output->pin_end; i++) {
        store_unpin(store, &output->pins[i].pin);
    }
    rewind_empty(output);
    output->pinned_bytes = 0;
}

void
output_free(struct output *output, struct store *store)
{
    output_clear(output, store);
    free(output->pins);
    free(output->bytes);
    *output = (struct output){0};
}

bool
output_add_pin(struct output *output, const struct pin *pin)
{
    if (output->pin_end == output->pin_capacity) {
        uint32_t capacity = output->pin_capacity ? output->pin_capacity * 2 : 16;
        struct output_pin *pins = realloc(output->pins, capacity * sizeof(*pins));
        if (pins == NULL) {
            return false;
        }
        output->pins = pins;
        output->pin_capacity = capacity;
    }
    output->pins[output->pin_end++] = (struct output_pin){.at = output->end, .pin = *pin};
    output->pinned_bytes += pin->value_len;
    return true;
}

unsigned
output_pieces(const struct output *output, struct store *store, struct iovec *pieces,
              unsigned count)
{
    unsigned filled = 0;
    uint32_t at = output->begin;
    uint32_t pin_index = output->pin_begin;
    while (filled < count) {
        bool pinned = pin_index < output->pin_end;
        uint32_t stop = pinned ? output->pins[pin_index].at : output->end;
        if (stop > at) {
            pieces[filled++] = (struct iovec){output->bytes + at, stop - at};
            at = stop;
            continue;
        }
        if (!pinned) {
            break;
        }
        unsigned more =
            store_pin_pieces(store, &output->pins[pin_index].pin, pieces + filled, count - filled);
        size_t left = output->pins[pin_index].pin.value_len - output->pins[pin_index].pin.consumed;
        for (unsigned i = 0; i < more; i++) {
            left -= pieces[filled + i].iov_len;
        }
        filled += more;
        pin_index++;
        if (filled == count || UNLIKELY(left > 0)) {
            break; /* The value may go on where the pieces ended, or it is damaged. */
        }
    }
    return filled;
}

static void
drop_first_pin(struct output *output, struct store *store)
{
    struct pin *pin = &output->pins[output->pin_begin++].pin;
    output->pinned_bytes -= pin->value_len;
    store_unpin(store, pin);
}

/* Takes sent bytes off the text before the first pinned value; returns how many there were. */
static size_t
advance_text(struct output *output, uint32_t stop, size_t len)
{
    size_t waiting = stop - output->begin;
    size_t bytes = len < waiting ? len : waiting;
    output->begin += (uint32_t)bytes;
    return bytes;
}

void
output_advance(struct output *output, struct store *store, size_t len)
{
    while (output_has_pins(output)) {
        struct output_pin *first = &output->pins[output->pin_begin];
        len -= advance_text(output, first->at, len);
        if (len == 0) {
            return;
        }
        uint32_t left = first->pin.value_len - first->sent;
        uint32_t bytes = len < left ? (uint32_t)len : left;
        store_pin_advance(store, &first->pin, bytes);
        first->sent += bytes;
        len -= bytes;
        if (bytes < left) {
            return;
        }
        drop_first_pin(output, store);
    }
    len -= advance_text(output, output->end, len);
    DCHECK(len == 0);
    if (output->begin == output->end) {
        rewind_empty(output);
    }
}

bool
output_move(struct output *from, struct output *to)
{
    uint32_t len = from->end - from->begin;
    uint32_t pin_count = from->pin_end - from->pin_begin;
    struct output moved = {.end = len, .capacity = len, .pinned_bytes = from->pinned_bytes};
    moved.bytes = malloc(len + OUTPUT_SLACK_BYTES);
    moved.pins = pin_count ? malloc(pin_count * sizeof(*moved.pins)) : NULL;
    if (moved.bytes == NULL || (pin_count && moved.pins == NULL)) {
        free(moved.bytes);
        free(moved.pins);
        return false;
    }
    memcpy(moved.bytes, from->bytes + from->begin, len);
    for (uint32_t i = 0; i < pin_count; i++) {
        moved.pins[i] = from->pins[from->pin_begin + i];
        moved.pins[i].at -= from->begin;
    }
    moved.pin_end = moved.pin_capacity = pin_count;
    *to = moved;
    from->pinned_bytes = 0;
    rewind_empty(from);
    return true;
}
