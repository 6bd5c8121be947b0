/* The state machine of a connection: which bytes are looked at next, and by whom.
 *
 * Every arrival runs the same loop over the input, a step at a time, until a step says why it
 * cannot go on. What is left of the input is then copied to memory of the connection's own, so that
 * the shared read buffer is free for the next connection. That copy is bounded: an incomplete line
 * of at most GET_LINE_BYTES_MAX, a packet up to its value (its key's length has 16 bits), or, when
 * replies have to be sent first, one read buffer. */
#include "proto/conn.h"

#include "base/check.h"
#include "proto/binary.h"
#include "proto/crawl.h"
#include "proto/meta.h"
#include "proto/stats.h"
#include "proto/value.h"
#include "proto/watch.h"

#include <stdlib.h>

/* ---- the working space ---------------------------------------------------------------------- */

struct protocol *
protocol_new(struct store *store)
{
    struct protocol *protocol = calloc(1, sizeof(*protocol));
    if (protocol == NULL) {
        return NULL;
    }
    protocol->store = store;
    protocol->counters = store_counters(store);
    protocol->run = store_run(store);
    protocol->buffers = calloc(READ_AHEAD_MAX, READ_BUFFER_BYTES + INPUT_SLACK_BYTES);
    protocol->read = protocol->buffers;
    if (protocol->buffers == NULL || !output_init(&protocol->output)) {
        protocol_free(protocol);
        return NULL;
    }
    return protocol;
}

void
protocol_free(struct protocol *protocol)
{
    output_free(&protocol->output, protocol->store);
    watch_free(protocol);
    free(protocol->buffers);
    free(protocol);
}

/* ---- lines ---------------------------------------------------------------------------------- */

/* A line that no command has: silent if it asks for it, closed if it is a browser's. */
static enum step
execute_unknown(struct protocol *protocol, const struct line *line, bool noreply)
{
    if (line->count > 1) {
        struct slice last = line->tokens[line->count - 1];
        if (last.len >= 5 && memcmp(last.bytes, "HTTP/", 5) == 0) {
            return STEP_CLOSE;
        }
    }
    REPLY(protocol, noreply, "ERROR\r\n");
    return STEP_NEXT;
}

static enum step
execute_request(struct protocol *protocol, struct conn *conn, const struct line *line,
                struct input *input)
{
    struct request request = {.line = line, .input = input};
    if (line->len < 4) {
        OUTPUT_TEXT(&protocol->output, TEXT_BAD_FORMAT);
        return STEP_NEXT;
    }
    request.noreply = line->count > 0 && slice_is(line->tokens[line->count - 1], "noreply");
    request.command = line->count > 0 && !line->indented ? command_find(line->tokens[0]) : NULL;
    if (request.command == NULL) {
        return execute_unknown(protocol, line, request.noreply);
    }
    if (line->count < request.command->tokens_min) {
        OUTPUT_TEXT(&protocol->output, TEXT_BAD_FORMAT);
        return STEP_NEXT;
    }
    if (request.command->handler != NULL) {
        protocol->requests++;
        request.command->handler(protocol, conn, &request);
    } else {
        execute_gat(protocol, conn, &request); /* get, gets and mg have been seen before. */
    }
    return STEP_NEXT;
}

/* Only get lines may be longer than LINE_BYTES_MAX; memcached forgives them 100 spaces. */
static bool
may_be_long(struct input input, bool *indented)
{
    const uint8_t *at = parse_skip_spaces(input.at, input.end);
    *indented = at > input.at;
    if (at - input.at > 100) {
        return false;
    }
    input.at = at;
    return get_is_next(&input);
}

/* The line at the input's start has no end yet. */
static enum step
await_line(struct protocol *protocol, struct conn *conn, struct input *input)
{
    size_t len = (size_t)(input->end - input->at);
    bool indented;
    conn->scanned = (uint32_t)len;
    if (len <= LINE_BYTES_MAX) {
        return STEP_MORE;
    }
    if (!may_be_long(*input, &indented)) {
        return STEP_CLOSE;
    }
    if (len < GET_LINE_BYTES_MAX) {
        return STEP_MORE;
    }
    /* A long get line that is not indented was taken by execute_gets(). */
    DCHECK(indented);
    OUTPUT_TEXT(&protocol->output, "ERROR\r\n");
    conn->scanned = 0;
    conn->state = CONN_SKIP_LINE;
    return STEP_NEXT;
}

