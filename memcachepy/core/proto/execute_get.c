/* get, gets, gat and gats.
 *
 * Keys are gathered into a batch first, over as many complete get lines as have arrived, hashing
 * each and fetching its bucket's cache line; then all items are fetched; then each key is answered.
 * A cache miss in memory costs as much as everything else together, and this way up to 64 of them
 * overlap.
 *
 * A get line has no length limit. Up to GET_LINE_BYTES_MAX the whole line is awaited and its keys'
 * lengths are checked before the first is answered. Of a longer line that much is checked, and then
 * the keys are answered as they arrive (CONN_KEYS). The same state resumes a command that was
 * stopped between two keys because its replies have to be sent first, or because a large value
 * could not be pinned yet. */
#include "base/check.h"
#include "proto/detail.h"
#include "proto/own_keys.h"

enum gathered {
    GATHERED_LINE,     /* Up to and with the line's end. */
    GATHERED_END_ONLY, /* The line's end, and no key before it. */
    GATHERED_PART,     /* The input ends within the line. */
    GATHERED_BATCH,    /* The batch is full. */
    GATHERED_LONG_KEY, /* Up to a key that is too long. */
};

static inline bool
starts_with(const struct input *input, const char *text, size_t len)
{
    return (size_t)(input->end - input->at) >= len && memcmp(input->at, text, len) == 0;
}

/* Whether the id's reply carries the cas unique. */
static inline bool
shows_cas(uint8_t get_id)
{
    return get_id == COMMAND_GETS || get_id == COMMAND_GATS;
}

/* Whether it also sets the exptime. */
static inline bool
touches(uint8_t get_id)
{
    return get_id == COMMAND_GAT || get_id == COMMAND_GATS;
}

bool
get_is_next(const struct input *input)
{
    return starts_with(input, "get ", 4) || starts_with(input, "gets ", 5);
}

/* ---- gathering ------------------------------------------------------------------------------ */

static inline void
batch_add(struct protocol *protocol, const uint8_t *bytes, uint32_t len, uint8_t get_id)
{
    struct batch_key *entry = &protocol->batch.keys[protocol->batch.count++];
    key_init(protocol->store, &entry->key, bytes, len);
    store_prefetch_bucket(protocol->store, &entry->key);
    entry->get_id = get_id;
    entry->ends = false;
    if (key_may_be_own(len)) {
        protocol->batch.may_own = true;
    }
}

/* Adds the keys from *at on. *at is moved behind the line's end, or to the key that was not added.
 */
static enum gathered
gather_keys(struct protocol *protocol, const uint8_t **at, const uint8_t *end, uint8_t get_id)
{
    struct batch *batch = &protocol->batch;
    unsigned first = batch->count;
    for (;;) {
        const uint8_t *key = parse_skip_spaces(*at, end);
        const uint8_t *stop = parse_token_end(key, end);
        *at = key;
        if (stop == end) {
            return GATHERED_PART;
        }
        bool last = *stop == '\n';
        uint32_t len = (uint32_t)(stop - key);
        if (last && len > 0 && stop[-1] == '\r') {
            len--;
        }
        if (UNLIKELY(len > MEMCACHED_KEY_LEN_MAX)) {
            return GATHERED_LONG_KEY;
        }
        if (len > 0) {
            if (batch->count == BATCH_KEYS_MAX) {
                return GATHERED_BATCH;
            }
            batch_add(protocol, key, len, get_id);
        }
        *at = stop;
        if (last) {
            *at = stop + 1;
            if (batch->count == first) {
                return GATHERED_END_ONLY;
            }
            batch->keys[batch->count - 1].ends = true;
            return GATHERED_LINE;
        }
    }
}

/* Whether no key in [at, end) is too long; the last may go on behind `end`. */
static bool
keys_are_short(const uint8_t *at, const uint8_t *end)
{
    while (at < end) {
        const uint8_t *stop = parse_token_end(at, end);
        bool returned = stop < end && *stop == '\n' && stop > at && stop[-1] == '\r';
        if (stop - at > MEMCACHED_KEY_LEN_MAX + (returned ? 1 : 0)) {
            return false;
        }
        at = stop + 1;
    }
    return true;
}

/* ---- answering ------------------------------------------------------------------------------ */

/* VALUE <key> <flags> <bytes> [<cas>] */
static inline uint8_t *
write_head(uint8_t *out, const struct batch_key *entry, const struct hit *hit)
{
    memcpy(out, "VALUE ", 6);
    out = write_key(out + 6, &entry->key);
    *out++ = ' ';
    out = output_number(out, hit->client_flags);
    *out++ = ' ';
    out = output_number(out, hit->value_len);
    if (shows_cas(entry->get_id)) {
        *out++ = ' ';
        out = output_number(out, hit->cas);
    }
    memcpy(out, "\r\n", 2);
    return out + 2;
}

static const struct reply_form text_form = {write_head, "\r\n", 2};

