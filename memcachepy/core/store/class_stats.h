/* What `stats items` and `stats slabs` tell of each slab class. */
#ifndef STORE_CLASS_STATS_H
#define STORE_CLASS_STATS_H

#include "store/store.h"

struct class_stats {
    uint32_t chunk_bytes, chunks_per_page;
    uint64_t pages;
    uint64_t free_chunks;
    uint64_t items;
    uint64_t item_bytes; /* header, key and value of the items */
    uint64_t probation;  /* of the items, those in probation; about */
    /* For how long nobody has asked for an item that is among the next to be looked at for
     * eviction: the longest of those looked at. */
    uint32_t age_s;
    uint32_t evicted_idle_s; /* the same of what was evicted last; 0: nothing */
    uint64_t counters[CLASS_COUNTER_COUNT];
};

/* Fills the entries 1 to class_count. Takes no lock: figures may be a moment old. */
void store_class_stats(struct store *store, struct class_stats classes[SLAB_CLASS_COUNT_MAX]);

/* The counters of all classes together. */
void store_class_counters_sum(struct store *store, uint64_t totals[CLASS_COUNTER_COUNT]);

/* `stats reset`. */
void store_class_stats_reset(struct store *store);

#endif
