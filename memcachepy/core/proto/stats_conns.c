/* `stats conns`: every socket of the node, from what each process tells of its own. */
#include "mem/conn_table.h"
#include "proto/execute.h"
#include "proto/stats.h"

#include <stdio.h>

static const char *
state_name(uint32_t state)
{
    switch (state) {
    case CONN_STATE_LISTENING:
        return "conn_listening";
    case CONN_STATE_WRITING:
        return "conn_mwrite";
    case CONN_VALUE:
    case CONN_UPLOAD_WAIT:
    case CONN_UPLOAD:
    case CONN_TERMINATOR:
        return "conn_nread";
    case CONN_SKIP_LINE:
    case CONN_SWALLOW:
        return "conn_swallow";
    case CONN_WALK:
    case CONN_DUMP:
        return "conn_mwrite";
    case CONN_NEW:
        return "conn_new_cmd";
    case CONN_CLOSED:
        return "conn_closing";
    default:
        return "conn_read";
    }
}

static void
add_address(struct stat_sink *sink, const struct segment_settings *settings, uint32_t number,
            const char *key, const struct conn_address *address)
{
    char name[32];
    char text[CONN_ADDRESS_TEXT_MAX];
    snprintf(name, sizeof(name), "%u:%s", number, key);
    conn_address_format(settings, address, text);
    stat_add(sink, name, "%s", text);
}

static void
add_conn(struct stat_sink *sink, struct store *store, uint32_t number,
         const struct conn_entry *entry, bool asks)
{
    const struct segment_settings *settings = &store_run(store)->boot_settings;
    uint32_t state = atomic_load(&entry->state);
    uint32_t command_at_s = atomic_load(&entry->command_at_s);
    uint32_t now_s = store_uptime_s(store);
    char name[40];
    if (state == CONN_STATE_LISTENING) {
        add_address(sink, settings, number, "addr", &entry->local);
    } else {
        add_address(sink, settings, number, "addr", &entry->peer);
        add_address(sink, settings, number, "listen_addr", &entry->local);
    }
    snprintf(name, sizeof(name), "%u:state", number);
    stat_add(sink, name, "%s", asks ? "conn_parse_cmd" : state_name(state));
    snprintf(name, sizeof(name), "%u:resps_waiting", number);
    stat_add(sink, name, "%u", state == CONN_STATE_WRITING);
    snprintf(name, sizeof(name), "%u:secs_since_last_cmd", number);
    stat_add(sink, name, "%u", asks || command_at_s > now_s ? 0 : now_s - command_at_s);
}

static void
add_process(struct stat_sink *sink, struct store *store, unsigned slot_index)
{
    struct conn_entry entry;
    for (int fd = 0; conn_table_next(store_segment(store), slot_index, &fd, &entry); fd++) {
        uint32_t number = segment_fd_number(slot_index, fd);
        add_conn(sink, store, number, &entry, number == sink->asking);
    }
}

void
stats_conns(struct stat_sink *sink, struct store *store)
{
    unsigned worker_count = store_run(store)->boot_settings.worker_count;
    add_process(sink, store, SLOT_ACCEPTOR);
    for (unsigned i = 0; i < worker_count; i++) {
        add_process(sink, store, SLOT_WORKER_FIRST + i);
    }
}
