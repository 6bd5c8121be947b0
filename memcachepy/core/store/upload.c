/* See upload.h. */
#include "store/upload.h"

#include "base/check.h"
#include "base/crash.h"
#include "store/chain.h"
#include "store/copy.h"
#include "store/hashtable.h"
#include "store/held.h"
#include "store/pin.h"
#include "store/room.h"
#include "store/slab.h"
#include "store/walk.h"
#include "store/write.h"

#define TAIL_WASTE_PART 32

static struct held_ref *
upload_entry(struct store *store, const struct upload *upload)
{
    return &store->held->uploads[upload->index];
}

static enum put_result
put_result_of_room(enum room_result room)
{
    return room == ROOM_BUSY ? PUT_BUSY : PUT_NO_MEMORY;
}

void
upload_unlock(struct store *store, struct shard *shard, struct upload *upload)
{
    if (upload->locked) {
        upload->locked = false;
        shard_unlock(store, shard);
    }
}

/* Leaves the shard locked if it returns PUT_STORED, and only then. */
static enum put_result
lock_with_room(struct store *store, struct shard *shard, uint32_t class_id, struct upload *upload)
{
    if (!upload->locked && !shard_lock(store, shard)) {
        return PUT_BUSY;
    }
    enum room_result room = room_make(store, shard, class_id);
    if (room == ROOM_READY || room == ROOM_CHANGED) {
        return PUT_STORED;
    }
    upload->locked = false;
    if (room == ROOM_NO_MEMORY) {
        shard_unlock(store, shard);
    }
    return put_result_of_room(room);
}

/* Behind a transaction of the upload. */
static void
leave_lock(struct store *store, struct shard *shard, const struct upload *upload)
{
    if (!upload->locked) {
        shard_unlock(store, shard);
    }
}

/* Starts a chain in a free upload entry: if the share has room, or whatever is held already. Of the
 * upload only `locked` is looked at. */
enum put_result
upload_open(struct store *store, const struct put *put, uint32_t value_len, bool may_wait,
            struct upload *upload)
{
    int index = free_upload(store);
    if (index < 0) {
        return PUT_WAIT;
    }
    struct held_ref *entry = &store->held->uploads[index];
    if (!may_wait) {
        hold(store, entry, value_len);
    } else if (!hold_if_room(store, entry, put->key.hash, value_len)) {
        return PUT_WAIT;
    }
    struct shard *shard = shard_of_key(store, &put->key);
    uint32_t class_id = store->superblock->class_count;
    enum put_result result = lock_with_room(store, shard, class_id, upload);
    if (result != PUT_STORED) {
        hold_no_more(store, store->slot, entry);
        return result;
    }
    struct item_form form = {.key = put->key,
                             .client_flags = put->client_flags,
                             .expire = put->expire,
                             .value_len = value_len};
    LOG(store, shard, entry->head_ref);
    struct ref head = chunk_pop(store, shard, class_id);
    struct item *item = ref_at(store, head);
    uint8_t bits = ITEM_CHAINED | (put->client_flags != 0 ? ITEM_HAS_FLAGS : 0);
    item_write_header(store, item, &form, bits, REF_NONE);
    uint32_t generation = chunk_state(item) & STATE_GENERATION_MASK;
    atomic_store_explicit(&item->state, generation | CHUNK_UPLOAD, memory_order_relaxed);
    atomic_store_explicit(&entry->head_ref, head.units, memory_order_relaxed);
    CRASH_POINT(upload_opened);
    journal_commit(shard);
    leave_lock(store, shard, upload);
    *upload = (struct upload){.value_len = value_len,
                              .key_hash = put->key.hash,
                              .head_ref = head.units,
                              .tail_ref = head.units,
                              .index = (uint16_t)index,
                              .open = true,
                              .locked = upload->locked};
    return PUT_STORED;
}

