/* See check.h. */
#include "store/check.h"

#include "store/cell.h"
#include "store/expiry.h"
#include "store/held.h"
#include "store/hashtable.h"
#include "store/probation.h"
#include "store/slab.h"
#include "store/walk.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

/* A queue or a chain that is longer than any can be is damaged. */
#define QUEUE_LOOKS_MAX (1u << 16)
#define CHAIN_LOOKS_MAX (1u << 20)

/* Whether the page, stored plus one, has this owner. */
static bool
page_is_of(const struct store *store, uint32_t stored, uint32_t owner)
{
    return stored - 1 < pool_populated(store->segment) &&
           atomic_load_explicit(&page_entry(store->segment, stored - 1)->owner,
                                memory_order_relaxed) == owner;
}

/* Whether a cell's ref leads to one of the shard's table. */
static bool
cell_is_of(const struct store *store, const struct shard *shard, uint32_t cell)
{
    struct ref ref = {cell};
    return ref_is_in_pages(store, ref) && ref_offset(store->superblock, ref) % CELL_BYTES == 0 &&
           page_is_of(store, page_of_ref(store, ref) + 1,
                      page_owner(shard_index(store, shard), PAGE_KIND_TABLE));
}

static bool
class_is_plausible(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    const struct class_list *list = &shard->classes[class_id];
    uint32_t owner = page_owner(shard_index(store, shard), class_id);
    uint64_t chunks = (uint64_t)list->page_count * slab_chunks_per_page(store, class_id);
    if (list->free_chunks > chunks || list->empty_count > list->page_count ||
        list->item_count > chunks - list->free_chunks ||
        (list->page_count == 0) != (list->hand_page == 0) ||
        (list->free_chunks == 0) != (list->partial == 0) ||
        list->hand_slot > slab_chunks_per_page(store, class_id)) {
        return false;
    }
    if ((list->hand_page != 0 && !page_is_of(store, list->hand_page, owner)) ||
        (list->partial != 0 && !page_is_of(store, list->partial, owner))) {
        return false;
    }
    if (list->partial != 0) {
        const struct page *page = listed_page(store, list->partial);
        uint32_t per_page = slab_chunks_per_page(store, class_id);
        if (page->partial_prev != 0 || page->free_head == 0 || page->free_head > per_page ||
            page->free_count == 0 || page->free_count > per_page) {
            return false;
        }
    }
    if (list->ring_count == 0) {
        return list->ring_head == 0 && list->ring_tail == 0;
    }
    return cell_is_of(store, shard, list->ring_head) && cell_is_of(store, shard, list->ring_tail) &&
           list->ring_count / PROBATION_CELL_ENTRIES <= shard->cell_count &&
           list->ring_popped < PROBATION_CELL_ENTRIES &&
           list->ring_pushed <= PROBATION_CELL_ENTRIES;
}

static bool
table_is_plausible(const struct store *store, const struct shard *shard)
{
    uint64_t word = atomic_load(table_word_at(store, shard));
    uint32_t level = table_word_level(word);
    uint32_t shift = store->page_shift - 6;
    uint32_t pages = shard->bucket_capacity >> shift;
    if (word & TABLE_WORD_REBUILDING || (level >= 31 && level != TABLE_LEVEL_NONE) ||
        (level < 31 && table_word_split(word) >= 1u << level) ||
        table_bucket_count(word) > shard->bucket_capacity ||
        pages << shift != shard->bucket_capacity || pages > store->table_pages_max ||
        pages > shard->table_page_count ||
        shard->cell_count > (uint64_t)(shard->table_page_count - pages) << shift ||
        (level == TABLE_LEVEL_NONE && shard->sums.curr_items != 0)) {
        return false;
    }
    uint32_t index = shard_index(store, shard);
    uint32_t owner = page_owner(index, PAGE_KIND_TABLE);
    for (uint32_t i = 0; i < pages; i++) {
        if (!page_is_of(store, atomic_load(table_directory_entry(store, index, i)), owner)) {
            return false;
        }
    }
    return shard->cell_free == 0 || cell_is_of(store, shard, shard->cell_free);
}

