/* See rebuild.h. */
#include "store/rebuild.h"

#include "base/check.h"
#include "base/crash.h"
#include "mem/freemap.h"
#include "store/cell.h"
#include "store/expiry.h"
#include "store/hashtable.h"
#include "store/slab.h"
#include "store/walk.h"

#include <stdlib.h>

struct rebuild {
    struct store *store;
    struct shard *shard;
    uint32_t *table_pages; /* [private] */
    uint32_t table_page_count;
    uint32_t pages_max; /* room in table_pages */
    uint32_t *held;     /* [private] refs that process slots hold, in order */
    uint32_t held_count;
    bool empties; /* no item is kept, only what a slot holds */
};

/* A chunk is kept if a live or held item reaches it. The mark of the walk lies in the state's field
 * of the last access, which is lost by it: what is kept was asked for now. */
#define MARK (STATE_ACCESS_MAX << STATE_ACCESS_SHIFT)

static int
compare_refs(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a;
    uint32_t right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

static uint32_t
gather_table(const struct held_ref *entries, uint32_t count, uint32_t *held)
{
    uint32_t gathered = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t ref = atomic_load(&entries[i].head_ref);
        if (ref != 0) {
            held[gathered++] = ref;
        }
    }
    return gathered;
}

/* Of all held tables, once: there may be many chunks to ask for. Those of this shard do not change
 * while its lock is held. */
static void
gather_held(struct rebuild *rebuild)
{
    const struct segment *segment = rebuild->store->segment;
    unsigned table_count = segment_held_count(segment);
    rebuild->held =
        malloc(table_count * (size_t)(PIN_COUNT_MAX + UPLOAD_COUNT_MAX) * sizeof(uint32_t));
    CHECK(rebuild->held != NULL);
    for (unsigned i = 0; i < table_count; i++) {
        const struct held_table *held = &segment->held[i];
        rebuild->held_count += gather_table(held->pins, held_count(&held->pin_high, PIN_COUNT_MAX),
                                            rebuild->held + rebuild->held_count);
        rebuild->held_count +=
            gather_table(held->uploads, held_count(&held->upload_high, UPLOAD_COUNT_MAX),
                         rebuild->held + rebuild->held_count);
    }
    qsort(rebuild->held, rebuild->held_count, sizeof(uint32_t), compare_refs);
}

static bool
is_held(const struct rebuild *rebuild, struct ref ref)
{
    return bsearch(&ref.units, rebuild->held, rebuild->held_count, sizeof(uint32_t),
                   compare_refs) != NULL &&
           held_head_is_sound(rebuild->store, ref);
}

static bool
is_marked(void *chunk)
{
    return (chunk_state(chunk) & MARK) == MARK;
}

static void
mark(void *chunk)
{
    atomic_fetch_or((_Atomic uint32_t *)chunk, MARK);
}

/* A chain that is held may be damaged: it ends before the first chunk that is not its own. */
static void
mark_chain(const struct store *store, struct item *head)
{
    mark(head);
    if (head->bits & ITEM_CHAINED) {
        for (uint32_t *next = item_next(head); *next != 0;) {
            struct ref ref = {*next};
            struct continuation *continuation = ref_at(store, ref);
            if (!cont_is_of(store, ref, ref_of(store, head).units) || is_marked(continuation)) {
                *next = 0;
                return;
            }
            mark(continuation);
            next = &continuation->next;
        }
    }
}

/* A part of a collection is kept if its item is. */
static bool
part_is_kept(const struct rebuild *rebuild, const struct collection_part *part)
{
    const struct store *store = rebuild->store;
    if (!part_is_sound(store, part)) {
        return false;
    }
    struct ref head = {part->head};
    struct item *item = ref_at(store, head);
    if (is_held(rebuild, head)) {
        return true;
    }
    return !rebuild->empties && state_kind(chunk_state(item)) == CHUNK_LIVE &&
           (!(item->bits & ITEM_CHAINED) || chain_is_sound(store, item));
}