enum put_result
store_upload_begin(struct store *store, const struct put *put, struct upload *upload)
{
    if (!store_fits(store, put->key.len, put->client_flags, put->value_len)) {
        return put_failed(store, put, PUT_TOO_LARGE);
    }
    upload->locked = false;
    enum put_result result = upload_open(store, put, put->value_len, true, upload);
    return result == PUT_NO_MEMORY ? put_failed(store, put, result) : result;
}

/* The class of a chain's next chunk. A tail must not take a page of its own for the sake of a few
 * bytes: it may waste a part of the value's length. Read without the lock: only a choice. */
static RACY_READ uint32_t
class_of_next_chunk(const struct store *store, const struct shard *shard,
                    const struct upload *upload)
{
    uint32_t wanted = upload->value_len - upload->received + CONTINUATION_HEADER_BYTES;
    if (wanted >= store->chunk_bytes_max) {
        return store->superblock->class_count;
    }
    uint32_t fitting = slab_class_of(store, wanted);
    uint32_t most = wanted + upload->value_len / TAIL_WASTE_PART;
    for (uint32_t class_id = fitting;
         class_id <= store->superblock->class_count && slab_chunk_bytes(store, class_id) <= most;
         class_id++) {
        if (shard->classes[class_id].page_count > 0) {
            return class_id;
        }
    }
    return fitting;
}

/* Where the value begins in the chain's head, as chain_head_data(). NULL: another process has
 * damaged the head or the entry that names it, and the chunks may be others' by now. */
static uint8_t *
upload_head(struct store *store, const struct upload *upload, uint32_t *room)
{
    struct ref head = {upload->head_ref};
    bool named = atomic_load_explicit(&upload_entry(store, upload)->head_ref,
                                      memory_order_relaxed) == upload->head_ref;
    return named ? chain_head_data(store, head, upload->key_hash, upload->value_len,
                                   1u << CHUNK_UPLOAD, room)
                 : NULL;
}

static bool
upload_is_sound(struct store *store, const struct upload *upload)
{
    uint32_t room;
    return upload_head(store, upload, &room) != NULL;
}

/* Where the tail's part of the value begins, and how long it can be. NULL: it is damaged. */
static uint8_t *
upload_tail(struct store *store, const struct upload *upload, uint32_t *room)
{
    struct ref tail = {upload->tail_ref};
    uint8_t *data = upload_head(store, upload, room);
    if (data == NULL || upload->tail_ref == upload->head_ref) {
        return data;
    }
    *room = cont_is_of(store, tail, upload->head_ref) ? chain_cont_room(store, tail) : 0;
    return *room == 0 ? NULL : ((struct continuation *)ref_at(store, tail))->data;
}

/* Hangs one more chunk behind the tail. */
static enum put_result
upload_extend(struct store *store, struct upload *upload)
{
    struct ref head = {upload->head_ref};
    struct ref tail = {upload->tail_ref};
    struct shard *shard = shard_of_hash(store, upload->key_hash);
    uint32_t room;
    uint32_t class_id = class_of_next_chunk(store, shard, upload);
    enum put_result result = lock_with_room(store, shard, class_id, upload);
    if (result != PUT_STORED) {
        return result;
    }
    if (UNLIKELY(upload_tail(store, upload, &room) == NULL)) {
        leave_lock(store, shard, upload);
        return PUT_NO_MEMORY;
    }
    struct ref ref = chunk_pop(store, shard, class_id);
    struct continuation *continuation = ref_at(store, ref);
    uint32_t generation = chunk_state(continuation) & STATE_GENERATION_MASK;
    atomic_store_explicit(&continuation->state, generation | CHUNK_CONT, memory_order_relaxed);
    continuation->next = 0;
    continuation->head = head.units;
    uint32_t *next = ref_equal(tail, head) ? item_next(ref_at(store, head))
                                           : &((struct continuation *)ref_at(store, tail))->next;
    LOG(store, shard, *next);
    *next = ref.units;
    CRASH_POINT(upload_extended);
    journal_commit(shard);
    leave_lock(store, shard, upload);
    upload->tail_ref = ref.units;
    upload->tail_offset = 0;
    return PUT_STORED;
}

