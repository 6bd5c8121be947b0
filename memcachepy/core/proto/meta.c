/* Meta lines: <command> <key> [<length>] <flag>*, each flag a letter with its token behind it.
 *
 * Every command knows every flag and passes over those that mean nothing to it. Of several errors
 * the first that makes the rest of the line meaningless is answered, else the last. */
#include "proto/meta.h"

#include "proto/encode.h"

#define ERROR_BAD_TOKEN "CLIENT_ERROR bad token in command line format\r\n"

static bool
parse_exptime_token(struct slice token, int64_t *exptime, const char **error)
{
    if (parse_exptime(token, exptime)) {
        return true;
    }
    *error = ERROR_BAD_TOKEN;
    return false;
}

static void
parse_number_token(struct slice token, uint64_t *number, const char *text, const char **error)
{
    if (!parse_u64(token, number)) {
        *error = text;
    }
}

static void
parse_client_flags(struct slice token, uint32_t *client_flags, const char **error)
{
    uint64_t number;
    if (parse_u64_max(token, UINT32_MAX, &number)) {
        *client_flags = (uint32_t)number;
    } else if (*error == NULL) {
        *error = TEXT_BAD_FORMAT;
    }
}

/* The six bits of a character, 0 of padding; -1: it is passed over. */
static int
value_of(uint8_t c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == '+' ? 62 : c == '/' ? 63 : c == '=' ? 0 : -1;
}

uint32_t
meta_decode_key(struct slice text, uint8_t *decoded)
{
    uint8_t *out = decoded;
    uint32_t count = 0;
    unsigned padding = 0;
    uint32_t group = 0;
    bool ended = false;
    for (uint32_t i = 0; i < text.len; i++) {
        int value = value_of(text.bytes[i]);
        if (value < 0) {
            continue;
        }
        count++;
        if (ended) {
            continue;
        }
        padding += text.bytes[i] == '=';
        group = group << 6 | (uint32_t)value;
        if (count % 4 != 0) {
            continue;
        }
        if (padding > 2) {
            return 0;
        }
        for (unsigned j = 0; j < 3 - padding; j++) {
            *out++ = (uint8_t)(group >> (16 - 8 * j));
        }
        ended = padding > 0;
    }
    return count % 4 == 0 ? (uint32_t)(out - decoded) : 0;
}

static void
decode_key(struct slice *key, uint8_t *decoded, struct meta *meta, const char **error)
{
    uint32_t len = meta_decode_key(*key, decoded);
    if (len == 0) {
        *error = "CLIENT_ERROR error decoding key\r\n";
        return;
    }
    *key = (struct slice){decoded, len};
    meta->binary = true;
}

/* What stands behind a flag's letter. False: there is no such flag. */
static bool
parse_flag(uint8_t letter, struct slice token, struct meta *meta, const char **error)
{
    switch (letter) {
    case 'k':
    case 's':
    case 't':
    case 'c':
    case 'f':
    case 'l':
    case 'h':
        meta->reply_order[meta->reply_count++] = letter;
        return true;
    case 'O':
        meta->reply_order[meta->reply_count++] = letter;
        meta->opaque = (struct slice){token.bytes - 1, token.len + 1};
        return true;
    case 'N':
        meta->reply_order[meta->reply_count++] = letter;
        parse_exptime_token(token, &meta->create_exptime, error);
        return true;
    case 'T':
        meta->reply_order[meta->reply_count++] = letter;
        parse_exptime_token(token, &meta->exptime, error);
        return true;
    case 'R':
        meta->reply_order[meta->reply_count++] = letter;
        parse_exptime_token(token, &meta->recache_exptime, error);
        return true;
    case 'F':
        parse_client_flags(token, &meta->client_flags, error);
        return true;
    case 'C':
        parse_number_token(token, &meta->cas, ERROR_BAD_TOKEN, error);
        return true;
    case 'E':
        parse_number_token(token, &meta->cas_given, ERROR_BAD_TOKEN, error);
        return true;
    case 'J':
        parse_number_token(token, &meta->initial, "CLIENT_ERROR invalid numeric initial value\r\n",
                           error);
        return true;
    case 'D':
        parse_number_token(token, &meta->delta, "CLIENT_ERROR invalid numeric delta value\r\n",
                           error);
        return true;
    case 'M':
        meta->mode = token.len > 0 ? token.bytes[0] : ' ';
        return true;
    case 'b': /* By the caller. */
    case 'I':
    case 'q':
    case 'u':
    case 'v':
    case 'x':
    case 'P': /* Hints for a proxy. */
    case 'L':
        return true;
    default:
        return false;
    }
}

