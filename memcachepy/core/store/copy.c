/* See copy.h. */
#include "store/copy.h"

#include "base/check.h"
#include "base/crash.h"
#include "store/chain.h"
#include "store/change.h"
#include "store/clocks.h"
#include "store/flush.h"
#include "store/room.h"
#include "store/slab.h"
#include "store/track.h"
#include "store/write.h"

/* Marked items that are looked at under one lock hold are those of one bucket. */
#define ALL_CLASSES (~UINT64_C(0))

/* ---- sessions ------------------------------------------------------------------------------- */

/* Whoever had a shard's lock before it was taken here has let go of it, and what it did is in the
 * shard; whoever takes it later sees that changes are tracked. */
static bool
pass_through_shards(struct store *store)
{
    for (uint32_t i = 0; i <= store->shard_mask; i++) {
        if (!shard_lock(store, &store->shards[i])) {
            return false;
        }
        shard_unlock(store, &store->shards[i]);
    }
    return true;
}

enum copy_begin
store_copy_begin(struct store *store, uint64_t session, uint32_t shift)
{
    unsigned slot_index = (unsigned)(store->slot - store->segment->slots);
    switch (track_begin(store->segment, slot_index, session, shift)) {
    case TRACK_TAKEN:
        return COPY_TAKEN;
    case TRACK_NO_MEMORY:
        return COPY_NO_MEMORY;
    case TRACK_OK:
        break;
    }
    /* In the one order of all with flush_change(): a flush that is not seen here sees the session.
     */
    uint64_t flush = atomic_load(&store->superblock->flush[0]);
    track_head_of(store->segment)->epoch = (uint16_t)flush;
    enum copy_begin result = flush_pending_ms(flush) != 0 ? COPY_FLUSHING
                             : pass_through_shards(store) ? COPY_BEGUN
                                                          : COPY_BUSY;
    if (result != COPY_BEGUN) {
        track_end(store->segment, COPIES_DEAD);
    }
    return result;
}

bool
store_copy_holds(const struct store *store)
{
    const struct track_head *head = track_head_of(store->segment);
    /* Who flushed since the session began, and spoils it, may have died in between. */
    uint64_t flush = atomic_load(&store->superblock->flush[0]);
    return atomic_load(&head->session) != 0 && flush_pending_ms(flush) == 0 &&
           head->epoch == (uint16_t)flush;
}

uint16_t
copy_epoch(const struct store *store)
{
    return (uint16_t)track_head_of(store->segment)->epoch;
}

/* ---- expiry --------------------------------------------------------------------------------- */

static int64_t
advance_of(const struct store *store)
{
    return clocks_moved_s(store->run, &store->run->advance_s);
}

/* A moment of one node's clock by another's, rounded down: both count the seconds of the boot-time
 * clock, from moments of their own. */
static int64_t
node_moment_for(const struct store *from, const struct store *to, int64_t at_s)
{
    int64_t bases_apart_ns = (int64_t)(from->run->boot_base_ns - to->run->boot_base_ns);
    int64_t apart_s = bases_apart_ns / NS_PER_S - (bases_apart_ns % NS_PER_S < 0);
    return at_s - advance_of(from) + apart_s + advance_of(to);
}

/* The same of the system's clock, whose bases are whole seconds. */
static int64_t
wall_moment_for(const struct store *from, const struct store *to, int64_t at_s)
{
    return at_s + (int64_t)(from->superblock->wall_base_s - to->superblock->wall_base_s);
}

