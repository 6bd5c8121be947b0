/* config get, set and delete, as lines of text: what ElastiCache's clients ask for the list of
 * nodes. The form is the one of AWS's clients (github.com/awslabs/aws-elasticache-cluster-client-
 * libmemcached, clients/memcapable.cc): no exptime, and `config get` alone is answered, too. */
#include "proto/config.h"

/* ---- get ------------------------------------------------------------------------------------ */

/* CONFIG <key> <flags> <bytes> */
static uint8_t *
write_head(uint8_t *out, const struct batch_key *entry, const struct hit *hit)
{
    memcpy(out, "CONFIG ", 7);
    out = write_key(out + 7, &entry->key);
    *out++ = ' ';
    out = output_number(out, hit->client_flags);
    *out++ = ' ';
    out = output_number(out, hit->value_len);
    memcpy(out, "\r\n", 2);
    return out + 2;
}

static const struct reply_form config_form = {write_head, "\r\nEND\r\n", 7};

/* Without a key: `cluster`, or else whatever there is. */
static enum config_result
answer_any(struct protocol *protocol)
{
    /* Keys are copied by whole vectors. */
    static const uint8_t cluster[sizeof(CONFIG_CLUSTER) + INPUT_SLACK_BYTES] = CONFIG_CLUSTER;
    struct batch_key entry = {.key = {.bytes = cluster, .len = sizeof(CONFIG_CLUSTER) - 1}};
    struct slice key = {entry.key.bytes, entry.key.len};
    enum config_result result = config_answer(protocol, key, &entry, &config_form);
    struct config_view view;
    unsigned index = 0;
    while (result == CONFIG_NOT_FOUND &&
           config_next(store_segment(protocol->store), &index, &view)) {
        if (config_answer_view(protocol, &view, &entry, &config_form)) {
            return CONFIG_OK;
        }
    }
    return result;
}

static void
config_get(struct protocol *protocol, const struct line *line)
{
    struct batch_key entry;
    enum config_result result;
    if (line->count > 3 || (line->count == 3 && line->tokens[2].len > CONFIG_KEY_LEN_MAX)) {
        OUTPUT_TEXT(&protocol->output, TEXT_BAD_FORMAT);
        return;
    }
    COUNT(protocol->counters, cmd_config_get);
    if (line->count == 2) {
        result = answer_any(protocol);
    } else {
        entry.key.bytes = line->tokens[2].bytes;
        entry.key.len = line->tokens[2].len;
        result = config_answer(protocol, line->tokens[2], &entry, &config_form);
    }
    switch (result) {
    case CONFIG_OK:
        return;
    case CONFIG_NOT_FOUND:
        OUTPUT_TEXT(&protocol->output, "END\r\n");
        return;
    case CONFIG_BUSY:
        OUTPUT_TEXT(&protocol->output,
                    "SERVER_ERROR the configuration is changed all the time\r\n");
        return;
    case CONFIG_NO_MEMORY:
    case CONFIG_TOO_LONG:
    case CONFIG_TOO_MANY:
        OUTPUT_TEXT(&protocol->output, "SERVER_ERROR out of memory writing get response\r\n");
        return;
    }
}

/* ---- set and delete ------------------------------------------------------------------------- */

static void
reply_result(struct protocol *protocol, bool noreply, enum config_result result, const char *done)
{
    if (noreply) {
        return;
    }
    struct output *output = &protocol->output;
    switch (result) {
    case CONFIG_OK:
        output_add(output, done, strlen(done));
        return;
    case CONFIG_NOT_FOUND:
        OUTPUT_TEXT(output, "NOT_FOUND\r\n");
        return;
    case CONFIG_TOO_LONG:
        OUTPUT_TEXT(output, "SERVER_ERROR object too large for cache\r\n");
        return;
    case CONFIG_TOO_MANY:
        OUTPUT_TEXT(output, "SERVER_ERROR there are as many configurations as there may be\r\n");
        return;
    case CONFIG_NO_MEMORY:
        OUTPUT_TEXT(output, "SERVER_ERROR out of memory storing object\r\n");
        return;
    case CONFIG_BUSY:
        OUTPUT_TEXT(output, "SERVER_ERROR configurations are locked by a stopped process\r\n");
        return;
    }
}

