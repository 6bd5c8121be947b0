/* The page directory and the pool of free pages.
 *
 *   struct page, 24 bytes, one per page of the reserve, [shard]: guarded by the owning shard's lock
 *
 *    0        4            6            8             12            16              20           24
 *    | owner  | free_head  | free_count | class_next  | class_prev  | partial_next  | partial_prev
 * |
 *
 * `owner` alone is the truth about whose a page is. It changes
 *   free -> in hand        by compare-and-swap, by anyone, after naming the page in its held
 * table; in hand -> shard+class inside that shard's transaction, after every chunk was marked free;
 *   shard+class -> in hand inside that shard's transaction, when no chunk is in use;
 *   in hand -> free        by a plain store of whoever has it in hand (or of the supervisor after a
 * death);
 *   in hand -> absent      under the grow lock, after its memory was given back to the host;
 *   absent -> free         under the grow lock, after its memory was taken again.
 * The lists are derived: shard_rebuild() makes them anew. Free pages are found by the free map
 * (mem/freemap.h), which is derived, too. */
#ifndef MEM_PAGE_H
#define MEM_PAGE_H

#include "mem/segment.h"

/* Page numbers in lists are stored plus one, so that zeroed memory is an empty list. */
struct page {
    _Atomic uint32_t owner;              /* [atomic] */
    uint16_t free_head;                  /* [shard] slot + 1 of the first free chunk; 0: none */
    uint16_t free_count;                 /* [shard] */
    uint32_t class_next, class_prev;     /* [shard] circular, + 1 */
    uint32_t partial_next, partial_prev; /* [shard] pages with free chunks, + 1 */
};
static_assert(sizeof(struct page) == 24, "layout change: bump SEGMENT_LAYOUT_VERSION");

#define PAGE_FREE 0u
#define PAGE_ABSENT 1u /* Without memory: may not be touched. */
#define PAGE_KIND_GHOST 253u
#define PAGE_KIND_TABLE 254u
#define PAGE_KIND_IN_HAND 255u

/* No shard's number comes near. */
#define PAGE_OWNER_PROCESS (1u << 31)

static inline uint32_t
page_owner(uint32_t shard_index, uint32_t kind)
{
    return (shard_index + 1) << 8 | kind;
}

static inline uint32_t
page_owner_kind(uint32_t owner)
{
    return owner & 0xFF;
}

static inline bool
page_owner_is_shard(uint32_t owner)
{
    return owner >> 8 != 0 && owner < PAGE_OWNER_PROCESS;
}

/* Whether the kind is the number of a slab class. */
static inline bool
page_kind_is_class(const struct superblock *superblock, uint32_t kind)
{
    return kind - 1 < superblock->class_count;
}

/* In hand of the process whose table it is. */
static inline uint32_t
page_owner_in_hand(const struct segment *segment, const struct held_table *held)
{
    return PAGE_OWNER_PROCESS | (uint32_t)(held - segment->held) << 8 | PAGE_KIND_IN_HAND;
}

/* Only for owners that are a shard. The caller compares it with the number of shards: the word may
 * be damaged. */
static inline uint32_t
page_owner_shard(uint32_t owner)
{
    return (owner >> 8) - 1;
}

/* Whether it is a shard's and cut into chunks; its kind is then its class. False for a damaged
 * word. */
static inline bool
page_has_chunks(const struct superblock *superblock, uint32_t owner)
{
    return page_owner_is_shard(owner) && page_owner_shard(owner) < superblock->shard_count &&
           page_kind_is_class(superblock, page_owner_kind(owner));
}

/* Pages that ever had memory: the ones to look at. At most as many as there are, whatever another
 * process has written there. */
static inline uint32_t
pool_populated(const struct segment *segment)
{
    const struct superblock *superblock = segment->superblock;
    uint32_t count = atomic_load_explicit(&superblock->pool.populated_count, memory_order_acquire);
    return LIKELY(count <= superblock->page_count_max) ? count : superblock->page_count_max;
}

static inline struct page *
page_entry(const struct segment *segment, uint32_t number)
{
    return (struct page *)(segment->base + segment->superblock->pages_at) + number;
}

static inline uint64_t
page_offset(const struct superblock *superblock, uint32_t number)
{
    return superblock->data_at + ((uint64_t)number << superblock->page_shift);
}

