/* slabs, lru and what lru_crawler sets (crawl.c has the rest): memcached's replies and checks in
 * memcached's order.
 *
 * Settings are words of the run head, in force in every process at once. What `lru` sets is kept
 * and shown by `stats settings`, where `lru_effect none` says that `eviction_policy` decides here.
 */
#include "proto/crawl.h"

#include <math.h>
#include <stdlib.h>

/* memcached's bounds. */
#define AUTOMOVE_WINDOW_MIN 3
#define AUTOMOVE_WINDOW_MAX 1800
#define CRAWLER_SLEEP_US_MAX 1000000
#define HOT_AND_WARM_PCT_MAX 80

#define NUMBER_LEN_MAX 63

static struct segment_settings *
settings_of(struct protocol *protocol)
{
    return &store_run(protocol->store)->settings;
}

/* A number with a fraction. */
static bool
parse_double(struct slice token, double *number)
{
    char text[NUMBER_LEN_MAX + 1];
    char *end;
    if (token.len == 0 || token.len > NUMBER_LEN_MAX) {
        return false;
    }
    memcpy(text, token.bytes, token.len);
    text[token.len] = '\0';
    *number = strtod(text, &end);
    return *end == '\0' && isfinite(*number);
}

static bool
parse_u32(struct slice token, uint32_t *number)
{
    uint64_t wide;
    if (!parse_u64_max(token, UINT32_MAX, &wide)) {
        return false;
    }
    *number = (uint32_t)wide;
    return true;
}

static bool
parse_i32(struct slice token, int32_t *number)
{
    int64_t wide;
    if (!parse_i64(token, &wide) || wide < INT32_MIN || wide > INT32_MAX) {
        return false;
    }
    *number = (int32_t)wide;
    return true;
}

/* ---- slabs ---------------------------------------------------------------------------------- */

static void
automove_ratio(struct protocol *protocol, const struct request *request, _Atomic double *setting)
{
    double ratio;
    if (request->line->count < 4 || !parse_double(request->line->tokens[3], &ratio)) {
        REPLY(protocol, request->noreply, "ERROR\r\n");
        return;
    }
    atomic_store_explicit(setting, ratio, memory_order_relaxed);
    REPLY(protocol, request->noreply, "OK\r\n");
}

static void
automove_window(struct protocol *protocol, const struct request *request)
{
    uint32_t window;
    if (request->line->count < 4 || !parse_u32(request->line->tokens[3], &window)) {
        REPLY(protocol, request->noreply, TEXT_BAD_FORMAT);
        return;
    }
    if (window < AUTOMOVE_WINDOW_MIN || window > AUTOMOVE_WINDOW_MAX) {
        REPLY(protocol, request->noreply, "CLIENT_ERROR automove window too low or too high\r\n");
        return;
    }
    atomic_store_explicit(&settings_of(protocol)->slab_automove_window, window,
                          memory_order_relaxed);
    REPLY(protocol, request->noreply, "OK\r\n");
}

static void
slabs_automove(struct protocol *protocol, const struct request *request)
{
    struct segment_settings *settings = settings_of(protocol);
    struct slice what = request->line->tokens[2];
    uint32_t level;
    if (slice_is(what, "ratio")) {
        automove_ratio(protocol, request, &settings->slab_automove_ratio);
    } else if (slice_is(what, "freeratio")) {
        automove_ratio(protocol, request, &settings->slab_automove_freeratio);
    } else if (slice_is(what, "window")) {
        automove_window(protocol, request);
    } else if (!parse_u32(what, &level)) {
        REPLY(protocol, request->noreply, TEXT_BAD_FORMAT);
    } else if (level > 2) {
        REPLY(protocol, request->noreply, "ERROR\r\n");
    } else {
        atomic_store_explicit(&settings->slab_automove, level, memory_order_relaxed);
        REPLY(protocol, request->noreply, "OK\r\n");
    }
}

static void
slabs_reassign(struct protocol *protocol, const struct request *request)
{
    int32_t from, to;
    if (!settings_of(protocol)->slab_reassign) {
        REPLY(protocol, request->noreply, "CLIENT_ERROR slab reassignment disabled\r\n");
        return;
    }
    if (!parse_i32(request->line->tokens[2], &from) || !parse_i32(request->line->tokens[3], &to)) {
        REPLY(protocol, request->noreply, TEXT_BAD_FORMAT);
        return;
    }
    switch (store_reassign(protocol->store, from, to)) {
    case REASSIGN_DONE:
        REPLY(protocol, request->noreply, "OK\r\n");
        return;
    case REASSIGN_BUSY:
        REPLY(protocol, request->noreply, "BUSY currently processing reassign request\r\n");
        return;
    case REASSIGN_BAD_CLASS:
        REPLY(protocol, request->noreply, "BADCLASS invalid src or dst class id\r\n");
        return;
    case REASSIGN_NO_SPARE:
        REPLY(protocol, request->noreply, "NOSPARE source class has no spare pages\r\n");
        return;
    case REASSIGN_SAME:
        REPLY(protocol, request->noreply, "SAME src and dst class are identical\r\n");
        return;
    }
}

void
execute_slabs(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    const struct line *line = request->line;
    if (line->count == 4 && slice_is(line->tokens[1], "reassign")) {
        slabs_reassign(protocol, request);
    } else if (line->count >= 3 && slice_is(line->tokens[1], "automove")) {
        slabs_automove(protocol, request);
    } else {
        REPLY(protocol, request->noreply, "ERROR\r\n");
    }
}

/* ---- lru ------------------------------------------------------------------------------------ */

