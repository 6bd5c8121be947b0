/* See pin.h and store.h. Under the shard's lock a pin is one word of the reader's slot; ITEM_PINNED
 * only says that the slots are worth a look. */
#include "store/pin.h"

#include "base/crash.h"
#include "store/chain.h"
#include "store/hashtable.h"
#include "store/held.h"
#include "store/slab.h"
#include "store/walk.h"
#include "store/write.h"

void
pin_rewind(struct pin *pin)
{
    pin->cursor_ref = pin->head_ref;
    pin->cursor_offset = 0;
    pin->consumed = 0;
}

void
pin_take(struct store *store, struct item *item, struct ref ref, uint64_t key_hash, unsigned index,
         struct pin *pin)
{
    item->bits |= ITEM_PINNED;
    struct held_ref *entry = &store->held->pins[index];
    STORES_IN_ORDER();
    atomic_store_explicit(&entry->head_ref, ref.units, memory_order_release);
    *pin = (struct pin){.value_len = item->value_len,
                        .client_flags = item_client_flags(item, item->bits),
                        .cas = item->cas,
                        .key_hash = key_hash,
                        .head_ref = ref.units,
                        .index = (uint16_t)index,
                        .held = true};
    pin_rewind(pin);
}

enum pin_result
store_pin(struct store *store, const struct key *key, struct pin *pin)
{
    struct shard *shard = shard_of_key(store, key);
    int index = free_pin(store);
    if (index < 0) {
        return PIN_WAIT;
    }
    if (!shard_lock(store, shard)) {
        return PIN_BUSY;
    }
    struct table_place place;
    table_find(store, shard, key->bytes, key->len, key->hash, &place);
    struct item *item = place_live(store, &place);
    enum pin_result result = PIN_OK;
    if (item == NULL || item->bits & ITEM_EXTENDED) {
        result = PIN_GONE;
    } else if (!(item->bits & ITEM_CHAINED)) {
        result = PIN_SMALL;
    } else if (UNLIKELY(class_of_ref(store, place.ref) != store->superblock->class_count)) {
        result = PIN_BUSY; /* Its page is damaged. */
    } else if (!hold_if_room(store, &store->held->pins[index], key->hash, item->value_len)) {
        result = PIN_WAIT;
    } else {
        item_hit_locked(store, item);
        pin_take(store, item, place.ref, key->hash, (unsigned)index, pin);
    }
    shard_unlock(store, shard);
    return result;
}

/* The value bytes in the chunk at `ref`, which is the head or a continuation of the chain. NULL: it
 * is neither, for the chain is damaged. */
static uint8_t *
chain_data(struct store *store, const struct pin *pin, struct ref ref, uint32_t *room)
{
    /* Each time: what is pinned stays what it is, but other processes may have damaged the words
     * that say so, and given the chunks to another key. */
    uint32_t kinds = 1u << CHUNK_LIVE | 1u << CHUNK_DETACHED | 1u << CHUNK_UPLOAD;
    struct ref head = {pin->head_ref};
    uint8_t *data = chain_head_data(store, head, pin->key_hash, pin->value_len, kinds, room);
    if (UNLIKELY(data == NULL ||
                 (pin->held && atomic_load_explicit(&store->held->pins[pin->index].head_ref,
                                                    memory_order_relaxed) != pin->head_ref))) {
        return NULL;
    }
    if (ref.units == pin->head_ref) {
        return data;
    }
    *room = cont_is_of(store, ref, pin->head_ref) ? chain_cont_room(store, ref) : 0;
    return *room == 0 ? NULL : ((struct continuation *)ref_at(store, ref))->data;
}

static struct ref
chain_next(struct store *store, const struct pin *pin, struct ref ref)
{
    return (struct ref){ref.units == pin->head_ref
                            ? *item_next(ref_at(store, ref))
                            : ((struct continuation *)ref_at(store, ref))->next};
}

unsigned
store_pin_pieces(struct store *store, const struct pin *pin, struct iovec *iov, unsigned count)
{
    uint32_t left = pin->value_len - pin->consumed;
    uint32_t offset = pin->cursor_offset;
    struct ref ref = {pin->cursor_ref};
    unsigned filled = 0;
    while (left > 0 && filled < count) {
        uint32_t room;
        uint8_t *data = chain_data(store, pin, ref, &room);
        if (UNLIKELY(data == NULL || offset > room)) {
            break;
        }
        uint32_t len = room - offset < left ? room - offset : left;
        if (len > 0) {
            iov[filled].iov_base = data + offset;
            iov[filled].iov_len = len;
            filled++;
        }
        left -= len;
        offset = 0;
        ref = chain_next(store, pin, ref);
    }
    return filled;
}

void
store_count_pinned_get(struct store *store, const struct pin *pin)
{
    struct ref head = {pin->head_ref};
    bool hot = chunk_state(ref_at(store, head)) & STATE_PROBATION;
    class_counter_add(&store->slot->classes[class_of_ref(store, head)],
                      CLASS_hits_to_cold + (unsigned)hot, 1);
}

void
store_pin_advance(struct store *store, struct pin *pin, size_t bytes)
{
    while (bytes > 0) {
        uint32_t room;
        struct ref ref = {pin->cursor_ref};
        if (UNLIKELY(chain_data(store, pin, ref, &room) == NULL || pin->cursor_offset > room)) {
            return;
        }
        size_t step = room - pin->cursor_offset < bytes ? room - pin->cursor_offset : bytes;
        pin->cursor_offset += (uint32_t)step;
        pin->consumed += (uint32_t)step;
        bytes -= step;
        if (pin->cursor_offset == room && pin->consumed < pin->value_len) {
            pin->cursor_ref = chain_next(store, pin, ref).units;
            pin->cursor_offset = 0;
        }
    }
}

/* As upload_drop(). */
static bool
pin_drop(struct store *store, struct process_slot *slot, struct held_ref *entry, bool waits)
{
    struct ref ref = {atomic_load_explicit(&entry->head_ref, memory_order_relaxed)};
    struct shard *shard = shard_of_ref(store, ref);
    if (shard == NULL) {
        atomic_store_explicit(&entry->head_ref, 0, memory_order_release);
    } else {
        if (!(waits ? shard_lock(store, shard) : shard_try_lock(store, shard))) {
            return false;
        }
        struct item *item = ref_at(store, ref);
        LOG(store, shard, entry->head_ref);
        if (state_kind(chunk_state(item)) == CHUNK_DETACHED && held_head_is_sound(store, ref) &&
            !item_is_pinned(store, ref, entry)) {
            reclaim_later(store, shard, ref);
        }
        atomic_store_explicit(&entry->head_ref, 0, memory_order_release);
        CRASH_POINT(pin_dropped);
        journal_commit(shard);
        reclaim_run(store, shard);
        shard_unlock(store, shard);
    }
    hold_no_more(store, slot, entry);
    return true;
}

void
store_unpin(struct store *store, struct pin *pin)
{
    if (pin->held) {
        pin->held = false;
        struct held_ref *entry = &store->held->pins[pin->index];
        name_again(store, entry, (struct ref){pin->head_ref}, pin->key_hash, pin->value_len,
                   1u << CHUNK_LIVE | 1u << CHUNK_DETACHED);
        if (!pin_drop(store, store->slot, entry, true)) {
            held_release_later(store, entry);
        }
    }
}

bool
pin_try_drop(struct store *store, struct held_ref *entry)
{
    return pin_drop(store, store->slot, entry, false);
}

bool
pin_recover(struct store *store, struct process_slot *slot, struct held_ref *entry)
{
    return pin_drop(store, slot, entry, true);
}