static inline uint32_t
page_of_offset(const struct superblock *superblock, uint64_t offset)
{
    return (uint32_t)((offset - superblock->data_at) >> superblock->page_shift);
}

#define PAGE_NONE UINT32_MAX

/* Takes a free page in hand, or returns PAGE_NONE: at a moment none was free, or many were just
 * being taken or given back. The page is named in the table until page_keep() or
 * pool_give_back(). A page that the process has in hand already is the one it gets. Never blocks,
 * takes no lock, and looks at a bounded number of words, however many pages there are. While more
 * memory is in use than the limit allows, there is no other. */
uint32_t pool_take(struct segment *segment, struct held_table *held);

/* Forgets the page in hand: it has an owner now. */
void page_keep(struct held_table *held);

/* Returns the page in hand to the pool. */
void pool_give_back(struct segment *segment, struct held_table *held, uint32_t number);

/* The same for a page that may be in hand. A process has one at most. */
void pool_give_back_any(struct segment *segment, struct held_table *held);

/* ---- more than the limit ---------------------------------------------------------------------
 * After the limit was lowered, until enough pages have gone back to the host. */

bool pool_is_over(const struct segment *segment);

/* As pool_take(), but only while there is more than the limit: a page to be given to the host. */
uint32_t pool_take_surplus(struct segment *segment, struct held_table *held);

/* Gives the memory of the page in hand back to the host. False: the host refuses, or the limit has
 * been raised meanwhile; the page is free again. */
bool pool_drop(struct segment *segment, struct held_table *held, uint32_t number);

/* Makes `bytes` the memory limit, in force at once for who takes pages. False: more than the
 * reserve, or a stopped process keeps the pool's lock. */
bool pool_set_limit(struct segment *segment, uint64_t bytes) MUST_CHECK;

/* After a process's death: a page it had in hand goes back to the pool. False: its memory cannot be
 * had again, and a stopped process keeps the pool's lock; try again later. */
bool pool_recover(struct segment *segment, struct held_table *held) MUST_CHECK;

/* Makes the counts of the pool what the page directory and the limit of this run say; while no
 * other process has the segment. */
void pool_reopen(struct segment *segment);

/* Whether pool_grow() could bring more. */
bool pool_can_grow(const struct segment *segment);

/* Takes memory for a few pages, absent ones before others. Call without any shard lock.
 * False: the limit is reached or there is a shortage, which then lowers the effective limit and is
 * told in the pool. In an attached process a shortage is its own cgroup's: it lowers nothing, and
 * pool_can_grow() is false for some seconds. */
bool pool_grow(struct segment *segment);

/* Raises the effective limit a step, if a shortage has lowered it and the host has memory again.
 * Looks at the host at most once a second. now_ns is of the boot-time clock. For the maintainer. */
void pool_raise(struct segment *segment, uint64_t now_ns);

/* What the maintainer remembers from one call to the next. */
struct pool_ahead {
    uint64_t looked_at_ns;
    uint32_t used;         /* pages in use then */
    uint32_t wanted;       /* free pages to be kept until it looks again */
    uint32_t confirm_next; /* where it goes on looking through the free map */
};

/* Takes an extent from the host before it is needed: while pages are being taken, as many are kept
 * free as one second takes. Looks through a part of the free map, too. True: it has, and may have
 * to again soon. now_ns is of the monotonic clock. */
bool pool_grow_ahead(struct segment *segment, struct pool_ahead *ahead, uint64_t now_ns);

/* ---- damaged words --------------------------------------------------------------------------- */

#define POOL_AUDIT_PAGES_MAX 256

/* What the maintainer saw when it looked last. */
struct pool_audit {
    uint64_t looked_at_ns;
    uint64_t limit_bytes; /* the last that made sense; 0: it has not looked yet */
    uint64_t short_since_ns;
    uint32_t recoveries;
    uint32_t present_wrong;
    uint32_t lost_count; /* pages whose owner made no sense */
    struct {
        uint32_t number, owner;
    } lost[POOL_AUDIT_PAGES_MAX];
};

/* Every other second: mends the counts and the limit of the pool, and frees pages whose owner
 * cannot be one, where they are found wrong twice. True: some were. */
bool pool_audit(struct segment *segment, struct held_table *held, struct pool_audit *audit,
                uint64_t now_ns);

#endif
