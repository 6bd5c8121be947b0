/* The store's door: everything the protocol may ask of the segment.
 *
 * A `struct store` is one process's handle on the node's segment: no allocation happens per request
 * and nothing is global. Reads take no lock. A read is a *view*: a look at memory that another
 * process may be changing. Copy what you need out of it, then ask store_view_confirm() whether
 * all of it was real; if not, forget the copy and view again:
 *
 *     do {
 *         result = store_view(store, &key, &view);
 *         if (result != VIEW_HIT) break;
 *         ... copy view.key/value_len/client_flags/cas and view.value[0 .. value_len) ...
 *     } while (!store_view_confirm(store, &view, VIEW_BUMP));
 *
 * Values longer than a chunk are chains of chunks (VIEW_HIT_LARGE): they are pinned, sent from
 * where they lie, and released. */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "base/platform.h"
#include "mem/segment.h"

#include <sys/types.h>
#include <sys/uio.h>

/* The longest key of the store. Those of the protocol are shorter (MEMCACHED_KEY_LEN_MAX); one of
 * more than 255 bytes, or of a database but 0, needs an item with an extension (store/item.h),
 * which nothing writes yet: a put of a longer key is PUT_TOO_LARGE. */
#define KEY_LEN_MAX 4096

struct shard;
struct store;
struct table_bucket;

/* A key with its hashes; the bytes stay the caller's. */
struct key {
    const uint8_t *bytes;
    uint32_t len : 16; /* at most KEY_LEN_MAX */
    uint32_t database : 16;
    uint32_t shard_hash; /* chooses the shard; today of the same bytes as `hash` */
    uint64_t hash;
};
static_assert(KEY_LEN_MAX <= UINT16_MAX, "a key's length fits");

/* segment_create() and the shards in it. */
enum segment_status store_create(const struct segment_settings *settings, struct segment **segment,
                                 char *sentence) MUST_CHECK;

/* segment_create_in() and the shards in it: the data lies in a file. */
enum segment_status store_create_in(int fd, const struct segment_settings *settings,
                                    struct segment **segment, char *sentence) MUST_CHECK;

/* What was left of the processes of an earlier run, as store_reopen() found it. */
struct reopened {
    uint64_t shards_repaired, shards_rebuilt; /* by the journal; from their pages */
    uint64_t uploads_freed, pins_released;
};

/* segment_reopen(), after which every shard is repaired, what processes held is released, and the
 * store is as it was: no process of the earlier run needs to have ended in an orderly way. */
enum segment_status store_reopen(int fd, const struct segment_settings *settings,
                                 struct segment **segment, struct reopened *reopened,
                                 char *sentence) MUST_CHECK;

/* segment_attach(), for a build that lays data out in the same way. */
enum segment_status store_attach(int fd, int run_fd, struct segment **segment,
                                 char *sentence) MUST_CHECK;

/* Segments are opened once per process; see mem/segment.h. The store keeps a borrowed pointer. */
struct store *store_open(struct segment *segment, unsigned slot_index) MUST_CHECK;
void store_close(struct store *store);

/* The segment, the process's own slot and its counters. */
struct segment *store_segment(struct store *store);
struct counters *store_counters(struct store *store);
struct process_slot *store_slot(struct store *store);

static inline struct superblock *
store_superblock(struct store *store)
{
    return store_segment(store)->superblock;
}

static inline struct run_head *
store_run(struct store *store)
{
    return store_segment(store)->run;
}

/* lock_owner() of a shard's lock, for the supervisor's watch. */
int32_t store_lock_owner(const struct store *store, uint32_t shard);

/* Reads the clocks, lets a delayed flush that is due take effect, and releases what a stopped
 * process kept from being released. Call once per batch of events, at least once a second while
 * there are requests. */
void store_tick(struct store *store);

/* One bounded step of the work that no request waits for; the maintainer's process calls it. True:
 * more is left, call again soon. */
bool store_maintain(struct store *store) MUST_CHECK;

