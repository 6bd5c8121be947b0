/* See flush.h. An item has 16 bits of the epoch, so an epoch may be begun only when no item of its
 * number is left from the time before. `flush_swept` in the superblock says up to which epoch dead
 * items are gone:
 *
 *    63                       32 31                16 15                        0
 *   | next page of the pass     | epoch of the pass  | no item has an older one  |
 *
 * As a rule the maintainer sees to it within seconds (sweep.c). Where it does not keep up with tens
 * of thousands of flushes, each further flush looks through a share of the pages: so few that no
 * request waits, so many that the pass is over long before the numbers are used up. A pass moves
 * on when its pages have been looked at, so one that a dead process left goes on where it was. */
#include "store/flush.h"

#include "base/crash.h"
#include "store/clocks.h"
#include "store/hashtable.h"
#include "store/slab.h"
#include "store/track.h"
#include "store/walk.h"
#include "store/write.h"

/* Epochs since the last one that is swept. A pass of flushes takes PASS_EPOCHS of them; those of
 * the pass before it may be in use, too. The rest up to 2^16 is for a store that read the epoch
 * just before it moved on. */
#define EPOCHS_MAX 0xF000u
#define HELP_FROM_EPOCHS 0x4000u
#define PASS_EPOCHS 0x6000u
static_assert(2 * PASS_EPOCHS < EPOCHS_MAX && HELP_FROM_EPOCHS <= PASS_EPOCHS,
              "a pass is over before the epochs are used up");

/* ---- dead items ----------------------------------------------------------------------------- */

static uint64_t
swept_word(uint32_t page, uint16_t pass_epoch, uint16_t swept_epoch)
{
    return (uint64_t)page << 32 | (uint32_t)pass_epoch << 16 | swept_epoch;
}

/* How many epochs lie between the swept one and this. */
static uint32_t
epochs_since_swept(const struct store *store, uint16_t epoch)
{
    return (uint16_t)(epoch - (uint16_t)atomic_load(&store->superblock->flush_swept));
}

bool
flush_left_items(const struct store *store)
{
    return epochs_since_swept(store, epoch_now(store)) != 0;
}

void
flush_swept(struct store *store, uint16_t epoch)
{
    uint64_t word = atomic_load(&store->superblock->flush_swept);
    uint32_t known = epochs_since_swept(store, epoch_now(store));
    uint32_t news = (uint16_t)(epoch - (uint16_t)word);
    if (news == 0 || news > known) {
        return; /* Flushes themselves have come further. */
    }
    bool keeps_pass = (uint16_t)((uint16_t)(word >> 16) - (uint16_t)word) > news;
    uint64_t next = keeps_pass ? (word & ~UINT64_C(0xFFFF)) | epoch : swept_word(0, epoch, epoch);
    /* A process that changes the word first has swept as much, or will say so in its next pass. */
    atomic_compare_exchange_strong(&store->superblock->flush_swept, &word, next);
}

/* Under the lock of the page's shard. */
static void
sweep_chunks(struct store *store, struct shard *shard, uint32_t number, uint32_t owner)
{
    uint32_t class_id = page_owner_kind(owner);
    for (uint32_t slot = 0; slot < slab_chunks_per_page(store, class_id); slot++) {
        /* Unlinking may empty this very page and give it back. */
        if (atomic_load(&page_entry(store->segment, number)->owner) != owner) {
            return;
        }
        struct ref ref = chunk_ref(store, number, class_id, slot);
        struct item *item = ref_at(store, ref);
        if (state_kind(chunk_state(item)) == CHUNK_LIVE && item_is_dead(store, item) &&
            !item_is_unknown(store, item)) {
            item_unlink(store, shard, ref, UNLINK_RECLAIM);
        }
    }
}

/* False: a stopped process has the page's shard. */
static bool
sweep_page(struct store *store, uint32_t number)
{
    uint32_t owner = atomic_load(&page_entry(store->segment, number)->owner);
    if (!page_has_chunks(store->superblock, owner)) {
        return true;
    }
    struct shard *shard = &store->shards[page_owner_shard(owner)];
    if (!shard_lock(store, shard)) {
        return false;
    }
    sweep_chunks(store, shard, number, owner);
    shard_unlock(store, shard);
    return true;
}

