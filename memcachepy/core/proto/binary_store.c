/* The packets that change an item: the storage commands, delete and arithmetic.
 *
 * A cas in the request is a condition, of whatever it asks for; without cas (-C) nothing has one,
 * and storing does not ask. */
#include "proto/binary.h"
#include "proto/detail.h"
#include "proto/watch_log.h"

/* The cas that an item must have for what is not a store. */
static struct cas_option
condition_of(const struct packet *packet)
{
    return (struct cas_option){packet->cas != 0, packet->cas};
}

/* ---- storing -------------------------------------------------------------------------------- */

static enum status
status_of_not_stored(enum put_mode mode)
{
    switch ((int)mode) {
    case PUT_ADD:
        return STATUS_EXISTS;
    case PUT_REPLACE:
        return STATUS_NOT_FOUND;
    default:
        return STATUS_NOT_STORED;
    }
}

static void
reply_result(struct protocol *protocol, const struct value_command *command, enum put_result result)
{
    switch (result) {
    case PUT_STORED:
        add_success(protocol, command->packet, command->noreply, command->put.cas_new);
        return;
    case PUT_NOT_STORED:
    case PUT_TOO_LARGE:
        /* Only what an append or prepend would make is found too large here. */
        add_error(protocol, command->packet, status_of_not_stored(command->put.mode));
        return;
    case PUT_EXISTS:
        add_error(protocol, command->packet, STATUS_EXISTS);
        return;
    case PUT_NOT_FOUND:
        add_error(protocol, command->packet, STATUS_NOT_FOUND);
        return;
    case PUT_NO_MEMORY:
    case PUT_WAIT:
        add_error_text(protocol, command->packet, STATUS_NO_MEMORY,
                       "Out of memory allocating item");
        return;
    case PUT_BUSY:
        add_error(protocol, command->packet, STATUS_BUSY);
        return;
    }
}

static void
reply_refusal(struct protocol *protocol, const struct value_command *command,
              enum value_refusal refusal)
{
    switch (refusal) {
    case VALUE_TOO_LARGE:
    case VALUE_BAD_END: /* Nothing ends a value here. */
        add_error(protocol, command->packet, STATUS_TOO_LARGE);
        return;
    case VALUE_ABORTED:
        add_error_text(protocol, command->packet, STATUS_NO_MEMORY, "Out of memory during read");
        return;
    }
}

static const struct value_words packet_words = {
    .end_len = 0, .result = reply_result, .refusal = reply_refusal};

static enum put_mode
put_mode_of(uint8_t opcode)
{
    switch (opcode) {
    case OPCODE_ADD:
    case OPCODE_ADDQ:
        return PUT_ADD;
    case OPCODE_REPLACE:
    case OPCODE_REPLACEQ:
        return PUT_REPLACE;
    case OPCODE_APPEND:
    case OPCODE_APPENDQ:
        return PUT_APPEND;
    case OPCODE_PREPEND:
    case OPCODE_PREPENDQ:
        return PUT_PREPEND;
    default:
        return PUT_SET;
    }
}

enum step
packet_store(struct protocol *protocol, struct conn *conn, const struct packet *packet,
             struct input *input)
{
    struct value_command command = {
        .words = &packet_words, .packet = packet->id, .noreply = packet->quiet};
    struct put *put = &command.put;
    if (packet->rest_len > PACKET_VALUE_LEN_MAX) {
        return STEP_CLOSE;
    }
    key_init(protocol->store, &put->key, packet->key, packet->key_len);
    put->mode = put_mode_of(packet->id.opcode);
    put->value_len = packet->rest_len;
    if (packet->extras_len != 0) {
        put->client_flags = read_u32(packet->extras);
        put->expire = read_expiry(protocol->store, packet->extras + 4);
    }
    if (packet->cas != 0 && store_run(protocol->store)->boot_settings.cas_enabled) {
        put->cas_unique = packet->cas;
        put->drops_old = put->mode == PUT_SET; /* Also if its condition has not been looked at. */
        if (packet->extras_len != 0) {
            put->mode = PUT_CAS; /* Also of an add. */
        }
    }
    value_begin(protocol, conn, input, &command);
    return STEP_NEXT;
}

