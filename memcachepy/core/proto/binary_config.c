/* Configurations as packets, opcodes 0x60 to 0x68 of ElastiCache's clients (github.com/awslabs/aws-
 * elasticache-cluster-client-libmemcached, libmemcached/memcached/protocol_binary.h and
 * clients/memcapable.cc). They look like those of items: a get is answered with four bytes of
 * flags, a set has four (there is no exptime). The list of all ends with a packet without a key. */
#include "proto/binary.h"
#include "proto/config.h"

#define FLAGS_BYTES 4

/* Behind a configuration of any length there is room for an error, or the list's end. */
#define MORE_BYTES 256

static enum status
status_of(enum config_result result)
{
    switch (result) {
    case CONFIG_OK:
        return STATUS_OK;
    case CONFIG_NOT_FOUND:
        return STATUS_NOT_FOUND;
    case CONFIG_TOO_LONG:
        return STATUS_TOO_LARGE;
    case CONFIG_TOO_MANY:
        return STATUS_NOT_STORED;
    case CONFIG_NO_MEMORY:
        return STATUS_NO_MEMORY;
    case CONFIG_BUSY:
        break;
    }
    return STATUS_BUSY;
}

/* ---- get and list --------------------------------------------------------------------------- */

/* Appends a configuration. CONFIG_OK, CONFIG_NO_MEMORY, or CONFIG_BUSY: it has changed. */
static enum config_result
append(struct protocol *protocol, struct packet_id id, const struct config_view *view,
       bool shows_key)
{
    struct output *output = &protocol->output;
    uint32_t key_len = shows_key ? view->key_len : 0;
    uint32_t body_len = FLAGS_BYTES + key_len + view->value_len;
    if (!output_reserve(output, PACKET_HEADER_BYTES + body_len + MORE_BYTES)) {
        return CONFIG_NO_MEMORY;
    }
    struct reply reply = {.extras_len = FLAGS_BYTES,
                          .key_len = key_len,
                          .body_len = body_len,
                          .cas = config_version(view)};
    uint8_t *out = write_reply_header(output->bytes + output->end, id, reply);
    write_u32(out, view->client_flags);
    copy_value(out + FLAGS_BYTES, view->copy->key, key_len);
    copy_value(out + FLAGS_BYTES + key_len, view->copy->value, view->value_len);
    if (!config_confirm(store_segment(protocol->store), view)) {
        return CONFIG_BUSY;
    }
    output->end += PACKET_HEADER_BYTES + body_len;
    return CONFIG_OK;
}

static void
answer_miss(struct protocol *protocol, const struct packet *packet, bool shows_key)
{
    if (packet->quiet) {
        return;
    }
    if (!shows_key) {
        add_error(protocol, packet->id, STATUS_NOT_FOUND);
        return;
    }
    struct reply reply = {
        .status = STATUS_NOT_FOUND, .key_len = packet->key_len, .body_len = packet->key_len};
    add_reply(protocol, packet->id, reply, packet->key);
}

enum step
packet_config_get(struct protocol *protocol, struct conn *conn, const struct packet *packet,
                  struct input *input)
{
    (void)conn;
    (void)input;
    bool shows_key =
        packet->id.opcode == OPCODE_CONFIG_GETK || packet->id.opcode == OPCODE_CONFIG_GETKQ;
    enum config_result result = CONFIG_BUSY;
    COUNT(protocol->counters, cmd_config_get);
    for (unsigned i = 0; i < CONFIG_TRIES_MAX && result == CONFIG_BUSY; i++) {
        struct config_view view;
        result = config_find(store_segment(protocol->store), packet->key, packet->key_len, &view)
                     ? append(protocol, packet->id, &view, shows_key)
                     : CONFIG_NOT_FOUND;
    }
    if (result == CONFIG_NOT_FOUND) {
        answer_miss(protocol, packet, shows_key);
    } else if (result != CONFIG_OK) {
        add_error(protocol, packet->id, status_of(result));
    }
    return STEP_NEXT;
}

