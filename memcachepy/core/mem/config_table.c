/* See config_table.h. */
#include "mem/config_table.h"

#include "base/check.h"
#include "base/crash.h"
#include "mem/populate.h"

#include <string.h>

#define PRESENT 1u
#define COPY_SHIFT 1
#define SEQUENCE_STEP 4

/* Copies begin at a system page of their own, if it is no larger. */
#define COPY_BYTES ((sizeof(struct config_copy) + 4095) / 4096 * 4096)

/* Who has the lock copies at most a value and asks for memory for it. */
#define LOCK_WAIT_MS 100

static_assert(sizeof(struct config_copy) == 65800, "layout change: bump SEGMENT_LAYOUT_VERSION");

uint64_t
config_table_bytes(void)
{
    return (uint64_t)CONFIG_COUNT_MAX * 2 * COPY_BYTES;
}

static uint64_t
copy_offset(const struct segment *segment, unsigned index, unsigned which)
{
    return segment->run->configs_at + (uint64_t)(index * 2 + which) * COPY_BYTES;
}

static struct config_copy *
copy_of(const struct segment *segment, unsigned index, uint64_t state)
{
    return run_at(segment, copy_offset(segment, index, state >> COPY_SHIFT & 1));
}

static _Atomic uint64_t *
state_at(const struct segment *segment, unsigned index)
{
    return &segment->run->configs.states[index];
}

/* ---- reading -------------------------------------------------------------------------------- */

/* What another process may be changing. */
static RACY_READ void
config_look(const struct config_copy *copy, struct config_view *view)
{
    view->copy = copy;
    view->client_flags = copy->client_flags;
    /* Read once: another process may write them between two looks. */
    uint32_t key_len = *(const volatile __typeof__(copy->key_len) *)&copy->key_len;
    uint32_t value_len = *(const volatile __typeof__(copy->value_len) *)&copy->value_len;
    view->key_len = key_len <= CONFIG_KEY_LEN_MAX ? key_len : 0;
    view->value_len = value_len <= CONFIG_VALUE_LEN_MAX ? value_len : 0;
}

static RACY_READ bool
config_has_key(const struct config_view *view, const void *key, uint32_t key_len)
{
    return view->key_len == key_len && memcmp(view->copy->key, key, key_len) == 0;
}

bool
config_confirm(const struct segment *segment, const struct config_view *view)
{
    /* Pairs with the release fence in fill(). */
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(state_at(segment, view->index), memory_order_relaxed) ==
           view->state;
}

/* Views the entry if there is one and, with a key, if it has that. An entry with another key needs
 * no second look: a key that is there all the time stays in its entry, and who writes to the other
 * copy there writes the same key. */
static bool
view_entry(const struct segment *segment, unsigned index, const void *key, uint32_t key_len,
           struct config_view *view)
{
    view->index = index;
    /* Pairs with the release store in publish(). */
    view->state = atomic_load_explicit(state_at(segment, index), memory_order_acquire);
    if ((view->state & PRESENT) == 0) {
        return false;
    }
    config_look(copy_of(segment, index, view->state), view);
    return key == NULL || config_has_key(view, key, key_len);
}

bool
config_find(const struct segment *segment, const void *key, uint32_t key_len,
            struct config_view *view)
{
    for (unsigned i = 0; i < CONFIG_COUNT_MAX; i++) {
        if (view_entry(segment, i, key, key_len, view)) {
            return true;
        }
    }
    return false;
}

bool
config_next(const struct segment *segment, unsigned *index, struct config_view *view)
{
    while (*index < CONFIG_COUNT_MAX) {
        if (view_entry(segment, (*index)++, NULL, 0, view)) {
            return true;
        }
    }
    return false;
}

static RACY_READ void
config_copy_value(uint8_t *out, const struct config_view *view)
{
    memcpy(out, view->copy->value, view->value_len);
}

enum config_result
config_read(const struct segment *segment, const void *key, uint32_t key_len, uint8_t *out,
            struct config_view *view)
{
    for (unsigned i = 0; i < CONFIG_TRIES_MAX; i++) {
        if (!config_find(segment, key, key_len, view)) {
            return CONFIG_NOT_FOUND;
        }
        config_copy_value(out, view);
        if (config_confirm(segment, view)) {
            return CONFIG_OK;
        }
    }
    return CONFIG_BUSY;
}

bool
config_key_is_sound(const void *key, uint32_t key_len)
{
    const uint8_t *bytes = key;
    for (uint32_t i = 0; i < key_len; i++) {
        if (bytes[i] <= ' ' || bytes[i] == 0x7f) {
            return false;
        }
    }
    return true;
}

uint32_t
config_count(const struct segment *segment)
{
    uint32_t count = 0;
    for (unsigned i = 0; i < CONFIG_COUNT_MAX; i++) {
        count += atomic_load_explicit(state_at(segment, i), memory_order_relaxed) & PRESENT;
    }
    return count;
}

