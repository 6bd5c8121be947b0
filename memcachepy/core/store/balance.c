/* See balance.h. */
#include "store/balance.h"

#include "store/slab.h"

/* A class must be worth so many halves of a donor's worth more, or two would play ping-pong. */
#define WORTH_HALVES 3

/* Returns per page that a move takes: one for every so many chunks of it. */
#define RETURNS_PART 16
#define RETURNS_MIN 2

/* A class stands still if less than this part of it was evicted lately. */
#define STANDS_STILL_PART 4

/* Nobody misses what left a class of which less than this part came back; fingerprints alone make
 * it seem one in four thousand. */
#define MISSED_PART 64

/* What one more page is worth, in returns per page of evictions, times 2^16. */
static uint64_t
worth_of(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    const struct class_list *list = &shard->classes[class_id];
    uint64_t per_page = slab_chunks_per_page(store, class_id);
    return ((uint64_t)list->ghost_hits << 16) * per_page / (list->ghost_entries + per_page);
}

static uint64_t
chunks_of(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    return (uint64_t)shard->classes[class_id].page_count * slab_chunks_per_page(store, class_id);
}

void
balance_evicted(struct store *store, struct shard *shard, uint32_t class_id)
{
    shard->classes[class_id].evicted++;
    shard->classes[class_id].turnover++;
    shard->turned_bytes += slab_chunk_bytes(store, class_id);
    if (shard->turned_bytes <= (uint64_t)shard->page_count << store->page_shift >> 1) {
        return;
    }
    shard->turned_bytes = 0;
    for (uint32_t i = 1; i <= store->superblock->class_count; i++) {
        shard->classes[i].turnover /= 2;
    }
}

void
balance_remembered(struct store *store, struct shard *shard, uint32_t class_id)
{
    shard->classes[class_id].ghost_entries++;
    if (++shard->ghost_turn <= shard->sums.curr_items / 2) {
        return;
    }
    shard->ghost_turn = 0;
    for (uint32_t i = 1; i <= store->superblock->class_count; i++) {
        shard->classes[i].ghost_hits /= 2;
        shard->classes[i].ghost_entries /= 2;
    }
}

void
balance_returned(struct shard *shard, uint32_t class_id)
{
    shard->classes[class_id].ghost_hits++;
    shard->classes[class_id].credit++;
}

/* Enough came back, and what left the donor does not come back as often. */
static bool
is_worth_more(const struct store *store, const struct shard *shard, uint32_t class_id,
              uint32_t donor)
{
    uint32_t needed = slab_chunks_per_page(store, class_id) / RETURNS_PART;
    return shard->classes[class_id].credit >= (needed > RETURNS_MIN ? needed : RETURNS_MIN) &&
           worth_of(store, shard, class_id) * 2 > worth_of(store, shard, donor) * WORTH_HALVES;
}

/* All of the class was evicted lately, while the donor stood still and nobody missed what left it.
 */
static bool
is_livelier(const struct store *store, const struct shard *shard, uint32_t class_id, uint32_t donor)
{
    const struct class_list *list = &shard->classes[class_id];
    const struct class_list *other = &shard->classes[donor];
    return list->evicted >= slab_chunks_per_page(store, class_id) &&
           list->turnover >= chunks_of(store, shard, class_id) &&
           other->ghost_hits * MISSED_PART <=
               other->ghost_entries + slab_chunks_per_page(store, donor) &&
           other->turnover * STANDS_STILL_PART < chunks_of(store, shard, donor);
}

bool
balance_wants_page(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    const struct class_list *list = &shard->classes[class_id];
    if (atomic_load_explicit(&store->superblock->settings.slab_automove, memory_order_relaxed) ==
        0) {
        return false;
    }
    if (list->credit < RETURNS_MIN && list->evicted < slab_chunks_per_page(store, class_id)) {
        return false;
    }
    uint32_t donor = balance_donor(store, shard, UINT64_C(1) << class_id);
    return donor != 0 && (is_worth_more(store, shard, class_id, donor) ||
                          is_livelier(store, shard, class_id, donor));
}

void
balance_moved(struct shard *shard, uint32_t class_id)
{
    shard->classes[class_id].credit = 0;
    shard->classes[class_id].evicted = 0;
}

/* Whether the class misses a page less than the other. */
static bool
is_better_donor(const struct store *store, const struct shard *shard, uint32_t class_id,
                uint32_t other)
{
    uint64_t worth = worth_of(store, shard, class_id);
    uint64_t other_worth = worth_of(store, shard, other);
    if (worth != other_worth) {
        return worth < other_worth;
    }
    /* By the part of it that was evicted lately, in quarters. */
    uint64_t chunks = chunks_of(store, shard, class_id);
    uint64_t other_chunks = chunks_of(store, shard, other);
    uint64_t moves = shard->classes[class_id].turnover * UINT64_C(4) / chunks;
    uint64_t other_moves = shard->classes[other].turnover * UINT64_C(4) / other_chunks;
    if (moves != other_moves) {
        return moves < other_moves;
    }
    return shard->classes[class_id].page_count > shard->classes[other].page_count;
}

uint32_t
balance_donor(const struct store *store, const struct shard *shard, uint64_t tried)
{
    uint32_t best = 0;
    for (uint32_t class_id = 1; class_id <= store->superblock->class_count; class_id++) {
        if (shard->classes[class_id].page_count != 0 && !(tried >> class_id & 1) &&
            (best == 0 || is_better_donor(store, shard, class_id, best))) {
            best = class_id;
        }
    }
    return best;
}
