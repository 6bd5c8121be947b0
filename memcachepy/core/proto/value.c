/* Values on their way in, of every storage command of every protocol.
 *
 *     value whole in the input      stored straight from there
 *     ... not yet, fits one chunk   CONN_VALUE: collected in `pending`, then stored
 *     ... not yet, longer           CONN_UPLOAD_WAIT, CONN_UPLOAD: goes into its chunks as it
 *                                   arrives; CONN_TERMINATOR: its line end; then made live
 *     refused                       answered; CONN_SWALLOW: its bytes are skipped
 *
 * What is said to the client, and whether a line end follows the value, are the command's
 * `struct value_words`. */
#include "proto/value.h"

#include "base/check.h"
#include "proto/detail.h"
#include "proto/own_keys.h"
#include "proto/watch_log.h"

#include <stdlib.h>

/* ---- counting ------------------------------------------------------------------------------- */

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

/* Counts and answers a command that got as far as the store. */
static ALWAYS_INLINE void
answer_result(struct protocol *protocol, const struct value_command *command,
              enum put_result result)
{
    if (result == PUT_NO_MEMORY) {
        COUNT(protocol->counters, store_no_memory);
    } else {
        COUNT(protocol->counters, cmd_set);
    }
    if (command->put.mode == PUT_CAS) {
        count_cas(protocol->counters, result);
    }
    store_count_put(protocol->store, &command->put, result);
    if (watch_wants(protocol, LOG_MUTATIONS)) {
        watch_log_put(protocol, &command->put, result);
    }
    command->words->result(protocol, command, result);
}

static void
answer_bad_end(struct protocol *protocol, const struct value_command *command)
{
    COUNT(protocol->counters, cmd_set);
    store_count_put(protocol->store, &command->put, PUT_NOT_STORED);
    command->words->refusal(protocol, command, VALUE_BAD_END);
}

/* ---- values of one chunk -------------------------------------------------------------------- */

static void
swallow(struct conn *conn, uint64_t bytes)
{
    conn->swallow = (uint32_t)bytes;
    conn->state = CONN_SWALLOW;
}

void
value_skip(struct conn *conn, const struct value_words *words, uint32_t value_len)
{
    swallow(conn, (uint64_t)value_len + words->end_len);
}

static void
pending_free(struct conn *conn)
{
    free(conn->pending);
    conn->pending = NULL;
}

/* Remembers the command, with `extra` bytes of room; its key is copied out of the input. */
static struct pending *
pending_new(struct conn *conn, const struct value_command *command, size_t extra)
{
    struct pending *pending = malloc(sizeof(*pending) + extra);
    if (pending == NULL) {
        return NULL;
    }
    *pending = (struct pending){.command = *command};
    memcpy(pending->key, command->put.key.bytes, command->put.key.len);
    pending->command.put.key.bytes = pending->key;
    if (command->meta != NULL) {
        pending->meta = *command->meta;
        pending->command.meta = &pending->meta;
    }
    conn->pending = pending;
    return pending;
}

/* The bytes behind a value are what its command wants there. */
static bool
is_end(const struct value_words *words, const uint8_t *at)
{
    return words->end_len == 0 || (at[0] == '\r' && at[1] == '\n');
}

static ALWAYS_INLINE void
put_whole(struct protocol *protocol, struct value_command *command, const uint8_t *value)
{
    if (!is_end(command->words, value + command->put.value_len)) {
        answer_bad_end(protocol, command);
        return;
    }
    watch_lookup(protocol, &command->put.key);
    command->put.value = value;
    answer_result(protocol, command, store_put(protocol->store, &command->put));
}

/* The same for a command that has a `take`: nothing is counted here. */
static void
take_whole(struct protocol *protocol, const struct value_command *command, const uint8_t *value)
{
    if (!is_end(command->words, value + command->put.value_len)) {
        command->words->refusal(protocol, command, VALUE_BAD_END);
        return;
    }
    command->take(protocol, command, value);
}

static void
collect_begin(struct protocol *protocol, struct conn *conn, const struct value_command *command)
{
    uint32_t len = command->put.value_len + command->words->end_len;
    struct pending *pending = pending_new(conn, command, len);
    if (pending == NULL) {
        command->words->result(protocol, command, PUT_NO_MEMORY);
        swallow(conn, len);
        return;
    }
    pending->collect_len = len;
    conn->state = CONN_VALUE;
}

enum step
value_step(struct protocol *protocol, struct conn *conn, struct input *input)
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
    conn_await_request(conn);
    if (pending->command.take != NULL) {
        take_whole(protocol, &pending->command, pending->bytes);
    } else {
        put_whole(protocol, &pending->command, pending->bytes);
    }
    pending_free(conn);
    return STEP_NEXT;
}

/* ---- uploads -------------------------------------------------------------------------------- */

/* Bytes of the value and its line end that the upload has not taken. */
static uint64_t
upload_missing(const struct pending *pending)
{
    return (uint64_t)pending->upload.value_len - pending->upload.received +
           pending->command.words->end_len;
}

static void
upload_begin(struct protocol *protocol, struct conn *conn, const struct value_command *command)
{
    if (pending_new(conn, command, 0) == NULL) {
        command->words->result(protocol, command, PUT_NO_MEMORY);
        value_skip(conn, command->words, command->put.value_len);
        return;
    }
    conn->state = CONN_UPLOAD_WAIT;
}

enum step
value_upload_wait_step(struct protocol *protocol, struct conn *conn)
{
    struct pending *pending = conn->pending;
    struct value_command *command = &pending->command;
    enum put_result result = store_upload_begin(protocol->store, &command->put, &pending->upload);
    if (result == PUT_STORED) {
        pending->space_len = 0;
        conn->state = CONN_UPLOAD;
        return STEP_NEXT;
    }
    if (result == PUT_WAIT) {
        return STEP_WAIT;
    }
    answer_result(protocol, command, result);
    value_skip(conn, command->words, command->put.value_len);
    pending_free(conn);
    return STEP_NEXT;
}

