/* What every command that returns values does for each key: look, copy or pin, count. Inlined into
 * the loops of execute_get.c and binary_get.c; what the reply looks like is their `struct
 * reply_form`. */
#ifndef PROTO_ANSWER_H
#define PROTO_ANSWER_H

#include "proto/watch_log.h"

/* A value that claims to be longer is a torn read: it does not fit a chunk. */
#define COPIED_VALUE_BYTES_MAX (OUTPUT_REPLY_BYTES_MAX - 1024)

/* What a batch counts, added up once at its end. */
struct tally {
    unsigned get_hits, get_misses, get_expired, get_flushed;
    unsigned touch_hits, touch_misses;
    bool touches; /* The batch's hits count as touches and not as gets. */
};

static inline void
tally_count(const struct tally *tally, struct counters *counters)
{
    unsigned gets = tally->get_hits + tally->get_misses;
    unsigned touched = tally->touch_hits + tally->touch_misses;
    if (gets != 0) {
        counter_add(counters, COUNTER_cmd_get, gets);
        counter_add(counters, COUNTER_get_hits, tally->get_hits);
        counter_add(counters, COUNTER_get_misses, tally->get_misses);
    }
    if (touched != 0) {
        counter_add(counters, COUNTER_cmd_touch, touched);
        counter_add(counters, COUNTER_touch_hits, tally->touch_hits);
        counter_add(counters, COUNTER_touch_misses, tally->touch_misses);
    }
    if (UNLIKELY((tally->get_expired | tally->get_flushed) != 0)) {
        counter_add(counters, COUNTER_get_expired, tally->get_expired);
        counter_add(counters, COUNTER_get_flushed, tally->get_flushed);
    }
}

/* Copies what another process may be changing; believed only after store_view_confirm(). */
static inline RACY_READ void
copy_value(uint8_t *out, const uint8_t *value, uint32_t len)
{
#ifdef UNDER_TSAN
    for (uint32_t i = 0; i < len; i++) {
        out[i] = ((const volatile uint8_t *)value)[i];
    }
#else
    memcpy(out, value, len);
#endif
}

/* Two vectors instead of a call: both buffers are longer than their contents by that much. */
static inline uint8_t *
write_key(uint8_t *out, const struct key *key)
{
    static_assert(INPUT_SLACK_BYTES >= 32 && OUTPUT_SLACK_BYTES >= 32,
                  "a short key is copied whole");
    if (LIKELY(key->len <= 32)) {
        memcpy(out, key->bytes, 32);
    } else {
        memcpy(out, key->bytes, key->len);
    }
    return out + key->len;
}

/* What is said of an item before its value. */
struct hit {
    uint32_t client_flags;
    uint32_t value_len;
    uint64_t cas;
};

/* Writes what stands before the value and returns the place behind it: at most 512
 * bytes. */
typedef uint8_t *reply_head(uint8_t *out, const struct batch_key *entry, const struct hit *hit);

/* How one protocol answers a hit. Constant where it is used, so that its functions are inlined. */
struct reply_form {
    reply_head *head;
    const char *tail; /* What follows the value. */
    uint32_t tail_len;
};

/* Appends a small value. False: it changed meanwhile, nothing was appended. */
static ALWAYS_INLINE bool
answer_small(struct protocol *protocol, const struct batch_key *entry, struct view *view,
             bool touches, const struct reply_form form)
{
    struct output *output = &protocol->output;
    uint8_t *out = output->bytes + output->end;
    if (LIKELY(view->value_len <= COPIED_VALUE_BYTES_MAX)) {
        struct hit hit = {view->client_flags, view->value_len, view->cas};
        out = form.head(out, entry, &hit);
        copy_value(out, view->value, hit.value_len);
        out += hit.value_len;
        memcpy(out, form.tail, form.tail_len);
        out += form.tail_len;
    }
    if (!store_view_confirm(protocol->store, view, touches ? VIEW_BUMP : VIEW_GET)) {
        return false;
    }
    output->end = (uint32_t)(out - output->bytes);
    return true;
}

/* Appends a large value, whose pin is the output's from then on. False: out of memory, the pin is
 * gone and nothing was appended. */