/* A page of the shard that no kind of page is: its word is damaged, or there is no room for it. As
 * pool_give_back(); the process may have another page in hand. */
static void
release_page(const struct store *store, uint32_t number)
{
    freemap_set(store->segment, number);
    atomic_store_explicit(&page_entry(store->segment, number)->owner, PAGE_FREE,
                          memory_order_release);
}

static void
unmark_page(void *context, uint32_t number, uint32_t kind)
{
    struct rebuild *rebuild = context;
    if (kind == PAGE_KIND_TABLE && rebuild->table_page_count < rebuild->pages_max) {
        rebuild->table_pages[rebuild->table_page_count++] = number;
        return;
    }
    if (kind == PAGE_KIND_GHOST && rebuild->shard->ghost_page_count < GHOST_PAGES_MAX) {
        rebuild->shard->ghost_pages[rebuild->shard->ghost_page_count++] = number + 1;
        return;
    }
    if (!page_kind_is_class(rebuild->store->superblock, kind)) {
        release_page(rebuild->store, number);
        return;
    }
    uint32_t count = slab_chunks_per_page(rebuild->store, kind);
    for (uint32_t slot = 0; slot < count; slot++) {
        void *chunk = ref_at(rebuild->store, chunk_ref(rebuild->store, number, kind, slot));
        atomic_fetch_and((_Atomic uint32_t *)chunk, ~MARK);
    }
}

static void
mark_page(void *context, uint32_t number, uint32_t kind)
{
    struct rebuild *rebuild = context;
    struct store *store = rebuild->store;
    if (kind >= PAGE_KIND_GHOST) {
        return;
    }
    uint32_t count = slab_chunks_per_page(store, kind);
    for (uint32_t slot = 0; slot < count; slot++) {
        struct ref ref = chunk_ref(store, number, kind, slot);
        struct item *item = ref_at(store, ref);
        uint32_t state_of = state_kind(chunk_state(item));
        bool keep = false;
        if (state_of == CHUNK_LIVE) {
            keep = !rebuild->empties && head_is_sound(store, item, kind) &&
                   (!(item->bits & ITEM_CHAINED) || chain_is_sound(store, item));
            if (!keep && is_held(rebuild, ref)) {
                /* A reader still sends it. */
                uint32_t state = chunk_state(item) & ~(STATE_KIND_MASK | STATE_PROBATION);
                atomic_store(&item->state, state | CHUNK_DETACHED);
                keep = true;
            }
        } else if (state_of == CHUNK_UPLOAD || state_of == CHUNK_DETACHED) {
            keep = is_held(rebuild, ref);
        } else if (state_of >= CHUNK_LEAF && part_is_kept(rebuild, (void *)item)) {
            mark(item);
        }
        if (keep) {
            mark_chain(store, item);
        }
    }
}

static void
list_page(struct rebuild *rebuild, uint32_t number, uint32_t class_id)
{
    struct store *store = rebuild->store;
    struct class_list *list = &rebuild->shard->classes[class_id];
    struct page *page = page_entry(store->segment, number);
    if (list->hand_page == 0) {
        list->hand_page = page->class_next = page->class_prev = number + 1;
    } else {
        struct page *hand = page_entry(store->segment, list->hand_page - 1);
        struct page *before = page_entry(store->segment, hand->class_prev - 1);
        page->class_next = list->hand_page;
        page->class_prev = hand->class_prev;
        before->class_next = number + 1;
        hand->class_prev = number + 1;
    }
    list->page_count++;
    list->free_chunks += page->free_count;
    list->empty_count += page->free_count == slab_chunks_per_page(store, class_id);
    rebuild->shard->empty_pages += page->free_count == slab_chunks_per_page(store, class_id);
    if (page->free_count > 0) {
        page->partial_prev = 0;
        page->partial_next = list->partial;
        if (list->partial != 0) {
            page_entry(store->segment, list->partial - 1)->partial_prev = number + 1;
        }
        list->partial = number + 1;
    }
}

