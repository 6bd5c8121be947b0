/* References inside the segment. A ref is an offset from the segment's start in units of
 * 2^unit_shift bytes, so 32 bits reach 32 GiB at 8-byte units, and 1 TiB at 256-byte units; the
 * unit is chosen from the memory limit when the segment is created. 0 is no reference: the
 * superblock is there. */
#ifndef MEM_REF_H
#define MEM_REF_H

#include "mem/segment.h"

/* Tests raise it to use the units of very large caches. */
#ifndef UNIT_SHIFT_MIN
#define UNIT_SHIFT_MIN 3
#endif
#define UNIT_SHIFT_MAX 8

struct ref {
    uint32_t units;
};

#define REF_NONE ((struct ref){0})

static inline bool
ref_is_none(struct ref ref)
{
    return ref.units == 0;
}

static inline bool
ref_equal(struct ref a, struct ref b)
{
    return a.units == b.units;
}

static inline uint64_t
ref_offset(const struct superblock *superblock, struct ref ref)
{
    return (uint64_t)ref.units << superblock->unit_shift;
}

static inline struct ref
ref_from_offset(const struct superblock *superblock, uint64_t offset)
{
    return (struct ref){(uint32_t)(offset >> superblock->unit_shift)};
}

#endif
