/* See track.h. */
#include "store/track.h"

#include "base/clock.h"
#include "base/xxh64.h"

void
track_set(const struct store *store, const uint8_t *key, uint32_t key_len)
{
    struct track_head *head = track_head_of(store->segment);
    uint64_t bit;
    _Atomic uint64_t *word =
        track_word(head, atomic_load(&head->shift), xxh64(key, key_len, 0), &bit);
    /* Before the answer, which is what others know the change by. */
    atomic_fetch_or(word, bit);
}

void
track_set_item(const struct store *store, const struct item *item)
{
    track_set(store, item_key(item), item_key_len(item));
}

bool
track_is_set(const struct store *store, const struct key *key)
{
    struct track_head *head = track_head_of(store->segment);
    uint64_t bit;
    _Atomic uint64_t *word =
        track_word(head, atomic_load(&head->shift), xxh64(key->bytes, key->len, 0), &bit);
    return atomic_load(word) & bit;
}

/* The session last: a source that ended it meanwhile may have stopped to set bits before. */
static bool
source_knows_no_change(const struct track_head *head, uint32_t shift, uint64_t session,
                       uint64_t hash)
{
    uint64_t bit;
    _Atomic uint64_t *word = track_word(head, shift, hash, &bit);
    return !(atomic_load(word) & bit) && atomic_load(&head->session) == session;
}

bool
copy_is_shown(const struct store *store, const uint8_t *key, uint32_t key_len)
{
    const struct track_head *head = track_head_of(store->segment);
    switch ((enum copies_state)atomic_load_explicit(&head->copies, memory_order_acquire)) {
    case COPIES_OWN:
        return true;
    case COPIES_DEAD:
        return false;
    case COPIES_CHECKED:
        break;
    }
    const struct track_mapping *mapping = store->tracks;
    if (mapping == NULL ||
        mapping->session != atomic_load_explicit(&head->copies_session, memory_order_acquire) ||
        clock_mono_ns() >= atomic_load_explicit(&head->shown_until_ns, memory_order_relaxed)) {
        return false;
    }
    uint64_t hash = xxh64(key, key_len, 0);
    for (uint32_t i = 0; i < mapping->count; i++) {
        if (!source_knows_no_change(mapping->of[i].head, mapping->of[i].shift, mapping->session,
                                    hash)) {
            return false;
        }
    }
    return true;
}

struct item *
copy_if_shown(const struct store *store, struct item *item)
{
    return copy_is_shown(store, item_key(item), item_key_len(item)) ? item : NULL;
}

bool
store_maps_others(const struct store *store)
{
    return store->tracks != NULL;
}

void
track_attend(struct store *store, uint32_t tracking)
{
    track_unmap(store->tracks);
    store->tracks = NULL;
    store->tracking_seen = tracking;
    if (tracking & TRACK_COPIES) {
        store->tracks = track_map(store->segment);
        bool go_on = atomic_load(&track_head_of(store->segment)->copies) == COPIES_CHECKED;
        if (store->tracks == NULL && go_on) {
            COUNT(&store->slot->counters, copy_map_failures);
        }
    }
}
