/* Where the memory went: a walk over all pages that puts every byte under one heading. */
#ifndef STORE_ACCOUNT_H
#define STORE_ACCOUNT_H

#include "store/shard.h"

/* X(name). The bytes from here on sum up to pages_bytes: the memory that has pages. */
#define ACCOUNT_PART_LIST(X)                                                                       \
    X(key_bytes)                                                                                   \
    X(value_bytes)                                                                                 \
    X(header_bytes)         /* of items, client flags included */                                  \
    X(rounding_bytes)       /* chunks less the items in them */                                    \
    X(unlinked_bytes)       /* of uploads, parts of collections, pinned or half-freed items */     \
    X(free_chunk_bytes)     /* in pages of classes */                                              \
    X(page_remainder_bytes) /* too short for another chunk */                                      \
    X(expiry_column_bytes)                                                                         \
    X(bucket_bytes) /* of the hash table's primary buckets */                                      \
    X(overflow_bytes)                                                                              \
    X(ring_bytes)        /* probation */                                                           \
    X(table_spare_bytes) /* of the table's pages */                                                \
    X(ghost_bytes)                                                                                 \
    X(free_page_bytes) /* in no shard */

struct store_account {
    uint64_t items;
    uint64_t pages_bytes;
#define X(name) uint64_t name;
    ACCOUNT_PART_LIST(X)
#undef X
};

/* Takes one shard lock at a time, for as long as the walk over its pages lasts. False: a stopped
 * process holds one. */
bool store_account(struct store *store, struct store_account *account) MUST_CHECK;

#endif
