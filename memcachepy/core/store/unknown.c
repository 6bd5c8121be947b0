/* See unknown.h. */
#include "store/unknown.h"

#include "store/item.h"
#include "store/slab.h"
#include "store/walk.h"

#include <stdio.h>

struct search {
    struct store *store;
    struct shard *shard;
    char *sentence;
    bool found;
};

static void
name_item(struct search *search, struct ref ref, const struct item *item)
{
    uint32_t extension = item_extension(item, item->bits);
    search->found = true;
    snprintf(search->sentence, SEGMENT_SENTENCE_MAX,
             "segment: needs the feature \"extended items\", which this build does not know: the "
             "item at ref %u of shard %u has the extension %#010x (type %u, form %u, database %u, "
             "%u ms, a key of %u bytes%s); open it with a build that knows it",
             ref.units, shard_index(search->store, search->shard), extension,
             extension & EXTENSION_TYPE_MASK,
             (extension & EXTENSION_FORM_MASK) >> EXTENSION_FORM_SHIFT,
             (extension & EXTENSION_DATABASE_MASK) >> EXTENSION_DATABASE_SHIFT,
             (extension & EXTENSION_MS_MASK) >> EXTENSION_MS_SHIFT, item_key_len(item),
             extension & EXTENSION_HAS_CHECKSUM ? ", a checksum" : "");
}

static void
name_part(struct search *search, struct ref ref, uint32_t kind)
{
    search->found = true;
    snprintf(search->sentence, SEGMENT_SENTENCE_MAX,
             "segment: needs the feature \"%s\", which this build does not know: the chunk at ref "
             "%u of shard %u is a %s (kind %u); open it with a build that knows it",
             kind == CHUNK_STAGED ? "commits" : "collections", ref.units,
             shard_index(search->store, search->shard),
             kind == CHUNK_LEAF     ? "leaf"
             : kind == CHUNK_BRANCH ? "branch"
                                    : "staged part",
             kind);
}

static void
look_at_chunk(struct search *search, struct ref ref)
{
    void *chunk = ref_at(search->store, ref);
    uint32_t kind = state_kind(chunk_state(chunk));
    switch ((enum chunk_kind)kind) {
    case CHUNK_FREE:
    case CHUNK_CONT:
        return;
    case CHUNK_LIVE:
    case CHUNK_UPLOAD:
    case CHUNK_DETACHED:
        if (item_is_unknown(search->store, chunk)) {
            name_item(search, ref, chunk);
        }
        return;
    case CHUNK_LEAF:
    case CHUNK_BRANCH:
    case CHUNK_STAGED:
        if (part_is_sound(search->store, chunk)) {
            name_part(search, ref, kind);
        }
        return;
    }
}

static void
look_at_page(void *context, uint32_t number, uint32_t kind)
{
    struct search *search = context;
    if (!page_kind_is_class(search->store->superblock, kind)) {
        return;
    }
    uint32_t count = slab_chunks_per_page(search->store, kind);
    for (uint32_t slot = 0; slot < count && !search->found; slot++) {
        look_at_chunk(search, chunk_ref(search->store, number, kind, slot));
    }
}

bool
shard_find_unknown(struct store *store, struct shard *shard, char *sentence)
{
    struct search search = {.store = store, .shard = shard, .sentence = sentence};
    each_page(store, shard, look_at_page, &search);
    return search.found;
}