static bool
ghost_is_plausible(const struct store *store, const struct shard *shard)
{
    if (shard->ghost_page_count > GHOST_PAGES_MAX) {
        return false;
    }
    uint32_t owner = page_owner(shard_index(store, shard), PAGE_KIND_GHOST);
    for (uint32_t i = 0; i < shard->ghost_page_count; i++) {
        if (!page_is_of(store, shard->ghost_pages[i], owner)) {
            return false;
        }
    }
    return true;
}

/* The page that is being emptied is one of the shard's classes, and goes to another. */
static bool
leaving_is_plausible(const struct store *store, const struct shard *shard)
{
    if (shard->leaving == 0) {
        return true;
    }
    return shard->leaving <= pool_populated(store->segment) &&
           leaving_page(store, shard) != PAGE_NONE;
}

static bool
is_reclaimable(const struct store *store, const struct shard *shard, struct ref ref)
{
    return held_head_is_sound(store, ref) && shard_of_ref(store, ref) == shard &&
           state_kind(chunk_state(ref_at(store, ref))) == CHUNK_DETACHED;
}

/* Of the queue both ends; reclaim_run() looks at what is between. */
static bool
reclaiming_is_plausible(const struct store *store, const struct shard *shard)
{
    struct ref first = {shard->reclaiming};
    struct ref last = {shard->reclaiming_last};
    if (ref_is_none(first) || ref_is_none(last)) {
        return ref_is_none(first) && ref_is_none(last);
    }
    return is_reclaimable(store, shard, first) && is_reclaimable(store, shard, last) &&
           atomic_load(reclaim_next(ref_at(store, last))) == 0;
}

bool
shard_is_plausible(const struct store *store, const struct shard *shard)
{
    if (!table_is_plausible(store, shard) || !ghost_is_plausible(store, shard) ||
        !reclaiming_is_plausible(store, shard) || !leaving_is_plausible(store, shard)) {
        return false;
    }
    uint64_t pages = (uint64_t)shard->table_page_count + shard->ghost_page_count;
    uint64_t empty_pages = 0;
    uint64_t items = 0;
    for (uint32_t class_id = 1; class_id <= store->superblock->class_count; class_id++) {
        if (!class_is_plausible(store, shard, class_id)) {
            return false;
        }
        pages += shard->classes[class_id].page_count;
        empty_pages += shard->classes[class_id].empty_count;
        items += shard->classes[class_id].item_count;
    }
    return pages == shard->page_count && pages <= pool_populated(store->segment) &&
           empty_pages == shard->empty_pages && items == shard->sums.curr_items &&
           shard->sums.volatile_items <= items;
}

struct check {
    struct store *store;
    struct shard *shard;
    problem_fn *problem;
    void *context;
    unsigned problems;
    uint32_t pages, table_pages, ghost_pages;
    uint32_t class_pages[SLAB_CLASS_COUNT_MAX], class_free[SLAB_CLASS_COUNT_MAX],
        class_empty[SLAB_CLASS_COUNT_MAX];
    uint32_t class_items[SLAB_CLASS_COUNT_MAX];
    uint64_t class_bytes[SLAB_CLASS_COUNT_MAX];
    uint64_t live, expiring, continuations, reached;
};

static void PRINTF_LIKE(2, 3) report(struct check *check, const char *format, ...)
{
    char text[256];
    int prefix =
        snprintf(text, sizeof(text), "shard %u: ", shard_index(check->store, check->shard));
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + prefix, sizeof(text) - (size_t)prefix, format, arguments);
    va_end(arguments);
    check->problems++;
    check->problem(check->context, text);
}

/* Whether the chunks of a detached chain are about to be freed. */
static bool
is_queued(const struct check *check, struct ref ref)
{
    const struct store *store = check->store;
    struct ref at = {check->shard->reclaiming};
    for (uint64_t i = 0; i < QUEUE_LOOKS_MAX && ref_is_in_pages(store, at); i++) {
        if (ref_equal(at, ref)) {
            return true;
        }
        at.units = atomic_load(reclaim_next(ref_at(store, at)));
    }
    return false;
}

