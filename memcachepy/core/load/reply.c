/* Reply lines; see the header. */
#include "load/reply.h"

void
reply_reader_init(struct reply_reader *reader)
{
    memset(reader, 0, offsetof(struct reply_reader, kept));
}

const char *
reply_complete_kept(struct reply_reader *reader, const char **at, const char *end, size_t *len)
{
    size_t here = (size_t)(end - *at);
    const char *newline = memchr(*at, '\n', here);
    size_t part = newline == NULL ? here : (size_t)(newline + 1 - *at);
    size_t room = REPLY_LINE_MAX - reader->kept_len;
    if (part > room) {
        part = room;
    }
    memcpy(reader->kept + reader->kept_len, *at, part);
    reader->kept_len += (unsigned)part;
    *at += part;
    if (reader->kept[reader->kept_len - 1] != '\n' && reader->kept_len < REPLY_LINE_MAX) {
        return NULL;
    }
    *len = reader->kept_len;
    reader->kept_len = 0;
    return reader->kept;
}

/* Reads digits that end at a space or the end of the text, and moves past the space. */
static bool
take_number(const char **at, const char *end, uint64_t *number)
{
    const char *digit = *at;
    uint64_t value = 0;
    while (digit < end && *digit >= '0' && *digit <= '9' && digit - *at < 19) {
        value = value * 10 + (uint64_t)(*digit++ - '0');
    }
    if (digit == *at || (digit < end && *digit != ' ')) {
        return false;
    }
    *at = digit < end ? digit + 1 : digit;
    *number = value;
    return true;
}

static void
begin_value(struct reply_reader *reader, uint64_t value_len, bool meta)
{
    reader->value_len = value_len;
    reader->value_left = value_len;
    reader->end_left = 2;
    reader->value_done = false;
    reader->meta = meta;
}

/* VALUE <key> <client flags> <length>[ <cas>] */
static bool
take_value_line(struct reply_reader *reader, const char *text, const char *end)
{
    const char *space = memchr(text, ' ', (size_t)(end - text));
    uint64_t value_len;
    if (space == NULL) {
        return false;
    }
    reader->key = text;
    reader->key_len = (size_t)(space - text);
    text = space + 1;
    if (!take_number(&text, end, &reader->client_flags) || !take_number(&text, end, &value_len)) {
        return false;
    }
    begin_value(reader, value_len, false);
    return true;
}

/* VA <length>[ <flags>] */
static bool
take_meta_line(struct reply_reader *reader, const char *text, const char *end)
{
    uint64_t value_len;
    if (!take_number(&text, end, &value_len)) {
        return false;
    }
    reader->key = NULL;
    reader->key_len = 0;
    reader->client_flags = 0;
    begin_value(reader, value_len, true);
    return true;
}

static bool
starts_with(const char *line, size_t len, const char *word)
{
    size_t word_len = strlen(word);
    return len >= word_len && memcmp(line, word, word_len) == 0 &&
           (len == word_len || line[word_len] == ' ');
}

enum reply
reply_judge_line(struct reply_reader *reader, const char *line, size_t len)
{
    bool complete = len >= 2 && line[len - 1] == '\n' && line[len - 2] == '\r';
    len -= complete ? 2 : 0;
    reader->line = line;
    reader->line_len = len;
    if (!complete) {
        return REPLY_STRANGE;
    }
    if (LIKELY(len > 6 && memcmp(line, "VALUE ", 6) == 0)) {
        return take_value_line(reader, line + 6, line + len) ? REPLY_VALUE : REPLY_STRANGE;
    }
    if (len > 3 && memcmp(line, "VA ", 3) == 0) {
        return take_meta_line(reader, line + 3, line + len) ? REPLY_VALUE : REPLY_STRANGE;
    }
    if (starts_with(line, len, "END")) {
        return REPLY_END;
    }
    if (starts_with(line, len, "STORED")) {
        return REPLY_STORED;
    }
    if (starts_with(line, len, "EN")) {
        return REPLY_META_MISS;
    }
    if (starts_with(line, len, "HD")) {
        return REPLY_META_HIT;
    }
    if (starts_with(line, len, "SERVER_ERROR") || starts_with(line, len, "CLIENT_ERROR") ||
        starts_with(line, len, "ERROR") || starts_with(line, len, "NOT_STORED")) {
        return REPLY_REFUSED;
    }
    return REPLY_STRANGE;
}
