/* md, ma, me and mn: one key, one lock, one line. */
#include "proto/encode.h"
#include "proto/meta.h"
#include "proto/detail.h"
#include "proto/watch_log.h"

#include <inttypes.h>
#include <stdio.h>

/* Parses a line whose flags follow its key; what is wrong is answered. */
static bool
parse_or_answer(struct protocol *protocol, const struct request *request, uint8_t *decoded,
                struct meta *meta)
{
    const char *error = meta_parse(protocol, request->line, 2, decoded, meta);
    if (error != NULL) {
        meta_reply_text(protocol, error);
    }
    return error == NULL;
}

void
execute_meta_delete(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    struct meta meta;
    uint8_t decoded[META_KEY_BUFFER_BYTES];
    if (!parse_or_answer(protocol, request, decoded, &meta)) {
        return;
    }
    struct removal removal = {
        .key = meta.key,
        .if_cas = meta_cas_option(&meta, 'C', meta.cas),
        .empties = meta_has(&meta, 'x'),
        .client_flags = meta_has(&meta, 'F') ? meta.client_flags : 0,
        .expire = meta_expiry(protocol, &meta, 'T', meta.exptime),
        .by_meta = true,
        .invalidates = meta_has(&meta, 'I'),
        .sets_expire = meta_has(&meta, 'T'),
        .cas_given = meta_cas_option(&meta, 'E', meta.cas_given),
    };
    watch_lookup(protocol, &meta.key);
    detail_delete(protocol, &meta.key);
    switch (store_remove(protocol->store, &removal)) {
    case REMOVE_DONE:
        if (!removal.invalidates) {
            COUNT(protocol->counters, delete_hits);
        }
        if (!meta_has(&meta, 'q')) {
            meta_reply_code(protocol, &meta, "HD");
        }
        return;
    case REMOVE_NOT_FOUND:
        COUNT(protocol->counters, delete_misses);
        meta_reply_code(protocol, &meta, "NF");
        return;
    case REMOVE_EXISTS:
        COUNT(protocol->counters, delete_misses);
        meta_reply_code(protocol, &meta, "EX");
        return;
    case REMOVE_NO_MEMORY:
        meta_reply_text(protocol, "SERVER_ERROR out of memory\r\n");
        return;
    case REMOVE_BUSY:
        meta_reply_text(protocol, TEXT_BUSY);
        return;
    }
}

/* ---- ma ------------------------------------------------------------------------------------- */

/* Up or down. False: there is no such mode. */
static bool
direction_of(const struct meta *meta, bool *increment)
{
    uint8_t mode = meta_has(meta, 'M') ? meta->mode : 'I';
    *increment = mode == 'I' || mode == '+';
    return *increment || mode == 'D' || mode == '-';
}

/* The last of N and T in the line says when what is created expires. */
static struct expiry
create_expiry(const struct protocol *protocol, const struct meta *meta)
{
    struct expiry expire = {0};
    for (unsigned i = 0; i < meta->reply_count; i++) {
        if (meta->reply_order[i] == 'N') {
            expire = store_expiry(protocol->store, meta->create_exptime);
        } else if (meta->reply_order[i] == 'T') {
            expire = store_expiry(protocol->store, meta->exptime);
        }
    }
    return expire;
}

