/* See walk.h. */
#include "store/walk.h"

#include "base/check.h"
#include "base/crash.h"
#include "store/chain.h"
#include "store/hashtable.h"
#include "store/slab.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- iterating ------------------------------------------------------------------------------ */

/* Calls the visitor for every page that belongs to the shard. */
typedef void page_fn(void *context, uint32_t number, uint32_t kind);

static void
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

static struct ref
chunk_ref(const struct store *store, uint32_t number, uint32_t class_id, uint32_t slot)
{
    uint64_t offset =
        page_offset(store->superblock, number) + (uint64_t)slot * slab_chunk_bytes(store, class_id);
    return ref_from_offset(store->superblock, offset);
}

/* Whether an upload or a pin of any process refers to the head. */
static bool
slot_refers(const struct store *store, struct ref head)
{
    unsigned slot_count = SLOT_WORKER_FIRST + store->superblock->settings.worker_count;
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
shard_is_plausible(const struct store *store, const struct shard *shard)
{
    uint64_t word = atomic_load(table_word_at(store, shard));
    if (table_bucket_count(word) > shard->bucket_capacity ||
        shard->table_page_count > shard->page_count ||
        shard->page_count > atomic_load(&store->superblock->pool.populated_count)) {
        return false;
    }
    for (uint32_t class_id = 1; class_id <= store->superblock->class_count; class_id++) {
        const struct class_list *list = &shard->classes[class_id];
        uint64_t chunks = (uint64_t)list->page_count * slab_chunks_per_page(store, class_id);
        if (list->free_chunks > chunks || list->empty_count > list->page_count ||
            (list->page_count == 0) != (list->hand_page == 0) ||
            (list->free_chunks == 0) != (list->partial == 0)) {
            return false;
        }
    }
    return true;
}

/* ---- rebuild -------------------------------------------------------------------------------- */

struct rebuild {
    struct store *store;
    struct shard *shard;
    uint32_t *table_pages; /* [private] */
    uint32_t table_page_count;
};

/* A chunk is kept if a live or held item reaches it. The mark of the walk lies in the state's field
 * of the last access, which is lost by it: nobody needs it while the shard is being rebuilt. */
#define MARK (0x3FFFu << STATE_ACCESS_SHIFT)

static bool
head_is_sound(const struct store *store, struct item *item, uint32_t class_id)
{
    uint64_t hash = item_hash(store, item);
    if (item->check != item_check_value(hash, item->value_len, item->key_len, item->bits)) {
        return false;
    }
    return item->bits & ITEM_CHAINED || item_bytes(item) <= slab_chunk_bytes(store, class_id);
}

/* Follows a chain; false if it does not hold all of the value. */
static bool
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

static void
mark(void *chunk)
{
    atomic_fetch_or((_Atomic uint32_t *)chunk, MARK);
}

static void
mark_chain(const struct store *store, struct item *head)
{
    mark(head);
    if (head->bits & ITEM_CHAINED) {
        for (struct ref ref = {*item_next(head)}; !ref_is_none(ref);) {
            struct continuation *continuation = ref_at(store, ref);
            mark(continuation);
            ref.units = continuation->next;
        }
    }
}

static void
unmark_page(void *context, uint32_t number, uint32_t kind)
{
    struct rebuild *rebuild = context;
    if (kind == PAGE_KIND_TABLE) {
        rebuild->table_pages[rebuild->table_page_count++] = number;
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
    if (kind == PAGE_KIND_TABLE) {
        return;
    }
    uint32_t count = slab_chunks_per_page(store, kind);
    for (uint32_t slot = 0; slot < count; slot++) {
        struct ref ref = chunk_ref(store, number, kind, slot);
        struct item *item = ref_at(store, ref);
        uint32_t state_of = state_kind(chunk_state(item));
        bool keep = false;
        if (state_of == CHUNK_LIVE) {
            keep = head_is_sound(store, item, kind) &&
                   (!(item->bits & ITEM_CHAINED) || chain_is_sound(store, item));
        } else if (state_of == CHUNK_UPLOAD || state_of == CHUNK_DETACHED) {
            keep = slot_refers(store, ref);
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
    if (kind == PAGE_KIND_TABLE) {
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
        }
    }
    list_page(rebuild, number, kind);
}

/* False for a second item with the same key: a crash cannot leave two, damage can. */
static bool
relink(struct rebuild *rebuild, struct item *item)
{
    struct store *store = rebuild->store;
    struct shard *shard = rebuild->shard;
    uint64_t hash = item_hash(store, item);
    struct table_place place;
    table_find(store, shard, item_key(item, item->bits), item->key_len, hash, &place);
    if (place.bucket != NULL) {
        return false;
    }
    table_link(store, shard, place.primary, hash, ref_of(store, item));
    journal_commit(shard);
    shard->sums.curr_items++;
    shard->sums.bytes += item_bytes(item);
    return true;
}

static void
relink_page(void *context, uint32_t number, uint32_t kind)
{
    struct rebuild *rebuild = context;
    struct store *store = rebuild->store;
    if (kind == PAGE_KIND_TABLE) {
        return;
    }
    for (uint32_t slot = 0; slot < slab_chunks_per_page(store, kind); slot++) {
        /* What finds no place is freed, and this very page may go with it. */
        uint32_t owner = atomic_load(&page_entry(store->segment, number)->owner);
        if (owner != page_owner(rebuild->shard->index, kind)) {
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
    uint32_t per_page_shift = store->page_shift - 6;
    uint32_t primary_pages = 0;
    shard->overflow_free = 0;
    shard->overflow_count = 0;
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
        /* The first page is the table's, the second its overflow, and so on. */
        if (i % 2 == 0) {
            atomic_store(table_directory_entry(store, shard, primary_pages++), number + 1);
        } else {
            uint32_t step = overflow_bucket_step(store);
            for (uint32_t j = 1u << per_page_shift; j > 0; j -= step) {
                atomic_store(&bucket[j - step].ref[0], shard->overflow_free);
                shard->overflow_free = ref_of(store, &bucket[j - step]).units;
            }
        }
    }
    for (uint32_t i = primary_pages; i << per_page_shift < shard->bucket_capacity; i++) {
        atomic_store(table_directory_entry(store, shard, i), 0);
    }
    shard->table_page_count = rebuild->table_page_count;
    shard->bucket_capacity = primary_pages << per_page_shift;
    uint64_t word =
        table_word_make(generation + 1, primary_pages == 0 ? TABLE_LEVEL_NONE : per_page_shift, 0);
    atomic_store(table_word_at(store, shard), word | TABLE_WORD_REBUILDING);
}

void
shard_rebuild(struct store *store, struct shard *shard)
{
    uint64_t word = atomic_load(table_word_at(store, shard)) | TABLE_WORD_REBUILDING;
    atomic_store(table_word_at(store, shard), word);
    atomic_store(&shard->journal.count, 0);
    atomic_store(&shard->open_bucket, 0);
    shard->reclaiming = 0;
    struct rebuild rebuild = {.store = store, .shard = shard};
    uint32_t populated = atomic_load(&store->superblock->pool.populated_count);
    rebuild.table_pages = malloc((populated + 1) * sizeof(uint32_t));
    CHECK(rebuild.table_pages != NULL);
    each_page(store, shard, unmark_page, &rebuild);
    each_page(store, shard, mark_page, &rebuild);
    memset(shard->classes, 0, sizeof(shard->classes));
    shard->page_count = 0;
    shard->empty_pages = 0;
    each_page(store, shard, sweep_page, &rebuild);
    shard->sums.curr_items = 0;
    shard->sums.bytes = 0;
    CRASH_POINT(rebuild_swept);
    reset_table(&rebuild, table_word_generation(word));
    each_page(store, shard, relink_page, &rebuild);
    CRASH_POINT(rebuild_relinked);
    shard->sums.rebuilds++;
    free(rebuild.table_pages);
    word = atomic_load(table_word_at(store, shard));
    atomic_store(table_word_at(store, shard), word & ~TABLE_WORD_REBUILDING);
}

/* ---- check ---------------------------------------------------------------------------------- */

struct check {
    struct store *store;
    struct shard *shard;
    problem_fn *problem;
    void *context;
    unsigned problems;
    uint32_t pages, table_pages;
    uint32_t class_pages[SLAB_CLASS_COUNT_MAX], class_free[SLAB_CLASS_COUNT_MAX],
        class_empty[SLAB_CLASS_COUNT_MAX];
    uint64_t live, bytes, continuations, reached;
};

static void PRINTF_LIKE(2, 3) report(struct check *check, const char *format, ...)
{
    char text[256];
    int prefix = snprintf(text, sizeof(text), "shard %u: ", check->shard->index);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + prefix, sizeof(text) - (size_t)prefix, format, arguments);
    va_end(arguments);
    check->problems++;
    check->problem(check->context, text);
}

static void
check_head(struct check *check, struct ref ref, uint32_t class_id)
{
    struct store *store = check->store;
    struct item *item = ref_at(store, ref);
    uint32_t kind = state_kind(chunk_state(item));
    if (kind == CHUNK_LIVE) {
        check->live++;
        check->bytes += item_bytes(item);
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
    } else if (!slot_refers(store, ref)) {
        report(check, "chunk at ref %u is %s but no process refers to it", ref.units,
               kind == CHUNK_UPLOAD ? "an upload" : "detached");
    }
    if (item->bits & ITEM_CHAINED) {
        for (struct ref next = {*item_next(item)}; !ref_is_none(next);) {
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
    if (kind == PAGE_KIND_TABLE) {
        check->table_pages++;
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
        }
    }
    uint32_t listed = 0;
    for (uint32_t slot = page->free_head; slot != 0 && listed <= count; listed++) {
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
    check->class_free[kind] += free_chunks;
    check->class_empty[kind] += free_chunks == count;
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
        while (at != 0 && circle <= list->page_count) {
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

static void
check_table(struct check *check)
{
    struct store *store = check->store;
    struct shard *shard = check->shard;
    uint64_t word = atomic_load(table_word_at(store, shard));
    uint64_t linked = 0;
    uint32_t overflow = 0;
    for (uint32_t index = 0; index < table_bucket_count(word); index++) {
        const struct table_bucket *primary = table_bucket_at(store, shard, index);
        if (atomic_load(&primary->version) & 1) {
            report(check, "bucket %u is open", index);
        }
        for (const struct table_bucket *bucket = primary; bucket != NULL;
             bucket = bucket_next(store, bucket)) {
            overflow += bucket != primary;
            for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
                uint8_t tag = atomic_load(&bucket->tag[slot]);
                if (tag == 0 || tag == TAG_OVERFLOW) {
                    continue;
                }
                linked++;
                struct item *item = ref_at(store, (struct ref){atomic_load(&bucket->ref[slot])});
                if (state_kind(chunk_state(item)) != CHUNK_LIVE) {
                    report(check, "bucket %u links a chunk that is not live", index);
                    continue;
                }
                uint64_t hash = item_hash(store, item);
                if (hash_tag(hash) != tag || table_bucket_index(word, hash) != index ||
                    shard_of_hash(store, hash) != shard) {
                    report(check, "bucket %u links an item that belongs elsewhere", index);
                }
            }
        }
    }
    if (linked != check->live || shard->sums.curr_items != check->live) {
        report(check, "%" PRIu64 " live items, %" PRIu64 " linked, %" PRIu64 " counted",
               check->live, linked, shard->sums.curr_items);
    }
    if (overflow != shard->overflow_count) {
        report(check, "%u overflow buckets in use, %u counted", overflow, shard->overflow_count);
    }
}

unsigned
shard_check(struct store *store, struct shard *shard, problem_fn *problem, void *context)
{
    struct check check = {.store = store, .shard = shard, .problem = problem, .context = context};
    each_page(store, shard, check_page, &check);
    check_classes(&check);
    check_table(&check);
    if (check.pages != shard->page_count || check.table_pages != shard->table_page_count) {
        report(&check, "counts %u pages and %u of its table; there are %u and %u",
               shard->page_count, shard->table_page_count, check.pages, check.table_pages);
    }
    if (check.bytes != shard->sums.bytes) {
        report(&check, "items hold %" PRIu64 " bytes, counted are %" PRIu64, check.bytes,
               shard->sums.bytes);
    }
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

/* ---- dead items, dead processes ------------------------------------------------------------- */

/* Under the lock of the page's shard. */
static void
sweep_dead_page(struct store *store, struct shard *shard, uint32_t number, uint32_t owner)
{
    uint32_t class_id = page_owner_kind(owner);
    for (uint32_t slot = 0; slot < slab_chunks_per_page(store, class_id); slot++) {
        /* Unlinking may empty this very page and give it back. */
        if (atomic_load(&page_entry(store->segment, number)->owner) != owner) {
            return;
        }
        struct ref ref = chunk_ref(store, number, class_id, slot);
        struct item *item = ref_at(store, ref);
        if (state_kind(chunk_state(item)) == CHUNK_LIVE && item_is_dead(store, item)) {
            item_unlink(store, shard, ref, UNLINK_RECLAIM);
        }
    }
}

void
store_sweep_dead(struct store *store)
{
    uint32_t count = atomic_load(&store->superblock->pool.populated_count);
    for (uint32_t number = 0; number < count; number++) {
        uint32_t owner = atomic_load(&page_entry(store->segment, number)->owner);
        if (owner <= PAGE_IN_HAND || page_owner_kind(owner) == PAGE_KIND_TABLE) {
            continue;
        }
        struct shard *shard = &store->shards[page_owner_shard(owner)];
        if (shard_lock(store, shard)) {
            sweep_dead_page(store, shard, number, owner);
            shard_unlock(store, shard);
        }
    }
}

static void
recover_shard(struct store *store, struct shard *shard, struct recovery *recovery)
{
    uint64_t repairs = shard->sums.repairs;
    uint64_t rebuilds = shard->sums.rebuilds;
    /* A live holder repaired it, or will: only an orphaned lock is ours to take. */
    if (shard_try_lock(store, shard)) {
        recovery->shards_repaired += shard->sums.repairs - repairs;
        recovery->shards_rebuilt += shard->sums.rebuilds - rebuilds;
        shard_unlock(store, shard);
    }
}

void
store_recover(struct store *store, unsigned slot_index, struct recovery *recovery)
{
    struct process_slot *slot = &store->segment->slots[slot_index];
    *recovery = (struct recovery){0};
    uint32_t locked = atomic_load(&slot->locked_shard);
    if (locked != 0) {
        /* Another process may be undoing what this one left: its slot means nothing before. */
        struct shard *shard = &store->shards[locked - 1];
        uint64_t repairs = shard->sums.repairs;
        shard_lock_surely(store, shard);
        recovery->shards_repaired += shard->sums.repairs - repairs;
        shard_unlock(store, shard);
    }
    for (uint32_t i = 0; i < store->superblock->shard_count; i++) {
        recover_shard(store, &store->shards[i], recovery);
    }
    bool done = true;
    for (unsigned i = 0; done && i < atomic_load(&slot->upload_high); i++) {
        bool held = atomic_load(&slot->uploads[i].head_ref) != 0;
        done = upload_recover(store, slot, i);
        recovery->uploads_freed += held && done;
    }
    for (unsigned i = 0; done && i < atomic_load(&slot->pin_high); i++) {
        bool held = atomic_load(&slot->pins[i].head_ref) != 0;
        done = pin_recover(store, slot, i);
        recovery->pins_released += held && done;
    }
    pool_recover(store->segment, slot);
    if (done) {
        atomic_store(&slot->upload_high, 0);
        atomic_store(&slot->pin_high, 0);
        atomic_store(&slot->held_bytes, 0);
    }
    atomic_store(&slot->waiters, 0);
    atomic_store(&slot->locked_shard, 0);
    atomic_store(&slot->serving, 0);
    atomic_store(&slot->pid, 0);
}
