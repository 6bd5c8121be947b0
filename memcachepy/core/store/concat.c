/* See concat.h. */
#include "store/concat.h"

#include "store/hashtable.h"
#include "store/held.h"
#include "store/pin.h"
#include "store/upload.h"
#include "store/write.h"

#include <stdlib.h>

/* A concatenation is computed without the lock, and anew when the item has changed meanwhile. After
 * so many times it keeps the lock while it copies, if the value is not so long that others would
 * take the process for a stopped one. It may lose it then only to make room. */
#define CONCAT_TRIES_UNLOCKED 4
#define CONCAT_LOCKED_BYTES_MAX (64u << 20)
#define CONCAT_TRIES_MAX 64

static enum put_result
upload_write_source(struct store *store, struct upload *upload, const struct source *source)
{
    return source->chain != NULL ? upload_write_chain(store, upload, source->chain)
                                 : upload_write(store, upload, source->bytes, source->len);
}

/* The item that is added to, held still: a chain is pinned, a small value copied. */
struct old_value {
    struct basis basis;
    uint32_t client_flags;
    struct expiry expire;
    struct source source;
    struct pin pin;
    uint8_t *copy;
};

/* PUT_STORED: held, release with old_release(); the shard stays locked if that is wanted and the
 * value is not too long. PUT_NOT_FOUND: there is none. */
static enum put_result
old_hold(struct store *store, const struct put *put, struct old_value *old, bool *keeps_lock)
{
    struct shard *shard = shard_of_key(store, &put->key);
    int index = free_pin(store);
    old->copy = malloc(store->chunk_bytes_max);
    if (index < 0 || old->copy == NULL) {
        free(old->copy);
        return PUT_NOT_STORED;
    }
    if (!shard_lock(store, shard)) {
        free(old->copy);
        return PUT_BUSY;
    }
    struct table_place place;
    table_find(store, shard, put->key.bytes, put->key.len, put->key.hash, &place);
    struct item *item = place_live(store, &place);
    if (item != NULL && !(item->bits & ITEM_CHAINED) && item->value_len > store->chunk_bytes_max) {
        item = NULL; /* Its header is damaged. */
    }
    if (item == NULL || item->bits & ITEM_EXTENDED ||
        !store_fits(store, put->key.len, item_client_flags(item, item->bits),
                    (uint64_t)item->value_len + put->value_len)) {
        shard_unlock(store, shard);
        free(old->copy);
        return item == NULL ? PUT_NOT_FOUND : PUT_NOT_STORED;
    }
    old->client_flags = item_client_flags(item, item->bits);
    old->expire.word = atomic_load_explicit(&item->expire_word, memory_order_relaxed);
    old->basis = (struct basis){.ref = place.ref.units,
                                .cas = item->cas,
                                .client_flags = old->client_flags,
                                .expire_word = old->expire.word,
                                .value_len = item->value_len,
                                .value = item->bits & ITEM_CHAINED ? NULL : old->copy};
    old->pin.held = false;
    old->source = (struct source){.bytes = old->copy, .len = item->value_len};
    if (item->bits & ITEM_CHAINED) {
        hold(store, &store->held->pins[index], item->value_len);
        pin_take(store, item, place.ref, put->key.hash, (unsigned)index, &old->pin);
        old->source.chain = &old->pin;
    } else {
        memcpy(old->copy, item_value(item), item->value_len);
    }
    *keeps_lock = *keeps_lock && item->value_len + put->value_len <= CONCAT_LOCKED_BYTES_MAX;
    if (!*keeps_lock) {
        shard_unlock(store, shard);
    }
    return PUT_STORED;
}

static void
old_release(struct store *store, struct old_value *old)
{
    if (old->pin.held) {
        store_unpin(store, &old->pin);
    }
    free(old->copy);
}

static enum put_result
concat_once(struct store *store, struct put *put, const struct source *added, bool keeps_lock)
{
    struct old_value old = {0};
    enum put_result result = old_hold(store, put, &old, &keeps_lock);
    if (result != PUT_STORED) {
        return result;
    }
    struct put whole = *put;
    whole.client_flags = old.client_flags;
    whole.expire = old.expire;
    struct upload upload = {.locked = keeps_lock};
    uint32_t value_len = old.source.len + put->value_len;
    const struct source *first = put->mode == PUT_APPEND ? &old.source : added;
    const struct source *second = put->mode == PUT_APPEND ? added : &old.source;
    result = upload_open(store, &whole, value_len, false, &upload);
    if (result == PUT_STORED) {
        result = upload_write_source(store, &upload, first);
    }
    if (result == PUT_STORED) {
        result = upload_write_source(store, &upload, second);
    }
    if (result == PUT_STORED) {
        result = upload_finish(store, &whole, &upload, &old.basis);
        put->cas_new = whole.cas_new;
        put->stored_len = whole.stored_len;
    } else {
        upload_unlock(store, shard_of_key(store, &put->key), &upload);
        store_upload_abort(store, &upload);
        result = result == PUT_BUSY ? PUT_BUSY : PUT_NOT_STORED;
    }
    old_release(store, &old);
    return result;
}

/* A concatenation to nothing. PUT_WAIT: there is something by now. */
static enum put_result
vivify(struct store *store, struct put *put, struct upload *upload)
{
    if (upload != NULL) {
        return upload_vivify(store, put, upload);
    }
    struct put whole = *put;
    whole.mode = PUT_ADD;
    enum put_result result = upload_put_whole(store, &whole);
    put->cas_new = whole.cas_new;
    put->stored_len = whole.stored_len;
    return result == PUT_NOT_STORED ? PUT_WAIT : result;
}

/* What is added lies in memory, or in an upload that is complete. */
enum put_result
concat(struct store *store, struct put *put, struct source *added, struct upload *upload)
{
    for (unsigned i = 0; i < CONCAT_TRIES_MAX; i++) {
        enum put_result result = concat_once(store, put, added, i >= CONCAT_TRIES_UNLOCKED);
        if (result == PUT_NOT_FOUND && put->vivifies) {
            result = vivify(store, put, upload);
        }
        if (result != PUT_WAIT) {
            return result == PUT_NOT_FOUND ? PUT_NOT_STORED : result;
        }
        if (added->chain != NULL) {
            pin_rewind(added->chain);
        }
    }
    return PUT_NO_MEMORY; /* There was none without leaving the lock, again and again. */
}
