/* debugtime and debugitem: commands of test builds (-DMEMCACHEPY_DEBUG), as memcached's test builds
 * have them. Elsewhere this file is empty and they are no commands.
 *
 * What `debugitem` holds it holds for this process until it is given back or the process ends: a
 * lock, which others then wait for and report as a stopped process's, or a reference, which only
 * large values have. */
#include "proto/execute.h"

#ifdef MEMCACHEPY_DEBUG

#include "base/clock.h"

void
execute_debugtime(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    const struct line *line = request->line;
    struct run_head *run = protocol->run;
    int64_t seconds;
    if (slice_is(line->tokens[1], "p")) {
        uint64_t running = 0;
        atomic_compare_exchange_strong(&run->paused_at_ns, &running, clock_boot_ns());
    } else if (slice_is(line->tokens[1], "r")) {
        atomic_store(&run->paused_at_ns, 0);
    } else if (parse_i64(line->tokens[1], &seconds)) {
        atomic_fetch_add(&run->advance_s, seconds);
    } else {
        REPLY(protocol, request->noreply, "ERROR\r\n");
        return;
    }
    store_tick(protocol->store);
    REPLY(protocol, request->noreply, "OK\r\n");
}

void
execute_debugitem(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    const struct line *line = request->line;
    struct key key;
    bool found = true;
    if (line->tokens[2].len > MEMCACHED_KEY_LEN_MAX) {
        REPLY(protocol, request->noreply, "ERROR\r\n");
        return;
    }
    key_init(protocol->store, &key, line->tokens[2].bytes, line->tokens[2].len);
    if (slice_is(line->tokens[1], "lock")) {
        found = store_debug_lock(protocol->store, &key);
    } else if (slice_is(line->tokens[1], "unlock")) {
        store_debug_unlock(protocol->store, &key);
    } else if (slice_is(line->tokens[1], "ref")) {
        found = store_debug_ref(protocol->store, &key);
    } else if (slice_is(line->tokens[1], "unref")) {
        found = store_debug_unref(protocol->store, &key);
    } else {
        REPLY(protocol, request->noreply, "ERROR\r\n");
        return;
    }
    if (found) {
        REPLY(protocol, request->noreply, "OK\r\n");
    } else {
        REPLY(protocol, request->noreply, "MISS\r\n");
    }
}

#else

typedef int no_commands_here; /* A file of C has to hold something. */

#endif