enum step
packet_config_list(struct protocol *protocol, struct conn *conn, const struct packet *packet,
                   struct input *input)
{
    (void)conn;
    (void)input;
    struct config_view view;
    unsigned index = 0;
    while (config_next(store_segment(protocol->store), &index, &view)) {
        for (unsigned i = 0; i < CONFIG_TRIES_MAX; i++) {
            enum config_result result = append(protocol, packet->id, &view, true);
            if (result == CONFIG_NO_MEMORY) {
                add_error(protocol, packet->id, STATUS_NO_MEMORY);
                return STEP_NEXT;
            }
            if (result == CONFIG_OK) {
                break;
            }
            index = view.index; /* It has changed: look at it again. */
            if (!config_next(store_segment(protocol->store), &index, &view)) {
                break;
            }
        }
    }
    add_success(protocol, packet->id, false, 0);
    return STEP_NEXT;
}

/* ---- set and delete ------------------------------------------------------------------------- */

/* Whether the connection may change configurations; if not, it is told so. */
static bool
may_change(struct protocol *protocol, const struct conn *conn, struct packet_id id)
{
    if (!conn->is_local) {
        add_error_text(protocol, id, STATUS_AUTH_ERROR, CONFIG_FORBIDDEN);
    }
    return conn->is_local;
}

static void
take(struct protocol *protocol, const struct value_command *command, const uint8_t *value)
{
    enum config_result result = config_take(protocol, command, value);
    struct slice key = {command->put.key.bytes, command->put.key.len};
    struct config_view view;
    if (result != CONFIG_OK) {
        add_error(protocol, command->packet, status_of(result));
        return;
    }
    bool found = config_find(store_segment(protocol->store), key.bytes, key.len, &view);
    add_success(protocol, command->packet, command->noreply, found ? config_version(&view) : 1);
}

/* Of a value that could not be awaited: there is no memory for it. */
static void
refuse_result(struct protocol *protocol, const struct value_command *command,
              enum put_result result)
{
    (void)result;
    add_error(protocol, command->packet, STATUS_NO_MEMORY);
}

/* Nothing ends a value here, and one that is too long was refused before. */
static void
refuse(struct protocol *protocol, const struct value_command *command, enum value_refusal refusal)
{
    (void)refusal;
    add_error(protocol, command->packet, STATUS_INVALID);
}

static const struct value_words config_words = {
    .end_len = 0, .result = refuse_result, .refusal = refuse};

enum step
packet_config_set(struct protocol *protocol, struct conn *conn, const struct packet *packet,
                  struct input *input)
{
    struct value_command command = {
        .words = &config_words, .packet = packet->id, .noreply = packet->quiet, .take = take};
    struct put *put = &command.put;
    if (packet->rest_len > PACKET_VALUE_LEN_MAX) {
        return STEP_CLOSE;
    }
    bool right = may_change(protocol, conn, packet->id);
    if (right && !config_key_is_sound(packet->key, packet->key_len)) {
        add_error(protocol, packet->id, STATUS_INVALID);
        right = false;
    } else if (right && packet->rest_len > CONFIG_VALUE_LEN_MAX) {
        add_error(protocol, packet->id, STATUS_TOO_LARGE);
        right = false;
    }
    if (!right) {
        value_skip(conn, &config_words, packet->rest_len);
        return STEP_NEXT;
    }
    put->key = (struct key){.bytes = packet->key, .len = packet->key_len};
    put->client_flags = read_u32(packet->extras);
    put->value_len = packet->rest_len;
    value_take(protocol, conn, input, &command);
    return STEP_NEXT;
}

enum step
packet_config_delete(struct protocol *protocol, struct conn *conn, const struct packet *packet,
                     struct input *input)
{
    (void)input;
    if (!may_change(protocol, conn, packet->id)) {
        return STEP_NEXT;
    }
    enum config_result result =
        config_delete(store_segment(protocol->store), packet->key, packet->key_len);
    if (result == CONFIG_OK) {
        add_success(protocol, packet->id, packet->quiet, 0);
    } else {
        add_error(protocol, packet->id, status_of(result));
    }
    return STEP_NEXT;
}
