/* `stats detail on|off|dump`, and the counting; the table is mem/prefix_table.h's. */
#include "mem/prefix_table.h"
#include "proto/detail.h"
#include "proto/encode.h"
#include "proto/stats.h"

#include <stdio.h>

#define LINE_BYTES_MAX_OF_PREFIX (PREFIX_LEN_MAX + 128)

/* ---- counting ------------------------------------------------------------------------------- */

/* NULL: the key has no prefix, or it is not counted, as one that a line of the dump cannot hold. */
static struct prefix_entry *
entry_of(struct protocol *protocol, const struct key *key)
{
    char delimiter = protocol->run->boot_settings.prefix_delimiter;
    const uint8_t *end = memchr(key->bytes, delimiter, key->len);
    if (end == NULL || key_breaks_line(key->bytes, (uint32_t)(end - key->bytes))) {
        return NULL;
    }
    return prefix_table_find(store_segment(protocol->store), key->bytes,
                             (uint32_t)(end - key->bytes));
}

static void
count(struct prefix_entry *entry, enum prefix_counter counter)
{
    if (entry != NULL) {
        atomic_fetch_add_explicit(&entry->counts[counter], 1, memory_order_relaxed);
    }
}

void
detail_count_get(struct protocol *protocol, const struct key *key, bool hit)
{
    struct prefix_entry *entry = entry_of(protocol, key);
    count(entry, PREFIX_GETS);
    if (hit) {
        count(entry, PREFIX_HITS);
    }
}

void
detail_count_set(struct protocol *protocol, const struct key *key)
{
    count(entry_of(protocol, key), PREFIX_SETS);
}

void
detail_count_delete(struct protocol *protocol, const struct key *key)
{
    count(entry_of(protocol, key), PREFIX_DELETES);
}

/* ---- the command ---------------------------------------------------------------------------- */

/* PREFIX <prefix> get <n> hit <n> set <n> del <n>. False: out of memory. */
static bool
add_line(struct output *output, const struct prefix_entry *entry)
{
    unsigned long long counts[PREFIX_COUNTERS];
    char text[LINE_BYTES_MAX_OF_PREFIX];
    if (!output_reserve(output, LINE_BYTES_MAX_OF_PREFIX + sizeof("END\r\n"))) {
        return false;
    }
    for (unsigned i = 0; i < PREFIX_COUNTERS; i++) {
        counts[i] = atomic_load_explicit(&entry->counts[i], memory_order_relaxed);
    }
    OUTPUT_TEXT(output, "PREFIX ");
    output_add(output, entry->text, entry->len);
    int len = snprintf(text, sizeof(text), " get %llu hit %llu set %llu del %llu\r\n",
                       counts[PREFIX_GETS], counts[PREFIX_HITS], counts[PREFIX_SETS],
                       counts[PREFIX_DELETES]);
    output_add(output, text, (size_t)len);
    return true;
}

bool
stats_detail_dump(struct output *output, struct store *store)
{
    uint32_t end = output->end - output->begin;
    uint32_t at = 0;
    const struct prefix_entry *entry;
    while ((entry = prefix_table_next(store_segment(store), &at)) != NULL) {
        if (!add_line(output, entry)) {
            output->end = output->begin + end;
            return false;
        }
    }
    OUTPUT_TEXT(output, "END\r\n");
    return true;
}

bool
stats_detail_switch(struct store *store, struct slice word)
{
    bool on = slice_is(word, "on");
    if (on || slice_is(word, "off")) {
        atomic_store(&store_run(store)->settings.detail_enabled, on);
        return true;
    }
    return false;
}

bool
stats_detail_packet(struct stat_sink *sink, struct store *store, struct slice part)
{
    static const char name[] = "detail ";
    struct output lines;
    if (part.len < sizeof(name) - 1 || memcmp(part.bytes, name, sizeof(name) - 1) != 0 ||
        !atomic_load_explicit(&store_run(store)->settings.dump_enabled, memory_order_relaxed)) {
        return false;
    }
    part.bytes += sizeof(name) - 1;
    part.len -= sizeof(name) - 1;
    if (!slice_is(part, "dump")) {
        return stats_detail_switch(store, part);
    }
    if (!output_init(&lines)) {
        return false;
    }
    bool dumped = stats_detail_dump(&lines, store);
    if (dumped) {
        stat_add_text(sink, "detailed", 8, (const char *)lines.bytes, lines.end);
    }
    output_free(&lines, store);
    return dumped;
}

void
stats_detail(struct protocol *protocol, const struct line *line)
{
    struct output *output = &protocol->output;
    struct slice word = line->count > 2 ? line->tokens[2] : (struct slice){0};
    if (!atomic_load_explicit(&protocol->run->settings.dump_enabled, memory_order_relaxed)) {
        OUTPUT_TEXT(output, "CLIENT_ERROR stats detail not allowed\r\n");
    } else if (slice_is(word, "dump")) {
        if (!stats_detail_dump(output, protocol->store)) {
            OUTPUT_TEXT(output, "SERVER_ERROR out of memory writing stats\r\n");
        }
    } else if (stats_detail_switch(protocol->store, word)) {
        OUTPUT_TEXT(output, "OK\r\n");
    } else {
        OUTPUT_TEXT(output, "CLIENT_ERROR usage: stats detail on|off|dump\r\n");
    }
}