/* Seconds of the node's clock since it started, as of the last tick (what `stats` calls uptime). */
uint32_t store_uptime_s(const struct store *store);

/* System time in seconds as of the last tick. */
uint64_t store_wall_s(const struct store *store);

/* A key of database 0. */
void key_init(struct store *store, struct key *key, const void *bytes, uint32_t len);

/* A key of any database, below DATABASE_COUNT. The number is hashed with the key; 0 is as
 * key_init(). */
void key_init_in(struct store *store, struct key *key, uint32_t database, const void *bytes,
                 uint32_t len);

/* ---- expiry ---------------------------------------------------------------------------------
 * The wire's exptime becomes a word once: 0 never, up to 30 days relative (no clock step changes
 * it, and it is never shorter than asked for, nor longer by more than a second), above that a
 * moment of the system clock, negative at once, also when it lost its sign on a way through 32
 * bits. Moments beyond the representable reach (the beginning of 2088) are clamped to it. */
struct expiry {
    uint32_t word;
};
struct expiry store_expiry(struct store *store, int64_t exptime);

/* Whole seconds left until then as of the last tick: -1 never, 0 less than one or none. */
int64_t store_ttl_s(const struct store *store, uint32_t expire_word);

/* ---- reads ---------------------------------------------------------------------------------- */

/* Stage one and two of a batch: fetch the bucket's line, then the likely item's. Never wrong, only
 * late. */
void store_prefetch_bucket(struct store *store, const struct key *key);

/* After so many links of the bucket's chain, which have been fetched. True: the item may be behind
 * one more, which is being fetched now. */
bool store_prefetch_item(struct store *store, const struct key *key, unsigned links);

enum view_result {
    VIEW_MISS,      /* Certain: no such item. Counted by the caller. */
    VIEW_EXPIRED,   /* Certain: there, but dead by time. */
    VIEW_FLUSHED,   /* Certain: there, but flushed. */
    VIEW_HIT,       /* A view to copy from and confirm. */
    VIEW_HIT_LARGE, /* The value is a chain: use store_pin(). Nothing to confirm. */
    VIEW_BUSY, /* The shard's lock is held by a stopped process and the lock-free way failed. */
};

enum view_bump {
    VIEW_PEEK = 0,                     /* Leave no trace. */
    VIEW_BUMP = 1,                     /* Count as a hit for eviction. */
    VIEW_COUNT = 2,                    /* Count as a get of its slab class. */
    VIEW_GET = VIEW_BUMP | VIEW_COUNT, /* Both. */
};

/* What the meta commands remember of an item, or'ed together. */
enum item_mark {
    MARK_BINARY_KEY = 0x08, /* Stored under a key that came in base64. */
    MARK_STALE = 0x10,      /* Invalidated, but still there. */
    MARK_WIN_SENT = 0x20,   /* Some client was told to store it anew. */
};

struct view {
    const uint8_t *value; /* [racy] */
    uint32_t value_len;   /* Bounds-checked: value[0 .. value_len) lies inside the segment. */
    uint32_t client_flags;
    uint64_t cas;
    uint32_t expire_word;
    uint8_t bits; /* enum item_mark, and others that are private */
    /* private */
    uint32_t state;
    uint32_t version;
    uint32_t tries;
    uint64_t table_word;
    _Atomic uint64_t *table_word_at;
    _Atomic uint32_t *state_at;
    struct table_bucket *bucket;
    struct shard *shard;
    bool locked;
};

/* *view must be zeroed (view.tries = 0, view.locked = false) before the first try of a key. */
enum view_result store_view(struct store *store, const struct key *key,
                            struct view *view) MUST_CHECK;

/* The same without a trace: what is dead is left as it is. */
enum view_result store_peek(struct store *store, const struct key *key,
                            struct view *view) MUST_CHECK;

/* True: everything copied since the store_view() was one consistent item. False: view again. */
bool store_view_confirm(struct store *store, struct view *view, enum view_bump bump) MUST_CHECK;

