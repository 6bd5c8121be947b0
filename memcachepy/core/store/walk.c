/* See walk.h. */
#include "store/walk.h"

#include "store/chain.h"
#include "store/hashtable.h"
#include "store/slab.h"

void
each_page(const struct store *store, const struct shard *shard, page_fn *visit, void *context)
{
    uint32_t count = atomic_load(&store->superblock->pool.populated_count);
    for (uint32_t number = 0; number < count; number++) {
        uint32_t owner =
            atomic_load_explicit(&page_entry(store->segment, number)->owner, memory_order_acquire);
        if (owner >> 8 == shard->index + 1) {
            visit(context, number, page_owner_kind(owner));
        }
    }
}

struct ref
chunk_ref(const struct store *store, uint32_t number, uint32_t class_id, uint32_t slot)
{
    uint64_t offset =
        page_offset(store->superblock, number) + (uint64_t)slot * slab_chunk_bytes(store, class_id);
    return ref_from_offset(store->superblock, offset);
}

bool
slot_refers(const struct store *store, struct ref head)
{
    unsigned slot_count = segment_slot_count(store->segment);
    for (unsigned i = 0; i < slot_count; i++) {
        const struct process_slot *slot = &store->segment->slots[i];
        uint32_t high = atomic_load(&slot->upload_high);
        for (uint32_t j = 0; j < high; j++) {
            if (atomic_load(&slot->uploads[j].head_ref) == head.units) {
                return true;
            }
        }
    }
    return item_is_pinned(store, head, NULL);
}

bool
head_is_sound(const struct store *store, struct item *item, uint32_t class_id)
{
    uint64_t hash = item_hash(store, item);
    if (item->check != item_check_value(hash, item->value_len, item->key_len, item->bits)) {
        return false;
    }
    return item->bits & ITEM_CHAINED || item_bytes(item) <= slab_chunk_bytes(store, class_id);
}

bool
chain_is_sound(const struct store *store, struct item *head)
{
    uint64_t room = chain_head_room(store, head);
    struct ref ref = {*item_next(head)};
    for (uint32_t i = 0; !ref_is_none(ref); i++) {
        uint64_t offset = ref_offset(store->superblock, ref);
        if (offset < store->data_at || offset >= store->data_end || i > (1u << 24)) {
            return false;
        }
        struct continuation *continuation = ref_at(store, ref);
        if (state_kind(chunk_state(continuation)) != CHUNK_CONT ||
            continuation->head != ref_of(store, head).units) {
            return false;
        }
        room += chain_cont_room(store, ref);
        ref.units = continuation->next;
    }
    return room >= head->value_len;
}
