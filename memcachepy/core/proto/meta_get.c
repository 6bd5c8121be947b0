/* mg. Lines are gathered into a batch as those of get are, so that the cache misses of a pipeline
 * overlap. What only looks takes no lock; what may change the item, or makes one, goes through
 * store_fetch(). */
#include "proto/answer.h"
#include "proto/detail.h"
#include "proto/meta.h"

/* Keys in base64 that a batch has room for; a line with one more begins the next batch. */
#define BINARY_KEYS_MAX 8

struct meta_get {
    struct meta meta;
    const uint8_t *line_at;
    const char *error; /* NULL: the line is right. */
};

struct meta_batch {
    unsigned count;
    unsigned binary_count;
    uint8_t binary_keys[BINARY_KEYS_MAX][META_KEY_BUFFER_BYTES];
    struct meta_get gets[BATCH_KEYS_MAX];
};

/* ---- replies -------------------------------------------------------------------------------- */

/* What a reply says of an item. */
struct meta_hit {
    uint32_t value_len;
    uint32_t client_flags;
    uint64_t cas;
    uint32_t expire_word; /* Before this command. */
    uint32_t idle_s;
    uint8_t marks; /* enum item_mark, before this client won */
    bool was_fetched;
    bool won;
    bool created;
};

static inline bool
shows_value(const struct meta *meta, uint64_t cas)
{
    return meta_has(meta, 'v') && !(meta_has(meta, 'C') && cas == meta->cas);
}

/* The flags in the order in which they were asked for: `t` before `T` tells the old ttl. */
static uint8_t *
write_flags(const struct protocol *protocol, uint8_t *out, const struct meta *meta,
            const struct meta_hit *hit)
{
    uint32_t expire_word = hit->expire_word;
    for (unsigned i = 0; i < meta->reply_count; i++) {
        switch (meta->reply_order[i]) {
        case 'T':
            expire_word = store_expiry(protocol->store, meta->exptime).word;
            break;
        case 'N':
            if (hit->created) {
                expire_word = store_expiry(protocol->store, meta->create_exptime).word;
            }
            break;
        case 's':
            out = meta_write_number(out, 's', hit->value_len);
            break;
        case 't':
            out = meta_write_ttl(out, protocol, expire_word);
            break;
        case 'c':
            out = meta_write_number(out, 'c', hit->cas);
            break;
        case 'f':
            out = meta_write_number(out, 'f', hit->client_flags);
            break;
        case 'l':
            out = meta_write_number(out, 'l', hit->idle_s);
            break;
        case 'h':
            out = meta_write_number(out, 'h', hit->was_fetched);
            break;
        case 'O':
            out = meta_write_opaque(out, meta->opaque.bytes, meta->opaque.len);
            break;
        case 'k':
            out = meta_write_key(out, &meta->key,
                                 hit->marks & MARK_BINARY_KEY || meta_breaks_line(meta));
            break;
        }
    }
    return out;
}

/* Everything before the value. */
static ALWAYS_INLINE uint8_t *
write_head(const struct protocol *protocol, uint8_t *out, const struct meta *meta,
           const struct meta_hit *hit, bool value)
{
    if (value) {
        memcpy(out, "VA ", 3);
        out = output_number(out + 3, hit->value_len);
    } else {
        memcpy(out, "HD", 2);
        out += 2;
    }
    if (meta->reply_count > 0) {
        out = write_flags(protocol, out, meta, hit);
    }
    if (UNLIKELY((hit->marks & (MARK_STALE | MARK_WIN_SENT)) != 0 || hit->won)) {
        static const char marks[] = " Z X W";
        if (hit->marks & MARK_WIN_SENT) {
            memcpy(out, marks, 2);
            out += 2;
        }
        if (hit->marks & MARK_STALE) {
            memcpy(out, marks + 2, 2);
            out += 2;
        }
        if (hit->won) {
            memcpy(out, marks + 4, 2);
            out += 2;
        }
    }
    memcpy(out, "\r\n", 2);
    return out + 2;
}

/* A hit that touches counts as a touch and not as a get. */
static inline enum view_bump
bump_of(const struct meta *meta)
{
    enum view_bump count = meta_has(meta, 'T') ? VIEW_PEEK : VIEW_COUNT;
    return meta_has(meta, 'u') ? count : VIEW_BUMP | count;
}