static void
lru_tune(struct protocol *protocol, const struct request *request)
{
    struct segment_settings *settings = settings_of(protocol);
    const struct slice *tokens = request->line->tokens;
    uint32_t hot_pct, warm_pct;
    double hot_factor, warm_factor;
    if (!parse_u32(tokens[2], &hot_pct) || !parse_u32(tokens[3], &warm_pct) ||
        !parse_double(tokens[4], &hot_factor) || !parse_double(tokens[5], &warm_factor)) {
        REPLY(protocol, request->noreply, "ERROR\r\n");
        return;
    }
    if ((uint64_t)hot_pct + warm_pct > HOT_AND_WARM_PCT_MAX) {
        REPLY(protocol, request->noreply, "ERROR hot and warm pcts must not exceed 80\r\n");
        return;
    }
    if (hot_factor <= 0 || warm_factor <= 0) {
        REPLY(protocol, request->noreply, "ERROR hot/warm age factors must be greater than 0\r\n");
        return;
    }
    atomic_store_explicit(&settings->hot_lru_pct, hot_pct, memory_order_relaxed);
    atomic_store_explicit(&settings->warm_lru_pct, warm_pct, memory_order_relaxed);
    atomic_store_explicit(&settings->hot_max_factor, hot_factor, memory_order_relaxed);
    atomic_store_explicit(&settings->warm_max_factor, warm_factor, memory_order_relaxed);
    REPLY(protocol, request->noreply, "OK\r\n");
}

static void
lru_mode(struct protocol *protocol, const struct request *request)
{
    struct slice mode = request->line->tokens[2];
    bool segmented = slice_is(mode, "segmented");
    if (!segmented && !slice_is(mode, "flat")) {
        REPLY(protocol, request->noreply, "ERROR\r\n");
        return;
    }
    atomic_store_explicit(&settings_of(protocol)->lru_segmented, segmented, memory_order_relaxed);
    REPLY(protocol, request->noreply, "OK\r\n");
}

static void
lru_temp_ttl(struct protocol *protocol, const struct request *request)
{
    struct segment_settings *settings = settings_of(protocol);
    int32_t ttl_s;
    if (!parse_i32(request->line->tokens[2], &ttl_s)) {
        REPLY(protocol, request->noreply, "ERROR\r\n");
        return;
    }
    if (ttl_s >= 0) {
        atomic_store_explicit(&settings->temporary_ttl_s, (uint32_t)ttl_s, memory_order_relaxed);
    }
    atomic_store_explicit(&settings->temp_lru, ttl_s >= 0, memory_order_relaxed);
    REPLY(protocol, request->noreply, "OK\r\n");
}

void
execute_lru(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    (void)conn;
    const struct line *line = request->line;
    bool maintained = settings_of(protocol)->lru_maintainer;
    if (line->count >= 6 && slice_is(line->tokens[1], "tune")) {
        lru_tune(protocol, request);
    } else if (line->count >= 3 && maintained && slice_is(line->tokens[1], "mode")) {
        lru_mode(protocol, request);
    } else if (line->count >= 3 && maintained && slice_is(line->tokens[1], "temp_ttl")) {
        lru_temp_ttl(protocol, request);
    } else {
        REPLY(protocol, request->noreply, "ERROR\r\n");
    }
}

/* ---- lru_crawler ---------------------------------------------------------------------------- */

/* Dumps and crawls are refused while it is disabled. The sweep of expired items goes on. */
static void
crawler_enable(struct protocol *protocol, const struct request *request, bool enabled)
{
    bool before = atomic_exchange(&settings_of(protocol)->lru_crawler, enabled);
    if (before && enabled) {
        REPLY(protocol, request->noreply, "ERROR failed to start lru crawler thread\r\n");
    } else {
        REPLY(protocol, request->noreply, "OK\r\n");
    }
}

static void
crawler_sleep(struct protocol *protocol, const struct request *request)
{
    uint32_t sleep_us;
    if (!parse_u32(request->line->tokens[2], &sleep_us)) {
        REPLY(protocol, request->noreply, TEXT_BAD_FORMAT);
    } else if (sleep_us > CRAWLER_SLEEP_US_MAX) {
        REPLY(protocol, request->noreply, "CLIENT_ERROR sleep must be one second or less\r\n");
    } else {
        atomic_store_explicit(&settings_of(protocol)->lru_crawler_sleep_us, sleep_us,
                              memory_order_relaxed);
        REPLY(protocol, request->noreply, "OK\r\n");
    }
}

static void
crawler_tocrawl(struct protocol *protocol, const struct request *request)
{
    uint32_t count;
    if (!parse_u32(request->line->tokens[2], &count)) {
        REPLY(protocol, request->noreply, TEXT_BAD_FORMAT);
        return;
    }
    atomic_store_explicit(&settings_of(protocol)->lru_crawler_tocrawl, count, memory_order_relaxed);
    REPLY(protocol, request->noreply, "OK\r\n");
}

void
execute_lru_crawler(struct protocol *protocol, struct conn *conn, const struct request *request)
{
    const struct line *line = request->line;
    struct slice what = line->count > 1 ? line->tokens[1] : (struct slice){0};
    if (line->count == 3 && crawl_execute(protocol, conn, request)) {
        return;
    }
    if (line->count == 3 && slice_is(what, "sleep")) {
        crawler_sleep(protocol, request);
    } else if (line->count == 3 && slice_is(what, "tocrawl")) {
        crawler_tocrawl(protocol, request);
    } else if (line->count == 2 && (slice_is(what, "enable") || slice_is(what, "disable"))) {
        crawler_enable(protocol, request, slice_is(what, "enable"));
    } else {
        REPLY(protocol, request->noreply, "ERROR\r\n");
    }
}
