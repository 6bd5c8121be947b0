/* See balance.h. */
#include "store/balance.h"

#include "store/slab.h"

/* A class must be worth so many halves of a donor's worth more, or two would play ping-pong. */
#define WORTH_HALVES 3

/* Returns per page that a move takes: one for every so many chunks of it. */
#define RETURNS_PART 16
#define RETURNS_MIN 2

/* What one more page is worth, in returns per page of evictions, times 2^16. */
static uint64_t
worth_of(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    const struct class_list *list = &shard->classes[class_id];
    uint64_t per_page = slab_chunks_per_page(store, class_id);
    return ((uint64_t)list->ghost_hits << 16) * per_page / (list->ghost_entries + per_page);
}

void
balance_evicted(struct store *store, struct shard *shard, uint32_t class_id)
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

bool
balance_wants_page(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    uint32_t needed = slab_chunks_per_page(store, class_id) / RETURNS_PART;
    if (shard->classes[class_id].credit < (needed > RETURNS_MIN ? needed : RETURNS_MIN)) {
        return false;
    }
    uint32_t donor = balance_donor(store, shard, UINT64_C(1) << class_id);
    return donor != 0 &&
           worth_of(store, shard, class_id) * 2 > worth_of(store, shard, donor) * WORTH_HALVES;
}

void
balance_moved(struct shard *shard, uint32_t class_id)
{
    shard->classes[class_id].credit = 0;
}

uint32_t
balance_donor(const struct store *store, const struct shard *shard, uint64_t tried)
{
    uint32_t best = 0;
    uint64_t best_worth = 0;
    for (uint32_t class_id = 1; class_id <= store->superblock->class_count; class_id++) {
        uint32_t pages = shard->classes[class_id].page_count;
        if (pages == 0 || tried >> class_id & 1) {
            continue;
        }
        uint64_t worth = worth_of(store, shard, class_id);
        if (best == 0 || worth < best_worth ||
            (worth == best_worth && pages > shard->classes[best].page_count)) {
            best = class_id;
            best_worth = worth;
        }
    }
    return best;
}