/* Answers from a view of a small item. False: it changed meanwhile, nothing was appended. */
static ALWAYS_INLINE bool
reply_view(struct protocol *protocol, const struct meta *meta, struct view *view,
           const struct meta_hit *hit)
{
    struct output *output = &protocol->output;
    uint8_t *out = output->bytes + output->end;
    if (LIKELY(hit->value_len <= COPIED_VALUE_BYTES_MAX)) {
        bool value = shows_value(meta, hit->cas);
        out = write_head(protocol, out, meta, hit, value);
        if (value) {
            copy_value(out, view->value, hit->value_len);
            out += hit->value_len;
            memcpy(out, "\r\n", 2);
            out += 2;
        }
    }
    if (!store_view_confirm(protocol->store, view, bump_of(meta))) {
        return false;
    }
    output->end = (uint32_t)(out - output->bytes);
    return true;
}

/* Answers from a chain, which is pinned if its value may be wanted. */
static enum answer
reply_large(struct protocol *protocol, const struct meta *meta, struct fetch *fetch,
            const struct meta_hit *hit)
{
    struct output *output = &protocol->output;
    uint32_t end_before = output->end;
    bool value = shows_value(meta, hit->cas);
    uint8_t *out = write_head(protocol, output->bytes + end_before, meta, hit, value);
    output->end = (uint32_t)(out - output->bytes);
    if (!value) {
        store_unpin(protocol->store, &fetch->pin);
        return ANSWER_HIT;
    }
    if (!output_add_pin(output, &fetch->pin)) {
        store_unpin(protocol->store, &fetch->pin);
        output->end = end_before;
        return ANSWER_WAIT;
    }
    OUTPUT_TEXT(output, "\r\n");
    return ANSWER_HIT;
}

/* ---- looking -------------------------------------------------------------------------------- */

/* Whether somebody who asks now would win. */
static bool
may_win(const struct protocol *protocol, const struct meta *meta, const struct view *view)
{
    if (view->bits & MARK_WIN_SENT) {
        return false;
    }
    if (view->bits & MARK_STALE) {
        return true;
    }
    if (!meta_has(meta, 'R') || view->expire_word == 0) {
        return false;
    }
    uint32_t recache = store_expiry(protocol->store, meta->recache_exptime).word;
    return recache != 0 &&
           store_ttl_s(protocol->store, view->expire_word) < store_ttl_s(protocol->store, recache);
}

/* Whether `first` stands before `second` in the line. */
static bool
comes_before(const struct meta *meta, char first, char second)
{
    for (unsigned i = 0; i < meta->reply_count; i++) {
        if (meta->reply_order[i] == first || meta->reply_order[i] == second) {
            return meta->reply_order[i] == first;
        }
    }
    return false;
}

static void
fetch_of(const struct protocol *protocol, const struct meta *meta, struct fetch *fetch)
{
    bool last_is_touch = meta_has(meta, 'T') && comes_before(meta, 'N', 'T');
    *fetch = (struct fetch){
        .key = meta->key,
        .wants_value = meta_has(meta, 'v'),
        .bump = bump_of(meta),
        .touches = meta_has(meta, 'T'),
        .expire = meta_expiry(protocol, meta, 'T', meta->exptime),
        .wins = true,
        .recache = meta_expiry(protocol, meta, 'R', meta->recache_exptime),
        .recaches_touched = comes_before(meta, 'T', 'R'),
        .vivifies = meta_has(meta, 'N'),
        .create_expire = last_is_touch ? store_expiry(protocol->store, meta->exptime)
                                       : meta_expiry(protocol, meta, 'N', meta->create_exptime),
        .create_cas = meta_cas_option(meta, 'E', meta->cas_given),
    };
}

/* Answers what takes the lock. */
static enum answer
answer_locked(struct protocol *protocol, const struct meta *meta, struct tally *tally)
{
    struct fetch fetch;
    struct view view;
    fetch_of(protocol, meta, &fetch);
    enum fetch_result result = store_fetch(protocol->store, &fetch, &view);
    struct meta_hit hit;
    switch (result) {
    case FETCH_EXPIRED:
        tally->get_expired++;
        return ANSWER_MISS;
    case FETCH_FLUSHED:
        tally->get_flushed++;
        return ANSWER_MISS;
    case FETCH_MISS:
        return ANSWER_MISS;
    case FETCH_WAIT:
        return ANSWER_WAIT;
    case FETCH_BUSY:
        return ANSWER_BUSY;
    case FETCH_HIT:
    case FETCH_HIT_LARGE:
        hit = (struct meta_hit){
            .value_len = view.value_len,
            .client_flags = view.client_flags,
            .cas = view.cas,
            .expire_word = fetch.expire_word_before,
            .idle_s = fetch.idle_s,
            .marks = fetch.marks_before,
            .was_fetched = fetch.was_fetched,
            .won = fetch.won,
            .created = fetch.created,
        };
        break;
    }
    if (result == FETCH_HIT_LARGE) {
        return reply_large(protocol, meta, &fetch, &hit);
    }
    (void)reply_view(protocol, meta, &view, &hit); /* A locked view is always right. */
    return ANSWER_HIT;
}