/* Of a view: whether the item was read before, and the seconds since it was last asked for or
 * stored (modulo twelve days). To be confirmed as what is copied. */
bool view_was_fetched(const struct view *view);
uint32_t view_idle_s(const struct store *store, const struct view *view);

/* Its slab class; 0 if it is gone. */
uint32_t view_class_id(const struct store *store, const struct view *view);

/* Bytes that the item counts for in `stats bytes`. */
uint64_t view_item_bytes(const struct view *view, const struct key *key);

/* ---- large values --------------------------------------------------------------------------- */

/* A pinned item: its memory stays as it is until unpinned, whatever happens to the key. */
struct pin {
    uint32_t value_len;
    uint32_t client_flags;
    uint64_t cas;
    /* private */
    uint64_t key_hash;
    uint32_t head_ref;
    uint32_t cursor_ref;    /* the chunk the cursor is in, */
    uint32_t cursor_offset; /* its bytes before the cursor, */
    uint32_t consumed;      /* and the value's. */
    uint16_t index;
    bool held;
};

enum pin_result {
    PIN_OK,
    PIN_GONE,  /* No longer there: view again. */
    PIN_WAIT,  /* Pins and uploads hold their share of memory, or the table is full: try later. */
    PIN_SMALL, /* It is no chain any more: view again. */
    PIN_BUSY,
};

/* Pins the value and rewinds its cursor. */
enum pin_result store_pin(struct store *store, const struct key *key, struct pin *pin) MUST_CHECK;

/* Fills iov with the next pieces of the value from the cursor on, without moving it; returns how
 * many were filled (0 at the end). */
unsigned store_pin_pieces(struct store *store, const struct pin *pin, struct iovec *iov,
                          unsigned count);

/* Moves the cursor over bytes that have been sent. */
void store_pin_advance(struct store *store, struct pin *pin, size_t bytes);

/* Releases it, or sees to it that store_tick() does. */
void store_unpin(struct store *store, struct pin *pin);

/* Counts the pinned item as a get of its slab class. */
void store_count_pinned_get(struct store *store, const struct pin *pin);

/* ---- writes --------------------------------------------------------------------------------- */

enum put_mode { PUT_SET, PUT_ADD, PUT_REPLACE, PUT_APPEND, PUT_PREPEND, PUT_CAS };

enum put_result {
    PUT_STORED,
    PUT_NOT_STORED,
    PUT_EXISTS,
    PUT_NOT_FOUND,
    PUT_TOO_LARGE, /* Key, value and header exceed the item size limit. */
    PUT_NO_MEMORY,
    PUT_WAIT, /* Uploads only: their share of memory is taken; try the same call later. */
    PUT_BUSY, /* A stopped process holds the shard. */
};

struct put {
    struct key key;
    enum put_mode mode;
    uint32_t client_flags;
    struct expiry expire;
    const uint8_t *value;
    uint32_t value_len;
    /* PUT_CAS: the unique that the item must have. Append and prepend, unless it is 0: too. */
    uint64_t cas_unique;
    uint64_t cas_given; /* The unique that is given to what is stored; 0: the node's next. */
    bool binary_key;    /* Marks the item. */
    bool invalidates;   /* PUT_CAS: a lower unique stores, too, but leaves the item stale. */
    bool vivifies;      /* Append and prepend: where nothing is they store, as `set` does. */
    bool drops_old;     /* Failing for size or memory removes the old item in any mode. */
    bool is_copy;       /* An upload by store/copy.h, which sets: */
    uint8_t copy_marks, copy_hits;
    /* Out, if stored: */
    uint64_t cas_new;
    uint32_t stored_len; /* value_len of the item, and not only of what was added. */
};

/* -I, or half of a memory limit that was lowered below twice that. */
uint64_t store_item_size_max(const struct store *store);

/* memcached's rule for object too large: header, key, value and flags against that. */
bool store_fits(const struct store *store, uint32_t key_len, uint32_t client_flags,
                uint64_t value_len);

/* Whether pins or uploads of this process are left to be released by store_tick(), for a stopped
 * process had their shard; then it wants to be called often. */