bool
flush_sweep(struct store *store, uint32_t pages)
{
    uint64_t word = atomic_load(&store->superblock->flush_swept);
    uint16_t swept_epoch = (uint16_t)word;
    uint16_t pass_epoch = (uint16_t)(word >> 16);
    uint32_t page = (uint32_t)(word >> 32);
    if (pass_epoch == swept_epoch) {
        pass_epoch = epoch_now(store);
    }
    /* A page that comes later has no older items. */
    uint32_t count = pool_populated(store->segment);
    uint32_t end = page < count && pages < count - page ? page + pages : count;
    bool done = true;
    while (page < end && (done = sweep_page(store, page))) {
        page++;
    }
    uint64_t next = page >= count ? swept_word(0, pass_epoch, pass_epoch)
                                  : swept_word(page, pass_epoch, swept_epoch);
    /* Another process may have looked at the same pages. */
    atomic_compare_exchange_strong(&store->superblock->flush_swept, &word, next);
    return done;
}

/* Does a flush's share of the pass, if there has to be one. */
static void
help_sweep(struct store *store)
{
    if (UNLIKELY(epochs_since_swept(store, epoch_now(store)) >= HELP_FROM_EPOCHS)) {
        uint32_t count = pool_populated(store->segment);
        (void)flush_sweep(store, count / PASS_EPOCHS + 1);
    }
}

/* ---- flushes -------------------------------------------------------------------------------- */

static uint64_t
flush_word(uint16_t epoch, uint64_t pending_ms)
{
    return pending_ms << 16 | epoch;
}

static bool
is_due(const struct store *store, uint64_t flush)
{
    uint64_t pending_ms = flush_pending_ms(flush);
    return pending_ms != 0 && store->now_ms >= pending_ms;
}

/* Copies of what is flushed go at once, also when the flush is for later. */
static void
spoil_copies(const struct store *store)
{
    if (UNLIKELY(atomic_load(&store->run->tracking) != 0)) {
        track_spoil(store->segment);
    }
}

/* Moves the epoch on, or sets the moment at which that is to happen; also where another process
 * changes the same word meanwhile, for that may have been a flush for later. False: there is no
 * free epoch. */
static bool
flush_change(struct store *store, bool is_now, uint64_t pending_ms)
{
    uint64_t flush = atomic_load(&store->superblock->flush[0]);
    uint64_t next;
    spoil_copies(store); /* This process may die in between. */
    do {
        uint16_t epoch = (uint16_t)(flush + is_now);
        if (UNLIKELY(epochs_since_swept(store, epoch) > EPOCHS_MAX)) {
            return false;
        }
        next = flush_word(epoch, pending_ms);
    } while (!atomic_compare_exchange_weak(&store->superblock->flush[0], &flush, next));
    /* In the one order of all: a process that begins a session shows it before it looks
     * at the flushes. */
    spoil_copies(store);
    help_sweep(store);
    return true;
}

void
flush_attend(struct store *store)
{
    uint64_t flush = atomic_load(&store->superblock->flush[0]);
    while (UNLIKELY(is_due(store, flush))) {
        uint16_t epoch = (uint16_t)(flush + 1);
        if (UNLIKELY(epochs_since_swept(store, epoch) > EPOCHS_MAX)) {
            help_sweep(store); /* A later tick tries again. */
            return;
        }
        spoil_copies(store);
        if (atomic_compare_exchange_weak(&store->superblock->flush[0], &flush,
                                         flush_word(epoch, 0))) {
            spoil_copies(store);
            help_sweep(store);
            return;
        }
    }
}

/* In how many milliseconds of the node's clock a flush is to take effect, rounded up; 0: now. */
static uint64_t
delay_ms(const struct store *store, const struct clocks *clocks, int64_t exptime)
{
    int64_t delay_ns = exptime < 0 ? 0 : exptime * NS_PER_S;
    if (exptime > RELATIVE_MAX_S) {
        int64_t last_s = (int64_t)store->superblock->wall_base_s + EXPIRE_S_MAX;
        delay_ns = (exptime < last_s ? exptime : last_s) * NS_PER_S - clocks->wall_ns;
    }
    return delay_ns > 0 ? (uint64_t)((delay_ns + NS_PER_MS - 1) / NS_PER_MS) : 0;
}

bool
store_flush_all(struct store *store, int64_t exptime)
{
    store_tick(store);
    struct clocks clocks = clocks_read(store->run);
    uint64_t delay = delay_ms(store, &clocks, exptime);
    if (delay <= 1000) {
        next_cas(store); /* memcached takes one for a flush that is in force at once. */
    }
    /* From the part of a millisecond that the clock has begun on. */
    uint64_t at_ms = delay == 0 ? 0 : (uint64_t)(clocks.node_ns / NS_PER_MS) + 1 + delay;
    while (!flush_change(store, delay == 0, at_ms)) {
        /* The maintainer is not there, and a stopped process had a shard for as long as tens of
         * thousands of flushes took: what is left of the pass is done here. */
        if (!flush_sweep(store, UINT32_MAX)) {
            return false;
        }
    }
    return true;
}