/* The free part of the tail; UINT32_MAX if that is damaged. */
static uint32_t
upload_tail_space(struct store *store, const struct upload *upload, uint8_t **space)
{
    uint32_t room;
    *space = upload_tail(store, upload, &room);
    if (UNLIKELY(*space == NULL || room < upload->tail_offset)) {
        return UINT32_MAX;
    }
    *space += upload->tail_offset;
    uint32_t left = upload->value_len - upload->received;
    room -= upload->tail_offset;
    return room < left ? room : left;
}

uint32_t
store_upload_space(struct store *store, struct upload *upload, uint8_t **space,
                   enum put_result *result)
{
    *result = PUT_STORED;
    if (upload->received == upload->value_len) {
        return 0;
    }
    uint32_t room = upload_tail_space(store, upload, space);
    if (room == 0) {
        *result = upload_extend(store, upload);
        if (*result == PUT_STORED) {
            room = upload_tail_space(store, upload, space);
        }
    }
    if (UNLIKELY(room == UINT32_MAX)) {
        *result = PUT_NO_MEMORY;
        return 0;
    }
    return room;
}

bool
store_upload_has_space(struct store *store, const struct upload *upload)
{
    uint32_t room;
    return upload_tail(store, upload, &room) != NULL;
}

void
store_upload_advance(struct store *store, struct upload *upload, uint32_t bytes)
{
    (void)store;
    upload->received += bytes;
    upload->tail_offset += bytes;
    DCHECK(upload->received <= upload->value_len);
}

/* Frees the chain that the upload entry names, if it is one; under the lock. */
static void
upload_discard(struct store *store, struct shard *shard, struct held_ref *entry, struct ref head)
{
    struct item *item = ref_at(store, head);
    if (UNLIKELY(atomic_load_explicit(&entry->head_ref, memory_order_relaxed) != head.units ||
                 shard_of_ref(store, head) != shard || !held_head_is_sound(store, head) ||
                 state_kind(chunk_state(item)) != CHUNK_UPLOAD)) {
        /* Another process has damaged the entry, or what it names. */
        atomic_store_explicit(&entry->head_ref, 0, memory_order_relaxed);
        return;
    }
    LOG(store, shard, entry->head_ref);
    LOG(store, shard, item->state);
    atomic_store_explicit(&entry->head_ref, 0, memory_order_relaxed);
    uint32_t state = chunk_state(item);
    atomic_store_explicit(&item->state, (state & ~STATE_KIND_MASK) | CHUNK_DETACHED,
                          memory_order_relaxed);
    reclaim_later(store, shard, head);
    CRASH_POINT(upload_discarded);
    journal_commit(shard);
    reclaim_run(store, shard);
}

/* False: a stopped process has the shard, or, if this does not wait, any; the entry stays. */
static bool
upload_drop(struct store *store, struct process_slot *slot, struct held_ref *entry, bool waits)
{
    struct ref head = {atomic_load_explicit(&entry->head_ref, memory_order_relaxed)};
    struct shard *shard = shard_of_ref(store, head);
    if (shard == NULL) {
        atomic_store_explicit(&entry->head_ref, 0, memory_order_relaxed);
    } else {
        if (!(waits ? shard_lock(store, shard) : shard_try_lock(store, shard))) {
            return false;
        }
        /* Taking the lock may have undone what the entry's process was doing. */
        if (atomic_load_explicit(&entry->head_ref, memory_order_relaxed) == head.units) {
            upload_discard(store, shard, entry, head);
        }
        shard_unlock(store, shard);
    }
    hold_no_more(store, slot, entry);
    return true;
}