/* A key of a gat, which reads and touches in one hold of the lock: what is stored beside it does
 * not get its exptime. `gat -1` still returns the value. */
static enum answer
answer_gat(struct protocol *protocol, const struct conn *conn, const struct batch_key *entry,
           struct tally *tally)
{
    struct view view;
    struct fetch fetch = {
        .key = entry->key,
        .wants_value = true,
        .bump = VIEW_BUMP,
        .touches = true,
        .expire = conn->expire,
    };
    switch (store_fetch(protocol->store, &fetch, &view)) {
    case FETCH_HIT:
        CHECK(answer_small(protocol, entry, &view, true, text_form));
        break;
    case FETCH_HIT_LARGE:
        if (!answer_pinned(protocol, entry, &fetch.pin, text_form)) {
            return ANSWER_WAIT;
        }
        break;
    case FETCH_MISS:
        tell_lookup(protocol, entry, WATCH_NOT_FOUND, 0, 0);
        return ANSWER_MISS;
    case FETCH_EXPIRED:
        tally->get_expired++;
        tell_lookup(protocol, entry, WATCH_EXPIRED, 0, 0);
        return ANSWER_MISS;
    case FETCH_FLUSHED:
        tally->get_flushed++;
        tell_lookup(protocol, entry, WATCH_FLUSHED, 0, 0);
        return ANSWER_MISS;
    case FETCH_WAIT:
        return ANSWER_WAIT;
    case FETCH_BUSY:
        return ANSWER_BUSY;
    }
    tell_lookup(protocol, entry, WATCH_FOUND, view.client_flags, view.value_len);
    return ANSWER_HIT;
}

static inline void
tally_key(struct tally *tally, bool hit)
{
    if (tally->touches) {
        tally->touch_hits += hit;
        tally->touch_misses += !hit;
    } else {
        tally->get_hits += hit;
        tally->get_misses += !hit;
    }
}

/* An error line takes the place of END; the command's other keys are skipped. Returns the index of
 * its last key in the batch. */
static unsigned
answer_busy(struct protocol *protocol, struct conn *conn, unsigned index)
{
    struct batch *batch = &protocol->batch;
    OUTPUT_TEXT(&protocol->output, TEXT_BUSY);
    while (index < batch->count && !batch->keys[index].ends) {
        index++;
    }
    if (index == batch->count) {
        conn->state = CONN_SKIP_LINE; /* The line goes on behind the batch. */
    }
    return index;
}

/* Between two commands what is pinned counts as waiting; within one all its values are pinned. */
static inline bool
batch_must_pause(const struct protocol *protocol, unsigned index)
{
    const struct output *output = &protocol->output;
    if (UNLIKELY(output->pinned_bytes != 0) && index > 0 && protocol->batch.keys[index - 1].ends) {
        return output_is_full(output);
    }
    return output->end - output->begin >= OUTPUT_HIGH_WATER_BYTES;
}

/* Goes on at this key later. */
static void
batch_pause(struct protocol *protocol, struct conn *conn, struct input *input, unsigned index)
{
    const struct batch_key *entry = &protocol->batch.keys[index];
    conn->state = CONN_KEYS;
    conn->get_id = entry->get_id;
    input->at = entry->key.bytes;
}

/* Behind the key's answer. */
static inline void
end_key(struct protocol *protocol, const struct batch_key *entry)
{
    if (entry->ends) {
        protocol->requests++;
        OUTPUT_TEXT(&protocol->output, "END\r\n");
    }
}

/* Answers the keys of the batch; the input already stands behind them. A batch is of get and gets,
 * or of one line of any kind. Compiled twice: only the batches that have to look for the node's own
 * keys pay for it. */
static ALWAYS_INLINE enum step
batch_answer(struct protocol *protocol, struct conn *conn, struct input *input, bool may_own)
{
    struct batch *batch = &protocol->batch;
    struct tally tally = {.touches = touches(batch->keys[0].get_id)};
    enum step step = STEP_NEXT;
    for (unsigned i = 0; i < batch->count; i++) {
        const struct batch_key *entry = &batch->keys[i];
        if (batch_must_pause(protocol, i)) {
            batch_pause(protocol, conn, input, i);
            step = STEP_FULL;
            break;
        }
        if (may_own && !tally.touches && own_get(protocol, entry, &text_form) != OWN_NOT) {
            end_key(protocol, entry);
            continue;
        }
        enum answer answer = tally.touches ? answer_gat(protocol, conn, entry, &tally)
                                           : answer_key(protocol, entry, &tally, text_form);
        if (UNLIKELY(answer == ANSWER_WAIT)) {
            batch_pause(protocol, conn, input, i);
            step = output_has_pins(&protocol->output) ? STEP_FULL : STEP_WAIT;
            break;
        }
        if (UNLIKELY(answer == ANSWER_BUSY)) {
            i = answer_busy(protocol, conn, i);
            continue;
        }
        tally_key(&tally, answer == ANSWER_HIT);
        if (detail_is_on(protocol)) {
            detail_count_get(protocol, &entry->key, answer == ANSWER_HIT);
        }
        end_key(protocol, entry);
    }
    tally_count(&tally, protocol->counters);
    return step;
}