/* ---- changing ------------------------------------------------------------------------------- */

static bool
lock_configs(struct segment *segment)
{
    struct config_words *configs = &segment->run->configs;
    uint32_t count = atomic_load_explicit(&configs->lock_count, memory_order_relaxed);
    enum lock_result result = lock_try(&configs->lock);
    /* Only the first waits for a holder that does not move on. */
    if (result == LOCK_TIMEOUT &&
        atomic_load_explicit(&configs->stuck_count, memory_order_relaxed) != count + 1) {
        result = lock_acquire(&configs->lock, LOCK_WAIT_MS);
    }
    if (result == LOCK_TIMEOUT && lock_names_caller(&configs->lock)) {
        lock_orphan(&configs->lock); /* It does not have it: the word is damaged. */
        result = lock_try(&configs->lock);
    }
    switch (result) {
    case LOCK_OWNER_DIED:
        lock_repaired(&configs->lock); /* Whatever it was about, it left whole entries. */
        break;
    case LOCK_OK:
        break;
    case LOCK_TIMEOUT:
        atomic_store_explicit(&configs->stuck_count, count + 1, memory_order_relaxed);
        return false;
    }
    atomic_fetch_add_explicit(&configs->lock_count, 1, memory_order_relaxed);
    return true;
}

static void
unlock_configs(struct segment *segment)
{
    lock_release(&segment->run->configs.lock);
}

/* Fills the copy that the entry's state word does not name. */
static bool
fill(const struct segment *segment, unsigned index, uint64_t state,
     const struct config_entry *entry)
{
    uint64_t offset = copy_offset(segment, index, (state >> COPY_SHIFT & 1) ^ 1);
    struct config_copy *copy = run_at(segment, offset);
    if (!populate(segment->run_fd, segment->run_base, offset,
                  offsetof(struct config_copy, value) + entry->value_len)) {
        return false;
    }
    /* Pairs with the acquire fence in config_confirm(): who still reads here because of an older
     * state word, and sees what is written now, sees that the word has changed since. */
    atomic_thread_fence(memory_order_release);
    copy->client_flags = entry->client_flags;
    copy->key_len = entry->key_len;
    copy->value_len = entry->value_len;
    memcpy(copy->key, entry->key, entry->key_len);
    CRASH_POINT(config_half_filled);
    memcpy(copy->value, entry->value, entry->value_len);
    CRASH_POINT(config_filled);
    return true;
}

static void
publish(const struct segment *segment, unsigned index, uint64_t state)
{
    /* Pairs with the acquire load in view_entry(). */
    atomic_store_explicit(state_at(segment, index), state, memory_order_release);
    CRASH_POINT(config_published);
}

/* Under the lock. The key's entry, else the first that is free, else CONFIG_COUNT_MAX. */
static unsigned
place_for(const struct segment *segment, const struct config_entry *entry)
{
    struct config_view view;
    unsigned index = 0;
    if (config_find(segment, entry->key, entry->key_len, &view)) {
        return view.index;
    }
    while (index < CONFIG_COUNT_MAX && atomic_load(state_at(segment, index)) & PRESENT) {
        index++;
    }
    return index;
}

static enum config_result
set_locked(const struct segment *segment, const struct config_entry *entry)
{
    unsigned index = place_for(segment, entry);
    if (index == CONFIG_COUNT_MAX) {
        return CONFIG_TOO_MANY;
    }
    uint64_t state = atomic_load(state_at(segment, index));
    if (!fill(segment, index, state, entry)) {
        return CONFIG_NO_MEMORY;
    }
    publish(segment, index, ((state + SEQUENCE_STEP) ^ UINT64_C(1) << COPY_SHIFT) | PRESENT);
    return CONFIG_OK;
}

enum config_result
config_set(struct segment *segment, const struct config_entry *entry)
{
    CHECK(entry->key_len > 0 && entry->key_len <= CONFIG_KEY_LEN_MAX);
    if (entry->value_len > CONFIG_VALUE_LEN_MAX) {
        return CONFIG_TOO_LONG;
    }
    if (!lock_configs(segment)) {
        return CONFIG_BUSY;
    }
    enum config_result result = set_locked(segment, entry);
    unlock_configs(segment);
    return result;
}

enum config_result
config_delete(struct segment *segment, const void *key, uint32_t key_len)
{
    struct config_view view;
    if (!lock_configs(segment)) {
        return CONFIG_BUSY;
    }
    bool found = config_find(segment, key, key_len, &view);
    if (found) {
        publish(segment, view.index, (view.state + SEQUENCE_STEP) & ~(uint64_t)PRESENT);
    }
    unlock_configs(segment);
    return found ? CONFIG_OK : CONFIG_NOT_FOUND;
}
