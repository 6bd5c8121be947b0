/* Writes of items that fit one chunk, and everything that decides by what is already there.
 *
 * Every write is: lock, find, decide, make room (which may leave the lock: then find and decide
 * again), one transaction, unlock. */
#include "base/check.h"
#include "base/crash.h"
#include "store/chain.h"
#include "store/expiry.h"
#include "store/ghost.h"
#include "store/hashtable.h"
#include "store/policy.h"
#include "store/probation.h"
#include "store/room.h"
#include "store/slab.h"
#include "store/store.h"
#include "store/track.h"
#include "store/write.h"

/* memcached's item of 1.6 has 48 bytes of header, 8 of cas, a NUL behind the key, CRLF behind the
 * value, and 4 of flags if there are any; -I is about that size. */
#define MEMCACHED_OVERHEAD_BYTES 59

/* Splits an insertion pays for: one keeps up with growth, two catch up after a refusal. */
#define GROW_STEPS 2

static bool
size_fits(const struct store *store, uint32_t key_len, uint32_t client_flags, uint64_t value_len)
{
    uint64_t bytes = value_len + key_len + MEMCACHED_OVERHEAD_BYTES + (client_flags != 0 ? 4 : 0);
    return bytes <= store_item_size_max(store);
}

bool
store_fits(const struct store *store, uint32_t key_len, uint32_t client_flags, uint64_t value_len)
{
    return key_len <= PLAIN_KEY_LEN_MAX && size_fits(store, key_len, client_flags, value_len);
}

uint32_t
store_put_len_max(const struct store *store, uint32_t key_len)
{
    return store->chunk_bytes_max - ITEM_HEADER_BYTES - 4 - key_len;
}

uint64_t
next_cas(struct store *store)
{
    return store->cas_enabled
               ? atomic_fetch_add_explicit(&store->superblock->last_cas, 1, memory_order_relaxed) +
                     1
               : 0;
}

uint64_t
chosen_cas(struct store *store, const struct cas_option *given)
{
    if (!given->given) {
        return next_cas(store);
    }
    return store->cas_enabled ? given->unique : 0;
}

uint8_t *
item_write_header(const struct store *store, struct item *item, const struct item_form *form,
                  uint8_t bits, struct ref next)
{
    /* There is no place for more without an extension. */
    CHECK(form->key.len <= PLAIN_KEY_LEN_MAX && form->key.database == 0);
    atomic_store_explicit(&item->expire_word, form->expire.word, memory_order_relaxed);
    item->cas = form->cas;
    item->value_len = form->value_len;
    item->key_len = (uint8_t)form->key.len;
    item->bits = bits;
    item->epoch = epoch_now(store);
    item->check = item_check_value(form->key.hash, form->value_len, item->key_len, bits);
    uint8_t *at = item->tail;
    if (bits & ITEM_CHAINED) {
        *item_next(item) = next.units;
        at += sizeof(next.units);
    }
    if (bits & ITEM_HAS_FLAGS) {
        memcpy(at, &form->client_flags, sizeof(form->client_flags));
        at += sizeof(form->client_flags);
    }
    memcpy(at, form->key.bytes, form->key.len);
    return at + form->key.len;
}

/* A live state for a chunk; an overwritten item passes on its hits and its place in probation. Of a
 * new value it is not yet known whether anybody wants it. */
static uint32_t
state_of_new(const struct store *store, const struct item *chunk, const struct item *old,
             enum publish publish)
{
    uint32_t generation = chunk_state((void *)chunk) & STATE_GENERATION_MASK;
    uint32_t passed =
        STATE_COUNT_MASK | STATE_PROBATION | (publish == PUBLISH_CHANGED ? STATE_FETCHED : 0);
    uint32_t kept = 0;
    if (old != NULL) {
        kept = chunk_state((void *)old) & passed;
    } else if (UNLIKELY(publish == PUBLISH_COPIED)) {
        kept = chunk_state((void *)chunk) & STATE_COUNT_MASK;
    }
    return state_touched(store, generation | kept | CHUNK_LIVE);
}

/* Hidden copies, too. */
static inline struct item *
place_alive(const struct store *store, const struct table_place *place)
{
    return place->bucket != NULL && !item_is_dead(store, place->item) ? place->item : NULL;
}

struct item *
place_live(const struct store *store, const struct table_place *place)
{
    struct item *item = place_alive(store, place);
    return UNLIKELY(item != NULL && item->bits & ITEM_COPIED) ? copy_if_shown(store, item) : item;
}

/* The state of what is about to be linked: a new key goes into probation unless the ghost knows it.
 * Inside the transaction. */