static ALWAYS_INLINE bool
answer_pinned(struct protocol *protocol, const struct batch_key *entry, struct pin *pin,
              const struct reply_form form)
{
    struct output *output = &protocol->output;
    uint32_t end_before = output->end;
    struct hit hit = {pin->client_flags, pin->value_len, pin->cas};
    uint8_t *out = form.head(output->bytes + end_before, entry, &hit);
    output->end = (uint32_t)(out - output->bytes);
    if (!output_add_pin(output, pin)) {
        store_unpin(protocol->store, pin);
        output->end = end_before;
        return false;
    }
    output_add(output, form.tail, form.tail_len);
    return true;
}

/* Appends a large value by pinning it; any other result than PIN_OK appends nothing. */
static ALWAYS_INLINE enum pin_result
answer_large(struct protocol *protocol, const struct batch_key *entry, bool touches,
             const struct reply_form form)
{
    struct pin pin;
    enum pin_result result = store_pin(protocol->store, &entry->key, &pin);
    if (result != PIN_OK) {
        return result;
    }
    if (!answer_pinned(protocol, entry, &pin, form)) {
        return PIN_WAIT;
    }
    if (!touches) {
        store_count_pinned_get(protocol->store, &pin);
    }
    return PIN_OK;
}

enum answer {
    ANSWER_HIT,
    ANSWER_MISS,
    ANSWER_BUSY, /* A stopped process is in the way. */
    ANSWER_WAIT, /* No room to pin the value; nothing was counted or written. */
};

/* Whoever watches is told; nobody does as a rule. */
static ALWAYS_INLINE void
tell_lookup(struct protocol *protocol, const struct batch_key *entry, enum watch_found found,
            uint32_t client_flags, uint32_t value_len)
{
    if (watch_wants(protocol, LOG_FETCHERS)) {
        watch_log_get(protocol, &entry->key, found, client_flags, value_len);
    }
}

/* Appends the reply of a hit, and nothing otherwise. */
static ALWAYS_INLINE enum answer
answer_key(struct protocol *protocol, const struct batch_key *entry, struct tally *tally,
           const struct reply_form form)
{
    struct view view;
    view.tries = 0;
    view.locked = false;
    for (;;) {
        switch (store_view(protocol->store, &entry->key, &view)) {
        case VIEW_HIT:
            if (answer_small(protocol, entry, &view, tally->touches, form)) {
                tell_lookup(protocol, entry, WATCH_FOUND, view.client_flags, view.value_len);
                return ANSWER_HIT;
            }
            break;
        case VIEW_MISS:
            tell_lookup(protocol, entry, WATCH_NOT_FOUND, 0, 0);
            return ANSWER_MISS;
        case VIEW_EXPIRED:
            tally->get_expired++;
            tell_lookup(protocol, entry, WATCH_EXPIRED, 0, 0);
            return ANSWER_MISS;
        case VIEW_FLUSHED:
            tally->get_flushed++;
            tell_lookup(protocol, entry, WATCH_FLUSHED, 0, 0);
            return ANSWER_MISS;
        case VIEW_BUSY:
            return ANSWER_BUSY;
        case VIEW_HIT_LARGE:
            switch (answer_large(protocol, entry, tally->touches, form)) {
            case PIN_OK:
                tell_lookup(protocol, entry, WATCH_FOUND, view.client_flags, view.value_len);
                return ANSWER_HIT;
            case PIN_WAIT:
                return ANSWER_WAIT;
            case PIN_BUSY:
                return ANSWER_BUSY;
            case PIN_GONE:
            case PIN_SMALL:
                view.tries = 0;
                view.locked = false;
                break;
            }
            break;
        }
    }
}

/* Fetches the items of a batch whose buckets are on their way. Most items are found through the
 * first bucket of their chain, nearly all others through the second. */
static inline void
batch_prefetch_items(struct store *store, const struct batch *batch)
{
    unsigned deeper[BATCH_KEYS_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < batch->count; i++) {
        deeper[count] = i;
        count += store_prefetch_item(store, &batch->keys[i].key, 0);
    }
    for (unsigned i = 0; i < count; i++) {
        (void)store_prefetch_item(store, &batch->keys[deeper[i]].key, 1);
    }
}

#endif