enum step
execute_line(struct protocol *protocol, struct conn *conn, struct input *input)
{
    struct line line;
    bool indented;
    if (input->at == input->end) {
        return STEP_MORE;
    }
    if (conn->scanned != 0) {
        if (input->end - input->at < GET_LINE_BYTES_MAX &&
            parse_line_feed(input->at + conn->scanned, input->end) == NULL) {
            return await_line(protocol, conn, input);
        }
        conn->scanned = 0;
    }
    if (get_is_next(input)) {
        return execute_gets(protocol, conn, input);
    }
    if (meta_get_is_next(input)) {
        enum step step = execute_meta_gets(protocol, conn, input);
        if (step != STEP_MORE) {
            return step;
        }
    }
    if (parse_line(input->at, input->end, &line) == PARSE_MORE) {
        return await_line(protocol, conn, input);
    }
    if (line.len > LINE_BYTES_MAX + 1 && !may_be_long(*input, &indented)) {
        return STEP_CLOSE;
    }
    input->at = line.next;
    return execute_request(protocol, conn, &line, input);
}

static enum step
skip_line(struct conn *conn, struct input *input)
{
    const uint8_t *feed = parse_line_feed(input->at, input->end);
    if (feed == NULL) {
        input->at = input->end;
        return STEP_MORE;
    }
    input->at = feed + 1;
    conn->state = CONN_COMMAND;
    return STEP_NEXT;
}

static enum step
swallow_value(struct conn *conn, struct input *input)
{
    size_t have = (size_t)(input->end - input->at);
    uint32_t len = have < conn->swallow ? (uint32_t)have : conn->swallow;
    input->at += len;
    conn->swallow -= len;
    if (conn->swallow > 0) {
        return STEP_MORE;
    }
    conn_await_request(conn);
    return STEP_NEXT;
}

/* ---- the loop ------------------------------------------------------------------------------- */

/* The first byte decides for the whole connection, unless -B has decided already. */
static enum step
choose_protocol(struct protocol *protocol, struct conn *conn, const struct input *input)
{
    if (input->at == input->end) {
        return STEP_MORE;
    }
    switch ((enum binding_protocol)store_run(protocol->store)->boot_settings.binding_protocol) {
    case BINDING_BINARY:
        conn->binary = true;
        break;
    case BINDING_ASCII:
        break;
    case BINDING_AUTO:
    case BINDING_COUNT:
        conn->binary = *input->at == PACKET_REQUEST;
        break;
    }
    conn_await_request(conn);
    return STEP_NEXT;
}

static enum step
run_step(struct protocol *protocol, struct conn *conn, struct input *input)
{
    switch ((enum conn_state)conn->state) {
    case CONN_NEW:
        return choose_protocol(protocol, conn, input);
    case CONN_COMMAND:
        return execute_line(protocol, conn, input);
    case CONN_PACKET:
        return binary_step(protocol, conn, input);
    case CONN_KEYS:
        return execute_keys(protocol, conn, input);
    case CONN_SKIP_LINE:
        return skip_line(conn, input);
    case CONN_VALUE:
        return value_step(protocol, conn, input);
    case CONN_UPLOAD_WAIT:
        return value_upload_wait_step(protocol, conn);
    case CONN_UPLOAD:
        return value_upload_step(protocol, conn, input);
    case CONN_TERMINATOR:
        return value_end_step(protocol, conn, input);
    case CONN_WALK:
        return stats_walk_step(protocol, conn);
    case CONN_DUMP:
        return crawl_dump_step(protocol, conn);
    case CONN_WATCH:
        input->at = input->end;
        return STEP_MORE;
    case CONN_SWALLOW:
        return swallow_value(conn, input);
    case CONN_CLOSED:
        return STEP_CLOSE;
    }
    return STEP_CLOSE;
}

/* Whether replies must leave before the next step. Within the keys of one command only bytes count:
 * all its large values are pinned at one time. */
static bool
must_send_first(const struct protocol *protocol, const struct conn *conn)
{
    const struct output *output = &protocol->output;
    if (conn->state == CONN_KEYS) {
        return output->end - output->begin >= OUTPUT_HIGH_WATER_BYTES;
    }
    return output_is_full(output);
}

static enum step
run(struct protocol *protocol, struct conn *conn, struct input *input)
{
    enum step step;
    do {
        if (UNLIKELY(must_send_first(protocol, conn))) {
            return STEP_FULL;
        }
        step = run_step(protocol, conn, input);
    } while (step == STEP_NEXT);
    return step;
}

static void
input_free(struct conn *conn)
{
    if (conn->input != NULL) {
        free(conn->input);
        conn->input = NULL;
        conn->input_len = conn->input_capacity = 0;
    }
}