static bool
is_flag_letter(uint8_t letter)
{
    return (letter >= 'A' && letter <= 'z') || (letter >= '0' && letter <= '9');
}

/* What is wrong with the line before its flags mean anything. */
static const char *
check_shape(const struct line *line, unsigned first)
{
    if (line->tokens[1].len > MEMCACHED_KEY_LEN_MAX) {
        return TEXT_BAD_FORMAT;
    }
    for (unsigned i = first; i < line->count; i++) {
        if (UNLIKELY(!is_flag_letter(line->tokens[i].bytes[0]))) {
            return TEXT_BAD_FORMAT;
        }
    }
    return line->count > META_TOKENS_MAX ? "CLIENT_ERROR options flags are too long\r\n" : NULL;
}

const char *
meta_parse(struct protocol *protocol, const struct line *line, unsigned first, uint8_t *decoded,
           struct meta *meta)
{
    const char *error = check_shape(line, first);
    if (UNLIKELY(error != NULL)) {
        return error;
    }
    struct slice key = line->tokens[1];
    meta->seen = 0;
    meta->binary = false;
    meta->reply_count = 0;
    for (unsigned i = first; i < line->count; i++) {
        struct slice token = line->tokens[i];
        uint8_t letter = token.bytes[0];
        if (letter < 'A') {
            return "CLIENT_ERROR invalid flag\r\n"; /* A digit. */
        }
        if (meta->seen & META_BIT(letter)) {
            return "CLIENT_ERROR duplicate flag\r\n";
        }
        meta->seen |= META_BIT(letter);
        token.bytes++;
        token.len--;
        if (!parse_flag(letter, token, meta, &error)) {
            return "CLIENT_ERROR invalid flag\r\n";
        }
        if (letter == 'b') {
            decode_key(&key, decoded, meta, &error);
        }
    }
    if (UNLIKELY(error != NULL)) {
        return error;
    }
    if (meta_has(meta, 'O') && meta->opaque.len > META_OPAQUE_LEN_MAX) {
        return "CLIENT_ERROR opaque token too long\r\n";
    }
    key_init(protocol->store, &meta->key, key.bytes, key.len);
    return NULL;
}

/* ---- replies -------------------------------------------------------------------------------- */

void
meta_reply_text(struct protocol *protocol, const char *text)
{
    output_add(&protocol->output, text, strlen(text));
}

uint8_t *
meta_write_number(uint8_t *out, char flag, uint64_t number)
{
    *out++ = ' ';
    *out++ = (uint8_t)flag;
    return output_number(out, number);
}

uint8_t *
meta_write_ttl(uint8_t *out, const struct protocol *protocol, uint32_t expire_word)
{
    int64_t ttl_s = store_ttl_s(protocol->store, expire_word);
    if (ttl_s < 0) {
        memcpy(out, " t-1", 4);
        return out + 4;
    }
    return meta_write_number(out, 't', (uint64_t)ttl_s);
}

uint8_t *
meta_write_opaque(uint8_t *out, const uint8_t *opaque, uint32_t len)
{
    *out++ = ' ';
    memcpy(out, opaque, len);
    return out + len;
}

bool
meta_breaks_line(const struct meta *meta)
{
    return meta->binary && key_breaks_line(meta->key.bytes, meta->key.len);
}

uint8_t *
meta_write_binary_key(uint8_t *out, const struct key *key)
{
    memcpy(out, " k", 2);
    out = encode_base64(out + 2, key->bytes, key->len);
    memcpy(out, " b", 2);
    return out + 2;
}

void
meta_reply_code(struct protocol *protocol, const struct meta *meta, const char *code)
{
    struct output *output = &protocol->output;
    uint8_t *out = output->bytes + output->end;
    memcpy(out, code, 2);
    out += 2;
    for (unsigned i = 0; i < meta->reply_count; i++) {
        if (meta->reply_order[i] == 'O') {
            out = meta_write_opaque(out, meta->opaque.bytes, meta->opaque.len);
        } else if (meta->reply_order[i] == 'k') {
            out = meta_write_key(out, &meta->key, meta->binary);
        }
    }
    memcpy(out, "\r\n", 2);
    output->end = (uint32_t)(out + 2 - output->bytes);
}
