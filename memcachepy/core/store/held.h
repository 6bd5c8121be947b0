/* What a process holds of the store: the entries of its slot for uploads and pins, and their share
 * of memory. */
#ifndef STORE_HELD_H
#define STORE_HELD_H

#include "store/shard.h"

/* The shard that owns the chunk; NULL for a ref that leads to none. */
struct shard *shard_of_ref(const struct store *store, struct ref ref);

/* Counts the entry's bytes into the share if it has room. One value is always let in, however
 * large; of several that ask at the same time no more than fit, mostly the one of the lowest slot.
 */
bool hold_if_room(const struct store *store, struct held_ref *entry, uint32_t bytes) MUST_CHECK;

/* Counts the entry's bytes in, whatever is held already, and out. */
void hold(struct process_slot *slot, struct held_ref *entry, uint32_t bytes);
void hold_no_more(struct process_slot *slot, struct held_ref *entry);

/* A free entry of a table of the slot; -1 if all are taken. */
int free_entry(struct held_ref *entries, _Atomic uint32_t *high, unsigned count);

#endif
