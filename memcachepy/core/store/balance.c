/* See balance.h. */
#include "store/balance.h"

#include "store/policy.h"
#include "store/slab.h"

/* Counts are halved when so many times the shard's memory was evicted. A shorter memory follows
 * chance, a longer one follows a change of the sizes too late. */
#define MEMORY_TURNS 2

/* A class compares itself with the others once in so many evictions of a page's chunks. */
#define LOOKS_PER_PAGE 4

/* The demand of the class that gets a page is higher by this, and by two standard deviations of
 * the difference, than that of the class that gives it; both as they will be after the move. */
#define HIGHER_BY 1.25
#define DEVIATIONS_SQUARED 4.0

/* An eviction counts for so much less than an item that the hand passes. Most evicted items were
 * not asked for, and one page more would have made no hit of them. Without this part, a class whose
 * items all go from probation would never get a page of a class that stands still. */
#define EVICTED_PART 32

/* What a class without any count may have had by chance. */
#define COUNT_UNSEEN 4

/* More than any class is swept. */
#define IN_USE 1e12

/* Items swept and the pages they are spread over. */
struct demand {
    double swept;
    double pages;
};

/* What one count stands for. */
static double
count_weight(const struct store *store, uint32_t class_id)
{
    return weighs_bytes(store) ? slab_chunk_bytes(store, class_id) : 1;
}

/* The count of a class's demand. */
static double
passed(const struct class_list *list)
{
    return list->swept + (double)list->evicted / EVICTED_PART;
}

/* A class that gives its last page loses all that is in it, and takes a page back at once if it is
 * in use. */
static struct demand
demand_without_page(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    const struct class_list *list = &shard->classes[class_id];
    struct demand demand = {.swept = passed(list) + COUNT_UNSEEN, .pages = 1};
    if (list->page_count == 1) {
        demand.swept += list->evicted > 0 ? IN_USE : slab_chunks_per_page(store, class_id);
    } else {
        demand.pages = list->page_count - 1;
    }
    return demand;
}

static double
demand_per_page(const struct store *store, uint32_t class_id, struct demand demand)
{
    return demand.swept * count_weight(store, class_id) / demand.pages;
}

void
balance_swept(struct shard *shard, uint32_t class_id, uint32_t items)
{
    shard->classes[class_id].swept += items;
}

void
balance_evicted(struct store *store, struct shard *shard, uint32_t class_id,
                enum eviction_reason reason)
{
    shard->evicted_from_probation += reason == EVICTED_PROBATION;
    shard->evicted_from_main += reason == EVICTED_MAIN;
    if (reason == EVICTED_PROBATION || reason == EVICTED_MAIN) {
        shard->classes[class_id].evicted++;
        shard->classes[class_id].unlooked++;
        shard->evicted_bytes += slab_chunk_bytes(store, class_id);
    }
    shard->turned_bytes += slab_chunk_bytes(store, class_id);
    uint64_t shard_bytes = (uint64_t)shard->page_count << store->page_shift;
    if (shard->turned_bytes <= shard_bytes * MEMORY_TURNS) {
        return;
    }
    shard->turned_bytes = 0;
    shard->evicted_bytes /= 2;
    shard->evicted_from_probation /= 2;
    shard->evicted_from_main /= 2;
    for (uint32_t i = 1; i <= store->superblock->class_count; i++) {
        shard->classes[i].swept /= 2;
        shard->classes[i].evicted /= 2;
    }
}

bool
balance_main_is_fleeting(const struct shard *shard)
{
    return shard->evicted_from_main * UINT64_C(5) >= shard->evicted_from_probation * UINT64_C(4);
}

/* Whether a page does more for the class than for the donor. */
static bool
is_worth_more(const struct store *store, const struct shard *shard, uint32_t class_id,
              uint32_t donor)
{
    const struct class_list *list = &shard->classes[class_id];
    double pages = (double)list->page_count + 1;
    struct demand left = demand_without_page(store, shard, donor);
    /* Rates times the product of the pages, so that nothing is divided. */
    double weight = count_weight(store, class_id) * left.pages;
    double donor_weight = count_weight(store, donor) * pages;
    double difference = passed(list) * weight - HIGHER_BY * left.swept * donor_weight;
    double own_variance = list->swept + (double)list->evicted / (EVICTED_PART * EVICTED_PART);
    double variance = own_variance * weight * weight + left.swept * donor_weight * donor_weight;
    return difference > 0 && difference * difference > DEVIATIONS_SQUARED * variance;
}

bool
balance_deserves_page(const struct store *store, const struct shard *shard, uint32_t class_id)
{
    const struct class_list *list = &shard->classes[class_id];
    struct demand all = {0};
    for (uint32_t i = 1; i <= store->superblock->class_count; i++) {
        all.swept += passed(&shard->classes[i]) * count_weight(store, i);
        all.pages += shard->classes[i].page_count;
    }
    return passed(list) * count_weight(store, class_id) * all.pages >= all.swept * list->page_count;
}

uint32_t
balance_donor_for(const struct store *store, struct shard *shard, uint32_t class_id)
{
    struct class_list *list = &shard->classes[class_id];
    if (list->unlooked * LOOKS_PER_PAGE < slab_chunks_per_page(store, class_id) ||
        atomic_load_explicit(&store->run->settings.slab_automove, memory_order_relaxed) == 0) {
        return 0;
    }
    list->unlooked = 0;
    uint32_t donor = balance_donor(store, shard, UINT64_C(1) << class_id);
    return donor != 0 && is_worth_more(store, shard, class_id, donor) ? donor : 0;
}

uint32_t
balance_donor(const struct store *store, const struct shard *shard, uint64_t tried)
{
    uint32_t best = 0;
    double lowest = 0;
    for (uint32_t class_id = 1; class_id <= store->superblock->class_count; class_id++) {
        if (shard->classes[class_id].page_count == 0 || tried >> class_id & 1) {
            continue;
        }
        double demand =
            demand_per_page(store, class_id, demand_without_page(store, shard, class_id));
        if (best == 0 || demand < lowest) {
            best = class_id;
            lowest = demand;
        }
    }
    return best;
}
