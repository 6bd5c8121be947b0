/* See freemap.h. The words are changed in one order that all processes agree on (seq_cst): what one
 * sets before it looks above, another finds that clears above before it looks below. */
#include "mem/freemap.h"

#include "base/crash.h"
#include "mem/page.h"
#include "mem/populate.h"

#define WORD_BITS 64
#define WORD_SHIFT 6

static uint32_t
word_count(uint32_t page_count, unsigned level)
{
    for (unsigned i = 0; i <= level; i++) {
        page_count = (page_count + WORD_BITS - 1) / WORD_BITS;
    }
    return page_count;
}

/* The highest level comes first. */
static uint64_t
level_offset(uint32_t page_count, unsigned level)
{
    uint64_t words = 0;
    for (unsigned above = FREEMAP_LEVELS - 1; above > level; above--) {
        words += word_count(page_count, above);
    }
    return words * sizeof(uint64_t);
}

uint64_t
freemap_present_bytes(uint32_t page_count)
{
    return level_offset(page_count, 0);
}

uint64_t
freemap_bytes(uint32_t page_count)
{
    return level_offset(page_count, 0) + word_count(page_count, 0) * sizeof(uint64_t);
}

static _Atomic uint64_t *
level_words(const struct segment *segment, unsigned level)
{
    const struct superblock *superblock = segment->superblock;
    return segment_at(segment,
                      superblock->freemap_at + level_offset(superblock->page_count_max, level));
}

bool
freemap_populate(const struct segment *segment, uint32_t first, uint32_t count)
{
    const struct superblock *superblock = segment->superblock;
    uint64_t at = superblock->freemap_at + level_offset(superblock->page_count_max, 0);
    uint32_t begin = first / WORD_BITS, end = (first + count + WORD_BITS - 1) / WORD_BITS;
    return populate(segment->fd, segment->base, at + begin * sizeof(uint64_t),
                    (end - begin) * sizeof(uint64_t));
}

/* Sets the bits above a word of the level that is not 0. */
static void
summarize(const struct segment *segment, uint32_t number, unsigned level)
{
    for (unsigned above = level + 1; above < FREEMAP_LEVELS; above++) {
        uint32_t index = number >> (above * WORD_SHIFT);
        _Atomic uint64_t *word = &level_words(segment, above)[index / WORD_BITS];
        uint64_t bit = UINT64_C(1) << index % WORD_BITS;
        if (!(atomic_load(word) & bit)) {
            atomic_fetch_or(word, bit);
            CRASH_POINT(freemap_not_summarized);
        }
    }
}

void
freemap_set(const struct segment *segment, uint32_t number)
{
    atomic_fetch_or(&level_words(segment, 0)[number / WORD_BITS], UINT64_C(1)
                                                                      << number % WORD_BITS);
    CRASH_POINT(freemap_set_not_summarized);
    summarize(segment, number, 0);
}

/* Clears the bits above a word of the level that has become 0. */
static void
clear_summaries(const struct segment *segment, uint32_t number, unsigned level)
{
    for (unsigned above = level + 1; above < FREEMAP_LEVELS; above++) {
        uint32_t index = number >> (above * WORD_SHIFT);
        uint64_t bit = UINT64_C(1) << index % WORD_BITS;
        uint64_t before = atomic_fetch_and(&level_words(segment, above)[index / WORD_BITS], ~bit);
        CRASH_POINT(freemap_cleared_not_confirmed);
        if (atomic_load(&level_words(segment, above - 1)[index]) != 0) {
            summarize(segment, number, above - 1);
            return;
        }
        if ((before & ~bit) != 0) {
            return;
        }
    }
}

void
freemap_clear(const struct segment *segment, uint32_t number)
{
    _Atomic uint64_t *word = &level_words(segment, 0)[number / WORD_BITS];
    uint64_t bit = UINT64_C(1) << number % WORD_BITS;
    if ((atomic_load(word) & bit) && (atomic_fetch_and(word, ~bit) & ~bit) == 0) {
        clear_summaries(segment, number, 0);
    }
}

/* The word of the level is 0 and its bit above is set. */
static void
clear_stale(const struct segment *segment, struct held_table *held, uint32_t index, unsigned level)
{
    uint32_t number = index << ((level + 1) * WORD_SHIFT);
    atomic_store(&held->page_in_flight, number + 1);
    clear_summaries(segment, number, level);
    atomic_store_explicit(&held->page_in_flight, 0, memory_order_release);
}

