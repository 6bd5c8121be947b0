/* set, add, replace, append, prepend and cas.
 *
 *     value whole in the input      stored straight from there
 *     ... not yet, fits one chunk   CONN_VALUE: collected in `pending`, then stored
 *     ... not yet, longer           CONN_UPLOAD_WAIT, CONN_UPLOAD: goes into its chunks as it
 *                                   arrives; CONN_TERMINATOR: its line end; then made live
 *     refused                       answered; CONN_SWALLOW: its bytes are skipped
 *
 * The name of a storage command is looked at in put_mode_of() only. */
#include "proto/execute.h"

#include "base/check.h"

#include <stdlib.h>

/* memcached's limit: the length of value and line end fits an int. */
#define VALUE_LEN_MAX (INT32_MAX - 2)

#define LINE_END_LEN 2

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
count_cas(struct counters *counters, enum put_result result)
{
    switch ((int)result) {
    case PUT_STORED:
        COUNT(counters, cas_hits);
        break;
    case PUT_EXISTS:
        COUNT(counters, cas_badval);
        break;
    case PUT_NOT_FOUND:
        COUNT(counters, cas_misses);
        break;
    }
}

/* Counts and answers a storage command that got as far as the store. */
static void
reply_put(struct protocol *protocol, bool noreply, enum put_mode mode, enum put_result result)
{
    if (result != PUT_NO_MEMORY) {
        COUNT(protocol->counters, cmd_set);
    }
    if (mode == PUT_CAS) {
        count_cas(protocol->counters, result);
    }
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
        COUNT(protocol->counters, store_no_memory);
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
reply_bad_chunk(struct protocol *protocol, bool noreply)
{
    COUNT(protocol->counters, cmd_set);
    REPLY(protocol, noreply, "CLIENT_ERROR bad data chunk\r\n");
}

/* ---- values that arrive --------------------------------------------------------------------- */

static void
swallow(struct conn *conn, uint64_t bytes)
{
    conn->swallow = (uint32_t)bytes;
    conn->state = CONN_SWALLOW;
}

static void
pending_free(struct conn *conn)
{
    free(conn->pending);
    conn->pending = NULL;
}

/* Remembers the command, with `extra` bytes of room; its key is copied out of the input. */
static struct pending *
pending_new(struct conn *conn, const struct put *put, size_t extra)
{
    struct pending *pending = malloc(sizeof(*pending) + extra);
    if (pending == NULL) {
        return NULL;
    }
    *pending = (struct pending){.put = *put};
    memcpy(pending->key, put->key.bytes, put->key.len);
    pending->put.key.bytes = pending->key;
    conn->pending = pending;
    return pending;
}

static bool
is_line_end(const uint8_t *at)
{
    return at[0] == '\r' && at[1] == '\n';
}

static void
put_whole(struct protocol *protocol, struct conn *conn, struct put *put, const uint8_t *value)
{
    if (!is_line_end(value + put->value_len)) {
        reply_bad_chunk(protocol, conn->noreply);
        return;
    }
    put->value = value;
    enum put_mode mode = put->mode;
    reply_put(protocol, conn->noreply, mode, store_put(protocol->store, put));
}

static void
collect_begin(struct protocol *protocol, struct conn *conn, const struct put *put)
{
    uint32_t len = put->value_len + LINE_END_LEN;
    struct pending *pending = pending_new(conn, put, len);
    if (pending == NULL) {
        REPLY(protocol, conn->noreply, "SERVER_ERROR out of memory storing object\r\n");
        swallow(conn, len);
        return;
    }
    pending->collect_len = len;
    conn->state = CONN_VALUE;
}

enum step
store_value_step(struct protocol *protocol, struct conn *conn, struct input *input)
{
    struct pending *pending = conn->pending;
    size_t have = (size_t)(input->end - input->at);
    uint32_t missing = pending->collect_len - pending->collected;
    uint32_t len = have < missing ? (uint32_t)have : missing;
    memcpy(pending->bytes + pending->collected, input->at, len);
    pending->collected += len;
    input->at += len;
    if (len < missing) {
        return STEP_MORE;
    }
    conn->state = CONN_COMMAND;
    put_whole(protocol, conn, &pending->put, pending->bytes);
    pending_free(conn);
    return STEP_NEXT;
}

/* ---- uploads -------------------------------------------------------------------------------- */

/* Bytes of the value and its line end that the upload has not taken. */
static uint64_t
upload_missing(const struct pending *pending)
{
    return (uint64_t)pending->upload.value_len - pending->upload.received + LINE_END_LEN;
}

static void
upload_begin(struct protocol *protocol, struct conn *conn, const struct put *put)
{
    if (pending_new(conn, put, 0) == NULL) {
        REPLY(protocol, conn->noreply, "SERVER_ERROR out of memory storing object\r\n");
        swallow(conn, (uint64_t)put->value_len + LINE_END_LEN);
        return;
    }
    conn->state = CONN_UPLOAD_WAIT;
}

enum step
store_upload_wait_step(struct protocol *protocol, struct conn *conn)
{
    struct pending *pending = conn->pending;
    uint64_t len = (uint64_t)pending->put.value_len + LINE_END_LEN;
    enum put_result result = store_upload_begin(protocol->store, &pending->put, &pending->upload);
    if (result == PUT_STORED) {
        pending->space_len = 0;
        conn->state = CONN_UPLOAD;
        return STEP_NEXT;
    }
    if (result == PUT_WAIT) {
        return STEP_WAIT;
    }
    reply_put(protocol, conn->noreply, pending->put.mode, result);
    pending_free(conn);
    swallow(conn, len);
    return STEP_NEXT;
}

void
store_upload_fail(struct protocol *protocol, struct conn *conn, enum put_result result)
{
    struct pending *pending = conn->pending;
    uint64_t len = upload_missing(pending);
    store_upload_abort(protocol->store, &pending->upload);
    if (result == PUT_BUSY) {
        REPLY(protocol, conn->noreply, TEXT_BUSY);
    } else {
        COUNT(protocol->counters, uploads_aborted);
        REPLY(protocol, conn->noreply, "SERVER_ERROR Out of memory during read\r\n");
    }
    pending_free(conn);
    swallow(conn, len);
}

void
store_value_arrived(struct protocol *protocol, struct conn *conn, uint32_t len)
{
    struct pending *pending = conn->pending;
    if (conn->state == CONN_VALUE) {
        pending->collected += len;
        return;
    }
    store_upload_advance(protocol->store, &pending->upload, len);
    pending->space += len;
    pending->space_len -= len;
}

/* Sees to it that there is space for the next byte, which conn_space() may hand out. */
enum step
store_upload_step(struct protocol *protocol, struct conn *conn, struct input *input)
{
    struct pending *pending = conn->pending;
    if (pending->space_len == 0) {
        enum put_result result = PUT_STORED;
        pending->space_len =
            store_upload_space(protocol->store, &pending->upload, &pending->space, &result);
        if (pending->space_len == 0) {
            if (result == PUT_STORED) {
                conn->state = CONN_TERMINATOR;
            } else {
                store_upload_fail(protocol, conn, result);
            }
            return STEP_NEXT;
        }
    }
    size_t have = (size_t)(input->end - input->at);
    if (have == 0) {
        return STEP_MORE;
    }
    uint32_t len = have < pending->space_len ? (uint32_t)have : pending->space_len;
    memcpy(pending->space, input->at, len);
    input->at += len;
    store_value_arrived(protocol, conn, len);
    return STEP_NEXT;
}

enum step
store_terminator_step(struct protocol *protocol, struct conn *conn, struct input *input)
{
    struct pending *pending = conn->pending;
    if (input->end - input->at < LINE_END_LEN) {
        return STEP_MORE;
    }
    bool complete = is_line_end(input->at);
    input->at += LINE_END_LEN;
    conn->state = CONN_COMMAND;
    if (complete) {
        enum put_mode mode = pending->put.mode;
        reply_put(protocol, conn->noreply, mode,
                  store_upload_commit(protocol->store, &pending->put, &pending->upload));
    } else {
        store_upload_abort(protocol->store, &pending->upload);
        reply_bad_chunk(protocol, conn->noreply);
    }
    pending_free(conn);
    return STEP_NEXT;
}

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
    if (tokens[1].len > KEY_LEN_MAX || !parse_u64_max(tokens[2], UINT32_MAX, &client_flags) ||
        !parse_i64(tokens[3], &exptime)) {
        return false;
    }
    if (put->mode == PUT_CAS && (line->count < 6 || !parse_u64(tokens[5], &put->cas_unique))) {
        return false;
    }
    key_init(protocol->store, &put->key, tokens[1].bytes, tokens[1].len);
    put->client_flags = (uint32_t)client_flags;
    put->expire = store_expiry(protocol->store, exptime < EXPTIME_MAX ? exptime : EXPTIME_MAX);
    return true;
}