void
store_upload_abort(struct store *store, struct upload *upload)
{
    if (upload->open) {
        upload->open = false;
        struct held_ref *entry = upload_entry(store, upload);
        struct ref head = {upload->head_ref};
        name_again(store, entry, head, upload->key_hash, upload->value_len, 1u << CHUNK_UPLOAD);
        if (!upload_drop(store, store->slot, entry, true)) {
            held_release_later(store, entry);
        }
    }
}

bool
upload_try_drop(struct store *store, struct held_ref *entry)
{
    return upload_drop(store, store->slot, entry, false);
}

bool
upload_recover(struct store *store, struct process_slot *slot, struct held_ref *entry)
{
    return upload_drop(store, slot, entry, true);
}

/* Turns the complete chain into the key's item; under the lock, with room in the table. */
static void
upload_publish(struct store *store, struct shard *shard, const struct table_place *place,
               struct item *old, struct put *put, struct upload *upload, struct verdict verdict)
{
    struct held_ref *entry = upload_entry(store, upload);
    struct ref head = {upload->head_ref};
    struct item *item = ref_at(store, head);
    struct cas_option cas_given = put_cas_given(put);
    uint32_t expire_word = put->expire.word;
    if (verdict.stale) {
        expire_word = atomic_load_explicit(&old->expire_word, memory_order_relaxed);
    }
    put->cas_new = chosen_cas(store, &cas_given);
    put->stored_len = upload->value_len;
    item->cas = put->cas_new;
    item->epoch = put->is_copy ? copy_epoch(store) : epoch_now(store);
    item->bits |= put_marks(put, old, verdict);
    if (put->is_copy) {
        item->bits |= ITEM_COPIED | put->copy_marks;
        copy_hits(store, item, put->copy_hits);
    }
    atomic_store_explicit(&item->expire_word, expire_word, memory_order_relaxed);
    LOG(store, shard, entry->head_ref);
    LOG(store, shard, item->state);
    atomic_store_explicit(&entry->head_ref, 0, memory_order_relaxed);
    item_publish(store, shard, place, put->key.hash, head,
                 put->is_copy ? PUBLISH_COPIED : PUBLISH_STORED);
}

static bool
basis_holds(const struct basis *basis, const struct table_place *place)
{
    const struct item *item = place->item;
    if (place->bucket == NULL || place->ref.units != basis->ref || item->cas != basis->cas ||
        atomic_load_explicit(&item->expire_word, memory_order_relaxed) != basis->expire_word) {
        return false;
    }
    return basis->value == NULL || (item->value_len == basis->value_len &&
                                    item_client_flags(item, item->bits) == basis->client_flags &&
                                    memcmp(item_value(item), basis->value, basis->value_len) == 0);
}

/* Takes the lock and sees to it that a complete upload can be linked; else it is gone, and the
 * answer returned. */
static enum put_result
upload_lock(struct store *store, const struct put *put, struct upload *upload, struct shard *shard)
{
    bool locked = upload->locked;
    upload->locked = false;
    if (!locked && !shard_lock(store, shard)) {
        store_upload_abort(store, upload);
        return PUT_BUSY;
    }
    while (!table_prepare(store, shard)) {
        enum room_result room = room_make(store, shard, store->superblock->class_count);
        if (room == ROOM_NO_MEMORY) {
            shard_unlock(store, shard);
        }
        if (room == ROOM_NO_MEMORY || room == ROOM_BUSY) {
            store_upload_abort(store, upload);
            return put_failed(store, put, put_result_of_room(room));
        }
    }
    return PUT_STORED;
}

/* Leaves the lock; the upload is an item by now, or discarded. */
static void
upload_close(struct store *store, struct shard *shard, struct upload *upload)
{
    shard_unlock(store, shard);
    hold_no_more(store, store->slot, upload_entry(store, upload));
    upload->open = false;
}

