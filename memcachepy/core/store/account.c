/* See account.h. */
#include "store/account.h"

#include "store/cell.h"
#include "store/hashtable.h"
#include "store/probation.h"
#include "store/slab.h"
#include "store/walk.h"

struct walk {
    struct store *store;
    struct store_account *account;
    uint64_t table_page_bytes; /* of this shard */
    uint64_t item_chunk_bytes;
};

static void
account_item(struct store_account *account, const struct item *item)
{
    account->items++;
    uint32_t key_len = item_key_len(item);
    account->key_bytes += key_len;
    account->value_bytes += item->value_len;
    account->header_bytes += item_value_offset(item) - key_len;
}

/* Whether the head that the continuation names is an item that can be found. */
static bool
belongs_to_item(const struct store *store, const struct continuation *continuation)
{
    struct ref head = {continuation->head};
    return state_kind(chunk_state(ref_at(store, head))) == CHUNK_LIVE;
}

static void
account_chunk(struct walk *walk, void *chunk, uint32_t chunk_bytes)
{
    struct store_account *account = walk->account;
    switch ((enum chunk_kind)state_kind(chunk_state(chunk))) {
    case CHUNK_FREE:
        account->free_chunk_bytes += chunk_bytes;
        return;
    case CHUNK_LIVE:
        account_item(account, chunk);
        walk->item_chunk_bytes += chunk_bytes;
        return;
    case CHUNK_CONT:
        if (belongs_to_item(walk->store, chunk)) {
            walk->item_chunk_bytes += chunk_bytes;
            return;
        }
        break;
    case CHUNK_UPLOAD:
    case CHUNK_DETACHED:
    case CHUNK_LEAF:
    case CHUNK_BRANCH:
    case CHUNK_STAGED:
        break;
    }
    account->unlinked_bytes += chunk_bytes;
}

static void
account_page(void *context, uint32_t number, uint32_t kind)
{
    struct walk *walk = context;
    const struct store *store = walk->store;
    uint64_t page_bytes = (uint64_t)1 << store->page_shift;
    walk->account->pages_bytes += page_bytes;
    if (kind == PAGE_KIND_TABLE) {
        walk->table_page_bytes += page_bytes;
        return;
    }
    if (kind == PAGE_KIND_GHOST) {
        walk->account->ghost_bytes += page_bytes;
        return;
    }
    uint32_t chunk_bytes = slab_chunk_bytes(store, kind);
    uint32_t count = slab_chunks_per_page(store, kind);
    for (uint32_t slot = 0; slot < count; slot++) {
        account_chunk(walk, ref_at(store, chunk_ref(store, number, kind, slot)), chunk_bytes);
    }
    walk->account->expiry_column_bytes += count;
    walk->account->page_remainder_bytes += page_bytes - (uint64_t)count * chunk_bytes - count;
}

/* Cells that the ring occupies; its first and last may be partly used. */
static uint64_t
ring_cells(const struct class_list *list)
{
    if (list->ring_head == 0) {
        return 0;
    }
    uint64_t entries = (uint64_t)list->ring_popped + list->ring_count;
    return entries == 0 ? 1 : (entries + PROBATION_CELL_ENTRIES - 1) / PROBATION_CELL_ENTRIES;
}

static void
account_table(struct walk *walk, const struct shard *shard)
{
    struct store *store = walk->store;
    uint64_t word = atomic_load(table_word_at(store, shard));
    uint64_t ring = 0;
    for (uint32_t class_id = 1; class_id <= store->superblock->class_count; class_id++) {
        ring += ring_cells(&shard->classes[class_id]);
    }
    uint64_t buckets = table_bucket_count(word) * sizeof(struct table_bucket);
    walk->account->bucket_bytes += buckets;
    walk->account->overflow_bytes += (shard->cell_count - ring) * CELL_BYTES;
    walk->account->ring_bytes += ring * CELL_BYTES;
    walk->account->table_spare_bytes +=
        walk->table_page_bytes - buckets - (uint64_t)shard->cell_count * CELL_BYTES;
}

static void
account_free_pages(const struct store *store, struct store_account *account)
{
    uint32_t count = pool_populated(store->segment);
    for (uint32_t number = 0; number < count; number++) {
        uint32_t owner = atomic_load(&page_entry(store->segment, number)->owner);
        if (!page_owner_is_shard(owner) && owner != PAGE_ABSENT) {
            account->free_page_bytes += (uint64_t)1 << store->page_shift;
        }
    }
    account->pages_bytes += account->free_page_bytes;
}

bool
store_account(struct store *store, struct store_account *account)
{
    *account = (struct store_account){0};
    struct walk walk = {.store = store, .account = account};
    for (uint32_t i = 0; i < store->superblock->shard_count; i++) {
        struct shard *shard = &store->shards[i];
        if (!shard_lock(store, shard)) {
            return false;
        }
        walk.table_page_bytes = 0;
        each_page(store, shard, account_page, &walk);
        account_table(&walk, shard);
        shard_unlock(store, shard);
    }
    account->rounding_bytes =
        walk.item_chunk_bytes - account->key_bytes - account->value_bytes - account->header_bytes;
    account_free_pages(store, account);
    return true;
}
