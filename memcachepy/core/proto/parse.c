#include "proto/parse.h"

#include "base/number.h"

/* Ends the last token of a line: a carriage return before the line feed belongs to the line's end.
 */
static void
trim_return(struct line *line)
{
    if (line->count == 0) {
        return;
    }
    struct slice *last = &line->tokens[line->count - 1];
    if (last->bytes + last->len + 1 != line->next || last->bytes[last->len - 1] != '\r') {
        return;
    }
    last->len--;
    if (last->len == 0) {
        line->count--;
    }
}

enum parse_result
parse_line(const uint8_t *at, const uint8_t *end, struct line *line)
{
    const uint8_t *start = at;
    line->count = 0;
    line->indented = at < end && *at == ' ';
    while (line->count < TOKEN_COUNT_MAX) {
        at = parse_skip_spaces(at, end);
        const uint8_t *stop = parse_token_end(at, end);
        if (stop == end) {
            return PARSE_MORE;
        }
        if (stop > at) {
            line->tokens[line->count++] = (struct slice){at, (uint32_t)(stop - at)};
        }
        at = stop;
        if (*at == '\n') {
            break;
        }
    }
    at = parse_line_feed(at, end);
    if (at == NULL) {
        return PARSE_MORE;
    }
    line->next = at + 1;
    line->len = (uint32_t)(line->next - start);
    trim_return(line);
    return PARSE_OK;
}

bool
parse_u64(struct slice token, uint64_t *number)
{
    if (token.len == 1) {
        *number = (uint8_t)(token.bytes[0] - '0');
        return *number <= 9;
    }
    return number_parse_u64((const char *)token.bytes, token.len, number);
}

bool
parse_u64_max(struct slice token, uint64_t max, uint64_t *number)
{
    return parse_u64(token, number) && *number <= max;
}

bool
parse_i64(struct slice token, int64_t *number)
{
    bool negative = token.len > 0 && token.bytes[0] == '-';
    if (negative || (token.len > 0 && token.bytes[0] == '+')) {
        token.bytes++;
        token.len--;
    }
    uint64_t magnitude;
    if (!parse_u64_max(token, INT64_MAX, &magnitude)) {
        return false;
    }
    *number = negative ? -(int64_t)magnitude : (int64_t)magnitude;
    return true;
}
