/* lru_crawler crawl, metadump and mgdump.
 *
 * A dump is a state of its connection: each step makes one piece of output, and the next one is
 * made when that has been sent and others have had their turn. So a dump holds a cursor and at most
 * one piece, however many keys there are and however slowly they are read. Any number may go on.
 *
 * A crawl is done by the maintainer, whose sweep then looks at every item of the classes. */
#include "proto/crawl.h"

#include "proto/encode.h"
#include "store/dump.h"

#include <stdlib.h>

/* What one step makes and, where little is to be told, looks at. */
#define PIECE_BYTES (16u << 10)
#define LOOKS_PER_PIECE 32
#define SMALL_PIECE_BYTES (8u << 10)
#define LOOKS_PER_SMALL_PIECE 16
#define LINE_BYTES_LONGEST 1024u

/* memcached's ids end here, whether there are as many classes or not. */
#define CLASS_IDS 64
#define ALL_CLASSES UINT64_MAX

struct dump {
    struct dump_cursor cursor;
    uint64_t classes; /* bit by class id */
    bool keys_only;   /* mgdump */
    struct dump_item items[DUMP_ITEMS_MAX];
};

/* "all", "hash", or numbers with commas; false for anything else. */
static bool
parse_classes(struct slice token, uint64_t *classes)
{
    if (slice_is(token, "all") || slice_is(token, "hash")) {
        *classes = ALL_CLASSES;
        return true;
    }
    const uint8_t *at = token.bytes;
    const uint8_t *end = token.bytes + token.len;
    *classes = 0;
    while (at < end) {
        const uint8_t *comma = memchr(at, ',', (size_t)(end - at));
        const uint8_t *stop = comma != NULL ? comma : end;
        uint64_t class_id;
        if (stop > at) {
            if (!parse_u64_max((struct slice){at, (uint32_t)(stop - at)}, CLASS_IDS - 1,
                               &class_id) ||
                class_id == 0) {
                return false;
            }
            *classes |= UINT64_C(1) << class_id;
        }
        at = stop + 1;
    }
    return true;
}

/* ---- lines ---------------------------------------------------------------------------------- */

#define TEXT(out, text) (memcpy((out), (text), sizeof(text) - 1), (out) + sizeof(text) - 1)

/* key= exp= la= cas= fetch= cls= size= flags=, in memcached's order and spelling. */
static uint8_t *
write_metadump(uint8_t *out, const struct dump_item *item)
{
    out = TEXT(out, "key=");
    out = encode_uri(out, item->key, item->key_len);
    out = TEXT(out, " exp=");
    out = item->expires_at < 0 ? TEXT(out, "-1") : output_number(out, (uint64_t)item->expires_at);
    out = TEXT(out, " la=");
    out = output_number(out, item->accessed_at);
    out = TEXT(out, " cas=");
    out = output_number(out, item->cas);
    out = item->fetched ? TEXT(out, " fetch=yes cls=") : TEXT(out, " fetch=no cls=");
    out = output_number(out, item->class_id);
    out = TEXT(out, " size=");
    out = output_number(out, item->bytes);
    out = TEXT(out, " flags=");
    out = output_number(out, item->client_flags);
    return TEXT(out, " \n");
}

/* A line that can be sent as it is to ask for the item; but a key of more than 186 bytes is too
 * long in base64. */
static uint8_t *
write_mgdump(uint8_t *out, const struct dump_item *item)
{
    out = TEXT(out, "mg ");
    if (item->key_is_binary || key_breaks_line(item->key, item->key_len)) {
        out = encode_base64(out, item->key, item->key_len);
        return TEXT(out, " b\r\n");
    }
    memcpy(out, item->key, item->key_len);
    return TEXT(out + item->key_len, "\r\n");
}

static void
write_items(struct output *output, const struct dump *dump, unsigned count)
{
    uint8_t *out = output->bytes + output->end;
    for (unsigned i = 0; i < count; i++) {
        const struct dump_item *item = &dump->items[i];
        out = dump->keys_only ? write_mgdump(out, item) : write_metadump(out, item);
    }
    output->end = (uint32_t)(out - output->bytes);
}

/* ---- dumps ---------------------------------------------------------------------------------- */

void
crawl_dump_free(struct protocol *protocol, struct conn *conn)
{
    if (conn->dump != NULL) {
        store_count_dumps(protocol->store, -1);
        free(conn->dump);
        conn->dump = NULL;
    }
}

/* The last line, and the connection takes commands again. */
static enum step
dump_end(struct protocol *protocol, struct conn *conn, enum dump_result result)
{
    if (result == DUMP_BUSY) {
        OUTPUT_TEXT(&protocol->output, TEXT_BUSY);
    } else if (conn->dump->keys_only) {
        OUTPUT_TEXT(&protocol->output, "EN\r\n");
    } else {
        OUTPUT_TEXT(&protocol->output, "END\r\n");
    }
    crawl_dump_free(protocol, conn);
    conn->state = CONN_COMMAND;
    return STEP_NEXT;
}