void
value_upload_fail(struct protocol *protocol, struct conn *conn, enum put_result result)
{
    struct pending *pending = conn->pending;
    uint64_t len = upload_missing(pending);
    store_upload_abort(protocol->store, &pending->upload);
    if (result == PUT_BUSY) {
        pending->command.words->result(protocol, &pending->command, PUT_BUSY);
    } else {
        COUNT(protocol->counters, uploads_aborted);
        pending->command.words->refusal(protocol, &pending->command, VALUE_ABORTED);
    }
    pending_free(conn);
    swallow(conn, len);
}

void
value_arrived(struct protocol *protocol, struct conn *conn, uint32_t len)
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

bool
value_has_space(struct protocol *protocol, struct conn *conn)
{
    struct pending *pending = conn->pending;
    if (pending->space_len != 0 &&
        UNLIKELY(!store_upload_has_space(protocol->store, &pending->upload))) {
        pending->space_len = 0;
    }
    return pending->space_len != 0;
}

/* Sees to it that there is space for the next byte, which conn_space() may hand out. */
enum step
value_upload_step(struct protocol *protocol, struct conn *conn, struct input *input)
{
    struct pending *pending = conn->pending;
    if (!value_has_space(protocol, conn)) {
        enum put_result result = PUT_STORED;
        pending->space_len =
            store_upload_space(protocol->store, &pending->upload, &pending->space, &result);
        if (pending->space_len == 0) {
            if (result == PUT_STORED) {
                conn->state = CONN_TERMINATOR;
            } else {
                value_upload_fail(protocol, conn, result);
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
    value_arrived(protocol, conn, len);
    return STEP_NEXT;
}

enum step
value_end_step(struct protocol *protocol, struct conn *conn, struct input *input)
{
    struct pending *pending = conn->pending;
    struct value_command *command = &pending->command;
    if (input->end - input->at < command->words->end_len) {
        return STEP_MORE;
    }
    bool complete = is_end(command->words, input->at);
    input->at += command->words->end_len;
    conn_await_request(conn);
    if (complete) {
        watch_lookup(protocol, &command->put.key);
        answer_result(protocol, command,
                      store_upload_commit(protocol->store, &command->put, &pending->upload));
    } else {
        store_upload_abort(protocol->store, &pending->upload);
        answer_bad_end(protocol, command);
    }
    pending_free(conn);
    return STEP_NEXT;
}

/* ---- the door ------------------------------------------------------------------------------- */

/* The value will not be taken: `set` removes what it would have replaced. */
static void
refuse_too_large(struct protocol *protocol, const struct value_command *command)
{
    const struct put *put = &command->put;
    COUNT(protocol->counters, store_too_large);
    if ((put->mode == PUT_SET || put->drops_old) &&
        store_delete_refused(protocol->store, &put->key) == DELETE_BUSY) {
        command->words->result(protocol, command, PUT_BUSY);
        return;
    }
    if (watch_wants(protocol, LOG_MUTATIONS)) {
        watch_log_put(protocol, put, PUT_TOO_LARGE);
    }
    command->words->refusal(protocol, command, VALUE_TOO_LARGE);
}

void
value_take(struct protocol *protocol, struct conn *conn, struct input *input,
           const struct value_command *command)
{
    uint64_t len = (uint64_t)command->put.value_len + command->words->end_len;
    if ((uint64_t)(input->end - input->at) < len) {
        collect_begin(protocol, conn, command);
        return;
    }
    const uint8_t *value = input->at;
    input->at += len;
    take_whole(protocol, command, value);
}

static void
take_uncounted(struct protocol *protocol, const struct value_command *command, const uint8_t *value)
{
    struct value_command done = *command;
    done.put.value = value;
    enum put_result result = store_put(protocol->store, &done.put);
    command->words->result(protocol, &done, result);
}

/* Whether the key is the node's own, and the command has been seen to. */
static bool
begin_own(struct protocol *protocol, struct conn *conn, struct input *input,
          const struct value_command *command)
{
    const struct put *put = &command->put;
    if (key_is_list(&put->key)) {
        command->words->result(protocol, command, PUT_NOT_STORED);
        value_skip(conn, command->words, put->value_len);
        return true;
    }
    if (!key_is_health(&put->key) || put->mode != PUT_SET ||
        put->value_len > store_put_len_max(protocol->store, put->key.len) ||
        !store_fits(protocol->store, put->key.len, put->client_flags, put->value_len)) {
        return false;
    }
    struct value_command own = *command;
    own.take = take_uncounted;
    value_take(protocol, conn, input, &own);
    return true;
}

void
value_begin(struct protocol *protocol, struct conn *conn, struct input *input,
            struct value_command *command)
{
    struct put *put = &command->put;
    uint64_t len = (uint64_t)put->value_len + command->words->end_len;
    if (key_may_be_own(put->key.len) && begin_own(protocol, conn, input, command)) {
        return;
    }
    if (detail_is_on(protocol)) {
        detail_count_set(protocol, &put->key);
    }
    if (!store_fits(protocol->store, put->key.len, put->client_flags, put->value_len)) {
        refuse_too_large(protocol, command);
        swallow(conn, len);
    } else if ((uint64_t)(input->end - input->at) >= len) {
        const uint8_t *value = input->at;
        input->at += len;
        put_whole(protocol, command, value);
    } else if (put->value_len <= store_put_len_max(protocol->store, put->key.len)) {
        collect_begin(protocol, conn, command);
    } else {
        upload_begin(protocol, conn, command);
    }
}
