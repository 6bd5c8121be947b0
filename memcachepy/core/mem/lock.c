/* See lock.h. The mutex is robust and process-shared: when its owner is killed the kernel marks it,
 * and the next locker gets it together with the news. A repairer that is killed before
 * lock_repaired() hands the same news to the one after it. */
#include "mem/lock.h"

#include "base/check.h"

#include <errno.h>
#include <linux/futex.h>
#include <time.h>

/* A sleeper costs two context switches per hand-over; most holds are shorter than this. */
#define SPIN_TRIES 40

void
lock_init(struct shared_lock *lock)
{
    pthread_mutexattr_t attributes;
    CHECK(pthread_mutexattr_init(&attributes) == 0);
    CHECK(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0);
    CHECK(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
    CHECK(pthread_mutex_init(&lock->mutex, &attributes) == 0);
    pthread_mutexattr_destroy(&attributes);
}

static enum lock_result
result_of(int error)
{
    switch (error) {
    case 0:
        return LOCK_OK;
    case EOWNERDEAD:
        return LOCK_OWNER_DIED;
    case EBUSY:
    case ETIMEDOUT:
        return LOCK_TIMEOUT;
    }
    /* ENOTRECOVERABLE or EDEADLK: a programmer's error, never an owner's death. */
    CHECK(!"a shard lock that can be neither held nor repaired");
    return LOCK_TIMEOUT;
}

enum lock_result
lock_try(struct shared_lock *lock)
{
    return result_of(pthread_mutex_trylock(&lock->mutex));
}

enum lock_result
lock_acquire(struct shared_lock *lock, unsigned timeout_ms)
{
    for (unsigned i = 0; i < SPIN_TRIES; i++) {
        enum lock_result result = lock_try(lock);
        if (result != LOCK_TIMEOUT) {
            return result;
        }
        cpu_relax();
    }
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    deadline.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_nsec -= 1000000000;
        deadline.tv_sec++;
    }
    return result_of(pthread_mutex_timedlock(&lock->mutex, &deadline));
}

int32_t
lock_owner(const struct shared_lock *lock)
{
#ifdef __GLIBC__
    /* The word that the kernel looks at when an owner dies; see robust_futexes in its manual. */
    unsigned word = __atomic_load_n((const unsigned *)&lock->mutex.__data.__lock, __ATOMIC_RELAXED);
    return (int32_t)(word & FUTEX_TID_MASK);
#else
    (void)lock;
    return -1;
#endif
}

void
lock_repaired(struct shared_lock *lock)
{
    CHECK(pthread_mutex_consistent(&lock->mutex) == 0);
}

void
lock_release(struct shared_lock *lock)
{
    CHECK(pthread_mutex_unlock(&lock->mutex) == 0);
}