/* Whether what a bit of the level is about has memory: a page, or a word of the level below. All
 * but the lowest level has. A bit comes after the page has been counted. */
static bool
is_present(const struct segment *segment, uint32_t index, unsigned level)
{
    uint32_t pages = level <= 1 ? pool_populated(segment) : segment->superblock->page_count_max;
    return index < (level == 0 ? pages : word_count(pages, level - 1));
}

uint32_t
freemap_next(const struct segment *segment, struct held_table *held, uint32_t from, unsigned *looks)
{
    uint32_t page_count = segment->superblock->page_count_max;
    uint32_t index = from; /* of a bit of the level */
    unsigned level = 0;
    /* A word whose bit above was not seen may be without memory. */
    while (level + 1 < FREEMAP_LEVELS && index % WORD_BITS == 0) {
        index /= WORD_BITS;
        level++;
    }
    while (level < FREEMAP_LEVELS && index / WORD_BITS < word_count(page_count, level) &&
           *looks < FREEMAP_LOOKS_MAX) {
        ++*looks;
        uint64_t word = atomic_load(&level_words(segment, level)[index / WORD_BITS]);
        word &= UINT64_MAX << index % WORD_BITS;
        if (word == 0) {
            index = index / WORD_BITS + 1;
            level++;
            continue;
        }
        index = index / WORD_BITS * WORD_BITS + (uint32_t)__builtin_ctzll(word);
        while (level > 0 && LIKELY(is_present(segment, index, level))) {
            ++*looks;
            word = atomic_load(&level_words(segment, level - 1)[index]);
            if (word == 0) {
                clear_stale(segment, held, index, level - 1);
                index++;
                break;
            }
            index = index * WORD_BITS + (uint32_t)__builtin_ctzll(word);
            level--;
        }
        if (word != 0) {
            /* A bit without a page, or without memory below it, is damage, as are all behind it. */
            return LIKELY(level == 0 && is_present(segment, index, 0)) ? index : FREEMAP_NONE;
        }
    }
    return FREEMAP_NONE;
}

bool
freemap_has(const struct segment *segment, uint32_t number)
{
    uint64_t word = atomic_load(&level_words(segment, 0)[number / WORD_BITS]);
    return word >> number % WORD_BITS & 1;
}

void
freemap_confirm(const struct segment *segment, uint32_t number)
{
    for (unsigned level = 0; level + 1 < FREEMAP_LEVELS; level++) {
        uint32_t index = number >> ((level + 1) * WORD_SHIFT);
        if (atomic_load(&level_words(segment, level)[index]) != 0) {
            summarize(segment, number, level);
        }
    }
}

void
freemap_confirm_all(const struct segment *segment, uint32_t first, uint32_t count)
{
    const _Atomic uint64_t *words = level_words(segment, 0);
    uint32_t end = (first + count + WORD_BITS - 1) / WORD_BITS;
    for (uint32_t index = first / WORD_BITS; index < end; index++) {
        if (atomic_load_explicit(&words[index], memory_order_relaxed) != 0) {
            freemap_confirm(segment, index * WORD_BITS);
        }
    }
}

uint32_t
freemap_count(const struct segment *segment, uint32_t most)
{
    _Atomic uint64_t *level_2 = level_words(segment, 2);
    _Atomic uint64_t *level_1 = level_words(segment, 1);
    _Atomic uint64_t *level_0 = level_words(segment, 0);
    uint32_t words = word_count(segment->superblock->page_count_max, 2);
    uint32_t count = 0;
    for (uint32_t i = 0; i < words && count < most; i++) {
        uint64_t upper = atomic_load(&level_2[i]);
        for (; upper != 0 && count < most; upper &= upper - 1) {
            uint32_t j = i * WORD_BITS + (uint32_t)__builtin_ctzll(upper);
            uint64_t lower = is_present(segment, j, 2) ? atomic_load(&level_1[j]) : 0;
            for (; lower != 0 && count < most; lower &= lower - 1) {
                uint32_t k = j * WORD_BITS + (uint32_t)__builtin_ctzll(lower);
                if (!is_present(segment, k, 1)) {
                    break;
                }
                count += (uint32_t)__builtin_popcountll(atomic_load(&level_0[k]));
            }
        }
    }
    return count < most ? count : most;
}
