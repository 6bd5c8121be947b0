/* Packets: where one begins and ends, which are sound, and the requests that have no key. */
#include "proto/binary.h"

#include "proto/stats.h"
#include "proto/watch_log.h"

static_assert(PACKET_HEADER_BYTES + UINT8_MAX + UINT16_MAX < READ_BUFFER_BYTES,
              "header, extras and key are read as a whole before they are judged");

const struct opcode_row opcode_table[OPCODE_COUNT] = {
#define X(name, number, quiet, extras_len, key_rule, rest_rule, handler)                           \
    [number] = {true, quiet, extras_len, key_rule, rest_rule, handler},
    OPCODE_LIST(X)
#undef X
};

/* ---- errors --------------------------------------------------------------------------------- */

static const char *
status_text(enum status status)
{
    switch (status) {
#define X(name, number, text)                                                                      \
    case STATUS_##name:                                                                            \
        return text;
        STATUS_LIST(X)
#undef X
    case STATUS_OK:
        break;
    }
    return "";
}

void
add_error_text(struct protocol *protocol, struct packet_id id, enum status status, const char *text)
{
    add_reply(protocol, id, (struct reply){.status = status, .body_len = (uint32_t)strlen(text)},
              text);
}

void
add_error(struct protocol *protocol, struct packet_id id, enum status status)
{
    add_error_text(protocol, id, status, status_text(status));
}

static enum step
answer_and_close(struct protocol *protocol, struct conn *conn, struct packet_id id,
                 enum status status)
{
    add_error(protocol, id, status);
    conn->state = CONN_CLOSED;
    return STEP_NEXT;
}

/* ---- framing -------------------------------------------------------------------------------- */

enum packet_parse
packet_parse(const struct input *input, struct packet *packet)
{
    const uint8_t *header = input->at;
    size_t have = (size_t)(input->end - header);
    if (have < PACKET_HEADER_BYTES) {
        return PACKET_MORE;
    }
    if (header[0] != PACKET_REQUEST) {
        return PACKET_MAGIC;
    }
    packet->id.opcode = header[1];
    packet->key_len = read_u16(header + 2);
    packet->extras_len = header[4];
    if (have < PACKET_HEADER_BYTES + (size_t)packet->extras_len + packet->key_len) {
        return PACKET_MORE;
    }
    uint32_t body_len = read_u32(header + 8);
    memcpy(&packet->id.opaque, header + 12, sizeof(packet->id.opaque));
    packet->rest_len = body_len - packet->extras_len - packet->key_len;
    packet->cas = read_u64(header + 16);
    packet->extras = header + PACKET_HEADER_BYTES;
    packet->key = packet->extras + packet->extras_len;
    return PACKET_OK;
}

/* The body holds extras and key. */
static bool
has_room_for_key(const struct packet *packet)
{
    const uint8_t *header = packet->extras - PACKET_HEADER_BYTES;
    return (uint32_t)packet->extras_len + packet->key_len <= read_u32(header + 8);
}

static bool
extras_are_sound(const struct packet *packet, const struct opcode_row *row)
{
    /* Only the moment of a flush may be left out. */
    return packet->extras_len == row->extras_len ||
           (packet->extras_len == 0 && row->handler == packet_flush);
}

bool
packet_is_sound(const struct packet *packet, const struct opcode_row *row)
{
    return has_room_for_key(packet) && packet->key_len <= MEMCACHED_KEY_LEN_MAX &&
           extras_are_sound(packet, row) &&
           (row->key_rule == KEY_MAY || (packet->key_len != 0) == (row->key_rule == KEY_MUST)) &&
           (row->rest_rule != REST_NONE || packet->rest_len == 0);
}

bool
binary_key(const uint8_t *bytes, size_t len, struct slice *key)
{
    struct packet packet;
    struct input input = {bytes, bytes + len};
    if (packet_parse(&input, &packet) != PACKET_OK || packet.key_len == 0 ||
        packet.key_len > MEMCACHED_KEY_LEN_MAX) {
        return false;
    }
    *key = (struct slice){packet.key, packet.key_len};
    return true;
}