bool store_holds_entries(const struct store *store);

/* Whether this process keeps memory of other nodes, which it lets go of in a store_tick(). */
bool store_maps_others(const struct store *store);

/* The slab class of an item like that, or of the head of its chain. */
uint32_t store_class_id(const struct store *store, uint32_t key_len, uint32_t client_flags,
                        uint64_t value_len);

/* The largest value_len that store_put() takes in one piece; longer ones are uploads. */
uint32_t store_put_len_max(const struct store *store, uint32_t key_len);

/* Stores a value that lies whole in the caller's memory. Too large or out of memory: `set` has
 * removed the old item, every other mode has kept it. Of any length up to -I. */
enum put_result store_put(struct store *store, struct put *put) MUST_CHECK;

/* An upload: a value that goes into its chain as it arrives. */
struct upload {
    uint32_t value_len;
    uint32_t received;
    /* private */
    uint64_t key_hash;
    uint32_t head_ref;
    uint32_t tail_ref;
    uint32_t tail_offset;
    uint16_t index;
    bool open;
    bool locked; /* The shard is, all along. */
};

/* Opens an upload for put->value_len bytes (put->value is not looked at). PUT_STORED: open;
 * PUT_WAIT: try again later; PUT_NO_MEMORY, PUT_TOO_LARGE, PUT_BUSY: not open, handled like
 * store_put(). */
enum put_result store_upload_begin(struct store *store, const struct put *put,
                                   struct upload *upload) MUST_CHECK;

/* Where the next bytes of the value belong: *space is set to a writable piece and its length is
 * returned, 0 once all have arrived. Takes a chunk when needed: *result is PUT_STORED, or
 * PUT_NO_MEMORY / PUT_BUSY with length 0 (then abort). */
uint32_t store_upload_space(struct store *store, struct upload *upload, uint8_t **space,
                            enum put_result *result);
/* Whether the space that was got last is the upload's still: another process may have damaged the
 * words that say so, and others have it by now. To be asked before the space is written to later.
 */
bool store_upload_has_space(struct store *store, const struct upload *upload) MUST_CHECK;

void store_upload_advance(struct store *store, struct upload *upload, uint32_t bytes);

/* Makes the complete upload live, in put->mode. The upload is closed whatever the result. */
enum put_result store_upload_commit(struct store *store, struct put *put,
                                    struct upload *upload) MUST_CHECK;

/* As store_unpin(). */
void store_upload_abort(struct store *store, struct upload *upload);

/* How many connections of this process wait for an upload's or a pin's share; other processes read
 * it. */
void store_set_waiters(struct store *store, uint32_t waiters);
uint32_t store_waiters(struct store *store);

enum delete_result { DELETE_DONE, DELETE_NOT_FOUND, DELETE_BUSY };
enum delete_result store_delete(struct store *store, const struct key *key) MUST_CHECK;

/* The same for a set that is refused and takes the old value with it; `explain` tells them apart.
 */
enum delete_result store_delete_refused(struct store *store, const struct key *key) MUST_CHECK;

enum touch_result { TOUCH_DONE, TOUCH_NOT_FOUND, TOUCH_BUSY };
/* Counts as a hit for eviction. Does not change the cas. */
enum touch_result store_touch(struct store *store, const struct key *key,
                              struct expiry expire) MUST_CHECK;

enum arith_result {
    ARITH_DONE,
    ARITH_NOT_FOUND,
    ARITH_NOT_A_NUMBER,
    ARITH_EXISTS, /* The item has another cas. */
    ARITH_NO_MEMORY,
    ARITH_BUSY,
};
/* memcached's arithmetic: wraps up, stops at 0 down, pads a shorter result with spaces. */
enum arith_result store_arith(struct store *store, const struct key *key, bool increment,
                              uint64_t delta, uint64_t *number) MUST_CHECK;

/* ---- what the meta and the binary protocol ask for ------------------------------------------ */

