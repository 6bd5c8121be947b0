/* See tell.h. */
#include "store/tell.h"

#include "store/slab.h"

static void
write_entry(struct store *store, struct log_entry *entry)
{
    logring_write(store->segment, store->slot, entry);
}

static void
describe(const struct store *store, const struct item *item, struct log_entry *entry)
{
    entry->head.class_id = (uint8_t)class_of_ref(store, ref_of(store, item));
    entry->head.value_len = item->value_len;
    entry->head.text_len = item->key_len;
    memcpy(entry->text, item_key(item, item->bits), item->key_len);
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