enum step
crawl_dump_step(struct protocol *protocol, struct conn *conn)
{
    struct output *output = &protocol->output;
    struct dump *dump = conn->dump;
    bool small = protocol->small_pieces;
    uint32_t looks = small ? LOOKS_PER_SMALL_PIECE : LOOKS_PER_PIECE;
    uint32_t end = output->end + (small ? SMALL_PIECE_BYTES : PIECE_BYTES);
    for (uint32_t i = 0; i < looks && output->end < end; i++) {
        unsigned count;
        if (!output_reserve(output, (size_t)DUMP_ITEMS_MAX * LINE_BYTES_LONGEST)) {
            return STEP_CLOSE;
        }
        enum dump_result result =
            store_dump(protocol->store, &dump->cursor, dump->classes, dump->items, &count);
        if (result != DUMP_MORE) {
            return dump_end(protocol, conn, result);
        }
        write_items(output, dump, count);
    }
    return STEP_FULL;
}

static void
dump_begin(struct protocol *protocol, struct conn *conn, const struct request *request,
           uint64_t classes, bool keys_only)
{
    struct dump *dump = malloc(sizeof(*dump));
    if (dump == NULL) {
        OUTPUT_TEXT(&protocol->output, "ERROR an unknown error happened\r\n");
        return;
    }
    *dump = (struct dump){.classes = classes, .keys_only = keys_only};
    conn->dump = dump;
    conn->state = CONN_DUMP;
    store_count_dumps(protocol->store, 1);
    COUNT(protocol->counters, lru_crawler_starts);
    REPLY(protocol, request->noreply, "OK\r\n");
}

static void
execute_dump(struct protocol *protocol, struct conn *conn, const struct request *request,
             bool keys_only)
{
    struct output *output = &protocol->output;
    const struct segment_settings *settings = &store_run(protocol->store)->settings;
    uint64_t classes;
    if (!atomic_load_explicit(&settings->lru_crawler, memory_order_relaxed)) {
        OUTPUT_TEXT(output, "CLIENT_ERROR lru crawler disabled\r\n");
    } else if (!atomic_load_explicit(&settings->dump_enabled, memory_order_relaxed) && keys_only) {
        OUTPUT_TEXT(output, "ERROR key dump not allowed\r\n");
    } else if (!atomic_load_explicit(&settings->dump_enabled, memory_order_relaxed)) {
        OUTPUT_TEXT(output, "ERROR metadump not allowed\r\n");
    } else if (!output_is_empty(output) && keys_only) {
        OUTPUT_TEXT(output, "ERROR cannot pipeline other commands before mgdump\r\n");
    } else if (!output_is_empty(output)) {
        OUTPUT_TEXT(output, "ERROR cannot pipeline other commands before metadump\r\n");
    } else if (!parse_classes(request->line->tokens[2], &classes)) {
        OUTPUT_TEXT(output, "BADCLASS invalid class id\r\n");
    } else if (classes == 0) {
        OUTPUT_TEXT(output, "NOTSTARTED no items to crawl\r\n");
    } else {
        dump_begin(protocol, conn, request, classes, keys_only);
    }
}

/* ---- crawls --------------------------------------------------------------------------------- */

static void
execute_crawl(struct protocol *protocol, const struct request *request)
{
    struct run_head *run = store_run(protocol->store);
    uint64_t none = 0;
    uint64_t classes;
    if (!atomic_load_explicit(&run->settings.lru_crawler, memory_order_relaxed)) {
        REPLY(protocol, request->noreply, "CLIENT_ERROR lru crawler disabled\r\n");
    } else if (!parse_classes(request->line->tokens[2], &classes)) {
        REPLY(protocol, request->noreply, "BADCLASS invalid class id\r\n");
    } else if (classes == 0) {
        REPLY(protocol, request->noreply, "NOTSTARTED no items to crawl\r\n");
    } else if (!atomic_compare_exchange_strong(&run->crawl_classes, &none, classes)) {
        REPLY(protocol, request->noreply, "BUSY currently processing crawler request\r\n");
    } else {
        COUNT(protocol->counters, lru_crawler_starts);
        REPLY(protocol, request->noreply, "OK\r\n");
    }
}

bool
crawl_execute(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    struct slice what = request->line->tokens[1];
    if (slice_is(what, "crawl")) {
        execute_crawl(protocol, request);
    } else if (slice_is(what, "metadump")) {
        execute_dump(protocol, conn, request, false);
    } else if (slice_is(what, "mgdump")) {
        execute_dump(protocol, conn, request, true);
    } else {
        return false;
    }
    return true;
}