static void
check_head(struct check *check, struct ref ref, uint32_t class_id)
{
    struct store *store = check->store;
    struct item *item = ref_at(store, ref);
    uint32_t kind = state_kind(chunk_state(item));
    if (kind == CHUNK_LIVE) {
        check->live++;
        check->expiring += atomic_load(&item->expire_word) != 0;
        if (atomic_load(&item->expire_word) != 0 && atomic_load(expiry_byte_of(store, item)) == 0) {
            report(check, "item at ref %u expires, its page does not say so", ref.units);
        }
        check->class_items[class_id]++;
        check->class_bytes[class_id] += item_bytes(item);
        struct table_place place;
        table_find_ref(store, check->shard, ref, item_hash(store, item), &place);
        if (place.bucket == NULL) {
            report(check, "item at ref %u is live but not linked", ref.units);
        }
        if (!head_is_sound(store, item, class_id)) {
            report(check, "item at ref %u has a bad header", ref.units);
        } else if (item->bits & ITEM_CHAINED && !chain_is_sound(store, item)) {
            report(check, "item at ref %u has a broken chain", ref.units);
        }
    } else if (!slot_refers(store, ref) && !(kind == CHUNK_DETACHED && is_queued(check, ref))) {
        report(check, "chunk at ref %u is %s but no process refers to it", ref.units,
               kind == CHUNK_UPLOAD ? "an upload" : "detached");
    }
    if (item->bits & ITEM_CHAINED) {
        struct ref next = {*item_next(item)};
        for (uint32_t i = 0; i < CHAIN_LOOKS_MAX && cont_is_of(store, next, ref.units); i++) {
            check->reached++;
            next.units = ((struct continuation *)ref_at(store, next))->next;
        }
    }
}

static void
check_page(void *context, uint32_t number, uint32_t kind)
{
    struct check *check = context;
    struct store *store = check->store;
    check->pages++;
    if (kind == PAGE_KIND_TABLE || kind == PAGE_KIND_GHOST) {
        check->table_pages += kind == PAGE_KIND_TABLE;
        check->ghost_pages += kind == PAGE_KIND_GHOST;
        return;
    }
    const struct page *page = page_entry(store->segment, number);
    uint32_t count = slab_chunks_per_page(store, kind);
    uint32_t free_chunks = 0;
    for (uint32_t slot = 0; slot < count; slot++) {
        struct ref ref = chunk_ref(store, number, kind, slot);
        switch ((enum chunk_kind)state_kind(chunk_state(ref_at(store, ref)))) {
        case CHUNK_FREE:
            free_chunks++;
            break;
        case CHUNK_CONT:
            check->continuations++;
            break;
        case CHUNK_LIVE:
        case CHUNK_UPLOAD:
        case CHUNK_DETACHED:
            check_head(check, ref, kind);
            break;
        case CHUNK_LEAF:
        case CHUNK_BRANCH:
        case CHUNK_STAGED:
            if (!part_is_sound(store, ref_at(store, ref))) {
                report(check, "chunk at ref %u is part of a collection that is not there",
                       ref.units);
            }
            break;
        }
    }
    uint32_t listed = 0;
    for (uint32_t slot = page->free_head; slot != 0 && slot <= count && listed <= count; listed++) {
        struct free_chunk *chunk = ref_at(store, chunk_ref(store, number, kind, slot - 1));
        if (state_kind(chunk_state(chunk)) != CHUNK_FREE) {
            report(check, "page %u lists slot %u as free, which is not", number, slot - 1);
        }
        slot = chunk->next_slot;
    }
    if (listed != free_chunks || page->free_count != free_chunks) {
        report(check, "page %u has %u free chunks, lists %u and counts %u", number, free_chunks,
               listed, page->free_count);
    }
    check->class_pages[kind]++;
    if (!page_is_leaving(check->shard, number)) {
        check->class_free[kind] += free_chunks;
        check->class_empty[kind] += free_chunks == count;
    }
}

