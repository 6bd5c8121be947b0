/* Reads that may change what they find: the locked form of store_view(), for what the meta commands
 * and the binary protocol's `gat` ask for. */
#include "store/change.h"
#include "store/expiry.h"
#include "store/held.h"
#include "store/pin.h"
#include "store/room.h"
#include "store/slab.h"
#include "store/track.h"
#include "store/write.h"

static void
view_fill(struct shard *shard, struct item *item, struct view *view)
{
    uint8_t bits = item->bits;
    *view = (struct view){
        .value = item_value(item),
        .value_len = item->value_len,
        .client_flags = item_client_flags(item, bits),
        .cas = item->cas,
        .expire_word = atomic_load_explicit(&item->expire_word, memory_order_relaxed),
        .bits = bits,
        .state = chunk_state(item),
        .state_at = &item->state,
        .shard = shard,
        .locked = true,
    };
}

/* Pins a chain's value, before anything is changed. False: there is no room for that. */
static bool
fetch_pin(struct store *store, struct fetch *fetch, const struct table_place *place)
{
    int index = free_pin(store);
    if (index < 0 ||
        !hold_if_room(store, &store->held->pins[index], fetch->key.hash, place->item->value_len)) {
        return false;
    }
    pin_take(store, place->item, place->ref, fetch->key.hash, (unsigned)index, &fetch->pin);
    return true;
}

/* Whether this client is the one that stores the item anew. */
static bool
fetch_wins(const struct store *store, const struct fetch *fetch)
{
    if (!fetch->wins || fetch->marks_before & ITEM_WIN_SENT) {
        return false;
    }
    if (fetch->marks_before & ITEM_STALE) {
        return true;
    }
    bool touched = fetch->touches && fetch->recaches_touched;
    uint32_t word = touched ? fetch->expire.word : fetch->expire_word_before;
    return fetch->recache.word != 0 && word != 0 &&
           store_ttl_s(store, word) < store_ttl_s(store, fetch->recache.word);
}

static void
fetch_change(struct store *store, struct shard *shard, const struct fetch *fetch,
             const struct table_place *place)
{
    if (fetch->won) {
        struct item_change change = {
            .sets = ITEM_WIN_SENT,
            .sets_expire = fetch->touches,
            .expire = fetch->expire,
        };
        item_change(store, shard, place, &change);
    } else if (fetch->touches) {
        track_key(store, &fetch->key);
        expiry_change(store, shard, place->item, fetch->expire.word);
    }
}

/* Leaves the view locked if the result is FETCH_HIT. */
static enum fetch_result
fetch_found(struct store *store, struct shard *shard, struct fetch *fetch,
            const struct table_place *place, struct view *view)
{
    struct item *item = place->item;
    bool chained = item->bits & ITEM_CHAINED;
    if (chained && fetch->wants_value && !fetch_pin(store, fetch, place)) {
        return FETCH_WAIT;
    }
    uint32_t state = chunk_state(item);
    fetch->idle_s = state_idle_s(store, state);
    fetch->was_fetched = state & STATE_FETCHED;
    fetch->marks_before = item->bits & ITEM_MARKS;
    fetch->expire_word_before = atomic_load_explicit(&item->expire_word, memory_order_relaxed);
    fetch->won = fetch_wins(store, fetch);
    fetch_change(store, shard, fetch, place);
    if (fetch->touches) {
        CLASS_COUNT(store, class_of_ref(store, place->ref), touch_hits);
    }
    view_fill(shard, item, view);
    if (!chained) {
        return FETCH_HIT;
    }
    if (fetch->bump & VIEW_COUNT) {
        class_counter_add(&store->slot->classes[class_of_ref(store, place->ref)],
                          CLASS_hits_to_cold + !!(state & STATE_PROBATION), 1);
    }
    if (fetch->bump & VIEW_BUMP) {
        item_hit_locked(store, item);
    }
    view->locked = false;
    return FETCH_HIT_LARGE;
}

static enum fetch_result
fetch_missed(struct store *store, struct shard *shard, const struct table_place *place)
{
    if (place->bucket == NULL || !item_is_dead(store, place->item) ||
        place->item->bits & ITEM_EXTENDED) {
        return FETCH_MISS; /* Hidden copies are left to who leads the change. */
    }
    bool flushed = epoch_is_flushed(store, place->item->epoch);
    item_unlink_place(store, shard, place, UNLINK_RECLAIM);
    return flushed ? FETCH_FLUSHED : FETCH_EXPIRED;
}

/* What a miss creates; FETCH_WAIT: something changed, look again. */
static enum fetch_result
fetch_vivify(struct store *store, struct shard *shard, struct fetch *fetch,
             struct table_place *place, struct view *view)
{
    const struct key *key = &fetch->key;
    struct item_form form = {
        .key = *key,
        .expire = fetch->create_expire,
        .cas_given = fetch->create_cas,
        .marks = ITEM_WIN_SENT,
    };
    uint32_t class_id = slab_class_of(store, (uint32_t)form_bytes(&form));
    switch (room_make(store, shard, class_id)) {
    case ROOM_READY:
        if (place->primary == NULL) {
            return FETCH_WAIT; /* The shard has a table only now. */
        }
        if (!room_in_chain(store, shard, place)) {
            return FETCH_MISS;
        }
        write_small(store, shard, place, &form, class_id, PUBLISH_STORED);
        table_find(store, shard, key->bytes, key->len, key->hash, place);
        if (place->bucket == NULL) {
            return FETCH_WAIT; /* The growing table has taken the page of the item. */
        }
        fetch->won = fetch->created = true;
        fetch->was_fetched = false;
        fetch->idle_s = fetch->expire_word_before = fetch->marks_before = 0;
        view_fill(shard, place->item, view);
        return FETCH_HIT;
    case ROOM_CHANGED:
        return FETCH_WAIT;
    case ROOM_NO_MEMORY:
        return FETCH_MISS;
    case ROOM_BUSY:
        return FETCH_BUSY;
    }
    return FETCH_BUSY;
}

enum fetch_result
store_fetch(struct store *store, struct fetch *fetch, struct view *view)
{
    const struct key *key = &fetch->key;
    struct shard *shard = shard_of_key(store, key);
    fetch->pin.held = false;
    fetch->won = fetch->created = false;
    if (!shard_lock(store, shard)) {
        return FETCH_BUSY;
    }
    enum fetch_result result;
    bool again;
    do {
        struct table_place place;
        table_find(store, shard, key->bytes, key->len, key->hash, &place);
        again = false;
        struct item *item = place_live(store, &place);
        if (item != NULL && UNLIKELY(item->bits & ITEM_EXTENDED)) {
            result = FETCH_MISS;
        } else if (item != NULL) {
            result = fetch_found(store, shard, fetch, &place, view);
        } else if (fetch->vivifies) {
            result = fetch_vivify(store, shard, fetch, &place, view);
            again = result == FETCH_WAIT;
        } else {
            result = fetch_missed(store, shard, &place);
        }
    } while (again);
    if (result != FETCH_HIT && result != FETCH_BUSY) {
        shard_unlock(store, shard);
    }
    return result;
}