enum step
binary_step(struct protocol *protocol, struct conn *conn, struct input *input)
{
    struct packet packet;
    switch (packet_parse(input, &packet)) {
    case PACKET_MORE:
        return STEP_MORE;
    case PACKET_MAGIC:
        return STEP_CLOSE;
    case PACKET_OK:
        break;
    }
    const struct opcode_row *row =
        packet.id.opcode < OPCODE_COUNT ? &opcode_table[packet.id.opcode] : NULL;
    bool known = row != NULL && row->known;
    if (known && row->handler == NULL && packet_is_sound(&packet, row)) {
        return binary_gets(protocol, conn, input);
    }
    protocol->requests++;
    input->at = packet.key + packet.key_len;
    if (!has_room_for_key(&packet)) {
        return answer_and_close(protocol, conn, packet.id, STATUS_UNKNOWN_COMMAND);
    }
    if (packet.key_len > MEMCACHED_KEY_LEN_MAX || (known && !packet_is_sound(&packet, row))) {
        return answer_and_close(protocol, conn, packet.id, STATUS_INVALID);
    }
    packet.quiet = known && row->quiet;
    packet_handler *handler = known ? row->handler : packet_unknown;
    return handler(protocol, conn, &packet, input);
}

/* ---- requests without a key ----------------------------------------------------------------- */

enum step
packet_unknown(struct protocol *protocol, struct conn *conn, const struct packet *packet,
               struct input *input)
{
    (void)input;
    if (packet->rest_len > PACKET_VALUE_LEN_MAX) {
        return answer_and_close(protocol, conn, packet->id, STATUS_UNKNOWN_COMMAND);
    }
    add_error(protocol, packet->id, STATUS_UNKNOWN_COMMAND);
    conn->swallow = packet->rest_len;
    conn->state = CONN_SWALLOW;
    return STEP_NEXT;
}

enum step
packet_noop(struct protocol *protocol, struct conn *conn, const struct packet *packet,
            struct input *input)
{
    (void)conn;
    (void)input;
    add_success(protocol, packet->id, packet->quiet, 0);
    return STEP_NEXT;
}

enum step
packet_quit(struct protocol *protocol, struct conn *conn, const struct packet *packet,
            struct input *input)
{
    (void)input;
    add_success(protocol, packet->id, packet->quiet, 0);
    conn->close_reason = WATCH_CLOSE_NORMAL;
    conn->state = CONN_CLOSED;
    return STEP_NEXT;
}

enum step
packet_version(struct protocol *protocol, struct conn *conn, const struct packet *packet,
               struct input *input)
{
    (void)conn;
    (void)input;
    add_reply(protocol, packet->id, (struct reply){.body_len = sizeof(PROTOCOL_VERSION) - 1},
              PROTOCOL_VERSION);
    return STEP_NEXT;
}

enum step
packet_flush(struct protocol *protocol, struct conn *conn, const struct packet *packet,
             struct input *input)
{
    (void)conn;
    (void)input;
    COUNT(protocol->counters, cmd_flush);
    if (!atomic_load_explicit(&store_run(protocol->store)->settings.flush_enabled,
                              memory_order_relaxed)) {
        add_error(protocol, packet->id, STATUS_AUTH_ERROR);
        return STEP_NEXT;
    }
    if (!store_flush_all(protocol->store, packet->extras_len == 0 ? 0 : read_u32(packet->extras))) {
        add_error(protocol, packet->id, STATUS_BUSY);
        return STEP_NEXT;
    }
    add_success(protocol, packet->id, packet->quiet, 0);
    return STEP_NEXT;
}

/* ---- statistics ----------------------------------------------------------------------------- */

/* One statistic: its name is the key. */
static bool
add_stat(struct stat_sink *sink, const char *name, uint32_t name_len, const char *value,
         uint32_t value_len)
{
    struct output *output = sink->output;
    struct packet_id id = {sink->opaque, OPCODE_STAT};
    struct reply reply = {.key_len = name_len, .body_len = name_len + value_len};
    if (!output_reserve(output, PACKET_HEADER_BYTES + reply.body_len)) {
        return false;
    }
    write_reply_header(output->bytes + output->end, id, reply);
    output->end += PACKET_HEADER_BYTES;
    output_add(output, name, name_len);
    output_add(output, value, value_len);
    return true;
}

/* The list ends with a packet that has neither key nor value. */
static bool
add_stats_end(struct stat_sink *sink)
{
    return add_stat(sink, "", 0, "", 0);
}

enum step
packet_stat(struct protocol *protocol, struct conn *conn, const struct packet *packet,
            struct input *input)
{
    (void)input;
    struct slice part = {packet->key, packet->key_len};
    struct stat_sink sink;
    stat_sink_init(&sink, &protocol->output, add_stat, add_stats_end);
    sink.opaque = packet->id.opaque;
    sink.asking = conn->number;
    if (slice_is(part, "reset")) {
        store_stats_reset(protocol->store);
    } else if (!stats_answer(protocol, part, &sink)) {
        add_error(protocol, packet->id, STATUS_NOT_FOUND);
        return STEP_NEXT;
    }
    if (!stat_end(&sink)) {
        add_error_text(protocol, packet->id, STATUS_NO_MEMORY, "Out of memory generating stats");
    }
    return STEP_NEXT;
}
