/* Copying items from node to node, for a process that is attached to both; mem/track.h says why no
 * copy is ever shown in the place of something newer.
 *
 * The leader begins a session in all nodes that give or take, lets those that take accept what
 * those that give have changed, walks the old homes with store_dump(), and brings what belongs
 * elsewhere there. When clients have had time to learn of the change, it confirms: what is still
 * good becomes the node's own. Or it takes everything back. */
#ifndef STORE_COPY_H
#define STORE_COPY_H

#include "mem/track.h"
#include "store/dump.h"
#include "store/store.h"

struct item;
struct verdict;

enum copy_begin {
    COPY_BEGUN,
    COPY_TAKEN,     /* Another process leads a change. */
    COPY_NO_MEMORY, /* for the bits */
    COPY_FLUSHING,  /* A delayed flush waits: what it takes with it is not known. */
    COPY_BUSY,      /* A stopped process holds a shard. */
};

/* Tracks from now on: no change is under way that the bits will not show. Unless it succeeds
 * nothing has begun. */
enum copy_begin store_copy_begin(struct store *store, uint64_t session, uint32_t shift) MUST_CHECK;

/* False: something was changed that no bit tells, as by a flush, and the copies of what is here are
 * hidden. */
bool store_copy_holds(const struct store *store);

/* An item in memory of the leader's own. */
struct copy {
    struct key key; /* hashed for the node that it is meant for */
    uint32_t client_flags;
    uint32_t expire_word; /* of that node: expire_word_for() */
    uint8_t marks;        /* enum item_mark */
    uint8_t hits;         /* as eviction counts them */
    const uint8_t *value; /* NULL: a chain */
    uint32_t value_len;
};

/* The word that an item of `from` has in `to`, at most a second before its end in `from` and never
 * after it; *ended: it is none by now. */
uint32_t expire_word_for(const struct store *from, const struct store *to, uint32_t expire_word,
                         bool *ended);

enum copy_result {
    COPY_STORED,
    COPY_CHANGED,   /* The key was changed since the session began. */
    COPY_TOO_LARGE, /* for the node's -I, */
    COPY_NO_ROOM,   /* for its memory, or for the share of uploads and pins. */
    COPY_GONE,      /* The item, from its old home. */
    COPY_OVER,      /* The session is. */
    COPY_HELD,      /* A stopped process holds a shard. */
};

/* Reads an item that store_dump() has met, without a trace and without the lock. `space`, of a
 * page's bytes, gets the value; of one that is longer than that only the length is told. COPY_GONE:
 * it has changed since, is a copy itself, or somebody was told to store it anew. copy->key is not
 * set, and copy->expire_word is the node's own. */
enum copy_result store_copy_read(struct store *store, const struct dump_item *dumped,
                                 uint8_t *space, struct copy *copy) MUST_CHECK;

/* Stores it, marked, in the place of whatever lies there from an earlier time at which this was the
 * key's home. */
enum copy_result store_copy(struct store *store, const struct copy *copy) MUST_CHECK;

/* The same for a longer value, from chain to chain; copy->value and value_len are not looked at. */
enum copy_result store_copy_long(struct store *from, const struct key *key, struct store *to,
                                 const struct copy *copy) MUST_CHECK;

/* What becomes of marked items. */
enum copy_end {
    COPY_CONFIRM, /* Those that are shown lose the mark, the others go. */
    COPY_DROP,    /* All go. */
};

/* One piece of the walk over all items that ends the session's copies, or those of a session whose
 * leader has died. Adds what it took away to *dropped, the rest to *kept; dead items go and are
 * neither. */
enum dump_result store_copy_end(struct store *store, struct dump_cursor *cursor, enum copy_end end,
                                uint64_t *kept, uint64_t *dropped) MUST_CHECK;

/* ---- for store/upload.c --------------------------------------------------------------------- */

/* Under the lock: PUT_STORED, whatever is there, or PUT_NOT_STORED. */
struct verdict copy_verdict(const struct store *store, const struct put *put);

/* The flushes that copies are older than. */
uint16_t copy_epoch(const struct store *store);

/* Of a chunk that is about to be published, inside the transaction. */
void copy_hits(const struct store *store, struct item *item, uint8_t hits);

#endif
