/* The `watch` command.
 *
 * A watching connection lives in one worker. That worker reads the log rings of all processes
 * (mem/logring.h), puts the entries into the order of their gid, makes one line of each and appends
 * it to a buffer of every connection that watches its class. What does not fit the buffer of a slow
 * one, and what was written over in a ring before it was read, is counted, and told before the next
 * line as `skipped=`. Nothing is read, formatted or held while nobody watches. */
#include "proto/watch.h"

#include "mem/logring.h"
#include "proto/encode.h"
#include "proto/execute.h"
#include "store/own.h"

#include <stdio.h>
#include <stdlib.h>

/* Of one call of watch_collect(). */
#define ENTRIES_MAX 1024

/* A key of 250 bytes takes three times as many. */
#define LINE_BYTES_LONGEST 1024
#define SKIPPED_BYTES_LONGEST 40

/* Moved to the output at a time. */
#define OUTPUT_BYTES_MOVED (64u << 10)

/* Our usec has six digits always; memcached's loses its leading zeros. */
#define HEAD_FORMAT "ts=%llu.%06u gid=%llu type="

struct watcher {
    const struct conn *conn;
    uint32_t classes;
    uint64_t from_gid; /* Later entries are for it. */
    uint64_t skipped;
    uint32_t len, capacity; /* Of the lines that wait. */
    char text[];
};

/* Of a ring: the entry that comes next. */
struct ring_reader {
    struct log_position position;
    bool has_next;
    struct log_entry next;
};

struct watch {
    struct watcher *watchers[WATCHERS_MAX];
    unsigned count;
    unsigned reader_count;
    struct ring_reader readers[SLOT_COUNT];
};

/* ---- lines ---------------------------------------------------------------------------------- */

static int
format_body(const struct log_head *head, const char *text, char *line, size_t room)
{
    static const char *const found[] = {"not_found", "found", "flushed", "expired"};
    static const char *const stored[] = {"not_stored", "stored",    "exists",
                                         "not_found",  "too_large", "no_memory"};
    static const char *const modes[] = {"set", "add", "replace", "append", "prepend", "cas"};
    static const char *const deletes[] = {"delete", "md"};
    static const char *const transports[] = {"local", "tcp"};
    static const char *const reasons[] = {"error", "normal", "idle_timeout", "shutdown"};
    switch ((enum log_kind)head->kind) {
    case LOG_ITEM_GET:
        return snprintf(line, room, "item_get key=%s status=%s clsid=%u cfd=%u size=%u\n", text,
                        found[head->status & 3], head->class_id, head->fd_number, head->value_len);
    case LOG_ITEM_STORE:
        return snprintf(line, room,
                        "item_store key=%s status=%s cmd=%s ttl=%d clsid=%u cfd=%u size=%u\n", text,
                        stored[head->status % 6], modes[head->command % 6], head->ttl_s,
                        head->class_id, head->fd_number, head->value_len);
    case LOG_EVICTION:
        return snprintf(line, room, "eviction key=%s fetch=%s ttl=%d la=%u clsid=%u size=%u\n",
                        text, head->fetched ? "yes" : "no", head->ttl_s, head->idle_s,
                        head->class_id, head->value_len);
    case LOG_DELETED:
        return snprintf(line, room, "deleted key=%s cmd=%s clsid=%u size=%u\n", text,
                        deletes[head->command & 1], head->class_id, head->value_len);
    case LOG_CONN_NEW:
        return snprintf(line, room, "conn_new rip=%s rport=%u transport=%s cfd=%u\n", text,
                        head->port, transports[head->command & 1], head->fd_number);
    case LOG_CONN_CLOSE:
        return snprintf(line, room, "conn_close rip=%s rport=%u transport=%s reason=%s cfd=%u\n",
                        text, head->port, transports[head->command & 1], reasons[head->status & 3],
                        head->fd_number);
    case LOG_SLAB_MOVE:
        return snprintf(line, room, "slab_move src=%u dst=%u\n", head->class_id, head->to_class_id);
    case LOG_CRAWL:
        return snprintf(line, room, "lru_crawler crawler=all elapsed=%u examined=%u reclaimed=%u\n",
                        head->idle_s, head->value_len, head->fd_number);
    }
    return 0;
}

