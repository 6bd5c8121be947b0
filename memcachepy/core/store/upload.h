/* Uploads: chains that are being built. A chain grows in an entry of the process's held table, a
 * chunk a transaction, and becomes an item in one more; the entry names all that a killed process
 * had. */
#ifndef STORE_UPLOAD_H
#define STORE_UPLOAD_H

#include "store/item.h"
#include "store/store.h"

/* Opens an upload for a value of so many bytes. PUT_WAIT: no entry is free, or with `may_wait` its
 * part of the share is not. With upload->locked the shard's lock is held and stays so. */
enum put_result upload_open(struct store *store, const struct put *put, uint32_t value_len,
                            bool may_wait, struct upload *upload) MUST_CHECK;

/* Leaves the shard's lock if the upload keeps it. */
void upload_unlock(struct store *store, struct shard *shard, struct upload *upload);

/* Copies bytes to the end of the chain: from memory, or from a chain that is pinned or an upload.
 */
enum put_result upload_write(struct store *store, struct upload *upload, const uint8_t *bytes,
                             uint32_t len) MUST_CHECK;
enum put_result upload_write_chain(struct store *store, struct upload *upload,
                                   struct pin *from) MUST_CHECK;

/* What a concatenation was computed from; it may be published only over the same item. A chain is
 * pinned and stays what it is; of a small item the chunk may have been used anew. */
struct basis {
    uint32_t ref;
    uint64_t cas;
    uint32_t client_flags;
    uint32_t expire_word;
    uint32_t value_len;
    const uint8_t *value; /* NULL: a chain */
};

/* Ends the upload in every case but PUT_WAIT, which says that the basis has changed: the upload is
 * gone too, and the caller computes it anew. */
enum put_result upload_finish(struct store *store, struct put *put, struct upload *upload,
                              const struct basis *basis) MUST_CHECK;

/* Stores what was to be added as the item itself, where there is none. PUT_WAIT: there is one by
 * now, and the upload is still open. */
enum put_result upload_vivify(struct store *store, struct put *put,
                              struct upload *upload) MUST_CHECK;

/* All of it, for a value that lies in memory and is no concatenation. */
enum put_result upload_put_whole(struct store *store, struct put *put);

/* Frees what an entry of the own slot holds, unless its shard is locked just now. */
bool upload_try_drop(struct store *store, struct held_ref *entry) MUST_CHECK;

/* For a dead process: frees what its slot's entry holds. False: a stopped process is in the way. */
bool upload_recover(struct store *store, struct process_slot *slot,
                    struct held_ref *entry) MUST_CHECK;

#endif