static void
sweep_page(void *context, uint32_t number, uint32_t kind)
{
    struct rebuild *rebuild = context;
    struct store *store = rebuild->store;
    rebuild->shard->page_count++;
    if (kind >= PAGE_KIND_GHOST) {
        return;
    }
    struct page *page = page_entry(store->segment, number);
    page->free_head = 0;
    page->free_count = 0;
    for (uint32_t slot = slab_chunks_per_page(store, kind); slot-- > 0;) {
        struct free_chunk *chunk = ref_at(store, chunk_ref(store, number, kind, slot));
        if ((chunk_state(chunk) & MARK) == 0) {
            uint32_t generation =
                (chunk_state(chunk) + STATE_GENERATION_ONE) & STATE_GENERATION_MASK;
            atomic_store(&chunk->state, generation | CHUNK_FREE);
            chunk->next_slot = page->free_head;
            page->free_head = (uint16_t)(slot + 1);
            page->free_count++;
        } else {
            /* All rings are empty now. */
            atomic_store(&chunk->state,
                         state_touched(store, chunk_state(chunk) & ~STATE_PROBATION));
        }
    }
    list_page(rebuild, number, kind);
}

/* False for a second item with the same key: a crash cannot leave two, damage can. False for a full
 * chain, too. */
static bool
relink(struct rebuild *rebuild, struct item *item)
{
    struct store *store = rebuild->store;
    struct shard *shard = rebuild->shard;
    uint64_t hash = item_hash(store, item);
    struct table_place place;
    table_find(store, shard, item_key(item), item_key_len(item), hash, &place);
    if (place.bucket != NULL || chain_is_full(store, &place)) {
        return false;
    }
    table_link(store, shard, place.primary, hash, ref_of(store, item));
    expiry_note(store, item, atomic_load(&item->expire_word));
    journal_commit(shard);
    shard->sums.curr_items++;
    shard->sums.volatile_items += atomic_load(&item->expire_word) != 0;
    uint32_t class_id = class_of_ref(store, ref_of(store, item));
    shard->classes[class_id].item_count++;
    shard->class_bytes[class_id] += item_bytes(item);
    return true;
}

static void
relink_page(void *context, uint32_t number, uint32_t kind)
{
    struct rebuild *rebuild = context;
    struct store *store = rebuild->store;
    if (kind >= PAGE_KIND_GHOST) {
        return;
    }
    for (uint32_t slot = 0; slot < slab_chunks_per_page(store, kind); slot++) {
        /* What finds no place is freed, and this very page may go with it. */
        uint32_t owner = atomic_load(&page_entry(store->segment, number)->owner);
        if (owner != page_owner(shard_index(store, rebuild->shard), kind)) {
            return;
        }
        struct ref ref = chunk_ref(store, number, kind, slot);
        struct item *item = ref_at(store, ref);
        if (state_kind(chunk_state(item)) != CHUNK_LIVE) {
            continue;
        }
        bool linked = table_prepare(store, rebuild->shard) && relink(rebuild, item);
        if (!linked) {
            item_discard(store, rebuild->shard, ref);
            journal_commit(rebuild->shard);
            reclaim_run(store, rebuild->shard);
            continue;
        }
        table_grow(store, rebuild->shard, 2);
    }
}

