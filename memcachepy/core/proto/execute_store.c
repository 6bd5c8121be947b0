/* set, add, replace, append, prepend and cas, as lines of text. Their values are value.c's.
 *
 * The name of a storage command is looked at in put_mode_of() only. */
#include "proto/value.h"

/* memcached's limit: the length of value and line end fits an int. */
#define VALUE_LEN_MAX (INT32_MAX - 2)

static enum put_mode
put_mode_of(enum command_id id)
{
    switch ((int)id) {
    case COMMAND_ADD:
        return PUT_ADD;
    case COMMAND_REPLACE:
        return PUT_REPLACE;
    case COMMAND_APPEND:
        return PUT_APPEND;
    case COMMAND_PREPEND:
        return PUT_PREPEND;
    case COMMAND_CAS:
        return PUT_CAS;
    default:
        return PUT_SET;
    }
}

/* ---- replies -------------------------------------------------------------------------------- */

static void
reply_result(struct protocol *protocol, const struct value_command *command, enum put_result result)
{
    bool noreply = command->noreply;
    switch (result) {
    case PUT_STORED:
        REPLY(protocol, noreply, "STORED\r\n");
        return;
    case PUT_NOT_STORED:
        REPLY(protocol, noreply, "NOT_STORED\r\n");
        return;
    case PUT_EXISTS:
        REPLY(protocol, noreply, "EXISTS\r\n");
        return;
    case PUT_NOT_FOUND:
        REPLY(protocol, noreply, "NOT_FOUND\r\n");
        return;
    case PUT_TOO_LARGE:
        /* Only append and prepend get here: what they would make is too large. */
        REPLY(protocol, noreply, "NOT_STORED\r\n");
        return;
    case PUT_NO_MEMORY:
        REPLY(protocol, noreply, "SERVER_ERROR out of memory storing object\r\n");
        return;
    case PUT_BUSY:
        REPLY(protocol, noreply, TEXT_BUSY);
        return;
    case PUT_WAIT:
        REPLY(protocol, noreply, "SERVER_ERROR Unhandled storage type.\r\n");
        return;
    }
}

static void
reply_refusal(struct protocol *protocol, const struct value_command *command,
              enum value_refusal refusal)
{
    bool noreply = command->noreply;
    switch (refusal) {
    case VALUE_BAD_END:
        REPLY(protocol, noreply, "CLIENT_ERROR bad data chunk\r\n");
        return;
    case VALUE_TOO_LARGE:
        REPLY(protocol, noreply, "SERVER_ERROR object too large for cache\r\n");
        return;
    case VALUE_ABORTED:
        REPLY(protocol, noreply, "SERVER_ERROR Out of memory during read\r\n");
        return;
    }
}

static const struct value_words text_words = {
    .end_len = 2, .result = reply_result, .refusal = reply_refusal};

/* ---- the command ---------------------------------------------------------------------------- */

/* Everything of the line but the length. An exptime beyond what can be told is told as the latest.
 */
static bool
parse_put(struct protocol *protocol, const struct request *request, struct put *put)
{
    const struct line *line = request->line;
    const struct slice *tokens = line->tokens;
    uint64_t client_flags;
    int64_t exptime;
    put->mode = put_mode_of(request->command->id);
    if (tokens[1].len > MEMCACHED_KEY_LEN_MAX ||
        !parse_u64_max(tokens[2], UINT32_MAX, &client_flags) || !parse_i64(tokens[3], &exptime)) {
        return false;
    }
    if (put->mode == PUT_CAS && (line->count < 6 || !parse_u64(tokens[5], &put->cas_unique))) {
        return false;
    }
    key_init(protocol->store, &put->key, tokens[1].bytes, tokens[1].len);
    put->client_flags = (uint32_t)client_flags;
    put->expire = store_expiry(protocol->store, exptime);
    return true;
}

void
execute_store(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    struct value_command command = {.words = &text_words, .noreply = request->noreply};
    uint64_t value_len;
    if (!parse_u64_max(request->line->tokens[4], VALUE_LEN_MAX, &value_len)) {
        OUTPUT_TEXT(&protocol->output, TEXT_BAD_FORMAT);
        return;
    }
    if (!parse_put(protocol, request, &command.put)) {
        REPLY(protocol, command.noreply, TEXT_BAD_FORMAT);
        value_skip(conn, &text_words, (uint32_t)value_len);
        return;
    }
    command.put.value_len = (uint32_t)value_len;
    value_begin(protocol, conn, request->input, &command);
}
