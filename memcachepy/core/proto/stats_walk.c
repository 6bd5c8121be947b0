/* `stats sizes` and `stats cachedump`: what a walk over the items finds.
 *
 * Each is a state of its connection, as a dump is (crawl.c): a step visits some pages, and others
 * are served before the next one. */
#include "proto/encode.h"
#include "proto/execute.h"
#include "proto/stats.h"
#include "store/item_walk.h"

#include <stdio.h>
#include <stdlib.h>

/* A page takes about as many microseconds as it has items, divided by thirty. */
#define PAGES_PER_PIECE 32
#define PAGES_PER_SMALL_PIECE 4

struct stats_walk {
    uint32_t page;     /* to be visited next */
    uint32_t class_id; /* of cachedump; 0: sizes are counted */
    /* cachedump */
    struct output *output;
    uint64_t items_left, bytes_left;
    /* sizes */
    uint64_t last;     /* of the buckets */
    uint64_t counts[]; /* [i]: items of up to i buckets */
};

void
stats_walk_free(struct conn *conn)
{
    free(conn->walk);
    conn->walk = NULL;
}

/* ---- sizes ---------------------------------------------------------------------------------- */

#define SIZE_BUCKET_BYTES 32

static bool
count_size(void *context, const struct walked_item *item)
{
    struct stats_walk *sizes = context;
    uint64_t bucket = (item->bytes + SIZE_BUCKET_BYTES - 1) / SIZE_BUCKET_BYTES;
    sizes->counts[bucket < sizes->last ? bucket : sizes->last]++;
    return true;
}

/* NULL: out of memory. */
static struct stats_walk *
sizes_begin(struct store *store)
{
    /* The largest item is that and its header. */
    uint64_t limit = store_run(store)->boot_settings.item_size_max_bytes;
    uint64_t last = limit / SIZE_BUCKET_BYTES + 16;
    struct stats_walk *sizes = calloc(1, sizeof(*sizes) + (last + 1) * sizeof(sizes->counts[0]));
    if (sizes != NULL) {
        sizes->last = last;
    }
    return sizes;
}

static void
add_sizes(struct stat_sink *sink, const struct stats_walk *sizes)
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
    if (!store_run(store)->boot_settings.track_sizes) {
        stat_add(sink, "sizes_status", "disabled");
        return;
    }
    struct stats_walk *sizes = sizes_begin(store);
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
    if (!protocol->run->boot_settings.track_sizes ||
        (conn->walk = sizes_begin(protocol->store)) == NULL) {
        return false;
    }
    conn->state = CONN_WALK;
    return true;
}

static void
sizes_end(struct output *output, const struct stats_walk *sizes)
{
    struct stat_sink sink;
    stat_sink_text(&sink, output);
    add_sizes(&sink, sizes);
    if (!stat_end(&sink)) {
        OUTPUT_TEXT(output, "SERVER_ERROR out of memory writing stats\r\n");
    }
}

/* ---- cachedump ------------------------------------------------------------------------------ */

#define CACHEDUMP_BYTES_MAX (2u << 20)
#define ITEM_LINE_BYTES_MAX (MEMCACHED_KEY_LEN_MAX + 64)

/* memcached's ids end here, whether there are as many classes or not. */
#define CLASS_IDS 64

static bool
add_item_line(void *context, const struct walked_item *item)
{
    struct stats_walk *dump = context;
    struct output *output = dump->output;
    if (item->key_is_binary || key_breaks_line(item->key, item->key_len)) {
        return true;
    }
    if (dump->bytes_left < ITEM_LINE_BYTES_MAX) {
        return false;
    }
    char text[64];
    int len = snprintf(text, sizeof(text), " [%u b; %llu s]\r\n", item->value_len,
                       (unsigned long long)item->expires_at);
    uint32_t begin = output->end;
    OUTPUT_TEXT(output, "ITEM ");
    output_add(output, item->key, item->key_len);
    output_add(output, text, (size_t)len);
    dump->bytes_left -= output->end - begin;
    return --dump->items_left > 0;
}

void
stats_cachedump_begin(struct protocol *protocol, struct conn *conn, const struct line *line)
{
    struct output *output = &protocol->output;
    uint64_t class_id, limit;
    if (!atomic_load_explicit(&store_run(protocol->store)->settings.dump_enabled,
                              memory_order_relaxed)) {
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
    if (class_id == 0) {
        OUTPUT_TEXT(output, "END\r\n");
        return;
    }
    struct stats_walk *dump = malloc(sizeof(*dump));
    if (dump == NULL) {
        OUTPUT_TEXT(output, "SERVER_ERROR out of memory listing slab stats\r\n");
        return;
    }
    *dump = (struct stats_walk){.class_id = (uint32_t)class_id,
                                .items_left = limit == 0 ? UINT64_MAX : limit,
                                .bytes_left = CACHEDUMP_BYTES_MAX};
    conn->walk = dump;
    conn->state = CONN_WALK;
}

/* ---- steps ---------------------------------------------------------------------------------- */

static enum walk_result
visit_pages(struct protocol *protocol, struct stats_walk *walk)
{
    uint32_t pages = protocol->small_pieces ? PAGES_PER_SMALL_PIECE : PAGES_PER_PIECE;
    walked_fn *visit = walk->class_id == 0 ? count_size : add_item_line;
    walk->output = &protocol->output;
    return store_walk_pages(protocol->store, walk->class_id, &walk->page, pages, visit, walk);
}

enum step
stats_walk_step(struct protocol *protocol, struct conn *conn)
{
    struct output *output = &protocol->output;
    struct stats_walk *walk = conn->walk;
    /* All the room that the lines may take: none is asked for under a lock. */
    if (!output_reserve(output, walk->bytes_left + sizeof("END\r\n"))) {
        return STEP_CLOSE;
    }
    switch (visit_pages(protocol, walk)) {
    case WALK_MORE:
        return STEP_FULL;
    case WALK_BUSY:
        OUTPUT_TEXT(output, TEXT_BUSY);
        break;
    case WALK_END:
        if (walk->class_id == 0) {
            sizes_end(output, walk);
        } else {
            OUTPUT_TEXT(output, "END\r\n");
        }
        break;
    }
    stats_walk_free(conn);
    conn_await_request(conn);
    return STEP_NEXT;
}
