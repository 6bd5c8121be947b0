/* See own.h. */
#include "store/own.h"

#include "mem/logring.h"
#include "store/held.h"
#include "store/item.h"
#include "store/pin.h"

static void
keep(_Atomic uint32_t *word, uint32_t value)
{
    if (UNLIKELY(atomic_load_explicit(word, memory_order_relaxed) != value)) {
        atomic_store(word, value);
    }
}

static bool
is_marked(const uint64_t *marks, uint32_t index)
{
    return marks[index / 64] >> index % 64 & 1;
}

/* An entry that names something, and that this process does not use. A pin may be all that keeps an
 * unlinked chain, which then goes with it. */
static void
clear_entry(struct store *store, uint32_t index)
{
    bool is_pin = index < PIN_COUNT_MAX;
    struct held_ref *entry =
        is_pin ? &store->held->pins[index] : &store->held->uploads[index - PIN_COUNT_MAX];
    if (LIKELY(atomic_load_explicit(&entry->head_ref, memory_order_relaxed) == 0) ||
        is_marked(store->own.used, index) || is_marked(store->left.marks, index)) {
        return;
    }
    entry->bytes = 0;
    if (is_pin) {
        (void)!pin_try_drop(store, entry); /* Else in a second. */
    } else {
        atomic_store(&entry->head_ref, 0);
    }
}

void
store_look_at_own(struct store *store, bool serves)
{
    struct process_slot *slot = store->slot;
    if (LIKELY(store->own.looked_at_s == store->now_s)) {
        return;
    }
    store->own.looked_at_s = store->now_s;
    if (atomic_load(&slot->pid) != store->own.pid) {
        atomic_store(&slot->pid, store->own.pid);
    }
    if (serves) {
        keep(&slot->serving, 1);
    }
#ifndef MEMCACHEPY_DEBUG /* whose commands keep a lock */
    keep(&slot->wanted_shard, 0);
    keep(&slot->locked_shard, 0);
#endif
    keep(&store->held->pin_high, store->own.pin_high);
    keep(&store->held->upload_high, store->own.upload_high);
    keep(&slot->dumps, store->own.dumps);
    keep(&slot->watchers, store->own.watchers);
    keep(&slot->watch_classes, store->own.watch_classes);
    for (uint32_t index = 0; index < HELD_COUNT_MAX; index++) {
        clear_entry(store, index);
    }
}

void
store_note_watchers(struct store *store, uint32_t watchers, uint32_t classes)
{
    store->own.watchers = watchers;
    store->own.watch_classes = classes;
}