/* Addresses are text already; keys are encoded. */
static uint32_t
format_entry(const struct log_entry *entry, char line[LINE_BYTES_LONGEST])
{
    const struct log_head *head = &entry->head;
    char text[LOG_TEXT_MAX * ENCODE_URI_FACTOR + 1];
    uint8_t *end = (uint8_t *)text;
    if (head->kind == LOG_CONN_NEW || head->kind == LOG_CONN_CLOSE) {
        memcpy(text, entry->text, head->text_len);
        end += head->text_len;
    } else {
        end = encode_uri(end, entry->text, head->text_len);
    }
    *end = '\0';
    int len = snprintf(line, LINE_BYTES_LONGEST, HEAD_FORMAT,
                       (unsigned long long)(head->time_us / 1000000),
                       (unsigned)(head->time_us % 1000000), (unsigned long long)head->gid);
    len += format_body(head, text, line + len, (size_t)(LINE_BYTES_LONGEST - len));
    return len < LINE_BYTES_LONGEST ? (uint32_t)len : LINE_BYTES_LONGEST - 1;
}

static void
append(struct protocol *protocol, struct watcher *watcher, const char *line, uint32_t len)
{
    uint32_t needed = len + (watcher->skipped > 0 ? SKIPPED_BYTES_LONGEST : 0);
    if (needed > watcher->capacity - watcher->len) {
        watcher->skipped++;
        COUNT(protocol->counters, log_watcher_skipped);
        return;
    }
    if (watcher->skipped > 0) {
        watcher->len += (uint32_t)snprintf(watcher->text + watcher->len, SKIPPED_BYTES_LONGEST,
                                           "skipped=%llu\n", (unsigned long long)watcher->skipped);
        watcher->skipped = 0;
    }
    memcpy(watcher->text + watcher->len, line, len);
    watcher->len += len;
    COUNT(protocol->counters, log_watcher_sent);
}

