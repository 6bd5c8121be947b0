/* Where the free pages are: a bit for each page, and summaries.
 *
 *   level 3   |1 word                                            a bit: a word of level 2 that is
 *   level 2   |up to 64 words                                           not 0, and so on
 *   level 1   |up to 4,096 words
 *   level 0   |up to 262,144 words                               a bit: a free page
 *
 * From the top a free page of 16 million is found with four looks; a scan of the page directory,
 * 24 bytes a page, is a tenth of a second there, and was under a shard's lock.
 *
 * All of it is derived from the owners in the page directory, and may be wrong in one way only:
 *
 * - A page that is free has its bit at every moment. The bit is set before the page becomes free
 *   and cleared after it has become another's, by the process that has it in hand, or under the
 * grow lock while it is absent: never by two.
 * - A word that is not 0 has its bit in the level above, but for processes that are between the
 *   two. Who clears that bit looks at the word again afterwards, and sets it again. It has named a
 *   page of the word in its held table until then: pool_recover() looks again for the dead.
 * - A bit of a summary may be set over a word that is 0. A search that comes there clears it.
 *
 * tests/models/freemap.pml proves it. Where another process has written over the map, a search
 * finds too little or pages that it does not get, and pool_audit() makes it agree with the owners.
 */
#ifndef MEM_FREEMAP_H
#define MEM_FREEMAP_H

#include "mem/segment.h"

#define FREEMAP_LEVELS 4

/* Pages of the largest segment: as many as the levels reach. */
#define PAGE_COUNT_MAX (UINT32_C(1) << 24)

#define FREEMAP_NONE UINT32_MAX

/* Bytes of the part of the segment, and of its beginning that must have memory from the first. */
uint64_t freemap_bytes(uint32_t page_count);
uint64_t freemap_present_bytes(uint32_t page_count);

/* Takes memory for the bits of these pages. */
bool freemap_populate(const struct segment *segment, uint32_t first, uint32_t count) MUST_CHECK;

/* Whether no page is free, by one look. The highest level is one word and comes first. */
static inline bool
freemap_is_empty(const struct segment *segment)
{
    const _Atomic uint64_t *word = segment_at(segment, segment->superblock->freemap_at);
    return atomic_load_explicit(word, memory_order_relaxed) == 0;
}

/* For who has the page in hand and named, or holds the grow lock while it is absent. */
void freemap_set(const struct segment *segment, uint32_t number);
void freemap_clear(const struct segment *segment, uint32_t number);

/* Whether the page, which had memory at some time, has its bit. */
bool freemap_has(const struct segment *segment, uint32_t number);

/* Words that a search for a page looks at. */
#define FREEMAP_LOOKS_MAX 256

/* Returns the first page from `from` on that has its bit. FREEMAP_NONE: there is none, or the
 * search has come to its end: it adds the words that it looks at to *looks, and begins no descent
 * from FREEMAP_LOOKS_MAX on. The next one gets further, for the bits without a page have been
 * cleared. For a process that has no page in hand. */
uint32_t freemap_next(const struct segment *segment, struct held_table *held, uint32_t from,
                      unsigned *looks) MUST_CHECK;

/* Sets what is missing in the summaries above the page, after the death of a process that had named
 * it. */
void freemap_confirm(const struct segment *segment, uint32_t number);

/* The same for `count` pages, on to the whole words that they are in. A process that is stopped
 * between clearing a bit and looking again may have taken a page out of sight. */
void freemap_confirm_all(const struct segment *segment, uint32_t first, uint32_t count);

/* Free pages, counted up to `most`. */
uint32_t freemap_count(const struct segment *segment, uint32_t most);

#endif
