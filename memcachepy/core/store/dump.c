/* See dump.h. */
#include "store/dump.h"

#include "store/hashtable.h"
#include "store/slab.h"

#define POSITION_END (UINT64_C(1) << 32)

/* Buckets whose items are all of other classes are passed over, so many under one lock. */
#define EMPTY_BUCKETS_MAX 64

static uint32_t
reversed(uint32_t bits)
{
    bits = (bits & 0x55555555u) << 1 | (bits >> 1 & 0x55555555u);
    bits = (bits & 0x33333333u) << 2 | (bits >> 2 & 0x33333333u);
    bits = (bits & 0x0F0F0F0Fu) << 4 | (bits >> 4 & 0x0F0F0F0Fu);
    return __builtin_bswap32(bits);
}

/* Positions from `begin` up to `end`. */
struct range {
    uint64_t begin, end;
    bool whole;       /* All that one bucket holds. */
    bool dead_copies; /* They, too. */
};

/* The part behind the position of what the position's bucket holds. */
static struct range
range_of_bucket(uint64_t word, uint64_t position)
{
    uint32_t level = table_word_level(word);
    uint32_t low = reversed((uint32_t)position) & (uint32_t)((UINT64_C(1) << level) - 1);
    uint32_t depth = low < table_word_split(word) ? level + 1 : level;
    uint64_t length = POSITION_END >> depth;
    uint64_t begin = position & ~(length - 1);
    return (struct range){.begin = position, .end = begin + length, .whole = begin == position};
}

static void
fill(const struct store *store, struct ref ref, struct dump_item *out)
{
    const struct item *item = ref_at(store, ref);
    uint32_t state = atomic_load_explicit(&item->state, memory_order_relaxed);
    uint32_t word = atomic_load_explicit(&item->expire_word, memory_order_relaxed);
    out->cas = item->cas;
    out->bytes = item_bytes(item);
    out->expires_at = word == 0 ? -1 : (int64_t)word_system_time(store, word);
    out->accessed_at = system_time_at(store, (int64_t)store->now_s - state_idle_s(store, state));
    out->client_flags = item_client_flags(item, item->bits);
    out->class_id = (uint8_t)class_of_ref(store, ref);
    out->fetched = state & STATE_FETCHED;
    out->key_is_binary = item->bits & ITEM_BINARY_KEY;
    out->copied = item->bits & ITEM_COPIED;
    out->hits = (uint8_t)state_count(state);
    out->type = out->database = 0;
    out->key_len = item->key_len;
    memcpy(out->key, item_key(item), item->key_len);
}

/* Whether a slot of a bucket refers to an item of the classes. */
static bool
slot_is_of_classes(const struct store *store, const struct table_bucket *bucket, unsigned slot,
                   uint64_t classes, struct ref *ref)
{
    uint8_t tag = atomic_load_explicit(&bucket->tag[slot], memory_order_relaxed);
    ref->units = atomic_load_explicit(&bucket->ref[slot], memory_order_relaxed);
    return tag != 0 && tag != TAG_OVERFLOW && (classes >> class_of_ref(store, *ref) & 1);
}

static bool
is_told(const struct store *store, const struct item *item, const struct range *range)
{
    bool met_dead = range->dead_copies && item->bits & ITEM_COPIED;
    if (UNLIKELY(item->bits & ITEM_EXTENDED)) {
        return false; /* Of a type or database that no reader of dumps knows yet. */
    }
    if (!met_dead && item_is_dead(store, item)) {
        return false;
    }
    uint64_t at = range->whole ? range->begin : reversed((uint32_t)item_hash(store, item));
    return at >= range->begin && at < range->end;
}

/* The items of the range that are told; more than there is room for are only counted. */
static unsigned
collect(const struct store *store, const struct table_bucket *primary, const struct range *range,
        uint64_t classes, struct dump_item items[DUMP_ITEMS_MAX])
{
    unsigned count = 0;
    const struct table_bucket *bucket = primary;
    for (unsigned i = 0; bucket != NULL && i < CHAIN_BUCKETS_MAX; i++) {
        for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
            struct ref ref;
            if (slot_is_of_classes(store, bucket, slot, classes, &ref)) {
                PREFETCH(ref_at(store, ref));
            }
        }
        for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
            struct ref ref;
            if (!slot_is_of_classes(store, bucket, slot, classes, &ref) ||
                !is_told(store, ref_at(store, ref), range)) {
                continue;
            }
            if (count < DUMP_ITEMS_MAX) {
                fill(store, ref, &items[count]);
            }
            count++;
        }
        bucket = bucket_next(store, bucket);
    }
    return count;
}

/* One bucket, or, where it holds more than there is room for, a part of it. */
static unsigned
dump_bucket(const struct store *store, const struct shard *shard, struct dump_cursor *cursor,
            uint64_t classes, struct dump_item items[DUMP_ITEMS_MAX])
{
    uint64_t word = atomic_load_explicit(table_word_at(store, shard), memory_order_relaxed);
    if (table_word_level(word) == TABLE_LEVEL_NONE) {
        cursor->position = POSITION_END;
        return 0;
    }
    struct range range = range_of_bucket(word, cursor->position);
    range.dead_copies = cursor->meets_dead_copies;
    uint32_t index = table_bucket_index(word, reversed((uint32_t)cursor->position));
    const struct table_bucket *bucket = table_bucket_at(store, shard, index);
    unsigned count = collect(store, bucket, &range, classes, items);
    /* Keys of one position are met together; more than there is room for have the same 32 bits. */
    while (count > DUMP_ITEMS_MAX && range.end - range.begin > 1) {
        range.end = range.begin + (range.end - range.begin) / 2;
        range.whole = false;
        count = collect(store, bucket, &range, classes, items);
    }
    cursor->position = range.end;
    return count < DUMP_ITEMS_MAX ? count : DUMP_ITEMS_MAX;
}

enum dump_result
store_dump(struct store *store, struct dump_cursor *cursor, uint64_t classes,
           struct dump_item items[DUMP_ITEMS_MAX], unsigned *count)
{
    *count = 0;
    if (cursor->shard > store->shard_mask) {
        return DUMP_END;
    }
    struct shard *shard = &store->shards[cursor->shard];
    if (!shard_lock(store, shard)) {
        return DUMP_BUSY;
    }
    for (unsigned i = 0; i < EMPTY_BUCKETS_MAX && *count == 0; i++) {
        if (cursor->position == POSITION_END) {
            break;
        }
        *count = dump_bucket(store, shard, cursor, classes, items);
    }
    shard_unlock(store, shard);
    if (cursor->position == POSITION_END) {
        cursor->position = 0;
        cursor->shard++;
    }
    return DUMP_MORE;
}

void
store_count_dumps(struct store *store, int change)
{
    store->own.dumps += (uint32_t)change;
    atomic_store_explicit(&store->slot->dumps, store->own.dumps, memory_order_relaxed);
}

uint32_t
store_dumps_running(struct store *store)
{
    uint32_t running = atomic_load_explicit(&store->run->crawl_classes, memory_order_relaxed) != 0;
    unsigned end = segment_worker_end(store->segment);
    for (unsigned i = SLOT_WORKER_FIRST; i < end; i++) {
        running += atomic_load_explicit(&store->segment->slots[i].dumps, memory_order_relaxed);
    }
    return running;
}
