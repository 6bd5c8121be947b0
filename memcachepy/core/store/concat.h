/* Append and prepend whose result is a chain. */
#ifndef STORE_CONCAT_H
#define STORE_CONCAT_H

#include "store/store.h"

/* Where the bytes of a concatenation's part come from: memory, or a chain that is held. */
struct source {
    const uint8_t *bytes;
    uint32_t len;
    struct pin *chain;
};

/* Adds to the item of the key; `added` lies in memory, or in an upload that is complete and stays
 * open unless it becomes the item itself, where there was none and the put asks for that. */
enum put_result concat(struct store *store, struct put *put, struct source *added,
                       struct upload *upload);

#endif