static void
tell(struct protocol *protocol, const struct log_entry *entry)
{
    struct watch *watch = protocol->watch;
    char line[LINE_BYTES_LONGEST];
    uint32_t len = 0;
    for (unsigned i = 0; i < watch->count; i++) {
        struct watcher *watcher = watch->watchers[i];
        if (watcher->classes & entry->head.log_class && entry->head.gid > watcher->from_gid) {
            len = len > 0 ? len : format_entry(entry, line);
            append(protocol, watcher, line, len);
        }
    }
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Whether they were of its classes is not known of entries that were written over. */
static void
note_lost(struct protocol *protocol, uint64_t lost)
{
    struct watch *watch = protocol->watch;
    if (lost == 0) {
        return;
    }
    counter_add(protocol->counters, COUNTER_log_worker_dropped, lost);
    counter_add(protocol->counters, COUNTER_log_watcher_skipped, lost * watch->count);
    for (unsigned i = 0; i < watch->count; i++) {
        watch->watchers[i]->skipped += lost;
    }
}

static void
read_next(struct protocol *protocol, unsigned slot_index)
{
    struct ring_reader *reader = &protocol->watch->readers[slot_index];
    uint64_t lost = 0;
    reader->has_next = logring_read(store_segment(protocol->store), slot_index, &reader->position,
                                    &reader->next, &lost) == LOG_READ_ENTRY;
    note_lost(protocol, lost);
}

/* So many entries are not logged between two looks: a gid that is further ahead, or the word that
 * counts them, is damaged, and the entry would never be told. */
#define GIDS_AHEAD_MAX (UINT64_C(1) << 20)

/* The ring whose next entry is the oldest, up to a gid; NULL: none. */
static struct ring_reader *
oldest(struct watch *watch, uint64_t last_gid)
{
    struct ring_reader *best = NULL;
    for (unsigned i = 0; i < watch->reader_count; i++) {
        struct ring_reader *reader = &watch->readers[i];
        if (reader->has_next && UNLIKELY(reader->next.head.gid > last_gid + GIDS_AHEAD_MAX)) {
            return reader;
        }
        if (reader->has_next && reader->next.head.gid <= last_gid) {
            last_gid = reader->next.head.gid;
            best = reader;
        }
    }
    return best;
}

/* Processes that have come since the last look. */
static void
follow_slots(struct protocol *protocol)
{
    struct segment *segment = store_segment(protocol->store);
    struct watch *watch = protocol->watch;
    unsigned slot_count = segment_slot_count(segment);
    while (watch->reader_count < slot_count) {
        watch->readers[watch->reader_count++] = (struct ring_reader){0};
    }
    /* Where no memory is to be had for one, its entries are missed, and no others. */
    (void)!logring_populate(segment);
}

unsigned
watch_collect(struct protocol *protocol)
{
    struct watch *watch = protocol->watch;
    if (watch == NULL || watch->count == 0) {
        return 0;
    }
    follow_slots(protocol);
    /* What is logged from now on comes next time, so that no later entry of a ring that was looked
     * at early overtakes an earlier one of a ring that was looked at late. */
    uint64_t last_gid = atomic_load_explicit(&protocol->run->log_gid, memory_order_acquire);
    for (unsigned i = 0; i < watch->count; i++) {
        if (UNLIKELY(watch->watchers[i]->from_gid > last_gid)) {
            watch->watchers[i]->from_gid = last_gid; /* The count was damaged, then or now. */
        }
    }
    for (unsigned i = 0; i < watch->reader_count; i++) {
        if (!watch->readers[i].has_next) {
            read_next(protocol, i);
        }
    }
    unsigned count = 0;
    struct ring_reader *reader;
    while (count < ENTRIES_MAX && (reader = oldest(watch, last_gid)) != NULL) {
        tell(protocol, &reader->next);
        read_next(protocol, (unsigned)(reader - watch->readers));
        count++;
    }
    return count;
}

bool
watch_output(struct protocol *protocol, struct conn *conn)
{
    struct watcher *watcher = conn->watcher;
    if (watcher == NULL || watcher->len == 0 || !output_is_empty(&conn->kept)) {
        return false;
    }
    uint32_t len = watcher->len < OUTPUT_BYTES_MOVED ? watcher->len : OUTPUT_BYTES_MOVED;
    output_add(&protocol->output, watcher->text, len);
    watcher->len -= len;
    memmove(watcher->text, watcher->text + len, watcher->len);
    return true;
}

/* ---- beginning and ending ------------------------------------------------------------------- */

static void
publish_classes(struct protocol *protocol)
{
    uint32_t classes = 0;
    for (unsigned i = 0; i < protocol->watch->count; i++) {
        classes |= protocol->watch->watchers[i]->classes;
    }
    store_note_watchers(protocol->store, protocol->watch->count, classes);
    logring_watch(store_segment(protocol->store), store_slot(protocol->store), classes);
}

/* The first watcher of the process: rings are read from where they end now. */
static bool
begin_reading(struct protocol *protocol)
{
    struct segment *segment = store_segment(protocol->store);
    if (!logring_populate(segment)) {
        return false;
    }
    if (protocol->watch == NULL && (protocol->watch = malloc(sizeof(struct watch))) == NULL) {
        return false;
    }
    struct watch *watch = protocol->watch;
    watch->count = 0;
    watch->reader_count = segment_slot_count(segment);
    for (unsigned i = 0; i < watch->reader_count; i++) {
        watch->readers[i].has_next = false;
        logring_begin(segment, i, &watch->readers[i].position);
    }
    return true;
}

static bool
watcher_new(struct protocol *protocol, struct conn *conn, uint32_t classes)
{
    uint32_t capacity = protocol->run->boot_settings.watcher_logbuf_bytes;
    capacity = capacity < 2 * LINE_BYTES_LONGEST ? 2 * LINE_BYTES_LONGEST : capacity;
    if ((protocol->watch == NULL || protocol->watch->count == 0) && !begin_reading(protocol)) {
        return false;
    }
    struct watcher *watcher = malloc(sizeof(*watcher) + capacity);
    if (watcher == NULL) {
        return false;
    }
    *watcher = (struct watcher){
        .conn = conn,
        .classes = classes,
        .capacity = capacity,
        .from_gid = atomic_load_explicit(&protocol->run->log_gid, memory_order_relaxed),
    };
    conn->watcher = watcher;
    conn->state = CONN_WATCH;
    protocol->watch->watchers[protocol->watch->count++] = watcher;
    publish_classes(protocol);
    return true;
}

void
watch_end(struct protocol *protocol, struct conn *conn)
{
    struct watch *watch = protocol->watch;
    if (conn->watcher == NULL) {
        return;
    }
    for (unsigned i = 0; i < watch->count; i++) {
        if (watch->watchers[i] == conn->watcher) {
            watch->watchers[i] = watch->watchers[--watch->count];
            break;
        }
    }
    free(conn->watcher);
    conn->watcher = NULL;
    publish_classes(protocol);
    logring_remove_watcher(store_slot(protocol->store));
}

void
watch_free(struct protocol *protocol)
{
    free(protocol->watch);
    protocol->watch = NULL;
}

/* ---- the command ---------------------------------------------------------------------------- */

/* 0: there is no such class. */
static uint32_t
class_named(struct slice name)
{
    static const struct {
        const char *name;
        uint32_t log_class;
    } classes[] = {
        {"fetchers", LOG_FETCHERS},     {"mutations", LOG_MUTATIONS}, {"evictions", LOG_EVICTIONS},
        {"connevents", LOG_CONNEVENTS}, {"deletions", LOG_DELETIONS}, {"sysevents", LOG_SYSEVENTS},
        {"rawcmds", LOG_SILENT},        {"proxyreqs", LOG_SILENT},    {"proxyevents", LOG_SILENT},
        {"proxyuser", LOG_SILENT},
    };
    for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
        if (slice_is(name, classes[i].name)) {
            return classes[i].log_class;
        }
    }
    return 0;
}

