/* Chunks of a shard: taking, freeing, and where they come from when there are none. Under the lock.
 */
#ifndef STORE_SLAB_H
#define STORE_SLAB_H

#include "store/item.h"
#include "store/store.h"

struct table_place;

/* The class whose chunks hold `bytes`, which is at most the largest chunk. */
static inline uint32_t
slab_class_of(const struct store *store, uint32_t bytes)
{
    return store->class_of_units[(bytes + 7) / 8];
}

static inline uint32_t
slab_chunk_bytes(const struct store *store, uint32_t class_id)
{
    return store->superblock->chunk_bytes[class_id];
}

static inline uint32_t
slab_chunks_per_page(const struct store *store, uint32_t class_id)
{
    return store->superblock->chunks_per_page[class_id];
}

/* The class of a page that has chunks; 0 for any other. */
static inline uint32_t
class_of_page(const struct store *store, uint32_t number)
{
    const struct page *page = page_entry(store->segment, number);
    uint32_t kind = page_owner_kind(atomic_load_explicit(&page->owner, memory_order_relaxed));
    return LIKELY(page_kind_is_class(store->superblock, kind)) ? kind : 0;
}

static inline uint32_t
class_of_ref(const struct store *store, struct ref ref)
{
    return class_of_page(store, page_of_ref(store, ref));
}

/* Whether the page is being emptied: the class neither counts nor lists its free chunks. */
static inline bool
page_is_leaving(const struct shard *shard, uint32_t number)
{
    return shard->leaving == number + 1;
}

/* The page that is being emptied; PAGE_NONE: none, or a word that another process has damaged. */
static inline uint32_t
leaving_page(const struct store *store, const struct shard *shard)
{
    uint32_t number = shard->leaving - 1;
    if (LIKELY(shard->leaving == 0) || number >= pool_populated(store->segment)) {
        return PAGE_NONE;
    }
    uint32_t class_id = class_of_page(store, number);
    uint32_t owner = page_owner(shard_index(store, shard), class_id);
    uint32_t to = shard->leaving_to;
    bool sound = class_id != 0 && to != 0 && to <= store->superblock->class_count &&
                 atomic_load_explicit(&page_entry(store->segment, number)->owner,
                                      memory_order_relaxed) == owner;
    return sound ? number : PAGE_NONE;
}

/* Page numbers in lists are stored plus one. */
static inline struct page *
listed_page(const struct store *store, uint32_t stored)
{
    return page_entry(store->segment, stored - 1);
}

static inline uint8_t *
page_memory(const struct store *store, uint32_t number)
{
    return store->base + page_offset(store->superblock, number);
}

static inline void *
chunk_at(const struct store *store, uint32_t page_number, uint32_t class_id, uint32_t slot)
{
    return page_memory(store, page_number) + (size_t)slot * slab_chunk_bytes(store, class_id);
}

/* Whether the chunk that chunk_pop() would take is the class's, and free. */
bool slab_chunk_is_ready(const struct store *store, const struct shard *shard, uint32_t class_id);

/* Inside a transaction. Needs class_list.free_chunks > 0. The chunk's first 8 bytes are logged. */
struct ref chunk_pop(struct store *store, struct shard *shard, uint32_t class_id);
void chunk_push(struct store *store, struct shard *shard, struct ref ref);

enum slab_result {
    SLAB_READY, /* the class has a free chunk */
    SLAB_GROW,  /* pool_grow() may help: unlock first */
    SLAB_DONOR, /* another shard may help: unlock first */
};

/* Makes a free chunk of the class, evicting if it must; own transactions. Items looked up before
 * may be gone afterwards if *evicted is set. */
enum slab_result slab_ensure(struct store *store, struct shard *shard, uint32_t class_id,
                             bool *evicted) MUST_CHECK;

/* A page in hand for the table: free, or taken from the class with most pages. PAGE_NONE: none. */
uint32_t slab_page_for_table(struct store *store, struct shard *shard, bool steal);