static void
check_classes(struct check *check)
{
    uint32_t empty = 0;
    for (uint32_t class_id = 1; class_id <= check->store->superblock->class_count; class_id++) {
        const struct class_list *list = &check->shard->classes[class_id];
        if (list->page_count != check->class_pages[class_id] ||
            list->free_chunks != check->class_free[class_id] ||
            list->empty_count != check->class_empty[class_id]) {
            report(check,
                   "class %u counts %u pages, %u free chunks, %u empty; there are %u, %u, %u",
                   class_id, list->page_count, list->free_chunks, list->empty_count,
                   check->class_pages[class_id], check->class_free[class_id],
                   check->class_empty[class_id]);
        }
        empty += check->class_empty[class_id];
        uint32_t circle = 0;
        uint32_t at = list->hand_page;
        uint32_t owner = page_owner(shard_index(check->store, check->shard), class_id);
        while (page_is_of(check->store, at, owner) && circle <= list->page_count) {
            circle++;
            at = page_entry(check->store->segment, at - 1)->class_next;
            if (at == list->hand_page) {
                break;
            }
        }
        if (circle != list->page_count) {
            report(check, "class %u has %u pages, its circle %u", class_id, list->page_count,
                   circle);
        }
    }
    if (empty != check->shard->empty_pages) {
        report(check, "%u pages are empty, %u counted", empty, check->shard->empty_pages);
    }
}

/* Returns the number of its cells. */
static uint32_t
check_ring(struct check *check, uint32_t class_id)
{
    const struct class_list *list = &check->shard->classes[class_id];
    uint32_t cells = 0;
    struct ref last = REF_NONE;
    for (struct ref at = {list->ring_head};
         cell_is_of(check->store, check->shard, at.units) && cells <= check->shard->cell_count;
         at.units = atomic_load(cell_next(check->store, at))) {
        cells++;
        last = at;
    }
    uint64_t entries = cells == 0 ? 0
                                  : (uint64_t)(cells - 1) * PROBATION_CELL_ENTRIES +
                                        list->ring_pushed - list->ring_popped;
    if (last.units != list->ring_tail || entries != list->ring_count) {
        report(check, "the ring of class %u has %" PRIu64 " entries and counts %u", class_id,
               entries, list->ring_count);
    }
    return cells;
}

/* Returns how many items the bucket links; `index` is that of its primary. */
static uint32_t
check_bucket(struct check *check, const struct table_bucket *bucket, uint32_t index)
{
    struct store *store = check->store;
    uint64_t word = atomic_load(table_word_at(store, check->shard));
    uint32_t linked = 0;
    for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
        uint8_t tag = atomic_load(&bucket->tag[slot]);
        if (tag == 0 || tag == TAG_OVERFLOW) {
            continue;
        }
        linked++;
        struct ref ref = {atomic_load(&bucket->ref[slot])};
        struct item *item = ref_at(store, ref);
        if (!ref_is_in_pages(store, ref) || state_kind(chunk_state(item)) != CHUNK_LIVE) {
            report(check, "bucket %u links a chunk that is not live", index);
            continue;
        }
        uint64_t hash = item_hash(store, item);
        if (hash_tag(hash) != tag || table_bucket_index(word, hash) != index ||
            shard_of_hash(store, hash) != check->shard) {
            report(check, "bucket %u links an item that belongs elsewhere", index);
        }
    }
    return linked;
}

