/* Deleting, touching, and what the meta commands change of an item where it lies; see change.h. */
#include "store/change.h"

#include "base/crash.h"
#include "store/expiry.h"
#include "store/room.h"
#include "store/slab.h"
#include "store/tell.h"
#include "store/track.h"
#include "store/write.h"

void
item_change(struct store *store, struct shard *shard, const struct table_place *place,
            const struct item_change *change)
{
    struct item *item = place->item;
    uint8_t bits = (uint8_t)((item->bits & ~change->clears) | change->sets);
    if (is_tracking(store) && !(change->clears & ITEM_COPIED)) {
        track_set_item(store, item);
    }
    bucket_open(store, shard, place->primary);
    if (bits != item->bits) {
        /* The word that the marks share with the key's length and the epoch. */
        journal_log(store, shard, &item->key_len, 4);
        item->bits = bits;
    }
    CRASH_POINT(item_marked);
    if (change->sets_cas) {
        LOG(store, shard, item->cas);
        item->cas = change->cas;
    }
    if (change->sets_expire) {
        expiry_set(store, shard, item, change->expire.word);
    }
    CRASH_POINT(item_changed);
    journal_commit(shard);
    bucket_close(shard, place->primary);
    if (change->sets_expire) {
        expiry_note(store, item, change->expire.word);
    }
}

static enum delete_result
remove_key(struct store *store, const struct key *key, enum unlink_reason reason)
{
    struct shard *shard = shard_of_key(store, key);
    if (!shard_lock(store, shard)) {
        return DELETE_BUSY;
    }
    struct table_place place;
    track_key(store, key); /* Also of a key that is not here: its copy may be elsewhere. */
    table_find(store, shard, key->bytes, key->len, key->hash, &place);
    enum delete_result result = DELETE_NOT_FOUND;
    if (place.bucket != NULL) {
        bool live = place_live(store, &place) != NULL;
        if (live && reason == UNLINK_DELETE) {
            CLASS_COUNT(store, class_of_ref(store, place.ref), delete_hits);
            if (log_is_watched(store->run, LOG_DELETIONS)) {
                tell_deleted(store, place.item, false);
            }
        }
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

enum touch_result
store_touch(struct store *store, const struct key *key, struct expiry expire)
{
    struct shard *shard = shard_of_key(store, key);
    if (!shard_lock(store, shard)) {
        return TOUCH_BUSY;
    }
    struct table_place place;
    table_find(store, shard, key->bytes, key->len, key->hash, &place);
    struct item *item = place_live(store, &place);
    if (item != NULL) {
        CLASS_COUNT(store, class_of_ref(store, place.ref), touch_hits);
        track_key(store, key);
        expiry_change(store, shard, item, expire.word);
        item_hit_locked(store, item);
    }
    shard_unlock(store, shard);
    return item != NULL ? TOUCH_DONE : TOUCH_NOT_FOUND;
}

/* ---- store_remove() ------------------------------------------------------------------------- */

static void
invalidate(struct store *store, struct shard *shard, const struct table_place *place,
           const struct removal *removal)
{
    struct item_change change = {
        .sets = ITEM_STALE,
        .clears = ITEM_WIN_SENT,
        .sets_cas = true,
        .cas = chosen_cas(store, &removal->cas_given),
        .sets_expire = removal->sets_expire,
        .expire = removal->expire,
    };
    item_change(store, shard, place, &change);
}

/* What an emptied item becomes: without a mark of its key, as memcached does it. */
static struct item_form
form_of_empty(const struct removal *removal, const struct item *old)
{
    struct cas_option kept = {.given = true, .unique = old->cas};
    bool gets_cas = removal->cas_given.given || removal->invalidates;
    return (struct item_form){
        .key = removal->key,
        .client_flags = removal->client_flags,
        .expire = removal->expire,
        .cas_given = gets_cas ? removal->cas_given : kept,
        .marks = removal->invalidates ? ITEM_STALE : 0,
    };
}

enum remove_result
store_remove(struct store *store, const struct removal *removal)
{
    const struct key *key = &removal->key;
    struct shard *shard = shard_of_key(store, key);
    if (!shard_lock(store, shard)) {
        return REMOVE_BUSY;
    }
    track_key(store, key);
    for (;;) {
        struct table_place place;
        table_find(store, shard, key->bytes, key->len, key->hash, &place);
        struct item *item = place_live(store, &place);
        enum remove_result result = REMOVE_DONE;
        if (item == NULL) {
            result = REMOVE_NOT_FOUND;
            if (place.bucket != NULL) {
                item_unlink_place(store, shard, &place, UNLINK_RECLAIM);
            }
        } else if (removal->if_cas.given && removal->if_cas.unique != item->cas) {
            result = REMOVE_EXISTS;
        } else if (removal->empties) {
            struct item_form form = form_of_empty(removal, item);
            uint32_t class_id = slab_class_of(store, (uint32_t)form_bytes(&form));
            switch (room_make(store, shard, class_id)) {
            case ROOM_READY:
                if (!removal->invalidates) {
                    CLASS_COUNT(store, class_of_ref(store, place.ref), delete_hits);
                }
                write_small(store, shard, &place, &form, class_id, PUBLISH_STORED);
                break;
            case ROOM_CHANGED:
                continue;
            case ROOM_NO_MEMORY:
                result = REMOVE_NO_MEMORY;
                break;
            case ROOM_BUSY:
                return REMOVE_BUSY;
            }
        } else if (removal->invalidates) {
            invalidate(store, shard, &place, removal);
        } else {
            CLASS_COUNT(store, class_of_ref(store, place.ref), delete_hits);
            if (log_is_watched(store->run, LOG_DELETIONS)) {
                tell_deleted(store, item, removal->by_meta);
            }
            item_unlink_place(store, shard, &place, UNLINK_DELETE);
        }
        shard_unlock(store, shard);
        return result;
    }
}
