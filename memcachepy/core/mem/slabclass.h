/* The sizes of chunks. */
#ifndef MEM_SLABCLASS_H
#define MEM_SLABCLASS_H

#include "mem/segment.h"

/* Fills chunk_bytes[1 .. n] for ids from 1 and returns n; 0 if there would be too many. Sizes are
 * multiples of `unit`, begin with what the smallest item needs, grow by about `factor` and end at
 * half a page; from a sixty-fourth of a page on they divide it evenly. */
uint32_t slabclass_make(uint32_t chunk_bytes[SLAB_CLASS_COUNT_MAX], uint32_t page_bytes,
                        uint32_t unit, uint32_t item_size_min_bytes, double factor);

/* The same from a list of sizes that grow, `100-200-300`; half a page is the last, listed or not.
 * What is larger, or rounds to the one before, is passed over. */
uint32_t slabclass_from_list(uint32_t chunk_bytes[SLAB_CLASS_COUNT_MAX], uint32_t page_bytes,
                             uint32_t unit, const char *sizes);

/* Each chunk has a byte of the page's expiry column besides. */
uint32_t slabclass_chunks_per_page(uint32_t page_bytes, uint32_t chunk_bytes);

#endif
