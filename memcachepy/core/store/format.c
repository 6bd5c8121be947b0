/* See format.h. A list of facts and not one of sizes: a field that moves, an enum that gets another
 * order and a bit that means something else leave sizes as they are. Nothing here depends on the
 * compiler, on its libraries or on the host. */
#include "store/format.h"

#include "base/xxh64.h"
#include "store/cell.h"
#include "store/expiry.h"
#include "store/hashtable.h"
#include "store/item.h"
#include "store/probation.h"
#include "store/recent.h"
#include "store/shard.h"

#define FIELD(type, field) offsetof(struct type, field), sizeof(((struct type *)0)->field)

static const uint64_t facts[] = {
    /* Chunks. */
    FIELD(item, state),
    FIELD(item, expire_word),
    FIELD(item, cas),
    FIELD(item, value_len),
    FIELD(item, key_len),
    FIELD(item, bits),
    FIELD(item, epoch),
    FIELD(item, check),
    offsetof(struct item, tail),
    FIELD(free_chunk, state),
    FIELD(free_chunk, next_slot),
    FIELD(continuation, state),
    FIELD(continuation, next),
    FIELD(continuation, head),
    offsetof(struct continuation, data),
    CHUNK_FREE,
    CHUNK_LIVE,
    CHUNK_CONT,
    CHUNK_UPLOAD,
    CHUNK_DETACHED,
    CHUNK_LEAF,
    CHUNK_BRANCH,
    CHUNK_STAGED,
    FIELD(collection_part, state),
    FIELD(collection_part, head),
    STATE_KIND_MASK,
    STATE_COUNT_MASK,
    STATE_FETCHED,
    STATE_PROBATION,
    STATE_GENERATION_MASK,
    STATE_ACCESS_SHIFT,
    ITEM_CHAINED,
    ITEM_HAS_FLAGS,
    ITEM_PINNED,
    ITEM_BINARY_KEY,
    ITEM_STALE,
    ITEM_WIN_SENT,
    ITEM_COPIED,
    ITEM_EXTENDED,
    EXTENSION_TYPE_MASK,
    EXTENSION_FORM_MASK,
    EXTENSION_KEY_LEN_MASK,
    EXTENSION_DATABASE_MASK,
    EXTENSION_MS_MASK,
    EXTENSION_HAS_CHECKSUM,
    EXPIRY_UNIT_S,
    /* The table and its cells. */
    FIELD(table_bucket, version),
    FIELD(table_bucket, tag),
    FIELD(table_bucket, ref),
    sizeof(struct table_bucket),
    TAG_OVERFLOW,
    TABLE_WORD_REBUILDING,
    TABLE_LEVEL_NONE,
    TABLE_GENERATION_SHIFT,
    CELL_BYTES,
    CELL_NEXT_AT,
    PROBATION_CELL_ENTRIES,
    /* Shards. */
    sizeof(struct shard),
    FIELD(shard, open_version),
    FIELD(shard, index),
    FIELD(shard, reclaiming),
    FIELD(shard, reclaiming_last),
    FIELD(shard, commit),
    FIELD(shard, waiters),
    FIELD(shard, database_items),
    FIELD(shard, database_volatile),
    FIELD(shard, collection_bytes),
    FIELD(shard, spare),
    FIELD(shard, page_count),
    FIELD(shard, table_page_count),
    FIELD(shard, empty_pages),
    FIELD(shard, cell_free),
    FIELD(shard, cell_count),
    FIELD(shard, bucket_capacity),
    FIELD(shard, grow_until),
    FIELD(shard, ghost_page_count),
    FIELD(shard, recent_count),
    FIELD(shard, repair_attempts),
    FIELD(shard, leaving),
    FIELD(shard, leaving_to),
    FIELD(shard, leaving_slot),
    FIELD(shard, turned_bytes),
    FIELD(shard, evicted_bytes),
    FIELD(shard, evicted_from_probation),
    FIELD(shard, evicted_from_main),
    FIELD(shard, sums),
    FIELD(shard, classes),
    FIELD(shard, class_bytes),
    FIELD(shard, ghost_pages),
    FIELD(shard, journal),
    FIELD(shard, recent),
    FIELD(journal, count),
    FIELD(journal, words),
    FIELD(journal_word, at),
    FIELD(journal_word, old),
    sizeof(struct class_list),
    FIELD(class_list, page_count),
    FIELD(class_list, empty_count),
    FIELD(class_list, hand_page),
    FIELD(class_list, hand_slot),
    FIELD(class_list, partial),
    FIELD(class_list, free_chunks),
    FIELD(class_list, ring_head),
    FIELD(class_list, ring_tail),
    FIELD(class_list, ring_count),
    FIELD(class_list, ring_popped),
    FIELD(class_list, ring_pushed),
    FIELD(class_list, swept),
    FIELD(class_list, evicted),
    FIELD(class_list, unlooked),
    FIELD(class_list, item_count),
    sizeof(struct shard_sums),
    FIELD(shard_sums, curr_items),
    FIELD(shard_sums, volatile_items),
    FIELD(shard_sums, total_items),
    FIELD(shard_sums, evictions),
    FIELD(shard_sums, evicted_by),
    FIELD(shard_sums, evicted_unfetched),
    FIELD(shard_sums, reclaimed),
    FIELD(shard_sums, expired_unfetched),
    FIELD(shard_sums, repairs),
    FIELD(shard_sums, rebuilds),
#define X(reason, name) EVICTED_##reason,
    EVICTION_REASON_LIST(X)
#undef X
#define X(departure, name) DEPARTED_##departure,
        DEPARTURE_LIST(X)
#undef X
            DEPARTED_EVICTED,
};

void
store_format(struct data_format *format)
{
    /* Where the parts of a hash go, which no field tells. */
    const uint64_t vector[] = {
        xxh64((const uint8_t *)facts, sizeof(facts), 0),
        table_word_make(5, 3, 2),
        table_bucket_index(table_word_make(0, 3, 2), UINT64_C(0x0123456789abcdef)),
        hash_tag(UINT64_C(0x0123456789abcdef)),
    };
    *format = (struct data_format){
        .shard_bytes = sizeof(struct shard),
        .fingerprint = (uint32_t)xxh64((const uint8_t *)vector, sizeof(vector), 0),
    };
}
