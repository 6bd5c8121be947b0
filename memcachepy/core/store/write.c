/* Writes of items that fit one chunk, and everything that decides by what is already there.
 *
 * Every write is: lock, find, decide, make room (which may leave the lock: then find and decide
 * again), one transaction, unlock. */
#include "base/check.h"
#include "base/crash.h"
#include "base/number.h"
#include "base/xxh64.h"
#include "store/balance.h"
#include "store/chain.h"
#include "store/expiry.h"
#include "store/ghost.h"
#include "store/hashtable.h"
#include "store/policy.h"
#include "store/probation.h"
#include "store/room.h"
#include "store/slab.h"
#include "store/store.h"
#include "store/write.h"

/* memcached's item of 1.6 has 48 bytes of header, 8 of cas, a NUL behind the key, CRLF behind the
 * value, and 4 of flags if there are any; -I is about that size. */
#define MEMCACHED_OVERHEAD_BYTES 59

/* Splits an insertion pays for: one keeps up with growth, two catch up after a refusal. */
#define GROW_STEPS 2

bool
store_fits(const struct store *store, uint32_t key_len, uint32_t client_flags, uint64_t value_len)
{
    uint64_t bytes = value_len + key_len + MEMCACHED_OVERHEAD_BYTES + (client_flags != 0 ? 4 : 0);
    return bytes <= store_item_size_max(store);
}

uint32_t
store_put_len_max(const struct store *store, uint32_t key_len)
{
    return store->chunk_bytes_max - ITEM_HEADER_BYTES - 4 - key_len;
}

uint64_t
next_cas(struct store *store)
{
    return store->superblock->settings.cas_enabled
               ? atomic_fetch_add_explicit(&store->superblock->last_cas, 1, memory_order_relaxed) +
                     1
               : 0;
}

void
item_write_header(const struct store *store, struct item *item, const struct item_form *form,
                  uint8_t bits, struct ref next)
{
    atomic_store_explicit(&item->expire_word, form->expire.word, memory_order_relaxed);
    item->cas = form->cas;
    item->value_len = form->value_len;
    item->key_len = (uint8_t)form->key.len;
    item->bits = bits;
    item->epoch = epoch_now(store);
    item->check = item_check_value(form->key.hash, form->value_len, item->key_len, bits);
    if (bits & ITEM_CHAINED) {
        *item_next(item) = next.units;
    }
    if (bits & ITEM_HAS_FLAGS) {
        memcpy(item->tail + (bits & ITEM_CHAINED ? 4 : 0), &form->client_flags,
               sizeof(form->client_flags));
    }
    memcpy(item_key(item, bits), form->key.bytes, form->key.len);
}

/* A live state for a chunk; an overwritten item passes on its hits and its place in probation. */
static uint32_t
state_of_new(const struct store *store, const struct item *chunk, const struct item *old)
{
    uint32_t generation = chunk_state((void *)chunk) & STATE_GENERATION_MASK;
    uint32_t kept = old == NULL ? 0
                                : chunk_state((void *)old) &
                                      (STATE_COUNT_MASK | STATE_FETCHED | STATE_PROBATION);
    return state_touched(store, generation | kept | CHUNK_LIVE);
}

struct item *
place_live(const struct store *store, const struct table_place *place)
{
    return place->bucket != NULL && !item_is_dead(store, place->item) ? place->item : NULL;
}

/* The state of what is about to be linked: a new key goes into probation unless the ghost knows it.
 * Inside the transaction. */
static uint32_t
admit(struct store *store, struct shard *shard, const struct table_place *place, uint64_t hash,
      uint32_t class_id, const struct item *item)
{
    const struct item *old = place_live(store, place);
    uint32_t state = state_of_new(store, item, old);
    if (!has_probation(store)) {
        return state;
    }
    bool enters;
    if (old == NULL) {
        enters = !ghost_recall(store, shard, hash);
        if (!enters) {
            balance_returned(shard, class_id);
        }
    } else if (class_of_ref(store, place->ref) == class_id) {
        return state;
    } else {
        enters = state & STATE_PROBATION;
    }
    if (enters && probation_push(store, shard, class_id, hash)) {
        return state | STATE_PROBATION;
    }
    return state & ~STATE_PROBATION;
}