/* A page of this shard in hand, emptied for another. PAGE_NONE: it has none to give. */
uint32_t slab_page_for_other(struct store *store, struct shard *shard, enum eviction_reason reason);

/* Empties a page of this shard into the pool. False: it has none to give. */
bool slab_donate_page(struct store *store, struct shard *shard, enum eviction_reason reason);

/* Moves a page of this shard from one class to another, 0 the pool; what is in it is evicted.
 * False: the class has none here that can go. */
bool slab_reassign_page(struct store *store, struct shard *shard, uint32_t from, uint32_t to);

/* Takes a free page of the pool for the class. False: there is none. */
bool slab_adopt_page(struct store *store, struct shard *shard, uint32_t class_id);

/* Gives a wholly free page back to the pool, but keeps one per class that is not leaving. Own
 * transaction. */
void slab_release_page(struct store *store, struct shard *shard, uint32_t page_number);

/* The same for a page that may be wholly free. One empty page in all classes is one that its class
 * keeps. */
static inline void
slab_release_empty(struct store *store, struct shard *shard, uint32_t page_number)
{
    if (UNLIKELY(shard->empty_pages > 1 || shard->leaving != 0)) {
        slab_release_page(store, shard, page_number);
    }
}

/* Begins to empty a page of the class: nothing is stored in it any more. There is one such page of
 * a shard at a time. The other way round: its free chunks are the class's again. Own transactions.
 */
void page_begin_leaving(struct store *store, struct shard *shard, uint32_t number,
                        uint32_t class_id, uint32_t to_class);
void page_stop_leaving(struct store *store, struct shard *shard);

/* ---- eviction (evict.c) --------------------------------------------------------------------- */

/* Evicts items of the class until it has a free chunk. EVICTED_MAIN: the class needs one, and the
 * part of the policy that chose the item is counted; another reason is counted itself. False:
 * nothing there can go. */
bool evict_from_class(struct store *store, struct shard *shard, uint32_t class_id,
                      enum eviction_reason reason) MUST_CHECK;

/* UNLINK_REFUSE: a set that could not be done takes the old item with it. UNLINK_EVICT + enum
 * eviction_reason. */
enum unlink_reason { UNLINK_DELETE, UNLINK_REFUSE, UNLINK_RECLAIM, UNLINK_EVICT };

/* Unlinks a live item and frees its chunks, unless they are pinned. Own transactions. */
void item_unlink(struct store *store, struct shard *shard, struct ref ref,
                 enum unlink_reason reason);

/* With the hash of its key at hand. */
void item_unlink_hashed(struct store *store, struct shard *shard, struct ref ref, uint64_t hash,
                        enum unlink_reason reason);

/* The same for an item whose place was just looked up. */
void item_unlink_place(struct store *store, struct shard *shard, const struct table_place *place,
                       enum unlink_reason reason);

/* Inside a transaction: counts an item out of the sums. */
void sums_remove(struct store *store, struct shard *shard, struct item *item,
                 enum unlink_reason reason);

/* Inside a transaction: an unlinked item's chunk is freed at once if it is one, or it is left to
 * reclaim_run() if it is a chain, or to whoever pinned it. */
void item_discard(struct store *store, struct shard *shard, struct ref ref);

/* Inside a transaction: puts a detached chain that no process holds into the queue of those whose
 * chunks are to be freed. */
void reclaim_later(struct store *store, struct shard *shard, struct ref ref);

/* Frees the chains of the queue, a chunk a transaction. */
void reclaim_chains(struct store *store, struct shard *shard);

/* The same, if there is one. */
static inline void
reclaim_run(struct store *store, struct shard *shard)
{
    if (UNLIKELY(shard->reclaiming != 0)) {
        reclaim_chains(store, shard);
    }
}

/* Whether a process slot other than `except` pins the item. */
bool item_is_pinned(const struct store *store, struct ref ref, const struct held_ref *except);

#endif