void
execute_watch(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    const struct line *line = request->line;
    struct output *output = &protocol->output;
    uint32_t classes = line->count > 1 ? 0 : LOG_FETCHERS;
    if (!atomic_load_explicit(&protocol->run->settings.watch_enabled, memory_order_relaxed)) {
        OUTPUT_TEXT(output, "CLIENT_ERROR watch commands not allowed\r\n");
        return;
    }
    if (!output_is_empty(output)) {
        OUTPUT_TEXT(output, "ERROR cannot pipeline other commands before watch\r\n");
        return;
    }
    for (unsigned i = 1; i < line->count; i++) {
        uint32_t named = class_named(line->tokens[i]);
        if (named == 0) {
            OUTPUT_TEXT(output, "ERROR\r\n");
            return;
        }
        classes |= named;
    }
    if (!logring_add_watcher(store_segment(protocol->store), store_slot(protocol->store))) {
        OUTPUT_TEXT(output, "WATCHER_TOO_MANY log watcher limit reached\r\n");
    } else if (!watcher_new(protocol, conn, classes)) {
        logring_remove_watcher(store_slot(protocol->store));
        OUTPUT_TEXT(output, "WATCHER_FAILED failed to add log watcher\r\n");
    } else {
        OUTPUT_TEXT(output, "OK\r\n");
    }
}