static void
take(struct protocol *protocol, const struct value_command *command, const uint8_t *value)
{
    reply_result(protocol, command->noreply, config_take(protocol, command, value), "STORED\r\n");
}

/* Of a value that could not be awaited: there is no memory for it. */
static void
refuse_result(struct protocol *protocol, const struct value_command *command,
              enum put_result result)
{
    (void)result;
    reply_result(protocol, command->noreply, CONFIG_NO_MEMORY, "");
}

static void
refuse(struct protocol *protocol, const struct value_command *command, enum value_refusal refusal)
{
    (void)refusal; /* No other than VALUE_BAD_END. */
    REPLY(protocol, command->noreply, "CLIENT_ERROR bad data chunk\r\n");
}

static const struct value_words config_words = {
    .end_len = 2, .result = refuse_result, .refusal = refuse};

/* Whether the connection may change configurations; if not, it is told so. */
static bool
may_change(struct protocol *protocol, const struct conn *conn, bool noreply)
{
    if (!conn->is_local) {
        REPLY(protocol, noreply, "CLIENT_ERROR " CONFIG_FORBIDDEN "\r\n");
    }
    return conn->is_local;
}

/* config set <key> <flags> <bytes> [noreply] */
static void
config_set_line(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    const struct line *line = request->line;
    const struct slice *tokens = line->tokens;
    struct value_command command = {
        .words = &config_words, .noreply = request->noreply, .take = take};
    struct put *put = &command.put;
    uint64_t value_len, client_flags;
    if (line->count < 5 || !parse_u64_max(tokens[4], INT32_MAX - 2, &value_len)) {
        OUTPUT_TEXT(&protocol->output, TEXT_BAD_FORMAT);
        return;
    }
    bool right = line->count <= (request->noreply ? 6u : 5u) &&
                 tokens[2].len <= CONFIG_KEY_LEN_MAX &&
                 config_key_is_sound(tokens[2].bytes, tokens[2].len) &&
                 parse_u64_max(tokens[3], UINT32_MAX, &client_flags);
    if (!right) {
        REPLY(protocol, request->noreply, TEXT_BAD_FORMAT);
    } else if (!may_change(protocol, conn, request->noreply)) {
        right = false;
    } else if (value_len > CONFIG_VALUE_LEN_MAX) {
        reply_result(protocol, request->noreply, CONFIG_TOO_LONG, "");
        right = false;
    }
    if (!right) {
        value_skip(conn, &config_words, (uint32_t)value_len);
        return;
    }
    put->key = (struct key){.bytes = tokens[2].bytes, .len = tokens[2].len};
    put->client_flags = (uint32_t)client_flags;
    put->value_len = (uint32_t)value_len;
    value_take(protocol, conn, request->input, &command);
}

/* config delete <key> [noreply] */
static void
config_delete_line(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    const struct line *line = request->line;
    const struct slice *key = &line->tokens[2];
    if (line->count < 3 || line->count > (request->noreply ? 4u : 3u) ||
        key->len > CONFIG_KEY_LEN_MAX) {
        OUTPUT_TEXT(&protocol->output, TEXT_BAD_FORMAT);
    } else if (may_change(protocol, conn, request->noreply)) {
        enum config_result result =
            config_delete(store_segment(protocol->store), key->bytes, key->len);
        reply_result(protocol, request->noreply, result, "DELETED\r\n");
    }
}

void
execute_config(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    struct slice what = request->line->tokens[1];
    if (slice_is(what, "get")) {
        config_get(protocol, request->line);
    } else if (slice_is(what, "set")) {
        config_set_line(protocol, conn, request);
    } else if (slice_is(what, "delete")) {
        config_delete_line(protocol, conn, request);
    } else {
        REPLY(protocol, request->noreply, "ERROR\r\n");
    }
}
