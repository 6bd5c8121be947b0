/* What `stats detail` counts: gets, hits, sets and deletes by the prefix of the key.
 *
 *   run_head.prefixes_at:  index, INDEX words     | generation 24 | tag 8 | unit 32 |
 *                            arena, units of 64 B   | counters | length | prefix | …
 *
 * Any process adds prefixes and counts, without a lock. A prefix gets a place in the arena, which
 * is filled before a word of the index names it; a process that dies in between leaves a place
 * that nobody names. A reset begins a new generation: the words of older ones are free. Generation
 * and count are one word of the run head, so what is given back after a reset is not taken from
 * the count of what came later. The arena is taken round and round, and has room for all of two
 * generations, so a place is taken again only after a reset and 65,536 further prefixes: a process
 * that was stopped within a count for so long counts for another prefix, and that is all.
 *
 * Memory beside the memory limit, taken as prefixes come: a megabyte and, for most prefixes, 64
 * bytes each, until the arena has been taken once: 41 MiB. When there is none, prefixes are not
 * counted, and it is asked for about once a second. */
#ifndef MEM_PREFIX_TABLE_H
#define MEM_PREFIX_TABLE_H

#include "mem/segment.h"

/* So many prefixes are counted between two resets; later ones are not. */
#define PREFIX_COUNT_MAX 65536
#define PREFIX_LEN_MAX 250

enum prefix_counter { PREFIX_GETS, PREFIX_HITS, PREFIX_SETS, PREFIX_DELETES, PREFIX_COUNTERS };

struct prefix_entry {
    _Atomic uint64_t counts[PREFIX_COUNTERS]; /* [atomic] */
    uint8_t len;                              /* [const] as long as it is named, as the text is */
    uint8_t text[];
};

/* Bytes of the part of the segment. */
uint64_t prefix_table_bytes(void);

/* The entry of a prefix, made if there is none. NULL: there are too many, or there is no memory. */
struct prefix_entry *prefix_table_find(const struct segment *segment, const uint8_t *prefix,
                                       uint32_t len);

/* The next entry from *at on, which begins with 0 and is moved behind it. NULL: no more. */
const struct prefix_entry *prefix_table_next(const struct segment *segment, uint32_t *at);

/* Forgets all prefixes. */
void prefix_table_reset(const struct segment *segment);

#endif
