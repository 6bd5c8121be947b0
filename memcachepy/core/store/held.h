/* What a process holds of the store: the entries of its slot for uploads and pins, and their share
 * of memory. */
#ifndef STORE_HELD_H
#define STORE_HELD_H

#include "store/shard.h"

/* The shard that owns the chunk; NULL for a ref that leads to none. */
struct shard *shard_of_ref(const struct store *store, struct ref ref);

/* Counts the entry's bytes into the share if it has room. One value is always let in, however
 * large; of several that ask at the same time no more than fit, mostly the one of the lowest slot.
 * A value that is asked for again and again, named by its key and bytes, is not passed by others
 * for ever. */
bool hold_if_room(struct store *store, struct held_ref *entry, uint64_t key_hash,
                  uint32_t bytes) MUST_CHECK;

/* Nothing of this process waits any more. */
void share_leave(struct store *store);

/* Counts the entry's bytes, of the own slot, in, whatever is held already, and out. */
void hold(struct store *store, struct held_ref *entry, uint32_t bytes);
void hold_no_more(struct store *store, struct process_slot *slot, struct held_ref *entry);

/* The entry cannot be released, for a stopped process has its shard: counts its bytes out, and lets
 * store_tick() release it when the shard can be had again. */
void held_release_later(struct store *store, struct held_ref *entry);

/* Tries some of those; called while there are any. */
void held_release(struct store *store);

/* Before an entry of the own slot is released: has it name the chain again that it was made for, if
 * another process has written over the word and the chain is there yet; kinds as chain_head_data().
 * Otherwise its chunks would stay. */
void name_again(struct store *store, struct held_ref *entry, struct ref head, uint64_t key_hash,
                uint32_t value_len, uint32_t kinds);

/* A free entry of the own slot's pins or uploads; -1 if all are taken. */
int free_pin(struct store *store);
int free_upload(struct store *store);

#endif
