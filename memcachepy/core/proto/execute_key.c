/* delete, incr, decr and touch: one key, one lock, one line. */
#include "proto/detail.h"
#include "proto/watch_log.h"

/* Initialises the key from the second token; a key that is too long is answered. */
static bool
key_of(struct protocol *protocol, const struct request *request, struct key *key)
{
    struct slice token = request->line->tokens[1];
    if (token.len > MEMCACHED_KEY_LEN_MAX) {
        REPLY(protocol, request->noreply, TEXT_BAD_FORMAT);
        return false;
    }
    key_init(protocol->store, key, token.bytes, token.len);
    return true;
}

void
execute_delete(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    struct key key;
    if (!key_of(protocol, request, &key)) {
        return;
    }
    watch_lookup(protocol, &key);
    detail_delete(protocol, &key);
    switch (store_delete(protocol->store, &key)) {
    case DELETE_DONE:
        COUNT(protocol->counters, delete_hits);
        REPLY(protocol, request->noreply, "DELETED\r\n");
        return;
    case DELETE_NOT_FOUND:
        COUNT(protocol->counters, delete_misses);
        REPLY(protocol, request->noreply, "NOT_FOUND\r\n");
        return;
    case DELETE_BUSY:
        REPLY(protocol, request->noreply, TEXT_BUSY);
        return;
    }
}

static void
reply_number(struct protocol *protocol, bool noreply, uint64_t number)
{
    struct output *output = &protocol->output;
    if (noreply) {
        return;
    }
    uint8_t *end = output_number(output->bytes + output->end, number);
    output->end = (uint32_t)(end - output->bytes);
    OUTPUT_TEXT(output, "\r\n");
}

/* A hit is counted once the item is there and a number. */
static void
count_arith(struct counters *counters, bool increment, bool hit)
{
    if (increment) {
        counter_add(counters, hit ? COUNTER_incr_hits : COUNTER_incr_misses, 1);
    } else {
        counter_add(counters, hit ? COUNTER_decr_hits : COUNTER_decr_misses, 1);
    }
}

void
execute_arith(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    bool increment = request->command->id == COMMAND_INCR;
    struct key key;
    uint64_t delta;
    uint64_t number;
    if (!key_of(protocol, request, &key)) {
        return;
    }
    if (!parse_u64(request->line->tokens[2], &delta)) {
        REPLY(protocol, request->noreply, "CLIENT_ERROR invalid numeric delta argument\r\n");
        return;
    }
    watch_lookup(protocol, &key);
    switch (store_arith(protocol->store, &key, increment, delta, &number)) {
    case ARITH_DONE:
        count_arith(protocol->counters, increment, true);
        reply_number(protocol, request->noreply, number);
        return;
    case ARITH_NOT_FOUND:
        count_arith(protocol->counters, increment, false);
        REPLY(protocol, request->noreply, "NOT_FOUND\r\n");
        return;
    case ARITH_NOT_A_NUMBER:
        REPLY(protocol, request->noreply,
              "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
        return;
    case ARITH_NO_MEMORY:
        count_arith(protocol->counters, increment, true);
        REPLY(protocol, request->noreply, "SERVER_ERROR out of memory\r\n");
        return;
    case ARITH_EXISTS: /* Only where a cas is asked for. */
    case ARITH_BUSY:
        REPLY(protocol, request->noreply, TEXT_BUSY);
        return;
    }
}

bool
parse_exptime(struct slice token, int64_t *exptime)
{
    return parse_i64(token, exptime) && *exptime >= INT32_MIN && *exptime <= EXPTIME_MAX;
}

void
execute_touch(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    struct key key;
    int64_t exptime;
    if (!key_of(protocol, request, &key)) {
        return;
    }
    if (!parse_exptime(request->line->tokens[2], &exptime)) {
        REPLY(protocol, request->noreply, TEXT_BAD_EXPTIME);
        return;
    }
    watch_lookup(protocol, &key);
    switch (store_touch(protocol->store, &key, store_expiry(protocol->store, exptime))) {
    case TOUCH_DONE:
        COUNT(protocol->counters, cmd_touch);
        COUNT(protocol->counters, touch_hits);
        REPLY(protocol, request->noreply, "TOUCHED\r\n");
        return;
    case TOUCH_NOT_FOUND:
        COUNT(protocol->counters, cmd_touch);
        COUNT(protocol->counters, touch_misses);
        REPLY(protocol, request->noreply, "NOT_FOUND\r\n");
        return;
    case TOUCH_BUSY:
        REPLY(protocol, request->noreply, TEXT_BUSY);
        return;
    }
}