static uint32_t
admit(struct store *store, struct shard *shard, const struct table_place *place, uint64_t hash,
      uint32_t class_id, uint32_t old_class, const struct item *item, enum publish publish)
{
    const struct item *old = place_alive(store, place);
    uint32_t state = state_of_new(store, item, old, publish);
    if (!has_probation(store)) {
        return state;
    }
    bool enters;
    if (old == NULL) {
        enters = !ghost_recall(store, shard, hash);
    } else if (old_class == class_id) {
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

/* The item at the place is being replaced by one of class `class_id`, whose bytes are logged.
 * Inside the transaction. */
static void
leave_class(struct store *store, struct shard *shard, const struct table_place *place,
            uint32_t class_id, uint32_t old_id)
{
    if (old_id != class_id) {
        LOG(store, shard, shard->class_bytes[old_id]);
        LOG(store, shard, shard->classes[old_id].item_count);
        LOG(store, shard, shard->classes[class_id].item_count);
        shard->classes[old_id].item_count--;
        shard->classes[class_id].item_count++;
    }
    shard->class_bytes[old_id] -= item_bytes(place->item);
}

/* item_publish() of an item of which the class is known. */
static void
publish_in_class(struct store *store, struct shard *shard, const struct table_place *place,
                 uint64_t hash, struct ref ref, uint32_t class_id, enum publish publish)
{
    struct item *item = ref_at(store, ref);
    struct shard_sums *sums = &shard->sums;
    uint32_t old_class = place->bucket != NULL ? class_of_ref(store, place->ref) : 0;
    bool frees_chunk = place->bucket != NULL && !(place->item->bits & ITEM_CHAINED);
    if (is_tracking(store) && publish != PUBLISH_COPIED) {
        track_set_item(store, item);
    }
    bucket_open(store, shard, place->primary);
    LOG_2(store, shard, shard->class_bytes[class_id], sums->total_items);
    sums->total_items += publish == PUBLISH_STORED;
    shard->class_bytes[class_id] += item_bytes(item);
    count_volatile(store, shard, place, item);
    atomic_store_explicit(&item->state,
                          admit(store, shard, place, hash, class_id, old_class, item, publish),
                          memory_order_relaxed);
    if (place->bucket != NULL) {
        leave_class(store, shard, place, class_id, old_class);
        table_replace(store, shard, place, ref);
        item_discard(store, shard, place->ref);
    } else {
        LOG_2(store, shard, sums->curr_items, shard->classes[class_id].item_count);
        sums->curr_items++;
        shard->classes[class_id].item_count++;
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

void
item_publish(struct store *store, struct shard *shard, const struct table_place *place,
             uint64_t hash, struct ref ref, enum publish publish)
{
    publish_in_class(store, shard, place, hash, ref, class_of_ref(store, ref), publish);
}

void
write_small(struct store *store, struct shard *shard, const struct table_place *place,
            struct item_form *form, uint32_t class_id, enum publish publish)
{
    form->cas = chosen_cas(store, &form->cas_given);
    struct ref ref = chunk_pop(store, shard, class_id);
    struct item *item = ref_at(store, ref);
    uint8_t bits = form->marks | (form->client_flags != 0 ? ITEM_HAS_FLAGS : 0);
    uint8_t *value = item_write_header(store, item, form, bits, REF_NONE);
    for (unsigned i = 0; i < ITEM_PIECES; i++) {
        if (form->piece_len[i] != 0) {
            memcpy(value, form->piece[i], form->piece_len[i]);
            value += form->piece_len[i];
        }
    }
    CRASH_POINT(item_filled);
    publish_in_class(store, shard, place, form->key.hash, ref, class_id, publish);
}

static enum put_result
verdict_of_mode(const struct put *put, struct item *old, struct store *store)
{
    switch (put->mode) {
    case PUT_SET:
    case PUT_CAS: /* Decided already. */
        return PUT_STORED;
    case PUT_ADD:
        if (old != NULL) {
            item_use_locked(store, old);
            return PUT_NOT_STORED;
        }
        return PUT_STORED;
    case PUT_REPLACE:
        return old != NULL ? PUT_STORED : PUT_NOT_STORED;
    case PUT_APPEND:
    case PUT_PREPEND:
        if (old == NULL) {
            return put->vivifies ? PUT_STORED : PUT_NOT_STORED;
        }
        if (UNLIKELY(old->bits & ITEM_EXTENDED)) {
            return PUT_NOT_STORED;
        }
        return put->cas_unique == 0 || put->cas_unique == old->cas ? PUT_STORED : PUT_EXISTS;
    }
    return PUT_NOT_STORED;
}

struct verdict
put_verdict(const struct put *put, struct item *old, struct store *store)
{
    if (put->mode != PUT_CAS) {
        return (struct verdict){.result = verdict_of_mode(put, old, store)};
    }
    if (old == NULL) {
        return (struct verdict){.result = PUT_NOT_FOUND};
    }
    if (put->cas_unique != 0 && put->cas_unique == old->cas) {
        return (struct verdict){.result = PUT_STORED};
    }
    bool stale = put->invalidates && put->cas_unique != 0 && put->cas_unique < old->cas;
    return (struct verdict){.result = stale ? PUT_STORED : PUT_EXISTS, .stale = stale};
}

uint8_t
put_marks(const struct put *put, const struct item *old, struct verdict verdict)
{
    uint8_t marks = 0;
    /* As memcached: what a concatenation makes carries no mark, for nobody has named its key. */
    if (put->binary_key && !(is_concat(put) && old != NULL)) {
        marks |= ITEM_BINARY_KEY;
    }
    if (verdict.stale) {
        marks |= ITEM_STALE | (old->bits & ITEM_WIN_SENT);
    }
    return marks;
}

enum put_result
put_failed(struct store *store, const struct put *put, enum put_result result)
{
    /* Under a policy that protects items the old one was protected too. */
    bool keeps = result == PUT_NO_MEMORY && is_volatile_policy(store);
    if ((put->mode == PUT_SET || put->drops_old) && !keeps &&
        store_delete_refused(store, &put->key) == DELETE_BUSY) {
        return PUT_BUSY;
    }
    return result;
}

/* What the stored item will be, given what is there; false if it cannot be one chunk. */
static bool
form_of_put(const struct store *store, const struct put *put, struct item *old,
            struct verdict verdict, struct item_form *form)
{
    *form = (struct item_form){.key = put->key,
                               .client_flags = put->client_flags,
                               .expire = put->expire,
                               .cas_given = put_cas_given(put),
                               .marks = put_marks(put, old, verdict),
                               .value_len = put->value_len,
                               .piece = {put->value},
                               .piece_len = {put->value_len}};
    if (verdict.stale) {
        form->expire.word = atomic_load_explicit(&old->expire_word, memory_order_relaxed);
    }
    if (is_concat(put) && old != NULL) {
        if (old->bits & ITEM_CHAINED) {
            return false;
        }
        unsigned old_at = put->mode == PUT_APPEND ? 0 : 1;
        form->client_flags = item_client_flags(old, old->bits);
        form->expire.word = atomic_load_explicit(&old->expire_word, memory_order_relaxed);
        form->value_len += old->value_len;
        form->piece[1 - old_at] = put->value;
        form->piece_len[1 - old_at] = put->value_len;
        form->piece[old_at] = item_value(old);
        form->piece_len[old_at] = old->value_len;
    }
    return form_bytes(form) <= store->chunk_bytes_max;
}

static bool
put_fits(const struct store *store, const struct put *put, const struct item *old)
{
    uint64_t value_len = put->value_len;
    uint32_t client_flags = put->client_flags;
    if (is_concat(put) && old != NULL) {
        value_len += old->value_len;
        client_flags = item_client_flags(old, old->bits);
    }
    return size_fits(store, put->key.len, client_flags, value_len);
}

enum put_result
store_put(struct store *store, struct put *put)
{
    if (!store_fits(store, put->key.len, put->client_flags, put->value_len)) {
        return put_failed(store, put, PUT_TOO_LARGE);
    }
    struct shard *shard = shard_of_key(store, &put->key);
    if (!shard_lock(store, shard)) {
        return PUT_BUSY;
    }
    ghost_prefetch(store, shard, put->key.hash);
    for (;;) {
        struct table_place place;
        table_find(store, shard, put->key.bytes, put->key.len, put->key.hash, &place);
        struct item *old = place_live(store, &place);
        bool grows = is_concat(put) && old != NULL;
        struct verdict verdict = put_verdict(put, old, store);
        if (verdict.result == PUT_STORED && !put_fits(store, put, old)) {
            verdict.result = PUT_NOT_STORED; /* Only a concatenation can get here. */
        }
        struct item_form form;
        if (verdict.result != PUT_STORED) {
            shard_unlock(store, shard);
            return verdict.result;
        }
        if (!form_of_put(store, put, old, verdict, &form)) {
            shard_unlock(store, shard);
            return chain_put(store, put);
        }
        uint32_t class_id = slab_class_of(store, form_bytes(&form));
        switch (room_make(store, shard, class_id)) {
        case ROOM_READY:
            if (!room_in_chain(store, shard, &place)) {
                shard_unlock(store, shard);
                return put_failed(store, put, PUT_NO_MEMORY);
            }
            if (place.primary != NULL) {
                write_small(store, shard, &place, &form, class_id, PUBLISH_STORED);
                put->cas_new = form.cas;
                put->stored_len = form.value_len;
                shard_unlock(store, shard);
                return PUT_STORED;
            }
            continue; /* The shard has a table only now. */
        case ROOM_CHANGED:
            continue;
        case ROOM_NO_MEMORY:
            shard_unlock(store, shard);
            return grows ? PUT_NOT_STORED : put_failed(store, put, PUT_NO_MEMORY);
        case ROOM_BUSY:
            return PUT_BUSY;
        }
    }
}
