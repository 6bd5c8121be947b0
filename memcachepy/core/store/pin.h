/* Pins, beyond what store.h offers the protocol. */
#ifndef STORE_PIN_H
#define STORE_PIN_H

#include "store/item.h"
#include "store/store.h"

/* Under the lock: pins the chain at `ref` in a free entry of the slot, whose bytes are counted. */
void pin_take(struct store *store, struct item *item, struct ref ref, uint64_t key_hash,
              unsigned index, struct pin *pin);

/* Puts the cursor at the value's beginning. */
void pin_rewind(struct pin *pin);

/* Releases an entry of the own slot, unless its shard is locked just now. */
bool pin_try_drop(struct store *store, struct held_ref *entry) MUST_CHECK;

/* For a dead process, whose slot counts the bytes: releases what the entry pins. False: a stopped
 * process is in the way. */
bool pin_recover(struct store *store, struct process_slot *slot, struct held_ref *entry) MUST_CHECK;

#endif
