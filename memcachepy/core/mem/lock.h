/* A robust, process-shared lock, with the owner's death as a result and not an accident. */
#ifndef MEM_LOCK_H
#define MEM_LOCK_H

#include "base/platform.h"

#include <pthread.h>

struct shared_lock {
    pthread_mutex_t mutex;
};

/* A lock that many processes want, in a cache line of its own. */
struct shard_lock {
    alignas(CACHE_LINE_BYTES) struct shared_lock lock;
    _Atomic uint32_t stuck; /* [atomic] 1: the holder was waited for in vain */
};
static_assert(sizeof(struct shard_lock) == CACHE_LINE_BYTES, "one cache line");

enum lock_result {
    LOCK_OK,
    LOCK_OWNER_DIED, /* Held by the caller, who must repair and then lock_repaired(). */
    LOCK_TIMEOUT,    /* Not held; also at once, for a lock whose words are damaged. */
};

void lock_init(struct shared_lock *lock);

/* Spins for about two microseconds, then sleeps for at most timeout_ms. */
enum lock_result lock_acquire(struct shared_lock *lock, unsigned timeout_ms) MUST_CHECK;
enum lock_result lock_try(struct shared_lock *lock) MUST_CHECK;

/* The thread that has the lock just now, as its PID namespace numbers it; 0 nobody, -1 unknown.
 */
int32_t lock_owner(const struct shared_lock *lock);
void lock_repaired(struct shared_lock *lock);
void lock_release(struct shared_lock *lock);

/* ---- locks that another process has written over ---------------------------------------------
 * The supervisor looks at the locks from time to time; store/mend.h says how. */

/* The word by which the lock is taken; 0 for a lock that is free, or orphaned in the usual way. */
uint32_t lock_word(const struct shared_lock *lock);

/* Whether no process can take the lock any more, whatever its word says. */
bool lock_is_damaged(const struct shared_lock *lock);

/* Whether the word names the calling thread. A thread that does not hold the lock knows by it that
 * another process has written the word, or damaged the lock so that it could not be released. */
bool lock_names_caller(const struct shared_lock *lock);

/* Makes a lock that no live process holds one whose owner has died: the next process that takes it
 * repairs what it guards. */
void lock_orphan(struct shared_lock *lock);

#endif