/* ---- delete --------------------------------------------------------------------------------- */

enum step
packet_delete(struct protocol *protocol, struct conn *conn, const struct packet *packet,
              struct input *input)
{
    (void)conn;
    (void)input;
    struct removal removal = {.if_cas = condition_of(packet)};
    key_init(protocol->store, &removal.key, packet->key, packet->key_len);
    watch_lookup(protocol, &removal.key);
    detail_delete(protocol, &removal.key);
    switch (store_remove(protocol->store, &removal)) {
    case REMOVE_DONE:
        COUNT(protocol->counters, delete_hits);
        add_success(protocol, packet->id, packet->quiet, 0);
        break;
    case REMOVE_NOT_FOUND:
        COUNT(protocol->counters, delete_misses);
        add_error(protocol, packet->id, STATUS_NOT_FOUND);
        break;
    case REMOVE_EXISTS:
        add_error(protocol, packet->id, STATUS_EXISTS);
        break;
    case REMOVE_NO_MEMORY: /* Nothing is left that would need some. */
    case REMOVE_BUSY:
        add_error(protocol, packet->id, STATUS_BUSY);
        break;
    }
    return STEP_NEXT;
}

/* ---- arithmetic ----------------------------------------------------------------------------- */

/* The exptime that says: create nothing. */
#define EXPTIME_NO_CREATE UINT32_MAX

static void
count_arith(struct counters *counters, bool increment, bool hit)
{
    if (increment) {
        counter_add(counters, hit ? COUNTER_incr_hits : COUNTER_incr_misses, 1);
    } else {
        counter_add(counters, hit ? COUNTER_decr_hits : COUNTER_decr_misses, 1);
    }
}

static void
add_number(struct protocol *protocol, const struct packet *packet, const struct arith *arith)
{
    uint8_t body[8];
    struct reply reply = {.body_len = sizeof(body), .cas = arith->cas};
    if (!packet->quiet) {
        write_u64(body, arith->number);
        add_reply(protocol, packet->id, reply, body);
    }
}

enum step
packet_arith(struct protocol *protocol, struct conn *conn, const struct packet *packet,
             struct input *input)
{
    (void)conn;
    (void)input;
    uint32_t exptime = read_u32(packet->extras + 16);
    struct arith arith = {
        .increment =
            packet->id.opcode == OPCODE_INCREMENT || packet->id.opcode == OPCODE_INCREMENTQ,
        .delta = read_u64(packet->extras),
        .if_cas = condition_of(packet),
        .creates = exptime != EXPTIME_NO_CREATE,
        .initial = read_u64(packet->extras + 8),
        .create_expire = read_expiry(protocol->store, packet->extras + 16),
    };
    key_init(protocol->store, &arith.key, packet->key, packet->key_len);
    watch_lookup(protocol, &arith.key);
    switch (store_arith_with(protocol->store, &arith)) {
    case ARITH_DONE:
        if (!arith.created) {
            count_arith(protocol->counters, arith.increment, true);
        }
        add_number(protocol, packet, &arith);
        break;
    case ARITH_NOT_FOUND:
        count_arith(protocol->counters, arith.increment, false);
        add_error(protocol, packet->id, STATUS_NOT_FOUND);
        break;
    case ARITH_NOT_A_NUMBER:
        add_error(protocol, packet->id, STATUS_NOT_A_NUMBER);
        break;
    case ARITH_EXISTS:
        add_error(protocol, packet->id, STATUS_EXISTS);
        break;
    case ARITH_NO_MEMORY:
        if (!arith.created) {
            count_arith(protocol->counters, arith.increment, true);
        }
        add_error_text(protocol, packet->id, STATUS_NO_MEMORY,
                       arith.created ? "Out of memory allocating new item"
                                     : "Out of memory incrementing value");
        break;
    case ARITH_BUSY:
        add_error(protocol, packet->id, STATUS_BUSY);
        break;
    }
    return STEP_NEXT;
}