/* The value will not be taken: `set` removes what it would have replaced. */
static void
refuse_too_large(struct protocol *protocol, struct conn *conn, const struct put *put)
{
    COUNT(protocol->counters, store_too_large);
    if (put->mode == PUT_SET && store_delete(protocol->store, &put->key) == DELETE_BUSY) {
        REPLY(protocol, conn->noreply, TEXT_BUSY);
        return;
    }
    REPLY(protocol, conn->noreply, "SERVER_ERROR object too large for cache\r\n");
}

void
execute_store(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    struct input *input = request->input;
    struct put put = {0};
    uint64_t value_len;
    if (!parse_u64_max(request->line->tokens[4], VALUE_LEN_MAX, &value_len)) {
        OUTPUT_TEXT(&protocol->output, TEXT_BAD_FORMAT);
        return;
    }
    conn->noreply = request->noreply;
    put.value_len = (uint32_t)value_len;
    if (!parse_put(protocol, request, &put)) {
        REPLY(protocol, conn->noreply, TEXT_BAD_FORMAT);
        swallow(conn, value_len + LINE_END_LEN);
        return;
    }
    if (!store_fits(protocol->store, put.key.len, put.client_flags, value_len)) {
        refuse_too_large(protocol, conn, &put);
        swallow(conn, value_len + LINE_END_LEN);
        return;
    }
    if ((uint64_t)(input->end - input->at) >= value_len + LINE_END_LEN) {
        const uint8_t *value = input->at;
        input->at += value_len + LINE_END_LEN;
        put_whole(protocol, conn, &put, value);
    } else if (value_len <= store_put_len_max(protocol->store, put.key.len)) {
        collect_begin(protocol, conn, &put);
    } else {
        upload_begin(protocol, conn, &put);
    }
}