/* Copies what was not executed to the connection's own memory; it may lie there already. */
static bool
input_keep(struct conn *conn, const struct input *input)
{
    uint32_t len = (uint32_t)(input->end - input->at);
    if (len == 0) {
        input_free(conn);
        return true;
    }
    if (len > conn->input_capacity) {
        uint32_t capacity = (uint32_t)round_up(len, 256);
        uint8_t *bytes = calloc(1, capacity + INPUT_SLACK_BYTES);
        if (bytes == NULL) {
            return false;
        }
        memcpy(bytes, input->at, len);
        input_free(conn);
        conn->input = bytes;
        conn->input_capacity = capacity;
    } else {
        memmove(conn->input, input->at, len);
    }
    conn->input_len = len;
    return true;
}

static enum conn_status
execute(struct protocol *protocol, struct conn *conn, struct input *input)
{
    protocol->fd_number = conn->number;
    enum step step = run(protocol, conn, input);
    if (step != STEP_CLOSE && !input_keep(conn, input)) {
        step = STEP_CLOSE;
    }
    switch (step) {
    case STEP_NEXT:
    case STEP_MORE:
        conn->status = CONN_READY;
        break;
    case STEP_FULL:
        conn->status = CONN_FULL;
        break;
    case STEP_WAIT:
        if (conn->status != CONN_WAITING) {
            COUNT(protocol->counters, upload_waits);
        }
        conn->status = CONN_WAITING;
        break;
    case STEP_CLOSE:
        conn->state = CONN_CLOSED;
        conn->status = CONN_CLOSE;
        input_free(conn);
        break;
    }
    return conn->status;
}

/* ---- the door ------------------------------------------------------------------------------- */

unsigned
conn_space(struct protocol *protocol, struct conn *conn, struct iovec pieces[2])
{
    struct pending *pending = conn->pending;
    struct iovec shared = {protocol->read, READ_BUFFER_BYTES};
    if (conn->status != CONN_READY || !output_is_empty(&conn->kept)) {
        return 0;
    }
    if (conn->state == CONN_VALUE) {
        pieces[0].iov_base = pending->bytes + pending->collected;
        pieces[0].iov_len = pending->collect_len - pending->collected;
        pieces[1] = shared;
        return 2;
    }
    if (conn->state == CONN_UPLOAD && value_has_space(protocol, conn)) {
        bool last = pending->space_len == pending->upload.value_len - pending->upload.received;
        pieces[0] = (struct iovec){pending->space, pending->space_len};
        pieces[1] = shared;
        return last ? 2 : 1;
    }
    if (conn->input_len > 0) {
        memcpy(protocol->read, conn->input, conn->input_len);
    }
    pieces[0].iov_base = protocol->read + conn->input_len;
    pieces[0].iov_len = READ_BUFFER_BYTES - conn->input_len;
    return 1;
}

/* Of the bytes that conn_space() asked for, those that belong to the value itself. */
static uint32_t
direct_len(const struct conn *conn)
{
    switch ((int)conn->state) {
    case CONN_VALUE:
        return conn->pending->collect_len - conn->pending->collected;
    case CONN_UPLOAD:
        return conn->pending->space_len;
    default:
        return 0;
    }
}

uint64_t
protocol_requests(const struct protocol *protocol)
{
    return protocol->requests;
}

void
protocol_pace(struct protocol *protocol, bool others)
{
    protocol->small_pieces = others;
}

void
protocol_select(struct protocol *protocol, unsigned buffer_index)
{
    DCHECK(buffer_index < READ_AHEAD_MAX);
    protocol->read =
        protocol->buffers + buffer_index * (size_t)(READ_BUFFER_BYTES + INPUT_SLACK_BYTES);
}

/* Longer inputs are batches that look ahead by themselves. */
#define FORESEEN_BYTES_MAX 512

/* The second token of a line. */
static bool
line_key(const uint8_t *bytes, size_t len, struct slice *key)
{
    const uint8_t *end = bytes + len;
    const uint8_t *at = parse_skip_spaces(parse_token_end(bytes, end), end);
    const uint8_t *stop = parse_token_end(at, end);
    if (stop < end && *stop == '\n' && stop > at && stop[-1] == '\r') {
        stop--;
    }
    *key = (struct slice){at, (uint32_t)(stop - at)};
    return stop != at && stop - at <= MEMCACHED_KEY_LEN_MAX;
}

bool
conn_foresee(struct protocol *protocol, const struct conn *conn, size_t len, struct key *key)
{
    struct slice bytes;
    if (conn->input_len > 0 || len > FORESEEN_BYTES_MAX) {
        return false;
    }
    if (conn->state == CONN_COMMAND
            ? !line_key(protocol->read, len, &bytes)
            : conn->state != CONN_PACKET || !binary_key(protocol->read, len, &bytes)) {
        return false;
    }
    key_init(protocol->store, key, bytes.bytes, bytes.len);
    store_prefetch_bucket(protocol->store, key);
    return true;
}

