#include "mem/slabclass.h"

#include <stdlib.h>

/* Of an item without client flags; store/item.h asserts its side. */
#define ITEM_HEADER_BYTES_MIN 28

/* Fewer chunks than this in a page, and what is left behind the last one is worth sharing out. */
#define FILL_CHUNKS_MAX 64

/* The largest chunk of which so many fit a page, each with its byte of the page's expiry column. */
static uint32_t
largest_chunk(uint32_t page_bytes, uint32_t unit, uint32_t per_page)
{
    return (page_bytes - per_page) / per_page / unit * unit;
}

uint32_t
slabclass_chunks_per_page(uint32_t page_bytes, uint32_t chunk_bytes)
{
    return page_bytes / (chunk_bytes + 1);
}

/* The smallest chunk of at least `wanted` bytes that leaves little of a page unused. */
static uint32_t
fitting_chunk(uint32_t page_bytes, uint32_t unit, double wanted)
{
    uint32_t bytes = (uint32_t)round_up((uint64_t)wanted, unit);
    uint32_t per_page = slabclass_chunks_per_page(page_bytes, bytes);
    return per_page > FILL_CHUNKS_MAX ? bytes : largest_chunk(page_bytes, unit, per_page);
}

uint32_t
slabclass_make(uint32_t chunk_bytes[SLAB_CLASS_COUNT_MAX], uint32_t page_bytes, uint32_t unit,
               uint32_t item_size_min_bytes, double factor)
{
    uint32_t count = 0;
    double wanted = ITEM_HEADER_BYTES_MIN + item_size_min_bytes;
    uint32_t last = 0;
    uint32_t largest = largest_chunk(page_bytes, unit, 2);
    while (last < largest) {
        uint32_t bytes = largest;
        if (wanted < largest) {
            bytes = fitting_chunk(page_bytes, unit, wanted > last ? wanted : last + unit);
        }
        bytes = bytes > last ? bytes : last + unit;
        if (++count >= SLAB_CLASS_COUNT_MAX) {
            return 0;
        }
        chunk_bytes[count] = last = bytes < largest ? bytes : largest;
        wanted = last * factor;
    }
    return count;
}

uint32_t
slabclass_from_list(uint32_t chunk_bytes[SLAB_CLASS_COUNT_MAX], uint32_t page_bytes, uint32_t unit,
                    const char *sizes)
{
    uint32_t count = 0;
    uint32_t last = ITEM_HEADER_BYTES_MIN;
    uint32_t largest = largest_chunk(page_bytes, unit, 2);
    while (*sizes != '\0') {
        char *end;
        unsigned long wanted = strtoul(sizes, &end, 10);
        if (end == sizes) {
            break;
        }
        sizes = *end == '-' ? end + 1 : end;
        uint32_t bytes = wanted < largest ? (uint32_t)round_up(wanted, unit) : largest;
        if (bytes <= last || bytes >= largest) {
            continue;
        }
        if (++count >= SLAB_CLASS_COUNT_MAX - 1) {
            return 0;
        }
        chunk_bytes[count] = last = bytes;
    }
    chunk_bytes[++count] = largest;
    return count;
}
