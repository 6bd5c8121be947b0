/* ms. The value arrives as that of every storage command (value.c); the line is gone by then, so
 * what the reply needs of it is kept in a `struct meta_reply`. */
#include "proto/meta.h"
#include "proto/value.h"

/* memcached's limit: the length of value and line end fits an int. */
#define VALUE_LEN_MAX (INT32_MAX - 2)

static void
write_reply(struct protocol *protocol, const struct value_command *command, const char *code,
            bool stored)
{
    const struct meta_reply *reply = command->meta;
    const struct put *put = &command->put;
    struct output *output = &protocol->output;
    uint8_t *out = output->bytes + output->end;
    memcpy(out, code, 2);
    out += 2;
    for (unsigned i = 0; i < reply->order_count; i++) {
        switch (reply->order[i]) {
        case 'c':
            out = meta_write_number(out, 'c', stored ? put->cas_new : 0);
            break;
        case 'k':
            out = meta_write_key(out, &put->key, reply->binary);
            break;
        case 'O':
            out = meta_write_opaque(out, reply->opaque, reply->opaque_len);
            break;
        case 's':
            out = meta_write_number(out, 's', stored ? put->stored_len : put->value_len);
            break;
        }
    }
    memcpy(out, "\r\n", 2);
    output->end = (uint32_t)(out + 2 - output->bytes);
}

static void
reply_result(struct protocol *protocol, const struct value_command *command, enum put_result result)
{
    switch (result) {
    case PUT_STORED:
        if (!command->meta->quiet) {
            write_reply(protocol, command, "HD", true);
        }
        return;
    case PUT_NOT_STORED:
    case PUT_TOO_LARGE: /* What append or prepend would make. */
        write_reply(protocol, command, "NS", false);
        return;
    case PUT_EXISTS:
        write_reply(protocol, command, "EX", false);
        return;
    case PUT_NOT_FOUND:
        write_reply(protocol, command, "NF", false);
        return;
    case PUT_NO_MEMORY:
        meta_reply_text(protocol, "SERVER_ERROR out of memory storing object\r\n");
        return;
    case PUT_BUSY:
        meta_reply_text(protocol, TEXT_BUSY);
        return;
    case PUT_WAIT:
        meta_reply_text(protocol, "SERVER_ERROR Unhandled storage type.\r\n");
        return;
    }
}

static void
reply_refusal(struct protocol *protocol, const struct value_command *command,
              enum value_refusal refusal)
{
    (void)command;
    switch (refusal) {
    case VALUE_BAD_END:
        meta_reply_text(protocol, "CLIENT_ERROR bad data chunk\r\n");
        return;
    case VALUE_TOO_LARGE:
        meta_reply_text(protocol, "SERVER_ERROR object too large for cache\r\n");
        return;
    case VALUE_ABORTED:
        meta_reply_text(protocol, "SERVER_ERROR Out of memory during read\r\n");
        return;
    }
}

static const struct value_words meta_words = {
    .end_len = 2, .result = reply_result, .refusal = reply_refusal};

static struct meta_reply
reply_of(const struct meta *meta)
{
    struct meta_reply reply = {.binary = meta->binary, .quiet = meta_has(meta, 'q')};
    for (unsigned i = 0; i < meta->reply_count; i++) {
        uint8_t flag = meta->reply_order[i];
        if (flag == 'c' || flag == 'k' || flag == 'O' || flag == 's') {
            reply.order[reply.order_count++] = flag;
        }
    }
    if (meta_has(meta, 'O')) {
        reply.opaque_len = (uint8_t)meta->opaque.len;
        memcpy(reply.opaque, meta->opaque.bytes, meta->opaque.len);
    }
    return reply;
}

/* A mode by its first letter; a condition on the cas makes set and replace one of cas. False: there
 * is no such mode. */
static bool
mode_of(const struct meta *meta, enum put_mode *mode)
{
    *mode = PUT_SET;
    if (meta_has(meta, 'M')) {
        switch (meta->mode) {
        case 'E':
            *mode = PUT_ADD;
            break;
        case 'A':
            *mode = PUT_APPEND;
            break;
        case 'P':
            *mode = PUT_PREPEND;
            break;
        case 'R':
            *mode = PUT_REPLACE;
            break;
        case 'S':
            break;
        default:
            return false;
        }
    }
    if (meta_has(meta, 'C') && (*mode == PUT_SET || *mode == PUT_REPLACE)) {
        *mode = PUT_CAS;
    }
    return true;
}

static void
put_of(const struct protocol *protocol, const struct meta *meta, struct put *put)
{
    bool vivifies = meta_has(meta, 'N') && (put->mode == PUT_APPEND || put->mode == PUT_PREPEND);
    put->key = meta->key;
    put->client_flags = meta_has(meta, 'F') ? meta->client_flags : 0;
    put->expire = vivifies ? store_expiry(protocol->store, meta->create_exptime)
                           : meta_expiry(protocol, meta, 'T', meta->exptime);
    put->cas_unique = meta_has(meta, 'C') ? meta->cas : 0;
    put->cas_given = meta_has(meta, 'E') ? meta->cas_given : 0;
    put->binary_key = meta->binary;
    put->invalidates = meta_has(meta, 'I');
    put->vivifies = vivifies;
    put->drops_old = true;
}

void
execute_meta_set(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    uint64_t value_len;
    if (!parse_u64_max(request->line->tokens[2], VALUE_LEN_MAX, &value_len)) {
        meta_reply_text(protocol, TEXT_BAD_FORMAT);
        return;
    }
    struct meta meta;
    struct value_command command = {.words = &meta_words};
    uint8_t decoded[META_KEY_BUFFER_BYTES];
    const char *error = meta_parse(protocol, request->line, 3, decoded, &meta);
    if (error == NULL && !mode_of(&meta, &command.put.mode)) {
        error = "CLIENT_ERROR invalid mode for ms M token\r\n";
    }
    if (error != NULL) {
        meta_reply_text(protocol, error);
        value_skip(conn, &meta_words, (uint32_t)value_len);
        return;
    }
    struct meta_reply reply = reply_of(&meta);
    put_of(protocol, &meta, &command.put);
    command.put.value_len = (uint32_t)value_len;
    command.meta = &reply;
    value_begin(protocol, conn, request->input, &command);
}
