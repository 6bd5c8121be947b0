#include "mem/slabclass.h"

/* Of an item without client flags; store/item.h asserts its side. */
#define ITEM_HEADER_BYTES_MIN 28

uint32_t
slabclass_make(uint32_t chunk_bytes[SLAB_CLASS_COUNT_MAX], uint32_t page_bytes, uint32_t unit,
               uint32_t item_size_min_bytes, double factor)
{
    uint32_t count = 0;
    double wanted = ITEM_HEADER_BYTES_MIN + item_size_min_bytes;
    uint32_t last = 0;
    while (wanted < page_bytes / 8) {
        uint32_t bytes = (uint32_t)round_up((uint64_t)wanted, unit);
        bytes = bytes > last ? bytes : last + unit;
        if (bytes >= page_bytes / 8) {
            break;
        }
        if (++count >= SLAB_CLASS_COUNT_MAX) {
            return 0;
        }
        chunk_bytes[count] = last = bytes;
        wanted = bytes * factor;
    }
    for (uint32_t part = 8; part >= 2; part--) {
        uint32_t bytes = page_bytes / part / unit * unit;
        if (bytes <= last) {
            continue;
        }
        if (++count >= SLAB_CLASS_COUNT_MAX) {
            return 0;
        }
        chunk_bytes[count] = last = bytes;
    }
    return count;
}