static NEVER_INLINE enum step
batch_answer_own(struct protocol *protocol, struct conn *conn, struct input *input)
{
    return batch_answer(protocol, conn, input, true);
}

static enum step
batch_run(struct protocol *protocol, struct conn *conn, struct input *input)
{
    struct batch *batch = &protocol->batch;
    if (batch->count > 1) {
        batch_prefetch_items(protocol->store, batch);
    }
    if (UNLIKELY(batch->may_own)) {
        return batch_answer_own(protocol, conn, input);
    }
    return batch_answer(protocol, conn, input, false);
}

/* ---- lines ---------------------------------------------------------------------------------- */

/* The first line of the input is not simply a complete one of few keys: what is it? */
static enum step
execute_odd_line(struct protocol *protocol, struct conn *conn, struct input *input,
                 const uint8_t *keys, uint8_t get_id)
{
    size_t len = (size_t)(input->end - input->at);
    const uint8_t *end = len > GET_LINE_BYTES_MAX ? input->at + GET_LINE_BYTES_MAX : input->end;
    const uint8_t *feed = parse_line_feed(input->at, end);
    if (feed == NULL && len < GET_LINE_BYTES_MAX) {
        conn->scanned = (uint32_t)len;
        return STEP_MORE;
    }
    end = feed ? feed + 1 : end;
    if (!keys_are_short(keys, end)) {
        OUTPUT_TEXT(&protocol->output, TEXT_BAD_FORMAT);
        input->at = end;
        conn->state = feed ? CONN_COMMAND : CONN_SKIP_LINE;
        return STEP_NEXT;
    }
    input->at = keys;
    conn->state = CONN_KEYS;
    conn->get_id = get_id;
    return STEP_NEXT;
}

enum step
execute_gets(struct protocol *protocol, struct conn *conn, struct input *input)
{
    struct batch *batch = &protocol->batch;
    struct input rest = *input;
    batch->count = 0;
    batch->may_own = false;
    while (get_is_next(&rest)) {
        uint8_t get_id = rest.at[3] == ' ' ? COMMAND_GET : COMMAND_GETS;
        unsigned first = batch->count;
        const uint8_t *keys = rest.at + (get_id == COMMAND_GET ? 4 : 5);
        const uint8_t *at = keys;
        enum gathered gathered = gather_keys(protocol, &at, rest.end, get_id);
        if (LIKELY(gathered == GATHERED_LINE)) {
            rest.at = at;
            continue;
        }
        batch->count = first;
        if (first != 0) {
            break; /* First what came before it. */
        }
        if (gathered == GATHERED_END_ONLY) {
            OUTPUT_TEXT(&protocol->output, TEXT_BAD_FORMAT);
            input->at = at;
            return STEP_NEXT;
        }
        return execute_odd_line(protocol, conn, input, keys, get_id);
    }
    input->at = rest.at;
    return batch_run(protocol, conn, input);
}

enum step
execute_keys(struct protocol *protocol, struct conn *conn, struct input *input)
{
    struct batch *batch = &protocol->batch;
    const uint8_t *at = input->at;
    batch->count = 0;
    batch->may_own = false;
    enum gathered gathered = gather_keys(protocol, &at, input->end, conn->get_id);
    input->at = at;
    if (gathered == GATHERED_LINE || gathered == GATHERED_END_ONLY) {
        conn->state = CONN_COMMAND;
    }
    if (batch->count > 0) {
        return batch_run(protocol, conn, input);
    }
    if (gathered == GATHERED_END_ONLY) {
        OUTPUT_TEXT(&protocol->output, "END\r\n");
        return STEP_NEXT;
    }
    /* A key may still be followed by its carriage return. */
    if (gathered == GATHERED_PART && input->end - at <= MEMCACHED_KEY_LEN_MAX + 1) {
        return STEP_MORE;
    }
    OUTPUT_TEXT(&protocol->output, TEXT_BAD_FORMAT);
    conn->state = CONN_SKIP_LINE;
    return STEP_NEXT;
}

void
execute_gat(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    const struct line *line = request->line;
    int64_t exptime;
    if (!parse_exptime(line->tokens[1], &exptime)) {
        OUTPUT_TEXT(&protocol->output, TEXT_BAD_EXPTIME);
        return;
    }
    const uint8_t *keys = line->tokens[2].bytes;
    if (!keys_are_short(keys, line->next)) {
        OUTPUT_TEXT(&protocol->output, TEXT_BAD_FORMAT);
        return;
    }
    conn->expire = store_expiry(protocol->store, exptime);
    conn->state = CONN_KEYS;
    conn->get_id = (uint8_t)request->command->id;
    request->input->at = keys;
}
