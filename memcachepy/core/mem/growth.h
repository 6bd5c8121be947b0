/* How many pages have memory: what the pool takes from the host, and gives back to it. One process
 * at a time does either, under the grow lock.
 *
 *   page.c        a page between the pool and its owner; no lock
 *   growth.c      the grow lock, and the memory of pages
 *   shortage.c    the effective limit, while the host has less than the limit
 *   pool_audit.c  words of all that which another process has written over
 *
 * What is here is for these; others include mem/page.h. */
#ifndef MEM_GROWTH_H
#define MEM_GROWTH_H

#include "mem/page.h"

struct memory_limit;

/* Left to the rest of the machine when memory gets short. */
#define HEADROOM_BYTES (8u << 20)

/* Takes a certain page in hand. False: it is not free. */
bool page_take_in_hand(struct segment *segment, struct held_table *held, uint32_t number);

/* False: a stopped process has the lock. Only the first waits to find that out; see
 * pool_can_grow(). */
bool pool_lock(struct segment *segment) MUST_CHECK;
void pool_unlock(struct segment *segment);

/* Pages of the memory limit of this run. */
uint32_t pool_limit_pages(const struct segment *segment);

/* What follows needs the lock. */

void pool_set_effective(struct page_pool *pool, uint32_t count);

/* Makes what the lock guards agree with the page directory. Memory without its count is populated
 * again later, which is harmless. */
void pool_repair(struct segment *segment);

/* Finds out how many pages were populated, if another process has written over the count. Returns
 * whether it has. */
bool pool_mend_populated(struct segment *segment);

/* What the lock guards disagrees with the page directory. Returns whether the count of present
 * pages was wrong. */
bool pool_recount_present(struct segment *segment);

/* There was no memory for so many bytes: the effective limit falls to the pages that have it. Tells
 * the supervisor of the first failure of a shortage. */
void shortage_begin(struct segment *segment, const struct memory_limit *available, uint64_t bytes);

/* With the whole limit in force: a shortage, if there is one, is over. */
void shortage_end(struct run_head *run, uint64_t now_ns);

/* In an attached process: a shortage of its cgroup is none of the node's. */
void shortage_note_own(struct segment *segment, bool is_short);

#endif