enum conn_status
conn_received(struct protocol *protocol, struct conn *conn, size_t len)
{
    uint32_t direct = direct_len(conn);
    if (direct > 0) {
        direct = len < direct ? (uint32_t)len : direct;
        value_arrived(protocol, conn, direct);
        len -= direct;
    }
    struct input input = {protocol->read, protocol->read + conn->input_len + len};
    return execute(protocol, conn, &input);
}

enum conn_status
conn_resume(struct protocol *protocol, struct conn *conn)
{
    if (!output_is_empty(&conn->kept)) {
        return conn->status;
    }
    output_free(&conn->kept, protocol->store);
    if (conn->status == CONN_READY || conn->status == CONN_CLOSE) {
        return conn->status;
    }
    struct input input = {conn->input, conn->input};
    if (conn->input_len > 0) { /* No arithmetic on NULL. */
        input.end += conn->input_len;
    }
    return execute(protocol, conn, &input);
}

struct output *
conn_output(struct protocol *protocol, struct conn *conn)
{
    return output_is_empty(&conn->kept) ? &protocol->output : &conn->kept;
}

bool
conn_park(struct protocol *protocol, struct conn *conn)
{
    if (output_is_empty(&protocol->output)) {
        if (conn->kept.bytes != NULL && output_is_empty(&conn->kept)) {
            output_free(&conn->kept, protocol->store);
        }
        return true;
    }
    output_free(&conn->kept, protocol->store);
    return output_move(&protocol->output, &conn->kept);
}

void
conn_discard_output(struct protocol *protocol, struct conn *conn)
{
    output_clear(&protocol->output, protocol->store);
    output_free(&conn->kept, protocol->store);
}

void
conn_free(struct protocol *protocol, struct conn *conn)
{
    if (conn->pending != NULL) {
        if (conn->state == CONN_UPLOAD || conn->state == CONN_TERMINATOR) {
            store_upload_abort(protocol->store, &conn->pending->upload);
        }
        free(conn->pending);
    }
    crawl_dump_free(protocol, conn);
    stats_walk_free(conn);
    watch_end(protocol, conn);
    input_free(conn);
    output_free(&conn->kept, protocol->store);
    *conn = (struct conn){.state = CONN_CLOSED, .status = CONN_CLOSE};
}

bool
conn_holds_memory(const struct conn *conn)
{
    return conn->state == CONN_UPLOAD || conn->state == CONN_TERMINATOR ||
           output_has_pins(&conn->kept);
}

bool
conn_give_up(struct protocol *protocol, struct conn *conn)
{
    if (!output_is_empty(&conn->kept)) {
        return false;
    }
    if (conn->state == CONN_UPLOAD || conn->state == CONN_TERMINATOR) {
        value_upload_fail(protocol, conn, PUT_NO_MEMORY);
    }
    return true;
}

/* ---- without sockets ------------------------------------------------------------------------ */

/* Copies from *bytes on into the pieces; returns how many. */
static size_t
fill_pieces(const struct iovec *pieces, unsigned count, const uint8_t *bytes, size_t len)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < len; i++) {
        size_t part = len - done < pieces[i].iov_len ? len - done : pieces[i].iov_len;
        memcpy(pieces[i].iov_base, bytes + done, part);
        done += part;
    }
    return done;
}

enum conn_status
conn_feed(struct protocol *protocol, struct conn *conn, const uint8_t *bytes, size_t len,
          size_t *taken)
{
    *taken = 0;
    enum conn_status status = conn_resume(protocol, conn);
    while (status == CONN_READY && *taken < len) {
        struct iovec pieces[2];
        unsigned count = conn_space(protocol, conn, pieces);
        size_t part = fill_pieces(pieces, count, bytes + *taken, len - *taken);
        if (part == 0) {
            break;
        }
        *taken += part;
        status = conn_received(protocol, conn, part);
    }
    if (!conn_park(protocol, conn)) {
        conn->state = CONN_CLOSED;
        conn->status = status = CONN_CLOSE;
    }
    return status;
}

size_t
conn_drain(struct protocol *protocol, struct conn *conn, uint8_t *out, size_t capacity)
{
    struct output *output = conn_output(protocol, conn);
    struct iovec pieces[16];
    size_t len = 0;
    while (len < capacity) {
        unsigned count = output_pieces(output, protocol->store, pieces, 16);
        size_t part = 0;
        for (unsigned i = 0; i < count && len + part < capacity; i++) {
            size_t room = capacity - len - part;
            size_t bytes = pieces[i].iov_len < room ? pieces[i].iov_len : room;
            memcpy(out + len + part, pieces[i].iov_base, bytes);
            part += bytes;
        }
        if (part == 0) {
            break;
        }
        output_advance(output, protocol->store, part);
        len += part;
    }
    return len;
}
