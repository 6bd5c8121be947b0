/* A walk over all living items, a few at a time, while everything goes on.
 *
 * It goes by the table, shard by shard, in the order of the reversed bits of the hash. A bucket
 * holds exactly the keys of one range of that order, and when it is split each half holds one half
 * of the range; so a position in the order means the same before and after any split. A key that is
 * there from the first step to the last is met exactly once, however often it is stored anew, moved
 * or touched meanwhile; a key that comes or goes meanwhile is met once or not at all. */
#ifndef STORE_DUMP_H
#define STORE_DUMP_H

#include "store/store.h"

/* Items with an extension are not met, so no key is longer. */
#define DUMP_KEY_LEN_MAX UINT8_MAX

/* Zeroed is the beginning. */
struct dump_cursor {
    uint64_t position; /* in the order, of the shard's keys: 0 to 2^32 */
    uint32_t shard;
    bool meets_dead_copies; /* Copied items are met though they are dead. */
};

/* An item as it was when the walk came by. */
struct dump_item {
    uint64_t cas;
    uint64_t bytes;     /* header, key and value */
    int64_t expires_at; /* system time in seconds; -1: never */
    uint64_t accessed_at;
    uint32_t client_flags;
    uint8_t class_id;
    bool fetched;
    bool key_is_binary;     /* it came in base64 */
    bool copied;            /* from another node, which may still hide it (store/track.h) */
    uint8_t hits;           /* as eviction counts them */
    uint8_t type, database; /* item.h; only what has 0 for both is met */
    uint8_t key_len;
    uint8_t key[DUMP_KEY_LEN_MAX];
};

enum dump_result {
    DUMP_MORE,
    DUMP_END,  /* Nothing is left. */
    DUMP_BUSY, /* A stopped process holds the shard. */
};

/* So many items are met at once. */
#define DUMP_ITEMS_MAX 48

/* Fills items with those of the next bucket that are in one of the classes (bit by class id), and
 * moves the cursor behind it. Holds one shard's lock for a few microseconds. */
enum dump_result store_dump(struct store *store, struct dump_cursor *cursor, uint64_t classes,
                            struct dump_item items[DUMP_ITEMS_MAX], unsigned *count) MUST_CHECK;

/* How many dumps of this process go on; other processes read it. */
void store_count_dumps(struct store *store, int change);

/* Dumps and crawls of all processes that go on. */
uint32_t store_dumps_running(struct store *store);

#endif
