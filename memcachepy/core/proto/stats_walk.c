/* `stats sizes` and `stats cachedump`: what a walk over the items finds. */
#include "proto/encode.h"
#include "proto/execute.h"
#include "proto/stats.h"
#include "store/item_walk.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- sizes ---------------------------------------------------------------------------------- */

#define SIZE_BUCKET_BYTES 32

/* A page takes about as many microseconds as it has items, divided by thirty. */
#define PAGES_PER_PIECE 32
#define PAGES_PER_SMALL_PIECE 4

/* A walk that goes on. */
struct sizes {
    uint32_t page;     /* to be visited next */
    uint64_t last;     /* of the buckets */
    uint64_t counts[]; /* [i]: items of up to i buckets */
};

static bool
count_size(void *context, const struct walked_item *item)
{
    struct sizes *sizes = context;
    uint64_t bucket = (item->bytes + SIZE_BUCKET_BYTES - 1) / SIZE_BUCKET_BYTES;
    sizes->counts[bucket < sizes->last ? bucket : sizes->last]++;
    return true;
}

/* NULL: out of memory. */
static struct sizes *
sizes_begin(struct store *store)
{
    /* The largest item is that and its header. */
    uint64_t limit = store_superblock(store)->settings.item_size_max_bytes;
    uint64_t last = limit / SIZE_BUCKET_BYTES + 16;
    struct sizes *sizes = calloc(1, sizeof(*sizes) + (last + 1) * sizeof(sizes->counts[0]));
    if (sizes != NULL) {
        sizes->last = last;
    }
    return sizes;
}

static void
add_sizes(struct stat_sink *sink, const struct sizes *sizes)
{
    for (uint64_t bucket = 0; bucket <= sizes->last; bucket++) {
        if (sizes->counts[bucket] != 0) {
            char name[24];
            snprintf(name, sizeof(name), "%llu", (unsigned long long)bucket * SIZE_BUCKET_BYTES);
            stat_add(sink, name, "%llu", (unsigned long long)sizes->counts[bucket]);
        }
    }
}

void
stats_sizes(struct stat_sink *sink, struct store *store)
{
    if (!store_superblock(store)->settings.track_sizes) {
        stat_add(sink, "sizes_status", "disabled");
        return;
    }
    struct sizes *sizes = sizes_begin(store);
    if (sizes == NULL || !store_walk_items(store, 0, count_size, sizes)) {
        stat_add(sink, "sizes_status", "error");
    } else {
        add_sizes(sink, sizes);
    }
    free(sizes);
}

bool
stats_sizes_begin(struct protocol *protocol, struct conn *conn)
{
    if (!protocol->superblock->settings.track_sizes ||
        (conn->sizes = sizes_begin(protocol->store)) == NULL) {
        return false;
    }
    conn->state = CONN_SIZES;
    return true;
}

void
stats_sizes_free(struct conn *conn)
{
    free(conn->sizes);
    conn->sizes = NULL;
}

enum step
stats_sizes_step(struct protocol *protocol, struct conn *conn)
{
    struct output *output = &protocol->output;
    struct stat_sink sink;
    uint32_t pages = protocol->small_pieces ? PAGES_PER_SMALL_PIECE : PAGES_PER_PIECE;
    switch (
        store_walk_pages(protocol->store, 0, &conn->sizes->page, pages, count_size, conn->sizes)) {
    case WALK_MORE:
        return STEP_FULL;
    case WALK_BUSY:
        OUTPUT_TEXT(output, TEXT_BUSY);
        break;
    case WALK_END:
        stat_sink_text(&sink, output);
        add_sizes(&sink, conn->sizes);
        if (!stat_end(&sink)) {
            OUTPUT_TEXT(output, "SERVER_ERROR out of memory writing stats\r\n");
        }
        break;
    }
    stats_sizes_free(conn);
    conn_await_request(conn);
    return STEP_NEXT;
}

/* ---- cachedump ------------------------------------------------------------------------------ */

#define CACHEDUMP_BYTES_MAX (2u << 20)
#define ITEM_LINE_BYTES_MAX (KEY_LEN_MAX + 64)

/* memcached's ids end here, whether there are as many classes or not. */
#define CLASS_IDS 64

struct cachedump {
    struct output *output;
    uint32_t begin;
    uint64_t left; /* items */
};

static bool
add_item_line(void *context, const struct walked_item *item)
{
    struct cachedump *dump = context;
    struct output *output = dump->output;
    if (item->key_is_binary || key_breaks_line(item->key, item->key_len)) {
        return true;
    }
    if (output->end - dump->begin > CACHEDUMP_BYTES_MAX - ITEM_LINE_BYTES_MAX) {
        return false;
    }
    char text[64];
    int len = snprintf(text, sizeof(text), " [%u b; %llu s]\r\n", item->value_len,
                       (unsigned long long)item->expires_at);
    OUTPUT_TEXT(output, "ITEM ");
    output_add(output, item->key, item->key_len);
    output_add(output, text, (size_t)len);
    return --dump->left > 0;
}

void
stats_cachedump(struct protocol *protocol, const struct line *line)
{
    struct output *output = &protocol->output;
    uint64_t class_id, limit;
    if (!store_superblock(protocol->store)->settings.dump_enabled) {
        OUTPUT_TEXT(output, "CLIENT_ERROR stats cachedump not allowed\r\n");
        return;
    }
    if (line->count < 4) {
        OUTPUT_TEXT(output, "CLIENT_ERROR bad command line\r\n");
        return;
    }
    if (!parse_u64_max(line->tokens[2], UINT32_MAX, &class_id) ||
        !parse_u64_max(line->tokens[3], UINT32_MAX, &limit)) {
        OUTPUT_TEXT(output, TEXT_BAD_FORMAT);
        return;
    }
    if (class_id >= CLASS_IDS) {
        OUTPUT_TEXT(output, "CLIENT_ERROR Illegal slab id\r\n");
        return;
    }
    /* All the room at once: none is asked for under a lock. */
    if (!output_reserve(output, CACHEDUMP_BYTES_MAX + sizeof("END\r\n"))) {
        OUTPUT_TEXT(output, "SERVER_ERROR out of memory listing slab stats\r\n");
        return;
    }
    struct cachedump dump = {
        .output = output, .begin = output->end, .left = limit == 0 ? UINT64_MAX : limit};
    if (class_id != 0 &&
        !store_walk_items(protocol->store, (uint32_t)class_id, add_item_line, &dump)) {
        output->end = dump.begin;
        OUTPUT_TEXT(output, TEXT_BUSY);
        return;
    }
    OUTPUT_TEXT(output, "END\r\n");
}
