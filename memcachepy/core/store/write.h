/* What writes of one chunk and of chains share. Under the shard's lock unless said. */
#ifndef STORE_WRITE_H
#define STORE_WRITE_H

#include "store/hashtable.h"
#include "store/store.h"

/* An item about to be written; a concatenation has two pieces. */
#define ITEM_PIECES 2
struct item_form {
    struct key key;
    uint32_t client_flags;
    struct expiry expire;
    uint64_t cas;
    uint32_t value_len;
    const uint8_t *piece[ITEM_PIECES];
    uint32_t piece_len[ITEM_PIECES];
};

/* Of an item in one chunk. */
static inline uint64_t
form_bytes(const struct item_form *form)
{
    return (uint64_t)ITEM_HEADER_BYTES + (form->client_flags != 0 ? 4 : 0) + form->key.len +
           form->value_len;
}

uint64_t next_cas(struct store *store);

/* Everything but the state word and the value. */
void item_write_header(const struct store *store, struct item *item, const struct item_form *form,
                       uint8_t bits, struct ref next);

/* The item at a place, NULL if there is none or it is dead. */
struct item *place_live(const struct store *store, const struct table_place *place);

/* PUT_STORED: go on; else the answer. An `add` that fails counts as a hit. */
enum put_result put_verdict(const struct put *put, struct item *old, struct store *store);

/* Ends a put without the lock: a `set` that cannot be stored removes the old item. */
enum put_result put_failed(struct store *store, const struct put *put, enum put_result result);

/* Links a filled chunk in the place of what was there; commits the running transaction. */
void item_publish(struct store *store, struct shard *shard, const struct table_place *place,
                  uint64_t hash, struct ref ref, bool counts);

#endif