static ALWAYS_INLINE enum answer
answer_get(struct protocol *protocol, const struct meta *meta, struct tally *tally)
{
    if (meta_has(meta, 'T')) {
        return answer_locked(protocol, meta, tally);
    }
    struct view view;
    view.tries = 0;
    view.locked = false;
    for (;;) {
        struct meta_hit hit;
        enum view_result result = store_view(protocol->store, &meta->key, &view);
        switch (result) {
        case VIEW_HIT:
            if (UNLIKELY(may_win(protocol, meta, &view))) {
                (void)!store_view_confirm(protocol->store, &view, VIEW_PEEK);
                return answer_locked(protocol, meta, tally);
            }
            hit.value_len = view.value_len;
            hit.client_flags = view.client_flags;
            hit.cas = view.cas;
            hit.expire_word = view.expire_word;
            hit.marks = view.bits;
            hit.idle_s = 0;
            hit.was_fetched = false;
            if (UNLIKELY((meta->seen & (META_BIT('l') | META_BIT('h'))) != 0)) {
                hit.idle_s = view_idle_s(protocol->store, &view);
                hit.was_fetched = view_was_fetched(&view);
            }
            hit.won = hit.created = false;
            if (LIKELY(reply_view(protocol, meta, &view, &hit))) {
                return ANSWER_HIT;
            }
            continue;
        case VIEW_EXPIRED:
            tally->get_expired++;
            break;
        case VIEW_FLUSHED:
            tally->get_flushed++;
            break;
        case VIEW_MISS:
            break;
        case VIEW_HIT_LARGE:
            return answer_locked(protocol, meta, tally);
        case VIEW_BUSY:
            return ANSWER_BUSY;
        }
        return meta_has(meta, 'N') ? answer_locked(protocol, meta, tally) : ANSWER_MISS;
    }
}

static void
tally_get(struct tally *tally, const struct meta *meta, bool hit)
{
    if (!hit) {
        tally->get_misses++;
    } else if (meta_has(meta, 'T')) {
        tally->touch_hits++;
    } else {
        tally->get_hits++;
    }
}

/* ---- batches -------------------------------------------------------------------------------- */

/* What a flag without a number means to scan_plain(). */
enum plain_flag { PLAIN_NOT, PLAIN_SILENT, PLAIN_REPLY };

static const uint8_t plain_flags[256] = {
    ['k'] = PLAIN_REPLY,  ['s'] = PLAIN_REPLY,  ['t'] = PLAIN_REPLY,  ['c'] = PLAIN_REPLY,
    ['f'] = PLAIN_REPLY,  ['l'] = PLAIN_REPLY,  ['h'] = PLAIN_REPLY,  ['O'] = PLAIN_REPLY,
    ['v'] = PLAIN_SILENT, ['q'] = PLAIN_SILENT, ['u'] = PLAIN_SILENT,
};

/* Reads a line as nearly all clients write it in one pass: one space between its words, no flag
 * with a number. Returns what follows it; NULL: it is another line, or not whole. */
static const uint8_t *
scan_plain(struct protocol *protocol, const uint8_t *at, const uint8_t *end, struct meta *meta)
{
    const uint8_t *key = at + 3;
    at = parse_token_end(key, end);
    if (at < end && *at == '\n' && at[-1] == '\r') {
        at--;
    }
    uint32_t key_len = (uint32_t)(at - key);
    meta->seen = 0;
    meta->binary = false;
    meta->reply_count = 0;
    while (end - at >= 4 && *at == ' ') {
        uint8_t letter = at[1];
        if (plain_flags[letter] == PLAIN_NOT || meta->seen & META_BIT(letter)) {
            return NULL;
        }
        meta->seen |= META_BIT(letter);
        if (plain_flags[letter] == PLAIN_REPLY) {
            meta->reply_order[meta->reply_count++] = letter;
        }
        at += 2;
        if (letter == 'O') {
            const uint8_t *opaque = at - 1;
            at = parse_token_end(at, end);
            if (at < end && *at == '\n' && at[-1] == '\r') {
                at--;
            }
            meta->opaque = (struct slice){opaque, (uint32_t)(at - opaque)};
            if (meta->opaque.len > META_OPAQUE_LEN_MAX) {
                return NULL;
            }
        }
    }
    if (key_len == 0 || key_len > MEMCACHED_KEY_LEN_MAX || end - at < 2 || at[0] != '\r' ||
        at[1] != '\n') {
        return NULL;
    }
    key_init(protocol->store, &meta->key, key, key_len);
    return at + 2;
}

