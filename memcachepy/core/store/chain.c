/* Chains: items longer than a chunk.
 *
 *   bucket → head [header, next, flags, key, value …] → continuation [value …] → … → last
 *
 * All chunks but the last have the largest class; the last has the class that fits. A chain is
 * built in an upload entry of a process's held table (upload.c), and becomes an item in one step,
 * so a killed uploader leaves an entry that names all it held. Readers of a chain pin it in their
 * held table: pinned chunks are not freed, whatever becomes of the key. These tables are the only
 * truth; ITEM_PINNED only says that it is worth looking. */
#include "store/chain.h"

#include "base/check.h"
#include "store/concat.h"
#include "store/pin.h"
#include "store/slab.h"
#include "store/upload.h"
#include "store/write.h"

uint32_t
chain_head_room(const struct store *store, const struct item *item)
{
    return store->chunk_bytes_max - item_value_offset(item);
}

uint32_t
chain_cont_room(const struct store *store, struct ref ref)
{
    uint32_t class_id = class_of_ref(store, ref);
    return class_id == 0 ? 0 : slab_chunk_bytes(store, class_id) - CONTINUATION_HEADER_BYTES;
}

enum put_result
chain_put(struct store *store, struct put *put)
{
    if (is_concat(put)) {
        struct source added = {.bytes = put->value, .len = put->value_len};
        return concat(store, put, &added, NULL);
    }
    return upload_put_whole(store, put);
}

enum put_result
store_upload_commit(struct store *store, struct put *put, struct upload *upload)
{
    CHECK(upload->open && upload->received == upload->value_len);
    if (!is_concat(put)) {
        return upload_finish(store, put, upload, NULL);
    }
    struct pin chain = {
        .value_len = upload->value_len, .key_hash = upload->key_hash, .head_ref = upload->head_ref};
    pin_rewind(&chain);
    struct source added = {.len = upload->value_len, .chain = &chain};
    put->value_len = upload->value_len;
    enum put_result result = concat(store, put, &added, upload);
    store_upload_abort(store, upload);
    return result;
}