/* Makes the table empty, over the pages it has. */
static void
reset_table(struct rebuild *rebuild, uint64_t generation)
{
    struct store *store = rebuild->store;
    struct shard *shard = rebuild->shard;
    uint32_t index = shard_index(store, shard);
    uint32_t per_page_shift = store->page_shift - 6;
    uint32_t primary_pages = 0;
    shard->cell_free = 0;
    shard->cell_count = 0;
    for (uint32_t i = 0; i < rebuild->table_page_count; i++) {
        uint32_t number = rebuild->table_pages[i];
        struct table_bucket *bucket =
            (void *)(store->base + page_offset(store->superblock, number));
        for (uint32_t j = 0; j < 1u << per_page_shift; j++) {
            /* Versions go on: a reader may have begun before. */
            uint32_t version = atomic_load(&bucket[j].version);
            memset((uint8_t *)&bucket[j] + 4, 0, sizeof(bucket[j]) - 4);
            atomic_store(&bucket[j].version, (version | 1) + 1);
        }
        /* The first page is for primary buckets, the second for cells, and so on. */
        if (i % 2 == 0 && primary_pages < store->table_pages_max) {
            atomic_store(table_directory_entry(store, index, primary_pages++), number + 1);
        } else {
            cells_make(store, shard, (uint8_t *)bucket);
        }
    }
    for (uint32_t i = primary_pages; i < store->table_pages_max; i++) {
        _Atomic uint32_t *entry = table_directory_entry(store, index, i);
        /* What was never written is 0 and has no memory of its own. */
        if (i << per_page_shift >= shard->bucket_capacity && atomic_load(entry) == 0) {
            break;
        }
        atomic_store(entry, 0);
    }
    shard->table_page_count = rebuild->table_page_count;
    shard->bucket_capacity = primary_pages << per_page_shift;
    uint64_t word =
        table_word_make(generation + 1, primary_pages == 0 ? TABLE_LEVEL_NONE : per_page_shift, 0);
    atomic_store(table_word_at(store, shard), word | TABLE_WORD_REBUILDING);
}

/* Sums of events are kept, as far as they agree. */
static void
settle_sums(struct shard *shard)
{
    shard->sums.curr_items = 0;
    shard->sums.volatile_items = 0;
    uint64_t evictions = 0;
    for (unsigned i = 0; i < EVICTION_REASON_COUNT; i++) {
        evictions += shard->sums.evicted_by[i];
    }
    shard->sums.evictions = evictions;
    memset(shard->class_bytes, 0, sizeof(shard->class_bytes));
}

static void
rebuild_shard(struct store *store, struct shard *shard, bool empties)
{
    uint64_t word = atomic_load(table_word_at(store, shard)) | TABLE_WORD_REBUILDING;
    atomic_store(table_word_at(store, shard), word);
    /* Pairs with the acquire fence in store_view_confirm(): who sees a change sees the mark. */
    atomic_thread_fence(memory_order_release);
    atomic_store(&shard->journal.count, 0);
    atomic_store(&shard->open_version, 0);
    shard->reclaiming = shard->reclaiming_last = 0;
    shard->grow_until = 0;
    shard->leaving = 0;
    uint32_t populated = pool_populated(store->segment);
    struct rebuild rebuild = {
        .store = store, .shard = shard, .pages_max = populated, .empties = empties};
    rebuild.table_pages = malloc((populated + 1) * sizeof(uint32_t));
    CHECK(rebuild.table_pages != NULL);
    gather_held(&rebuild);
    shard->ghost_page_count = 0;
    each_page(store, shard, unmark_page, &rebuild);
    each_page(store, shard, mark_page, &rebuild);
    memset(shard->classes, 0, sizeof(shard->classes));
    shard->page_count = 0;
    shard->empty_pages = 0;
    each_page(store, shard, sweep_page, &rebuild);
    settle_sums(shard);
    CRASH_POINT(rebuild_swept);
    reset_table(&rebuild, table_word_generation(word));
    if (!empties) {
        each_page(store, shard, relink_page, &rebuild);
    }
    CRASH_POINT(rebuild_relinked);
    shard->sums.rebuilds++;
    free(rebuild.table_pages);
    free(rebuild.held);
    word = atomic_load(table_word_at(store, shard));
    atomic_store(table_word_at(store, shard), word & ~TABLE_WORD_REBUILDING);
}

void
shard_rebuild(struct store *store, struct shard *shard)
{
    rebuild_shard(store, shard, false);
}

void
shard_empty(struct store *store, struct shard *shard)
{
    rebuild_shard(store, shard, true);
}

void
store_rebuild(struct store *store)
{
    for (uint32_t i = 0; i < store->superblock->shard_count; i++) {
        struct shard *shard = &store->shards[i];
        if (shard_lock(store, shard)) {
            shard_rebuild(store, shard);
            shard_unlock(store, shard);
        }
    }
}
