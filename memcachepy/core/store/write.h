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
    struct cas_option cas_given;
    uint64_t cas;  /* out */
    uint8_t marks; /* enum item_mark, and ITEM_COPIED */
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

/* The unique that is asked for, or the next; 0 where items carry none. */
uint64_t chosen_cas(struct store *store, const struct cas_option *given);

/* What decides a put, given what is there. */
struct verdict {
    enum put_result result; /* PUT_STORED: go on; else the answer. */
    bool stale;             /* Stores over a newer item: see put.invalidates. */
};

static inline bool
is_concat(const struct put *put)
{
    return put->mode == PUT_APPEND || put->mode == PUT_PREPEND;
}

/* The unique that a put asks for. */
static inline struct cas_option
put_cas_given(const struct put *put)
{
    return (struct cas_option){.given = put->cas_given != 0, .unique = put->cas_given};
}

/* Everything but the state word and the value; returns where that begins. */
uint8_t *item_write_header(const struct store *store, struct item *item,
                           const struct item_form *form, uint8_t bits, struct ref next);

/* The item at a place, NULL if there is none or it is dead or hidden. */
struct item *place_live(const struct store *store, const struct table_place *place);

/* An `add` that fails counts as a use. */
struct verdict put_verdict(const struct put *put, struct item *old, struct store *store);

/* The marks of what is stored under that verdict. */
uint8_t put_marks(const struct put *put, const struct item *old, struct verdict verdict);

/* Ends a put without the lock: a `set` that cannot be stored removes the old item. */
enum put_result put_failed(struct store *store, const struct put *put, enum put_result result);

/* What a store makes of the item that it replaces. */
enum publish {
    PUBLISH_STORED,  /* Another item, which counts as stored. */
    PUBLISH_CHANGED, /* The same, as clients see it. */
    PUBLISH_GROWN,   /* Another, that nobody has stored: arithmetic that needed more room. */
    PUBLISH_COPIED,  /* From another node, hits and all: they stand in the chunk's state. */
};

/* Links a filled chunk in the place of what was there; commits the running transaction. */
void item_publish(struct store *store, struct shard *shard, const struct table_place *place,
                  uint64_t hash, struct ref ref, enum publish publish);

/* Pops, fills and publishes in one transaction. The caller made room and holds the lock. */
void write_small(struct store *store, struct shard *shard, const struct table_place *place,
                 struct item_form *form, uint32_t class_id, enum publish publish);

#endif