/* Counts what will expire in and out, and tells the sweep. Inside the transaction. */
static void
count_volatile(struct store *store, struct shard *shard, const struct table_place *place,
               const struct item *item)
{
    uint32_t word = atomic_load_explicit(&item->expire_word, memory_order_relaxed);
    uint32_t old = place->bucket == NULL
                       ? 0
                       : atomic_load_explicit(&place->item->expire_word, memory_order_relaxed);
    if ((word | old) != 0) {
        LOG(store, shard, shard->sums.volatile_items);
        shard->sums.volatile_items += (uint64_t)(word != 0) - (uint64_t)(old != 0);
        expiry_note(store, item, word);
    }
}

void
item_publish(struct store *store, struct shard *shard, const struct table_place *place,
             uint64_t hash, struct ref ref, bool counts)
{
    struct item *item = ref_at(store, ref);
    struct shard_sums *sums = &shard->sums;
    uint32_t class_id = class_of_ref(store, ref);
    bool frees_chunk = place->bucket != NULL && !(place->item->bits & ITEM_CHAINED);
    bucket_open(store, shard, place->primary);
    LOG(store, shard, sums->bytes);
    if (counts) {
        LOG(store, shard, sums->total_items);
        sums->total_items++;
    }
    sums->bytes += item_bytes(item);
    count_volatile(store, shard, place, item);
    atomic_store_explicit(&item->state, admit(store, shard, place, hash, class_id, item),
                          memory_order_relaxed);
    if (place->bucket != NULL) {
        sums->bytes -= item_bytes(place->item);
        table_replace(store, shard, place, ref);
        item_discard(store, shard, place->ref);
    } else {
        LOG(store, shard, sums->curr_items);
        sums->curr_items++;
        table_link(store, shard, place->primary, hash, ref);
    }
    CRASH_POINT(item_published_not_committed);
    journal_commit(shard);
    CRASH_POINT(item_committed);
    bucket_close(shard, place->primary);
    reclaim_run(store, shard);
    if (frees_chunk) {
        slab_release_empty(store, shard, page_of_ref(store, place->ref));
    }
    probation_settle(store, shard, class_id);
    table_grow(store, shard, GROW_STEPS);
}

/* Pops, fills and publishes in one transaction. The caller made room and holds the lock. */
static void
write_small(struct store *store, struct shard *shard, const struct table_place *place,
            struct item_form *form, uint32_t class_id, bool counts)
{
    form->cas = next_cas(store);
    struct ref ref = chunk_pop(store, shard, class_id);
    struct item *item = ref_at(store, ref);
    uint8_t bits = form->client_flags != 0 ? ITEM_HAS_FLAGS : 0;
    item_write_header(store, item, form, bits, REF_NONE);
    uint8_t *value = item_key(item, bits) + form->key.len;
    for (unsigned i = 0; i < ITEM_PIECES; i++) {
        if (form->piece_len[i] != 0) {
            memcpy(value, form->piece[i], form->piece_len[i]);
            value += form->piece_len[i];
        }
    }
    CRASH_POINT(item_filled);
    item_publish(store, shard, place, form->key.hash, ref, counts);
}

enum put_result
put_verdict(const struct put *put, struct item *old, struct store *store)
{
    switch (put->mode) {
    case PUT_SET:
        return PUT_STORED;
    case PUT_ADD:
        if (old != NULL) {
            item_hit_locked(store, old);
            return PUT_NOT_STORED;
        }
        return PUT_STORED;
    case PUT_REPLACE:
    case PUT_APPEND:
    case PUT_PREPEND:
        return old != NULL ? PUT_STORED : PUT_NOT_STORED;
    case PUT_CAS:
        if (old == NULL) {
            return PUT_NOT_FOUND;
        }
        return old->cas == put->cas_unique && put->cas_unique != 0 ? PUT_STORED : PUT_EXISTS;
    }
    return PUT_NOT_STORED;
}

static enum delete_result
remove_key(struct store *store, const struct key *key, enum unlink_reason reason)
{
    struct shard *shard = shard_of_hash(store, key->hash);
    if (!shard_lock(store, shard)) {
        return DELETE_BUSY;
    }
    struct table_place place;
    table_find(store, shard, key->bytes, key->len, key->hash, &place);
    enum delete_result result = DELETE_NOT_FOUND;
    if (place.bucket != NULL) {
        bool live = place_live(store, &place) != NULL;
        item_unlink_place(store, shard, &place, live ? reason : UNLINK_RECLAIM);
        result = live ? DELETE_DONE : DELETE_NOT_FOUND;
    }
    shard_unlock(store, shard);
    return result;
}