static void
check_table(struct check *check)
{
    struct store *store = check->store;
    struct shard *shard = check->shard;
    uint64_t word = atomic_load(table_word_at(store, shard));
    uint64_t linked = 0;
    uint32_t cells = 0;
    for (uint32_t index = 0; index < table_bucket_count(word); index++) {
        const struct table_bucket *primary = table_bucket_at(store, shard, index);
        if (atomic_load(&primary->version) & 1) {
            report(check, "bucket %u is open", index);
        }
        linked += check_bucket(check, primary, index);
        const struct table_bucket *bucket = bucket_next(store, primary);
        for (unsigned depth = 1; bucket != NULL; depth++) {
            if (depth == CHAIN_BUCKETS_MAX) {
                report(check, "bucket %u goes on in more than %u", index, CHAIN_BUCKETS_MAX - 1);
                break;
            }
            const struct table_bucket *next = bucket_next(store, bucket);
            uint32_t links = check_bucket(check, bucket, index);
            if (links < (next == NULL ? 2 : 1)) {
                report(check, "bucket %u goes on in one that links %u items", index, links);
            }
            linked += links;
            cells++;
            bucket = next;
        }
    }
    if (linked != check->live || shard->sums.curr_items != check->live) {
        report(check, "%" PRIu64 " live items, %" PRIu64 " linked, %" PRIu64 " counted",
               check->live, linked, shard->sums.curr_items);
    }
    for (uint32_t class_id = 1; class_id <= store->superblock->class_count; class_id++) {
        cells += check_ring(check, class_id);
    }
    if (cells != shard->cell_count) {
        report(check, "%u cells in use, %u counted", cells, shard->cell_count);
    }
}

static void
check_class_sums(struct check *check)
{
    const struct shard *shard = check->shard;
    for (uint32_t class_id = 1; class_id <= check->store->superblock->class_count; class_id++) {
        uint32_t items = shard->classes[class_id].item_count;
        if (items != check->class_items[class_id]) {
            report(check, "class %u has %u items, counted are %u", class_id,
                   check->class_items[class_id], items);
        }
        if (shard->class_bytes[class_id] != check->class_bytes[class_id]) {
            report(check, "items of class %u hold %" PRIu64 " bytes, counted are %" PRIu64,
                   class_id, check->class_bytes[class_id], shard->class_bytes[class_id]);
        }
    }
}

unsigned
shard_check(struct store *store, struct shard *shard, problem_fn *problem, void *context)
{
    struct check check = {.store = store, .shard = shard, .problem = problem, .context = context};
    if (!shard_is_plausible(store, shard)) {
        report(&check, "its head makes no sense");
        return check.problems;
    }
    each_page(store, shard, check_page, &check);
    check_classes(&check);
    check_table(&check);
    if (check.pages != shard->page_count || check.table_pages != shard->table_page_count) {
        report(&check, "counts %u pages and %u of its table; there are %u and %u",
               shard->page_count, shard->table_page_count, check.pages, check.table_pages);
    }
    if (check.ghost_pages != shard->ghost_page_count) {
        report(&check, "counts %u pages of the ghost; there are %u", shard->ghost_page_count,
               check.ghost_pages);
    }
    if (check.expiring != shard->sums.volatile_items) {
        report(&check, "%" PRIu64 " items expire, %" PRIu64 " counted", check.expiring,
               shard->sums.volatile_items);
    }
    uint64_t evictions = 0;
    for (unsigned i = 0; i < EVICTION_REASON_COUNT; i++) {
        evictions += shard->sums.evicted_by[i];
    }
    if (evictions != shard->sums.evictions) {
        report(&check, "%" PRIu64 " evictions, %" PRIu64 " by reason", shard->sums.evictions,
               evictions);
    }
    check_class_sums(&check);
    if (check.continuations != check.reached) {
        report(&check, "%" PRIu64 " continuations, %" PRIu64 " of them reached from an item",
               check.continuations, check.reached);
    }
    return check.problems;
}

unsigned
store_check(struct store *store, problem_fn *problem, void *context)
{
    unsigned problems = 0;
    for (uint32_t i = 0; i < store->superblock->shard_count; i++) {
        struct shard *shard = &store->shards[i];
        if (!shard_lock(store, shard)) {
            problem(context, "a shard is locked by a stopped process");
            problems++;
            continue;
        }
        problems += shard_check(store, shard, problem, context);
        shard_unlock(store, shard);
    }
    return problems;
}
