/* See tell.h. */
#include "store/tell.h"

#include "store/slab.h"

static void
write_entry(struct store *store, struct log_entry *entry)
{
    logring_write(store->segment, store->slot, entry);
}

/* Of a longer key the beginning. */
static void
write_key(struct log_entry *entry, const uint8_t *key, uint32_t key_len)
{
    entry->head.text_len = (uint8_t)(key_len < LOG_TEXT_MAX ? key_len : LOG_TEXT_MAX);
    memcpy(entry->text, key, entry->head.text_len);
}

static void
describe(const struct store *store, const struct item *item, struct log_entry *entry)
{
    entry->head.class_id = (uint8_t)class_of_ref(store, ref_of(store, item));
    entry->head.value_len = item->value_len;
    write_key(entry, item_key(item), item_key_len(item));
}

void
tell_evicted(struct store *store, const struct item *item)
{
    struct log_entry entry = {.head = {.kind = LOG_EVICTION, .log_class = LOG_EVICTIONS}};
    uint32_t state = atomic_load_explicit(&item->state, memory_order_relaxed);
    uint32_t word = atomic_load_explicit(&item->expire_word, memory_order_relaxed);
    int64_t ttl_s = store_ttl_s(store, word);
    describe(store, item, &entry);
    entry.head.ttl_s = ttl_s > INT32_MAX ? INT32_MAX : (int32_t)ttl_s;
    entry.head.idle_s = state_idle_s(store, state);
    entry.head.fetched = (state & STATE_FETCHED) != 0;
    write_entry(store, &entry);
}

void
tell_deleted(struct store *store, const struct item *item, bool by_meta)
{
    struct log_entry entry = {.head = {.kind = LOG_DELETED, .log_class = LOG_DELETIONS}};
    describe(store, item, &entry);
    entry.head.command = by_meta;
    write_entry(store, &entry);
}

void
tell_page_moved(struct store *store, uint32_t from_class, uint32_t to_class)
{
    struct log_entry entry = {.head = {.kind = LOG_SLAB_MOVE, .log_class = LOG_SYSEVENTS}};
    entry.head.class_id = (uint8_t)from_class;
    entry.head.to_class_id = (uint8_t)to_class;
    write_entry(store, &entry);
}

void
tell_crawled(struct store *store, uint32_t elapsed_s, uint64_t examined, uint64_t reclaimed)
{
    struct log_entry entry = {.head = {.kind = LOG_CRAWL, .log_class = LOG_SYSEVENTS}};
    entry.head.idle_s = elapsed_s;
    entry.head.value_len = (uint32_t)examined;
    entry.head.fd_number = (uint32_t)reclaimed;
    write_entry(store, &entry);
}

/* memcached's numbers of what can come of storing; -1: it has no word for it. */
static int
status_of(enum put_result result)
{
    switch (result) {
    case PUT_NOT_STORED:
        return 0;
    case PUT_STORED:
        return 1;
    case PUT_EXISTS:
        return 2;
    case PUT_NOT_FOUND:
        return 3;
    case PUT_TOO_LARGE:
        return 4;
    case PUT_NO_MEMORY:
        return 5;
    case PUT_WAIT:
    case PUT_BUSY:
        return -1;
    }
    return -1;
}

void
store_tell_put(struct store *store, const struct put *put, enum put_result result,
               uint32_t fd_number)
{
    struct log_entry entry = {.head = {.kind = LOG_ITEM_STORE, .log_class = LOG_MUTATIONS}};
    int status = status_of(result);
    if (status < 0 || !log_is_watched(store->run, LOG_MUTATIONS)) {
        return;
    }
    entry.head.status = (uint8_t)status;
    entry.head.command = (uint8_t)put->mode;
    entry.head.fd_number = fd_number;
    if (result != PUT_TOO_LARGE && result != PUT_NO_MEMORY) {
        int64_t ttl_s = store_ttl_s(store, put->expire.word);
        uint32_t value_len = result == PUT_STORED ? put->stored_len : put->value_len;
        entry.head.ttl_s = ttl_s > 0 && ttl_s <= INT32_MAX ? (int32_t)ttl_s : 0;
        entry.head.value_len = value_len;
        entry.head.class_id =
            (uint8_t)store_class_id(store, put->key.len, put->client_flags, value_len);
    }
    write_key(&entry, put->key.bytes, put->key.len);
    write_entry(store, &entry);
}