enum delete_result
store_delete(struct store *store, const struct key *key)
{
    return remove_key(store, key, UNLINK_DELETE);
}

enum delete_result
store_delete_refused(struct store *store, const struct key *key)
{
    return remove_key(store, key, UNLINK_REFUSE);
}

enum put_result
put_failed(struct store *store, const struct put *put, enum put_result result)
{
    /* Under a policy that protects items the old one was protected too. */
    bool keeps = result == PUT_NO_MEMORY && is_volatile_policy(store);
    if (put->mode == PUT_SET && !keeps && store_delete_refused(store, &put->key) == DELETE_BUSY) {
        return PUT_BUSY;
    }
    return result;
}

/* What the stored item will be, given what is there; false if it cannot be one chunk. */
static bool
form_of_put(const struct store *store, const struct put *put, struct item *old,
            struct item_form *form)
{
    *form = (struct item_form){.key = put->key,
                               .client_flags = put->client_flags,
                               .expire = put->expire,
                               .value_len = put->value_len,
                               .piece = {put->value},
                               .piece_len = {put->value_len}};
    if (put->mode == PUT_APPEND || put->mode == PUT_PREPEND) {
        if (old->bits & ITEM_CHAINED) {
            return false;
        }
        unsigned old_at = put->mode == PUT_APPEND ? 0 : 1;
        form->client_flags = item_client_flags(old, old->bits);
        form->expire.word = atomic_load_explicit(&old->expire_word, memory_order_relaxed);
        form->value_len += old->value_len;
        form->piece[1 - old_at] = put->value;
        form->piece_len[1 - old_at] = put->value_len;
        form->piece[old_at] = item_key(old, old->bits) + old->key_len;
        form->piece_len[old_at] = old->value_len;
    }
    return form_bytes(form) <= store->chunk_bytes_max;
}

static bool
is_concat(const struct put *put)
{
    return put->mode == PUT_APPEND || put->mode == PUT_PREPEND;
}

static bool
put_fits(const struct store *store, const struct put *put, const struct item *old)
{
    uint64_t value_len = put->value_len;
    uint32_t client_flags = put->client_flags;
    if (is_concat(put)) {
        value_len += old->value_len;
        client_flags = item_client_flags(old, old->bits);
    }
    return store_fits(store, put->key.len, client_flags, value_len);
}

enum put_result
store_put(struct store *store, struct put *put)
{
    if (!store_fits(store, put->key.len, put->client_flags, put->value_len)) {
        return put_failed(store, put, PUT_TOO_LARGE);
    }
    struct shard *shard = shard_of_hash(store, put->key.hash);
    if (!shard_lock(store, shard)) {
        return PUT_BUSY;
    }
    ghost_prefetch(store, shard, put->key.hash);
    for (;;) {
        struct table_place place;
        table_find(store, shard, put->key.bytes, put->key.len, put->key.hash, &place);
        struct item *old = place_live(store, &place);
        enum put_result verdict = put_verdict(put, old, store);
        if (verdict == PUT_STORED && !put_fits(store, put, old)) {
            verdict = PUT_NOT_STORED; /* Only a concatenation can get here. */
        }
        struct item_form form;
        if (verdict != PUT_STORED) {
            shard_unlock(store, shard);
            return verdict;
        }
        if (!form_of_put(store, put, old, &form)) {
            shard_unlock(store, shard);
            return chain_put(store, put);
        }
        uint32_t class_id = slab_class_of(store, form_bytes(&form));
        switch (room_make(store, shard, class_id)) {
        case ROOM_READY:
            if (place.primary != NULL) {
                write_small(store, shard, &place, &form, class_id, true);
                put->cas_new = form.cas;
                shard_unlock(store, shard);
                return PUT_STORED;
            }
            continue; /* The shard has a table only now. */
        case ROOM_CHANGED:
            continue;
        case ROOM_NO_MEMORY:
            shard_unlock(store, shard);
            return is_concat(put) ? PUT_NOT_STORED : put_failed(store, put, PUT_NO_MEMORY);
        case ROOM_BUSY:
            return PUT_BUSY;
        }
    }
}