/* A condition or a given value. */
struct cas_option {
    bool given;
    uint64_t unique; /* 0 is one, too. */
};

/* Deletes, or leaves something: each in one transaction. */
struct removal {
    struct key key;
    struct cas_option if_cas; /* Only an item that has it. */
    bool empties;             /* Leaves an empty value in place of the item, */
    uint32_t client_flags;    /* with these, */
    struct expiry expire;     /* this, */
    bool invalidates; /* Leaves the item, or the empty one, stale: with a new cas, and who asks next
                       * wins. */
    bool by_meta;     /* For who watches: it is an md. */
    bool sets_expire; /* Invalidates: `expire` is for the item, too. */
    struct cas_option cas_given; /* What is left gets it. Otherwise emptying keeps the cas. */
};

enum remove_result {
    REMOVE_DONE,
    REMOVE_NOT_FOUND,
    REMOVE_EXISTS, /* Another cas. */
    REMOVE_NO_MEMORY,
    REMOVE_BUSY,
};
enum remove_result store_remove(struct store *store, const struct removal *removal) MUST_CHECK;

/* Arithmetic with conditions, and on what need not be there. */
struct arith {
    struct key key;
    bool increment;
    uint64_t delta;
    struct cas_option if_cas;
    bool creates; /* A missing item becomes `initial`. */
    uint64_t initial;
    struct expiry create_expire;
    bool touches; /* An item that is there gets `expire`. */
    struct expiry expire;
    struct cas_option cas_given;
    /* Out, if done: */
    uint64_t number;
    uint64_t cas;
    uint32_t expire_word_before; /* 0 if it was created. */
    uint32_t expire_word;
    bool created;
};
enum arith_result store_arith_with(struct store *store, struct arith *arith) MUST_CHECK;

/* A read that may change what it finds, in one hold of the lock. */
struct fetch {
    struct key key;
    bool wants_value; /* Of a chain: pins it. */
    enum view_bump bump;
    bool touches; /* Sets the expiry. */
    struct expiry expire;
    bool wins;             /* Of those who ask, one is told to store a stale item anew, */
    struct expiry recache; /* or one that expires before this (0: none): */
    bool recaches_touched; /* as it is touched by now, and not as it was. */
    bool vivifies;         /* A missing item is created, empty; its creator has won. */
    struct expiry create_expire;
    struct cas_option create_cas;
    /* Out, of what was found: */
    uint32_t idle_s;
    uint32_t expire_word_before;
    uint8_t marks_before; /* enum item_mark */
    bool was_fetched;
    bool won;
    bool created;
    struct pin pin; /* FETCH_HIT_LARGE: held if the value was wanted, to be unpinned */
};

enum fetch_result {
    FETCH_MISS,
    FETCH_EXPIRED,
    FETCH_FLUSHED,
    FETCH_HIT,       /* *view is locked: copy it and call store_view_confirm(), which is true. */
    FETCH_HIT_LARGE, /* *view is filled but for the value. Nothing is locked, the hit is counted. */
    FETCH_WAIT,      /* As PIN_WAIT; nothing was changed. */
    FETCH_BUSY,
};
enum fetch_result store_fetch(struct store *store, struct fetch *fetch,
                              struct view *view) MUST_CHECK;

/* exptime as on the wire: 0 or negative now, else relative or absolute as for items; takes the
 * place of one that is to come. True: what was stored until then is dead, or will be at that
 * moment. False: a stopped process is in the way, and nothing was flushed. */
bool store_flush_all(struct store *store, int64_t exptime);

/* ---- the memory limit ----------------------------------------------------------------------- */

/* Changes the limit of all processes. What is then too much goes back to the host in steps of
 * store_shrink(); until it has, nothing takes a page. False: more than the reserve, too little for
 * the shards' tables, or a stopped process keeps the pool locked. */
bool store_set_memory_limit(struct store *store, uint64_t bytes) MUST_CHECK;

/* ---- page moves by hand --------------------------------------------------------------------- */

