/* See recent.h. */
#include "store/recent.h"

#include "store/ghost.h"
#include "store/hashtable.h"
#include "store/policy.h"

#define FETCHED_BIT 5
#define AT_SHIFT 6
#define AT_BITS 26 /* two years; an older word looks younger */
#define AT_MASK ((1u << AT_BITS) - 1)
static_assert(DEPARTURE_COUNT <= 1 << FETCHED_BIT, "departures have five bits");
static_assert((RECENT_WORDS & (RECENT_WORDS - 1)) == 0, "a power of two");

/* Holds are short; who holds it longer is stopped or works through a large chain. */
#define LOCK_TRIES_MAX 1000

const char *const departure_names[DEPARTURE_COUNT] = {
#define X(departure, name) [DEPARTED_##departure] = #name,
    DEPARTURE_LIST(X)
#undef X
#define X(reason, name) [DEPARTED_EVICTED + EVICTED_##reason] = #name,
        EVICTION_REASON_LIST(X)
#undef X
};

/* The moment on the node's clock at which an item with this word has expired, as far as that can be
 * told. */
static uint32_t
expired_at_s(const struct store *store, uint32_t expire_word)
{
    int64_t at_s = expire_word & 1 ? (int64_t)(expire_word >> 1) + store->now_s - store->wall_s
                                   : (int64_t)(expire_word >> 1) + 1;
    return at_s > 0 && at_s < store->now_s ? (uint32_t)at_s : store->now_s;
}

void
recent_note(const struct store *store, struct shard *shard, const struct item *item, uint64_t hash,
            enum unlink_reason reason)
{
    enum departure departure = DEPARTED_DELETED;
    uint32_t at_s = store->now_s;
    switch (reason) {
    case UNLINK_DELETE:
        break;
    case UNLINK_REFUSE:
        departure = DEPARTED_REFUSED;
        break;
    case UNLINK_RECLAIM:
        if (epoch_is_flushed(store, item->epoch)) {
            departure = DEPARTED_FLUSHED;
        } else {
            departure = DEPARTED_EXPIRED;
            at_s =
                expired_at_s(store, atomic_load_explicit(&item->expire_word, memory_order_relaxed));
        }
        break;
    case UNLINK_EVICT:
    default:
        departure = DEPARTED_EVICTED + (reason - UNLINK_EVICT);
        break;
    }
    uint32_t state = atomic_load_explicit(&item->state, memory_order_relaxed);
    uint32_t fetched = (state & STATE_FETCHED) != 0;
    uint32_t low = (at_s & AT_MASK) << AT_SHIFT | fetched << FETCHED_BIT | departure;
    shard->recent[shard->recent_count & (RECENT_WORDS - 1)] = hash << 32 | low;
    shard->recent_count++;
}

static uint32_t
word_age_s(const struct store *store, uint64_t word)
{
    return (store->now_s - (uint32_t)(word >> AT_SHIFT)) & AT_MASK;
}

static uint64_t
recent_word(const struct shard *shard, uint32_t back)
{
    return shard->recent[(shard->recent_count - 1 - back) & (RECENT_WORDS - 1)];
}

/* The newest word about the key; 0: none. */
static uint64_t
recent_find(const struct shard *shard, uint64_t hash)
{
    for (uint32_t i = 0; i < RECENT_WORDS; i++) {
        uint64_t word = recent_word(shard, i);
        if (word == 0) {
            break;
        }
        if (word >> 32 == (uint32_t)hash) {
            return word;
        }
    }
    return 0;
}

static uint32_t
recent_reach_s(const struct store *store, const struct shard *shard)
{
    uint64_t oldest = recent_word(shard, RECENT_WORDS - 1);
    return oldest != 0 ? word_age_s(store, oldest) : store->now_s;
}

static enum explain_result
explain_item(const struct store *store, const struct table_place *place,
             struct explanation *explanation)
{
    struct item *item = place->item;
    uint32_t state = chunk_state(item);
    uint32_t expire_word = atomic_load_explicit(&item->expire_word, memory_order_relaxed);
    explanation->cas = item->cas;
    explanation->bytes = item_bytes(item);
    explanation->value_len = item->value_len;
    explanation->client_flags = item_client_flags(item, item->bits);
    explanation->class_id = class_of_ref(store, place->ref);
    explanation->hits = state_count(state);
    explanation->access_s = state_idle_s(store, state);
    explanation->in_probation = state & STATE_PROBATION;
    explanation->is_chained = item->bits & ITEM_CHAINED;
    explanation->is_stale = item->bits & ITEM_STALE;
    explanation->fetched = state & STATE_FETCHED;
    bool expired = word_is_expired(store, expire_word);
    if (expired) {
        explanation->ttl_s = store->now_s - expired_at_s(store, expire_word);
    } else if (expire_word == 0) {
        explanation->ttl_s = -1;
    } else {
        explanation->ttl_s =
            (int64_t)(expire_word >> 1) - (expire_word & 1 ? store->wall_s : store->now_s);
    }
    if (epoch_is_flushed(store, item->epoch)) {
        return EXPLAIN_FLUSHED;
    }
    return expired ? EXPLAIN_EXPIRED : EXPLAIN_STORED;
}

static enum explain_result
explain_absent(const struct store *store, const struct shard *shard, uint64_t hash,
               struct explanation *explanation)
{
    uint64_t word = recent_find(shard, hash);
    if (word == 0) {
        return EXPLAIN_UNKNOWN;
    }
    explanation->departure = (enum departure)(word & ((1u << FETCHED_BIT) - 1));
    explanation->fetched = word >> FETCHED_BIT & 1;
    explanation->ago_s = word_age_s(store, word);
    return explanation->departure < DEPARTURE_COUNT ? EXPLAIN_GONE : EXPLAIN_UNKNOWN;
}

enum explain_result
store_explain(struct store *store, const struct key *key, struct explanation *explanation)
{
    struct shard *shard = shard_of_key(store, key);
    *explanation = (struct explanation){.shard = shard_index(store, shard)};
    for (unsigned i = 0; !shard_try_lock(store, shard); i++) {
        if (i == LOCK_TRIES_MAX) {
            return EXPLAIN_BUSY;
        }
        cpu_relax();
    }
    struct table_place place;
    table_find(store, shard, key->bytes, key->len, key->hash, &place);
    explanation->remembers_s = recent_reach_s(store, shard);
    explanation->in_ghost = ghost_knows(store, shard, key->hash);
    enum explain_result result = place.bucket != NULL
                                     ? explain_item(store, &place, explanation)
                                     : explain_absent(store, shard, key->hash, explanation);
    shard_unlock(store, shard);
    return result;
}