/* Gathers the mg lines at the input's start that are there whole; the input is not moved. Returns
 * what follows them. */
static const uint8_t *
gather(struct protocol *protocol, const struct input *input, struct meta_batch *batch)
{
    struct input rest = *input;
    batch->count = batch->binary_count = 0;
    while (batch->count < BATCH_KEYS_MAX && batch->binary_count < BINARY_KEYS_MAX &&
           meta_get_is_next(&rest)) {
        struct line line;
        struct meta_get *get = &batch->gets[batch->count];
        const uint8_t *next = scan_plain(protocol, rest.at, rest.end, &get->meta);
        if (LIKELY(next != NULL)) {
            store_prefetch_bucket(protocol->store, &get->meta.key);
            get->line_at = rest.at;
            get->error = NULL;
            batch->count++;
            rest.at = next;
            continue;
        }
        if (parse_line(rest.at, rest.end, &line) == PARSE_MORE || line.len > LINE_BYTES_MAX + 1) {
            break;
        }
        get->line_at = rest.at;
        get->error = TEXT_BAD_FORMAT;
        if (line.count >= 2) {
            get->error =
                meta_parse(protocol, &line, 2, batch->binary_keys[batch->binary_count], &get->meta);
        }
        if (LIKELY(get->error == NULL)) {
            batch->binary_count += get->meta.binary;
            store_prefetch_bucket(protocol->store, &get->meta.key);
        }
        batch->count++;
        rest.at = line.next;
    }
    return rest.at;
}

static void
prefetch_items(struct store *store, const struct meta_batch *batch)
{
    unsigned deeper[BATCH_KEYS_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < batch->count; i++) {
        if (batch->gets[i].error == NULL) {
            deeper[count] = i;
            count += store_prefetch_item(store, &batch->gets[i].meta.key, 0);
        }
    }
    for (unsigned i = 0; i < count; i++) {
        (void)store_prefetch_item(store, &batch->gets[deeper[i]].meta.key, 1);
    }
}

/* The line is executed anew, when there is room. */
static enum step
pause_at(const struct meta_get *get, struct input *input, enum step step)
{
    input->at = get->line_at;
    return step;
}

static enum step
run(struct protocol *protocol, struct input *input, const struct meta_batch *batch,
    struct tally *tally)
{
    struct output *output = &protocol->output;
    for (unsigned i = 0; i < batch->count; i++) {
        const struct meta_get *get = &batch->gets[i];
        if (UNLIKELY(output_is_full(output))) {
            return pause_at(get, input, STEP_FULL);
        }
        if (UNLIKELY(get->error != NULL)) {
            protocol->requests++;
            meta_reply_text(protocol, get->error);
            continue;
        }
        watch_lookup(protocol, &get->meta.key);
        enum answer answer = answer_get(protocol, &get->meta, tally);
        if (UNLIKELY(answer == ANSWER_WAIT)) {
            return pause_at(get, input, output_has_pins(output) ? STEP_FULL : STEP_WAIT);
        }
        protocol->requests++;
        if (UNLIKELY(answer == ANSWER_BUSY)) {
            OUTPUT_TEXT(output, TEXT_BUSY);
            continue;
        }
        tally_get(tally, &get->meta, answer == ANSWER_HIT);
        if (detail_is_on(protocol)) {
            detail_count_get(protocol, &get->meta.key, answer == ANSWER_HIT);
        }
        if (answer == ANSWER_MISS && !meta_has(&get->meta, 'q')) {
            meta_reply_code(protocol, &get->meta, "EN");
        }
    }
    return STEP_NEXT;
}

enum step
execute_meta_gets(struct protocol *protocol, struct conn *conn, struct input *input)
{
    (void)conn;
    struct meta_batch batch;
    struct tally tally = {0};
    const uint8_t *next = gather(protocol, input, &batch);
    if (batch.count == 0) {
        return STEP_MORE; /* Or a line that is too long: the caller looks. */
    }
    input->at = next;
    if (batch.count > 1) {
        prefetch_items(protocol->store, &batch);
    }
    enum step step = run(protocol, input, &batch, &tally);
    tally_count(&tally, protocol->counters);
    return step;
}
