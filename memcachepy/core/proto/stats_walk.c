/* `stats sizes` and `stats cachedump`: what a walk over the items finds. */
#include "proto/execute.h"
#include "proto/stats.h"
#include "store/item_walk.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- sizes ---------------------------------------------------------------------------------- */

#define SIZE_BUCKET_BYTES 32

struct sizes {
    uint64_t *counts; /* [i]: items of up to i buckets */
    uint64_t last;
};

static bool
count_size(void *context, const struct walked_item *item)
{
    struct sizes *sizes = context;
    uint64_t bucket = (item->bytes + SIZE_BUCKET_BYTES - 1) / SIZE_BUCKET_BYTES;
    sizes->counts[bucket < sizes->last ? bucket : sizes->last]++;
    return true;
}

void
stats_sizes(struct stat_sink *sink, struct store *store)
{
    const struct segment_settings *settings = &store_superblock(store)->settings;
    if (!settings->track_sizes) {
        stat_add(sink, "sizes_status", "disabled");
        return;
    }
    /* The largest item is that and its header. */
    struct sizes sizes = {.last = settings->item_size_max_bytes / SIZE_BUCKET_BYTES + 16};
    sizes.counts = calloc(sizes.last + 1, sizeof(sizes.counts[0]));
    if (sizes.counts == NULL || !store_walk_items(store, 0, count_size, &sizes)) {
        stat_add(sink, "sizes_status", "error");
        free(sizes.counts);
        return;
    }
    for (uint64_t bucket = 0; bucket <= sizes.last; bucket++) {
        if (sizes.counts[bucket] != 0) {
            char name[24];
            snprintf(name, sizeof(name), "%llu", (unsigned long long)bucket * SIZE_BUCKET_BYTES);
            stat_add(sink, name, "%llu", (unsigned long long)sizes.counts[bucket]);
        }
    }
    free(sizes.counts);
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
    if (item->key_is_binary) {
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