uint32_t
expire_word_for(const struct store *from, const struct store *to, uint32_t expire_word, bool *ended)
{
    bool by_wall = expire_word & 1;
    *ended = false;
    if (expire_word == 0) {
        return 0;
    }
    int64_t at_s = by_wall ? wall_moment_for(from, to, expire_word >> 1)
                           : node_moment_for(from, to, expire_word >> 1);
    /* As word_is_expired(). */
    *ended = by_wall ? at_s <= (int64_t)to->wall_s : at_s < (int64_t)to->now_s;
    at_s = at_s < 1 ? 1 : at_s > INT32_MAX ? INT32_MAX : at_s;
    return (uint32_t)at_s << 1 | by_wall;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Apart, for everything that it reads may be changing; only what is confirmed is believed. */
static RACY_READ void
copy_value(uint8_t *space, const struct view *view)
{
    memcpy(space, view->value, view->value_len);
}

enum copy_result
store_copy_read(struct store *store, const struct dump_item *dumped, uint8_t *space,
                struct copy *copy)
{
    struct key key;
    struct view view = {0};
    key_init(store, &key, dumped->key, dumped->key_len);
    for (;;) {
        enum view_result result = store_peek(store, &key, &view);
        switch (result) {
        case VIEW_MISS:
        case VIEW_EXPIRED:
        case VIEW_FLUSHED:
            return COPY_GONE;
        case VIEW_BUSY:
            return COPY_HELD;
        case VIEW_HIT:
        case VIEW_HIT_LARGE:
            break;
        }
        *copy = (struct copy){.client_flags = view.client_flags,
                              .expire_word = view.expire_word,
                              .marks = view.bits & ITEM_MARKS,
                              .hits = dumped->hits,
                              .value_len = view.value_len};
        bool left_out = view.bits & (ITEM_COPIED | ITEM_WIN_SENT);
        if (result == VIEW_HIT) {
            copy_value(space, &view);
            copy->value = space;
            if (!store_view_confirm(store, &view, VIEW_PEEK)) {
                continue;
            }
        }
        return left_out ? COPY_GONE : COPY_STORED;
    }
}

/* ---- storing copies ------------------------------------------------------------------------- */

static bool
copy_is_wanted(const struct store *store, const struct key *key)
{
    return store_copy_holds(store) && !track_is_set(store, key);
}

struct verdict
copy_verdict(const struct store *store, const struct put *put)
{
    bool wanted = copy_is_wanted(store, &put->key);
    return (struct verdict){.result = wanted ? PUT_STORED : PUT_NOT_STORED};
}

void
copy_hits(const struct store *store, struct item *item, uint8_t hits)
{
    uint32_t count = hits < store->count_max ? hits : store->count_max;
    uint32_t state = chunk_state(item) & ~(STATE_COUNT_MASK | STATE_FETCHED);
    atomic_store_explicit(&item->state, state | count << STATE_COUNT_SHIFT, memory_order_relaxed);
}

static enum copy_result
count_copy(struct store *store, enum copy_result result)
{
    if (result == COPY_STORED) {
        COUNT(&store->slot->counters, copied_items);
    }
    return result;
}

static enum copy_result
copy_result_of(enum put_result result)
{
    switch (result) {
    case PUT_STORED:
        return COPY_STORED;
    case PUT_TOO_LARGE:
        return COPY_TOO_LARGE;
    case PUT_NO_MEMORY:
    case PUT_WAIT:
        return COPY_NO_ROOM;
    case PUT_BUSY:
        return COPY_HELD;
    case PUT_NOT_STORED:
    case PUT_EXISTS:
    case PUT_NOT_FOUND:
        break;
    }
    return COPY_CHANGED;
}

/* As write_small(). A flush that is answered just now raises the epoch, and this item keeps the one
 * of the session's beginning: it goes with what was flushed. */
static void
write_copy(struct store *store, struct shard *shard, const struct table_place *place,
           const struct copy *copy, struct item_form *form, uint32_t class_id)
{
    form->cas = next_cas(store);
    struct ref ref = chunk_pop(store, shard, class_id);
    struct item *item = ref_at(store, ref);
    uint8_t bits = form->marks | (form->client_flags != 0 ? ITEM_HAS_FLAGS : 0);
    item_write_header(store, item, form, bits, REF_NONE);
    item->epoch = copy_epoch(store);
    copy_hits(store, item, copy->hits);
    memcpy(item_value(item), copy->value, copy->value_len);
    CRASH_POINT(copy_filled);
    item_publish(store, shard, place, form->key.hash, ref, PUBLISH_COPIED);
}

/* What it takes to store it as a chain. */
static struct put
put_of(const struct copy *copy, uint32_t client_flags, uint32_t value_len)
{
    return (struct put){.key = copy->key,
                        .mode = PUT_ADD, /* Which takes nothing with it where there is no room. */
                        .client_flags = client_flags,
                        .expire.word = copy->expire_word,
                        .value = copy->value,
                        .value_len = value_len,
                        .is_copy = true,
                        .copy_marks = copy->marks,
                        .copy_hits = copy->hits};
}

/* One chunk where it was: the other node's are larger. */
static enum copy_result
store_copy_as_chain(struct store *store, const struct copy *copy)
{
    struct put put = put_of(copy, copy->client_flags, copy->value_len);
    return count_copy(store, copy_result_of(chain_put(store, &put)));
}

enum copy_result
store_copy(struct store *store, const struct copy *copy)
{
    struct item_form form = {.key = copy->key,
                             .client_flags = copy->client_flags,
                             .expire.word = copy->expire_word,
                             .marks = copy->marks | ITEM_COPIED,
                             .value_len = copy->value_len};
    if (!store_fits(store, copy->key.len, copy->client_flags, copy->value_len)) {
        return COPY_TOO_LARGE;
    }
    if (copy->value_len > store_put_len_max(store, copy->key.len)) {
        return store_copy_as_chain(store, copy);
    }
    struct shard *shard = shard_of_key(store, &copy->key);
    uint32_t class_id = slab_class_of(store, (uint32_t)form_bytes(&form));
    if (!shard_lock(store, shard)) {
        return COPY_HELD;
    }
    enum copy_result result;
    for (;;) {
        if (!copy_is_wanted(store, &copy->key)) {
            result = store_copy_holds(store) ? COPY_CHANGED : COPY_OVER;
            break;
        }
        enum room_result room = room_make(store, shard, class_id);
        if (room == ROOM_BUSY) {
            return COPY_HELD;
        }
        if (room == ROOM_NO_MEMORY) {
            result = COPY_NO_ROOM;
            break;
        }
        if (room == ROOM_CHANGED) {
            continue;
        }
        struct table_place place;
        table_find(store, shard, copy->key.bytes, copy->key.len, copy->key.hash, &place);
        if (!room_in_chain(store, shard, &place)) {
            result = COPY_NO_ROOM;
            break;
        }
        if (place.primary != NULL) {
            write_copy(store, shard, &place, copy, &form, class_id);
            result = COPY_STORED;
            break;
        }
    }
    shard_unlock(store, shard);
    return count_copy(store, result);
}

/* Fills the upload from the pinned chain of another node. */
static enum put_result
upload_fill(struct store *store, struct upload *upload, struct store *from, struct pin *pin)
{
    struct iovec piece;
    while (store_pin_pieces(from, pin, &piece, 1) == 1) {
        uint8_t *space;
        enum put_result result;
        uint32_t room = store_upload_space(store, upload, &space, &result);
        if (result != PUT_STORED) {
            return result;
        }
        uint32_t step = room < piece.iov_len ? room : (uint32_t)piece.iov_len;
        memcpy(space, piece.iov_base, step);
        store_upload_advance(store, upload, step);
        store_pin_advance(from, pin, step);
    }
    return pin->consumed == pin->value_len ? PUT_STORED : PUT_NO_MEMORY;
}

static enum copy_result
copy_pinned(struct store *from, struct pin *pin, struct store *to, const struct copy *copy)
{
    struct put put = put_of(copy, pin->client_flags, pin->value_len);
    if (!store_fits(to, put.key.len, put.client_flags, put.value_len)) {
        return COPY_TOO_LARGE;
    }
    struct upload upload = {0};
    enum put_result result = store_upload_begin(to, &put, &upload);
    if (result != PUT_STORED) {
        return copy_result_of(result);
    }
    result = upload_fill(to, &upload, from, pin);
    if (result == PUT_STORED) {
        result = store_upload_commit(to, &put, &upload);
    } else {
        store_upload_abort(to, &upload);
    }
    return copy_result_of(result);
}

enum copy_result
store_copy_long(struct store *from, const struct key *key, struct store *to,
                const struct copy *copy)
{
    struct pin pin = {0};
    switch (store_pin(from, key, &pin)) {
    case PIN_OK:
        break;
    case PIN_GONE:
    case PIN_SMALL:
        return COPY_GONE;
    case PIN_WAIT:
        return COPY_NO_ROOM;
    case PIN_BUSY:
        return COPY_HELD;
    }
    enum copy_result result = copy_pinned(from, &pin, to, copy);
    store_unpin(from, &pin);
    return count_copy(to, result);
}

/* ---- the end -------------------------------------------------------------------------------- */

/* Confirms or drops the item of the key, if it is marked. False: a stopped process is in the way.
 */
static bool
end_one(struct store *store, const struct dump_item *dumped, enum copy_end end, uint64_t *kept,
        uint64_t *dropped)
{
    struct key key;
    struct table_place place;
    key_init(store, &key, dumped->key, dumped->key_len);
    struct shard *shard = shard_of_key(store, &key);
    if (!shard_lock(store, shard)) {
        return false;
    }
    table_find(store, shard, key.bytes, key.len, key.hash, &place);
    if (place.bucket != NULL && place.item->bits & ITEM_COPIED) {
        if (item_is_dead(store, place.item)) {
            item_unlink_place(store, shard, &place, UNLINK_RECLAIM);
        } else if (end == COPY_CONFIRM && copy_if_shown(store, place.item) != NULL) {
            const struct item_change change = {.clears = ITEM_COPIED};
            item_change(store, shard, &place, &change);
            ++*kept;
        } else {
            item_unlink_place(store, shard, &place, UNLINK_RECLAIM);
            ++*dropped;
        }
    }
    shard_unlock(store, shard);
    return true;
}

enum dump_result
store_copy_end(struct store *store, struct dump_cursor *cursor, enum copy_end end, uint64_t *kept,
               uint64_t *dropped)
{
    struct dump_item items[DUMP_ITEMS_MAX];
    struct dump_cursor next = *cursor;
    unsigned count;
    /* After a step back of the system's clock they may live again. */
    next.meets_dead_copies = true;
    enum dump_result result = store_dump(store, &next, ALL_CLASSES, items, &count);
    if (result != DUMP_MORE) {
        return result;
    }
    for (unsigned i = 0; i < count; i++) {
        if (items[i].copied && !end_one(store, &items[i], end, kept, dropped)) {
            return DUMP_BUSY;
        }
    }
    *cursor = next;
    return DUMP_MORE;
}