enum reassign_result {
    REASSIGN_DONE,
    REASSIGN_BUSY, /* Others are at work in every shard that could give one. */
    REASSIGN_BAD_CLASS,
    REASSIGN_NO_SPARE,
    REASSIGN_SAME,
};

/* `slabs reassign`: moves a page from one class, -1 any that can spare one, to another, 0 the free
 * pages of all. What is in it is evicted. */
enum reassign_result store_reassign(struct store *store, int32_t from, int32_t to) MUST_CHECK;

#ifdef MEMCACHEPY_DEBUG
/* ---- test builds ---------------------------------------------------------------------------- */

/* Takes the lock of the key's shard and keeps it; gives it back. */
bool store_debug_lock(struct store *store, const struct key *key) MUST_CHECK;
void store_debug_unlock(struct store *store, const struct key *key);

/* Pins the item and leaves it pinned; releases one such pin. False: there is no such item. */
bool store_debug_ref(struct store *store, const struct key *key) MUST_CHECK;
bool store_debug_unref(struct store *store, const struct key *key) MUST_CHECK;
#endif

/* ---- statistics ----------------------------------------------------------------------------- */

/* Why an item was evicted. X(reason, name in `stats`) */
#define EVICTION_REASON_LIST(X)                                                                    \
    X(PROBATION, evicted_probation) /* new, and not asked for in its time */                       \
    X(MAIN, evicted_main)           /* by the policy, from all others */                           \
    X(PAGE_MOVE, evicted_page_move) /* its page went to another class */                           \
    X(DONATION, evicted_donation)   /* its page went to another shard */                           \
    X(TABLE, evicted_table)         /* its page went to the hash table or the ghost */             \
    X(SHRINK, evicted_shrink)       /* its page went back to the host */                           \
    X(CHAIN, chain_evictions)       /* its chain in the hash table was full */

enum eviction_reason {
#define X(reason, name) EVICTED_##reason,
    EVICTION_REASON_LIST(X)
#undef X
        EVICTION_REASON_COUNT
};

/* X(name): sums over all shards. */
#define SHARD_SUM_LIST(X)                                                                          \
    X(curr_items)                                                                                  \
    X(total_items)                                                                                 \
    X(bytes)                                                                                       \
    X(evictions)                                                                                   \
    X(evicted_probation)                                                                           \
    X(evicted_main)                                                                                \
    X(evicted_page_move)                                                                           \
    X(evicted_donation)                                                                            \
    X(evicted_table)                                                                               \
    X(evicted_shrink)                                                                              \
    X(chain_evictions)                                                                             \
    X(evicted_unfetched)                                                                           \
    X(reclaimed)                                                                                   \
    X(expired_unfetched)                                                                           \
    X(pages)                                                                                       \
    X(table_pages)                                                                                 \
    X(ghost_pages)                                                                                 \
    X(table_buckets)                                                                               \
    X(repairs)                                                                                     \
    X(rebuilds)

struct store_sums {
#define X(name) uint64_t name;
    SHARD_SUM_LIST(X)
#undef X
    uint64_t pages_free;
    uint64_t pages_limit;
    uint64_t hash_power; /* log2 of the buckets over all shards. */
    uint64_t held_bytes; /* by uploads and pins */
};

/* Sums over shards less what a `stats reset` zeroed. Counters of processes: counters_sum(). */
void store_sum(struct store *store, struct store_sums *sums);

/* Sum over all process slots less the baseline of the last `stats reset`. */
void store_counters_sum(struct store *store, uint64_t sums[COUNTER_COUNT]);

/* Counts a storage command for its slab class: what store_put() or store_upload_commit() had for
 * the put; or, as not stored, one that did not get as far. */
void store_count_put(struct store *store, const struct put *put, enum put_result result);

/* Tells who watches mutations; fd_number as in segment_fd_number(), 0: not over a connection. */
void store_tell_put(struct store *store, const struct put *put, enum put_result result,
                    uint32_t fd_number);

/* `stats reset`. */
void store_stats_reset(struct store *store);

#endif
