/* The kinds of get and gat, as packets, and touch.
 *
 * A client's multi-get is a run of quiet gets with a noop behind it. Like get lines, such packets
 * are gathered first, each key's bucket being fetched; then all items are fetched; then each packet
 * is answered. A batch's key lies in the input behind its own header, from where opcode, opaque and
 * exptime are read again: a batch that has to pause simply goes on at that header. */
#include "base/check.h"
#include "proto/binary.h"
#include "proto/detail.h"
#include "proto/own_keys.h"

/* The client flags are the only extras of a reply. */
#define FLAGS_BYTES 4

static inline bool
touches(uint8_t opcode)
{
    return opcode_table[opcode].extras_len != 0;
}

static inline bool
shows_key(uint8_t opcode)
{
    return opcode == OPCODE_GETK || opcode == OPCODE_GETKQ || opcode == OPCODE_GATK ||
           opcode == OPCODE_GATKQ;
}

static inline const uint8_t *
header_of(const struct batch_key *entry)
{
    return entry->key.bytes - opcode_table[entry->get_id].extras_len - PACKET_HEADER_BYTES;
}

static inline struct packet_id
id_of(const struct batch_key *entry)
{
    struct packet_id id = {.opcode = entry->get_id};
    memcpy(&id.opaque, header_of(entry) + 12, sizeof(id.opaque));
    return id;
}

/* ---- gathering ------------------------------------------------------------------------------ */

static void
gather(struct protocol *protocol, struct input *input)
{
    struct batch *batch = &protocol->batch;
    struct packet packet;
    batch->count = 0;
    batch->may_own = false;
    while (batch->count < BATCH_KEYS_MAX && packet_parse(input, &packet) == PACKET_OK) {
        uint8_t opcode = packet.id.opcode;
        if (opcode >= OPCODE_COUNT || !opcode_table[opcode].known ||
            opcode_table[opcode].handler != NULL ||
            !packet_is_sound(&packet, &opcode_table[opcode])) {
            break;
        }
        struct batch_key *entry = &batch->keys[batch->count++];
        key_init(protocol->store, &entry->key, packet.key, packet.key_len);
        store_prefetch_bucket(protocol->store, &entry->key);
        entry->get_id = opcode;
        if (key_may_be_own(packet.key_len)) {
            batch->may_own = true;
        }
        input->at = packet.key + packet.key_len;
    }
}

/* ---- answering ------------------------------------------------------------------------------ */

static inline uint8_t *
write_head(uint8_t *out, const struct batch_key *entry, const struct hit *hit)
{
    uint32_t key_len = shows_key(entry->get_id) ? entry->key.len : 0;
    struct reply reply = {.extras_len = FLAGS_BYTES,
                          .key_len = key_len,
                          .body_len = FLAGS_BYTES + key_len + hit->value_len,
                          .cas = hit->cas};
    out = write_reply_header(out, id_of(entry), reply);
    write_u32(out, hit->client_flags);
    out += FLAGS_BYTES;
    return key_len != 0 ? write_key(out, &entry->key) : out;
}

static const struct reply_form packet_form = {write_head, "", 0};

/* A miss is silent, names the key, or says that there is none. */
static void
answer_miss(struct protocol *protocol, const struct batch_key *entry)
{
    if (opcode_table[entry->get_id].quiet) {
        return;
    }
    if (!shows_key(entry->get_id)) {
        add_error(protocol, id_of(entry), STATUS_NOT_FOUND);
        return;
    }
    struct reply reply = {
        .status = STATUS_NOT_FOUND, .key_len = entry->key.len, .body_len = entry->key.len};
    add_reply(protocol, id_of(entry), reply, entry->key.bytes);
}

/* A gat: reads and touches in one hold of the lock. The value is returned though it expires now. */
static enum answer
answer_gat(struct protocol *protocol, const struct batch_key *entry)
{
    struct view view;
    struct fetch fetch = {
        .key = entry->key,
        .wants_value = true,
        .bump = VIEW_BUMP,
        .touches = true,
        .expire = read_expiry(protocol->store, header_of(entry) + PACKET_HEADER_BYTES),
    };
    watch_lookup(protocol, &fetch.key);
    switch (store_fetch(protocol->store, &fetch, &view)) {
    case FETCH_HIT:
        CHECK(answer_small(protocol, entry, &view, true, packet_form));
        return ANSWER_HIT;
    case FETCH_HIT_LARGE:
        return answer_pinned(protocol, entry, &fetch.pin, packet_form) ? ANSWER_HIT : ANSWER_WAIT;
    case FETCH_MISS:
    case FETCH_EXPIRED:
    case FETCH_FLUSHED:
        return ANSWER_MISS;
    case FETCH_WAIT:
        return ANSWER_WAIT;
    case FETCH_BUSY:
        return ANSWER_BUSY;
    }
    return ANSWER_BUSY;
}

