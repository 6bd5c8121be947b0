/* See walk.h. */
#include "store/walk.h"

#include "store/chain.h"
#include "store/hashtable.h"
#include "store/held.h"
#include "store/slab.h"

void
each_page(const struct store *store, const struct shard *shard, page_fn *visit, void *context)
{
    uint32_t count = pool_populated(store->segment);
    for (uint32_t number = 0; number < count; number++) {
        uint32_t owner =
            atomic_load_explicit(&page_entry(store->segment, number)->owner, memory_order_acquire);
        if (owner >> 8 == shard_index(store, shard) + 1) {
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
    unsigned count = segment_held_count(store->segment);
    for (unsigned i = 0; i < count; i++) {
        const struct held_table *held = &store->segment->held[i];
        uint32_t high = held_count(&held->upload_high, UPLOAD_COUNT_MAX);
        for (uint32_t j = 0; j < high; j++) {
            if (atomic_load(&held->uploads[j].head_ref) == head.units) {
                return true;
            }
        }
    }
    return item_is_pinned(store, head, NULL);
}

bool
head_is_sound(const struct store *store, struct item *item, uint32_t class_id)
{
    /* A length of up to KEY_LEN_MAX would lead far behind a damaged item. */
    if (item->bits & ITEM_EXTENDED && item_value_offset(item) > slab_chunk_bytes(store, class_id)) {
        return false;
    }
    uint64_t hash = item_hash(store, item);
    if (!item_header_agrees(item, hash) || item_extension(item, item->bits) & EXTENSION_UNUSED) {
        return false;
    }
    if (shard_index(store, shard_of_hash(store, hash)) !=
        page_owner_shard(atomic_load_explicit(
            &page_entry(store->segment, page_of_ref(store, ref_of(store, item)))->owner,
            memory_order_relaxed))) {
        return false;
    }
    return item->bits & ITEM_CHAINED ? class_id == store->superblock->class_count
                                     : item_bytes(item) <= slab_chunk_bytes(store, class_id);
}

bool
item_is_sound_and_unknown(const struct store *store, const struct item *item)
{
    return item->bits & ITEM_EXTENDED &&
           head_is_sound(store, (struct item *)item, class_of_ref(store, ref_of(store, item)));
}

/* Whether a chunk of a page with chunks begins there. */
static bool
ref_is_of_chunk(const struct store *store, struct ref ref, uint32_t *class_id)
{
    if (!ref_is_in_pages(store, ref)) {
        return false;
    }
    uint32_t number = page_of_ref(store, ref);
    uint32_t owner =
        atomic_load_explicit(&page_entry(store->segment, number)->owner, memory_order_relaxed);
    if (number >= pool_populated(store->segment) || !page_has_chunks(store->superblock, owner)) {
        return false;
    }
    *class_id = page_owner_kind(owner);
    uint64_t in_page = ref_offset(store->superblock, ref) - page_offset(store->superblock, number);
    uint32_t chunk_bytes = slab_chunk_bytes(store, *class_id);
    return in_page % chunk_bytes == 0 &&
           in_page / chunk_bytes < slab_chunks_per_page(store, *class_id);
}

bool
part_is_sound(const struct store *store, const void *chunk)
{
    struct ref head = {((const struct collection_part *)chunk)->head};
    uint32_t class_id;
    if (!ref_is_of_chunk(store, head, &class_id) ||
        shard_of_ref(store, head) != shard_of_ref(store, ref_of(store, chunk))) {
        return false;
    }
    struct item *item = ref_at(store, head);
    uint32_t kind = state_kind(chunk_state(item));
    return (kind == CHUNK_LIVE || kind == CHUNK_UPLOAD || kind == CHUNK_DETACHED) &&
           item->bits & ITEM_EXTENDED && head_is_sound(store, item, class_id);
}

bool
held_head_is_sound(const struct store *store, struct ref head)
{
    if (!ref_is_in_pages(store, head)) {
        return false;
    }
    uint32_t number = page_of_ref(store, head);
    uint32_t class_id = store->superblock->class_count;
    uint32_t owner =
        atomic_load_explicit(&page_entry(store->segment, number)->owner, memory_order_relaxed);
    struct item *item = ref_at(store, head);
    return ref_is_chunk_of(store, head, page_owner_shard(owner)) &&
           page_owner_kind(owner) == class_id && item->bits & ITEM_CHAINED &&
           head_is_sound(store, item, class_id);
}

bool
ref_is_chunk_of(const struct store *store, struct ref ref, uint32_t shard_number)
{
    if (!ref_is_in_pages(store, ref)) {
        return false;
    }
    uint32_t number = page_of_ref(store, ref);
    uint32_t owner =
        atomic_load_explicit(&page_entry(store->segment, number)->owner, memory_order_relaxed);
    if (!page_has_chunks(store->superblock, owner) || page_owner_shard(owner) != shard_number) {
        return false;
    }
    uint32_t class_id = page_owner_kind(owner);
    uint64_t in_page = ref_offset(store->superblock, ref) - page_offset(store->superblock, number);
    return in_page % slab_chunk_bytes(store, class_id) == 0 &&
           in_page / slab_chunk_bytes(store, class_id) < slab_chunks_per_page(store, class_id);
}

bool
cont_is_of(const struct store *store, struct ref ref, uint32_t head)
{
    struct ref head_ref = {head};
    const struct page *page = page_entry(store->segment, page_of_ref(store, head_ref));
    uint32_t owner = atomic_load_explicit(&page->owner, memory_order_relaxed);
    if (!ref_is_chunk_of(store, ref, page_owner_shard(owner))) {
        return false;
    }
    struct continuation *continuation = ref_at(store, ref);
    return state_kind(chunk_state(continuation)) == CHUNK_CONT && continuation->head == head;
}

RACY_READ uint8_t *
chain_head_data(const struct store *store, struct ref head, uint64_t hash, uint32_t value_len,
                uint32_t kinds, uint32_t *room)
{
    uint32_t number = shard_index(store, shard_of_hash(store, hash));
    if (!ref_is_chunk_of(store, head, number) ||
        class_of_ref(store, head) != store->superblock->class_count) {
        return NULL;
    }
    struct item *item = ref_at(store, head);
    uint8_t bits = *(const volatile uint8_t *)&item->bits;
    uint8_t key_len = *(const volatile uint8_t *)&item->key_len;
    if ((kinds >> state_kind(chunk_state(item)) & 1) == 0 ||
        (bits & ITEM_FORM_BITS & ~ITEM_HAS_FLAGS) != ITEM_CHAINED ||
        item->check != item_check_value(hash, value_len, key_len, bits)) {
        return NULL;
    }
    uint32_t before = item_plain_key_offset(bits) + key_len;
    *room = store->chunk_bytes_max - before;
    return (uint8_t *)item + before;
}

bool
chain_is_sound(const struct store *store, struct item *head)
{
    uint64_t room = chain_head_room(store, head);
    struct ref ref = {*item_next(head)};
    while (!ref_is_none(ref)) {
        /* A chain has no chunk that its value does not need, so one that is a circle ends here. */
        if (room >= head->value_len || !cont_is_of(store, ref, ref_of(store, head).units)) {
            return false;
        }
        uint32_t more = chain_cont_room(store, ref);
        if (more == 0) {
            return false;
        }
        room += more;
        ref.units = ((struct continuation *)ref_at(store, ref))->next;
    }
    return room >= head->value_len;
}