enum put_result
upload_finish(struct store *store, struct put *put, struct upload *upload,
              const struct basis *basis)
{
    struct shard *shard = shard_of_key(store, &put->key);
    enum put_result result = upload_lock(store, put, upload, shard);
    if (result != PUT_STORED) {
        return result;
    }
    struct table_place place;
    table_find(store, shard, put->key.bytes, put->key.len, put->key.hash, &place);
    struct item *old = place_live(store, &place);
    struct verdict verdict = put->is_copy ? copy_verdict(store, put) : put_verdict(put, old, store);
    result = verdict.result;
    if (result == PUT_STORED && basis != NULL && !basis_holds(basis, &place)) {
        result = PUT_WAIT;
    }
    if (result == PUT_STORED &&
        (UNLIKELY(!upload_is_sound(store, upload)) || !room_in_chain(store, shard, &place))) {
        result = PUT_NO_MEMORY;
    }
    if (result == PUT_STORED) {
        upload_publish(store, shard, &place, old, put, upload, verdict);
    } else {
        upload_discard(store, shard, upload_entry(store, upload), (struct ref){upload->head_ref});
    }
    upload_close(store, shard, upload);
    return result;
}

enum put_result
upload_vivify(struct store *store, struct put *put, struct upload *upload)
{
    struct shard *shard = shard_of_key(store, &put->key);
    enum put_result result = upload_lock(store, put, upload, shard);
    if (result != PUT_STORED) {
        return result;
    }
    struct table_place place;
    table_find(store, shard, put->key.bytes, put->key.len, put->key.hash, &place);
    if (place_live(store, &place) != NULL) {
        shard_unlock(store, shard);
        return PUT_WAIT;
    }
    if (LIKELY(upload_is_sound(store, upload)) && room_in_chain(store, shard, &place)) {
        upload_publish(store, shard, &place, NULL, put, upload,
                       (struct verdict){.result = PUT_STORED});
    } else {
        upload_discard(store, shard, upload_entry(store, upload), (struct ref){upload->head_ref});
        result = PUT_NO_MEMORY;
    }
    upload_close(store, shard, upload);
    return result;
}

/* ---- copying into a chain ------------------------------------------------------------------- */

enum put_result
upload_write(struct store *store, struct upload *upload, const uint8_t *bytes, uint32_t len)
{
    while (len > 0) {
        uint8_t *space;
        enum put_result result;
        uint32_t room = store_upload_space(store, upload, &space, &result);
        if (result != PUT_STORED) {
            return result;
        }
        if (room == 0) {
            return PUT_NO_MEMORY; /* The chain is damaged. */
        }
        uint32_t step = room < len ? room : len;
        memcpy(space, bytes, step);
        store_upload_advance(store, upload, step);
        bytes += step;
        len -= step;
    }
    return PUT_STORED;
}

enum put_result
upload_write_chain(struct store *store, struct upload *upload, struct pin *from)
{
    struct iovec piece;
    while (store_pin_pieces(store, from, &piece, 1) == 1) {
        enum put_result result =
            upload_write(store, upload, piece.iov_base, (uint32_t)piece.iov_len);
        if (result != PUT_STORED) {
            return result;
        }
        store_pin_advance(store, from, piece.iov_len);
    }
    return from->consumed == from->value_len ? PUT_STORED : PUT_NO_MEMORY;
}

enum put_result
upload_put_whole(struct store *store, struct put *put)
{
    struct upload upload = {0};
    enum put_result result = upload_open(store, put, put->value_len, false, &upload);
    if (result == PUT_STORED) {
        result = upload_write(store, &upload, put->value, put->value_len);
    }
    if (result == PUT_STORED) {
        return upload_finish(store, put, &upload, NULL);
    }
    store_upload_abort(store, &upload);
    return result == PUT_BUSY ? PUT_BUSY : put_failed(store, put, PUT_NO_MEMORY);
}