enum touch_result
store_touch(struct store *store, const struct key *key, struct expiry expire)
{
    struct shard *shard = shard_of_hash(store, key->hash);
    if (!shard_lock(store, shard)) {
        return TOUCH_BUSY;
    }
    struct table_place place;
    table_find(store, shard, key->bytes, key->len, key->hash, &place);
    struct item *item = place_live(store, &place);
    if (item != NULL) {
        expiry_change(store, shard, item, expire.word);
        item_hit_locked(store, item);
    }
    shard_unlock(store, shard);
    return item != NULL ? TOUCH_DONE : TOUCH_NOT_FOUND;
}

/* ---- arithmetic ----------------------------------------------------------------------------- */

static bool
is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A stored number as memcached reads it, with strtoull() up to white space. */
static bool
parse_stored_number(const uint8_t *text, uint32_t len, uint64_t *number)
{
    if (len == 0) {
        return false;
    }
    uint32_t at = 0;
    while (at < len && is_space(text[at])) {
        at++;
    }
    bool negative = at < len && text[at] == '-';
    if (at < len && (text[at] == '-' || text[at] == '+')) {
        at++;
    }
    uint32_t digits_at = at;
    uint64_t value = 0;
    for (; at < len && text[at] >= '0' && text[at] <= '9'; at++) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(text[at] - '0'), &value)) {
            return false;
        }
    }
    if (at == digits_at || (negative && value != 0)) {
        return false;
    }
    *number = value;
    return at == len || is_space(text[at]) || text[at] == '\0';
}

/* The new value: digits, padded to the stored length if that is longer. */
static uint32_t
format_result(uint64_t number, uint32_t stored_len, char *out)
{
    uint32_t len = number_format_u64(number, out);
    while (len < stored_len) {
        out[len++] = ' ';
    }
    return len;
}

/* A longer value is no number that fits; memcached copies it into a buffer of this size. */
#define STORED_NUMBER_LEN_MAX 1024

enum arith_result
store_arith(struct store *store, const struct key *key, bool increment, uint64_t delta,
            uint64_t *number)
{
    struct shard *shard = shard_of_hash(store, key->hash);
    if (!shard_lock(store, shard)) {
        return ARITH_BUSY;
    }
    for (;;) {
        struct table_place place;
        table_find(store, shard, key->bytes, key->len, key->hash, &place);
        struct item *old = place_live(store, &place);
        uint64_t value = 0;
        enum arith_result refusal = ARITH_DONE;
        if (old == NULL) {
            refusal = ARITH_NOT_FOUND;
        } else if (old->bits & ITEM_CHAINED || old->value_len > STORED_NUMBER_LEN_MAX ||
                   !parse_stored_number(item_key(old, old->bits) + old->key_len, old->value_len,
                                        &value)) {
            refusal = ARITH_NOT_A_NUMBER;
        }
        if (refusal != ARITH_DONE) {
            shard_unlock(store, shard);
            return refusal;
        }
        value = increment ? value + delta : value > delta ? value - delta : 0;
        char text[STORED_NUMBER_LEN_MAX + U64_DECIMAL_LEN_MAX];
        uint32_t len = format_result(value, old->value_len, text);
        struct item_form form = {
            .key = *key,
            .client_flags = item_client_flags(old, old->bits),
            .expire.word = atomic_load_explicit(&old->expire_word, memory_order_relaxed),
            .value_len = len,
            .piece = {(const uint8_t *)text},
            .piece_len = {len},
        };
        uint32_t class_id = slab_class_of(store, form_bytes(&form));
        switch (room_make(store, shard, class_id)) {
        case ROOM_READY:
            item_hit_locked(store, old);
            write_small(store, shard, &place, &form, class_id, false);
            shard_unlock(store, shard);
            *number = value;
            return ARITH_DONE;
        case ROOM_CHANGED:
            continue;
        case ROOM_NO_MEMORY:
            shard_unlock(store, shard);
            return ARITH_NO_MEMORY;
        case ROOM_BUSY:
            return ARITH_BUSY;
        }
    }
}