/* A get of one of the node's own keys. False: it is to be answered like any other. */
static bool
answer_own(struct protocol *protocol, const struct batch_key *entry)
{
    if (touches(entry->get_id) || output_is_full(&protocol->output)) {
        return false;
    }
    switch (own_get(protocol, entry, &packet_form)) {
    case OWN_NOT:
        return false;
    case OWN_MISS:
        answer_miss(protocol, entry);
        break;
    case OWN_HIT:
        break;
    }
    protocol->requests++;
    return true;
}

static inline void
tally_entry(struct tally *tally, uint8_t opcode, bool hit)
{
    if (touches(opcode)) {
        tally->touch_hits += hit;
        tally->touch_misses += !hit;
    } else {
        tally->get_hits += hit;
        tally->get_misses += !hit;
    }
}

/* Answers the packets of the batch. Compiled twice: only the batches that have to look for the
 * node's own keys pay for it. */
static ALWAYS_INLINE enum step
batch_answer(struct protocol *protocol, struct input *input, bool may_own)
{
    struct batch *batch = &protocol->batch;
    struct output *output = &protocol->output;
    struct tally tally = {0};
    enum step step = STEP_NEXT;
    for (unsigned i = 0; i < batch->count && step == STEP_NEXT; i++) {
        const struct batch_key *entry = &batch->keys[i];
        if (may_own && answer_own(protocol, entry)) {
            continue;
        }
        enum answer answer = output_is_full(output) ? ANSWER_WAIT
                             : touches(entry->get_id)
                                 ? answer_gat(protocol, entry)
                                 : answer_key(protocol, entry, &tally, packet_form);
        switch (answer) {
        case ANSWER_HIT:
            break;
        case ANSWER_MISS:
            answer_miss(protocol, entry);
            break;
        case ANSWER_BUSY:
            add_error(protocol, id_of(entry), STATUS_BUSY);
            break;
        case ANSWER_WAIT:
            input->at = header_of(entry);
            step = output_is_full(output) || output_has_pins(output) ? STEP_FULL : STEP_WAIT;
            continue;
        }
        protocol->requests++;
        if (answer != ANSWER_BUSY) {
            tally_entry(&tally, entry->get_id, answer == ANSWER_HIT);
            if (detail_is_on(protocol)) {
                detail_count_get(protocol, &entry->key, answer == ANSWER_HIT);
            }
        }
    }
    tally_count(&tally, protocol->counters);
    return step;
}

static NEVER_INLINE enum step
batch_answer_own(struct protocol *protocol, struct input *input)
{
    return batch_answer(protocol, input, true);
}

enum step
binary_gets(struct protocol *protocol, struct conn *conn, struct input *input)
{
    (void)conn;
    struct batch *batch = &protocol->batch;
    gather(protocol, input);
    if (batch->count > 1) {
        batch_prefetch_items(protocol->store, batch);
    }
    if (UNLIKELY(batch->may_own)) {
        return batch_answer_own(protocol, input);
    }
    return batch_answer(protocol, input, false);
}

/* ---- touch ---------------------------------------------------------------------------------- */

static void
count_touch(struct protocol *protocol, const struct key *key, bool hit)
{
    COUNT(protocol->counters, cmd_touch);
    counter_add(protocol->counters, hit ? COUNTER_touch_hits : COUNTER_touch_misses, 1);
    if (detail_is_on(protocol)) {
        detail_count_get(protocol, key, hit);
    }
}

static void
reply_touched(struct protocol *protocol, struct packet_id id, const struct view *view)
{
    uint8_t flags[FLAGS_BYTES];
    struct reply reply = {.extras_len = FLAGS_BYTES, .body_len = FLAGS_BYTES, .cas = view->cas};
    write_u32(flags, view->client_flags);
    add_reply(protocol, id, reply, flags);
}

enum step
packet_touch(struct protocol *protocol, struct conn *conn, const struct packet *packet,
             struct input *input)
{
    (void)conn;
    (void)input;
    struct view view;
    struct fetch fetch = {
        .bump = VIEW_BUMP,
        .touches = true,
        .expire = read_expiry(protocol->store, packet->extras),
    };
    key_init(protocol->store, &fetch.key, packet->key, packet->key_len);
    watch_lookup(protocol, &fetch.key);
    switch (store_fetch(protocol->store, &fetch, &view)) {
    case FETCH_HIT:
        reply_touched(protocol, packet->id, &view);
        CHECK(store_view_confirm(protocol->store, &view, VIEW_BUMP));
        break;
    case FETCH_HIT_LARGE:
        reply_touched(protocol, packet->id, &view);
        break;
    case FETCH_MISS:
    case FETCH_EXPIRED:
    case FETCH_FLUSHED:
        count_touch(protocol, &fetch.key, false);
        add_error(protocol, packet->id, STATUS_NOT_FOUND);
        return STEP_NEXT;
    case FETCH_WAIT:
    case FETCH_BUSY:
        add_error(protocol, packet->id, STATUS_BUSY);
        return STEP_NEXT;
    }
    count_touch(protocol, &fetch.key, true);
    return STEP_NEXT;
}