/* As mg: `t` tells what the flags before it have made of the ttl. */
static void
reply_number(struct protocol *protocol, const struct meta *meta, const struct arith *arith)
{
    struct output *output = &protocol->output;
    uint8_t *out = output->bytes + output->end;
    char number[U64_DECIMAL_LEN_MAX];
    unsigned len = number_format_u64(arith->number, number);
    uint32_t expire_word = arith->expire_word_before;
    bool value = meta_has(meta, 'v');
    memcpy(out, value ? "VA " : "HD", 3);
    out = value ? output_number(out + 3, len) : out + 2;
    for (unsigned i = 0; i < meta->reply_count; i++) {
        switch (meta->reply_order[i]) {
        case 'T':
            expire_word = store_expiry(protocol->store, meta->exptime).word;
            break;
        case 'N':
            if (arith->created) {
                expire_word = store_expiry(protocol->store, meta->create_exptime).word;
            }
            break;
        case 'c':
            out = meta_write_number(out, 'c', arith->cas);
            break;
        case 't':
            out = meta_write_ttl(out, protocol, expire_word);
            break;
        case 'O':
            out = meta_write_opaque(out, meta->opaque.bytes, meta->opaque.len);
            break;
        case 'k':
            out = meta_write_key(out, &meta->key, meta->binary);
            break;
        }
    }
    memcpy(out, "\r\n", 2);
    out += 2;
    if (value) {
        memcpy(out, number, len);
        memcpy(out + len, "\r\n", 2);
        out += len + 2;
    }
    output->end = (uint32_t)(out - output->bytes);
}

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
execute_meta_arith(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    struct meta meta;
    uint8_t decoded[META_KEY_BUFFER_BYTES];
    bool increment;
    if (!parse_or_answer(protocol, request, decoded, &meta)) {
        return;
    }
    if (!direction_of(&meta, &increment)) {
        meta_reply_text(protocol, "CLIENT_ERROR invalid mode for ma M token\r\n");
        return;
    }
    struct arith arith = {
        .key = meta.key,
        .increment = increment,
        .delta = meta_has(&meta, 'D') ? meta.delta : 1,
        .creates = meta_has(&meta, 'N'),
        .initial = meta_has(&meta, 'J') ? meta.initial : 0,
        .create_expire = create_expiry(protocol, &meta),
        .touches = meta_has(&meta, 'T'),
        .expire = meta_expiry(protocol, &meta, 'T', meta.exptime),
        .cas_given = meta_cas_option(&meta, 'E', meta.cas_given),
    };
    /* A cas of 0 is no condition here. */
    if (meta_has(&meta, 'C') && meta.cas != 0) {
        arith.if_cas = meta_cas_option(&meta, 'C', meta.cas);
    }
    watch_lookup(protocol, &meta.key);
    switch (store_arith_with(protocol->store, &arith)) {
    case ARITH_DONE:
        if (!arith.created) {
            count_arith(protocol->counters, increment, true);
        }
        if (!meta_has(&meta, 'q')) {
            reply_number(protocol, &meta, &arith);
        }
        return;
    case ARITH_NOT_FOUND:
        count_arith(protocol->counters, increment, false);
        meta_reply_code(protocol, &meta, "NF");
        return;
    case ARITH_NOT_A_NUMBER:
        meta_reply_text(protocol,
                        "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
        return;
    case ARITH_EXISTS:
        meta_reply_code(protocol, &meta, "EX");
        return;
    case ARITH_NO_MEMORY:
        if (!arith.created) {
            count_arith(protocol->counters, increment, true);
        }
        meta_reply_text(protocol, arith.created
                                      ? "SERVER_ERROR Out of memory allocating new item\r\n"
                                      : "SERVER_ERROR out of memory\r\n");
        return;
    case ARITH_BUSY:
        meta_reply_text(protocol, TEXT_BUSY);
        return;
    }
}

/* ---- me and mn ------------------------------------------------------------------------------ */

/* ME <key> exp=<ttl> la=<seconds> cas=<unique> fetch=<yes or no> cls=<class> size=<bytes> */
static void
reply_debug(struct protocol *protocol, const struct key *key, const struct fetch *fetch,
            const struct view *view)
{
    struct output *output = &protocol->output;
    uint8_t *out = output->bytes + output->end;
    memcpy(out, "ME ", 3);
    out += 3;
    if (view->bits & MARK_BINARY_KEY || key_breaks_line(key->bytes, key->len)) {
        out = encode_base64(out, key->bytes, key->len);
    } else {
        memcpy(out, key->bytes, key->len);
        out += key->len;
    }
    int len = snprintf((char *)out, 200,
                       " exp=%" PRId64 " la=%" PRIu32 " cas=%" PRIu64 " fetch=%s cls=%" PRIu32
                       " size=%" PRIu64 "\r\n",
                       store_ttl_s(protocol->store, view->expire_word), fetch->idle_s, view->cas,
                       fetch->was_fetched ? "yes" : "no", view_class_id(protocol->store, view),
                       view_item_bytes(view, key));
    output->end = (uint32_t)(out + len - output->bytes);
}

void
execute_meta_debug(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    const struct line *line = request->line;
    struct slice key = line->tokens[1];
    uint8_t decoded[META_KEY_BUFFER_BYTES];
    COUNT(protocol->counters, cmd_meta);
    if (key.len > MEMCACHED_KEY_LEN_MAX) {
        meta_reply_text(protocol, TEXT_BAD_FORMAT);
        return;
    }
    if (line->count > 2 && slice_is(line->tokens[2], "b")) {
        key.len = meta_decode_key(key, decoded);
        key.bytes = decoded;
        if (key.len == 0) {
            meta_reply_text(protocol, TEXT_BAD_FORMAT);
            return;
        }
    }
    struct fetch fetch = {.bump = VIEW_PEEK};
    struct view view;
    key_init(protocol->store, &fetch.key, key.bytes, key.len);
    switch (store_fetch(protocol->store, &fetch, &view)) {
    case FETCH_HIT:
    case FETCH_HIT_LARGE:
        reply_debug(protocol, &fetch.key, &fetch, &view);
        if (view.locked) {
            (void)!store_view_confirm(protocol->store, &view, VIEW_PEEK);
        }
        return;
    case FETCH_MISS:
    case FETCH_EXPIRED:
    case FETCH_FLUSHED:
    case FETCH_WAIT: /* Only for a value. */
        meta_reply_text(protocol, "EN\r\n");
        return;
    case FETCH_BUSY:
        meta_reply_text(protocol, TEXT_BUSY);
        return;
    }
}

/* All replies of what one read brought leave together: nothing is held back that it would have to
 * push. */
void
execute_meta_noop(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    (void)request;
    OUTPUT_TEXT(&protocol->output, "MN\r\n");
}
