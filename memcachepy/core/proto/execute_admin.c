/* Commands without a key: version, verbosity, flush_all, cache_memlimit, help, quit, shutdown. */
#include "proto/execute.h"

#include "proto/watch_log.h"

#include <signal.h>

#define VERBOSITY_MAX 2

void
execute_version(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    (void)request;
    OUTPUT_TEXT(&protocol->output, "VERSION " PROTOCOL_VERSION "\r\n");
}

void
execute_verbosity(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    struct segment_settings *settings = &store_run(protocol->store)->settings;
    uint64_t level;
    if (request->line->count < 2 || !parse_u64_max(request->line->tokens[1], UINT32_MAX, &level)) {
        REPLY(protocol, request->noreply, TEXT_BAD_FORMAT);
        return;
    }
    atomic_store_explicit(&settings->verbosity,
                          level < VERBOSITY_MAX ? (uint32_t)level : VERBOSITY_MAX,
                          memory_order_relaxed);
    REPLY(protocol, request->noreply, "OK\r\n");
}

void
execute_flush_all(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    const struct line *line = request->line;
    int64_t exptime = 0;
    COUNT(protocol->counters, cmd_flush);
    if (!atomic_load_explicit(&store_run(protocol->store)->settings.flush_enabled,
                              memory_order_relaxed)) {
        REPLY(protocol, request->noreply, "CLIENT_ERROR flush_all not allowed\r\n");
        return;
    }
    /* `flush_all noreply` has no delay: its only argument is the noreply. */
    if (line->count > (request->noreply ? 2u : 1u) && !parse_exptime(line->tokens[1], &exptime)) {
        REPLY(protocol, request->noreply, TEXT_BAD_EXPTIME);
        return;
    }
    if (!store_flush_all(protocol->store, exptime)) {
        REPLY(protocol, request->noreply, TEXT_BUSY);
        return;
    }
    REPLY(protocol, request->noreply, "OK\r\n");
}

/* memcached's bounds: less it does not take, and more is taken for bytes. */
#define MEMLIMIT_MIN_MB 8
#define MEMLIMIT_MAX_MB 1000000000

void
execute_cache_memlimit(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    uint64_t megabytes;
    if (request->line->count > 3) {
        OUTPUT_TEXT(&protocol->output, "ERROR\r\n");
    } else if (request->line->count < 2 || !parse_u64(request->line->tokens[1], &megabytes)) {
        REPLY(protocol, request->noreply, "ERROR\r\n");
    } else if (megabytes < MEMLIMIT_MIN_MB) {
        REPLY(protocol, request->noreply,
              "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n");
    } else if (megabytes > MEMLIMIT_MAX_MB) {
        REPLY(protocol, request->noreply,
              "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n");
    } else if (!store_set_memory_limit(protocol->store, megabytes << 20)) {
        REPLY(protocol, request->noreply,
              "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n");
    } else {
        REPLY(protocol, request->noreply, "OK\r\n");
    }
}

/* For people at a terminal; memcached has no such command. */
void
execute_help(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    (void)request;
    struct output *output = &protocol->output;
    for (unsigned i = 0; i < COMMAND_COUNT; i++) {
        const struct command *command = &command_table[i];
        output_add(output, command->name, command->name_len);
        OUTPUT_TEXT(output, " ");
        output_add(output, command->help, strlen(command->help));
        OUTPUT_TEXT(output, "\r\n");
    }
    OUTPUT_TEXT(output, "END\r\n");
}

void
execute_quit(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)protocol;
    (void)request;
    conn->close_reason = WATCH_CLOSE_NORMAL;
    conn->state = CONN_CLOSED;
}

/* The supervisor is asked as an operator would ask it; the connection ends at once. */
static void
signal_supervisor(struct protocol *protocol, struct conn *conn, int number)
{
    int32_t pid = store_run(protocol->store)->boot_settings.supervisor_pid;
    if (pid > 0) {
        kill(pid, number);
    }
    conn->close_reason = WATCH_CLOSE_SHUTDOWN;
    conn->state = CONN_CLOSED;
}

void
execute_shutdown(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    const struct line *line = request->line;
    if (!atomic_load_explicit(&store_run(protocol->store)->settings.shutdown_enabled,
                              memory_order_relaxed)) {
        REPLY(protocol, request->noreply, "SERVER_ERROR: shutdown not enabled\r\n");
    } else if (line->count == 1) {
        signal_supervisor(protocol, conn, SIGINT);
    } else if (line->count == 2 && slice_is(line->tokens[1], "graceful")) {
        signal_supervisor(protocol, conn, SIGUSR1);
    } else {
        REPLY(protocol, request->noreply, "CLIENT_ERROR invalid shutdown mode\r\n");
    }
}
