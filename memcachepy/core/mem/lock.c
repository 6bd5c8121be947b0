/* See lock.h. The mutex is robust and process-shared: when its owner is killed the kernel marks it,
 * and the next locker gets it together with the news. A repairer that is killed before
 * lock_repaired() hands the same news to the one after it. */
#include "mem/lock.h"

#include "base/check.h"
#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* A sleeper costs two context switches per hand-over; most holds are shorter than this. */
#define SPIN_TRIES 40

#ifdef __GLIBC__
/* Robust and process-shared, as glibc writes it into the mutex; lock_init() compares. With any
 * other kind its functions take other paths, some of which wait for ever. */
#define LOCK_KIND (PTHREAD_MUTEX_ROBUST_KIND | PTHREAD_MUTEX_PSHARED_KIND)
#define PTHREAD_MUTEX_ROBUST_KIND 16
#define PTHREAD_MUTEX_PSHARED_KIND 128

/* What stands for an owner that died and was not repaired. */
#define OWNER_NOT_RECOVERABLE (INT_MAX - 1)
#endif

/* A wait whose deadline is of the monotonic clock: a step of the system clock makes no wait longer.
 * glibc has the function from 2.30 on and musl does not have it. The reference is weak, so that a
 * build against an older glibc uses that of the machine that it runs on. */
#ifdef UNDER_TSAN
#define LOCK_ALWAYS_POLLS /* It does not know the function everywhere. */
#endif
#ifndef LOCK_ALWAYS_POLLS
extern int pthread_mutex_clocklock(pthread_mutex_t *mutex, clockid_t clock,
                                   const struct timespec *deadline) __attribute__((weak));
#endif

/* Where it is missing, the lock is tried at these intervals. */
#define POLL_NS_MIN 20000L
#define POLL_NS_MAX 1000000L

void
lock_init(struct shared_lock *lock)
{
    pthread_mutexattr_t attributes;
    CHECK(pthread_mutexattr_init(&attributes) == 0);
    CHECK(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0);
    CHECK(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
    CHECK(pthread_mutex_init(&lock->mutex, &attributes) == 0);
    pthread_mutexattr_destroy(&attributes);
    CHECK(!lock_is_damaged(lock));
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
    /* Another process has written over the words of the lock: the supervisor mends it. */
    return LOCK_TIMEOUT;
}

enum lock_result
lock_try(struct shared_lock *lock)
{
    if (UNLIKELY(lock_is_damaged(lock))) {
        return LOCK_TIMEOUT;
    }
    return result_of(pthread_mutex_trylock(&lock->mutex));
}

/* As pthread_mutex_clocklock() of the monotonic clock, but by trying. */
static int
poll_until(pthread_mutex_t *mutex, uint64_t deadline_ns)
{
    struct timespec pause = {.tv_nsec = POLL_NS_MIN};
    int error;
    while ((error = pthread_mutex_trylock(mutex)) == EBUSY && clock_mono_ns() < deadline_ns) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        pause.tv_nsec = pause.tv_nsec * 2 < POLL_NS_MAX ? pause.tv_nsec * 2 : POLL_NS_MAX;
    }
    return error;
}

static int
wait_until(pthread_mutex_t *mutex, uint64_t deadline_ns)
{
#ifndef LOCK_ALWAYS_POLLS
    if (LIKELY(pthread_mutex_clocklock != NULL)) {
        struct timespec deadline = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                                    .tv_nsec = (long)(deadline_ns % 1000000000u)};
        return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &deadline);
    }
#endif
    return poll_until(mutex, deadline_ns);
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
    if (lock_is_damaged(lock)) {
        return LOCK_TIMEOUT;
    }
    uint64_t deadline_ns = clock_mono_ns() + timeout_ms * UINT64_C(1000000);
    return result_of(wait_until(&lock->mutex, deadline_ns));
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

/* Neither can fail but for damaged words. A lock that is not released by it has an owner that does
 * not exist, which the supervisor finds. */
void
lock_repaired(struct shared_lock *lock)
{
    (void)pthread_mutex_consistent(&lock->mutex);
}

void
lock_release(struct shared_lock *lock)
{
    (void)pthread_mutex_unlock(&lock->mutex);
}

uint32_t
lock_word(const struct shared_lock *lock)
{
#ifdef __GLIBC__
    uint32_t word = __atomic_load_n((const unsigned *)&lock->mutex.__data.__lock, __ATOMIC_RELAXED);
    return word & FUTEX_OWNER_DIED ? 0 : word;
#else
    (void)lock;
    return 0;
#endif
}

bool
lock_names_caller(const struct shared_lock *lock)
{
    uint32_t word = lock_word(lock);
    return word != 0 && (word & FUTEX_TID_MASK) == (uint32_t)syscall(SYS_gettid);
}

bool
lock_is_damaged(const struct shared_lock *lock)
{
#ifdef __GLIBC__
    return __atomic_load_n(&lock->mutex.__data.__kind, __ATOMIC_RELAXED) != LOCK_KIND ||
           __atomic_load_n(&lock->mutex.__data.__owner, __ATOMIC_RELAXED) == OWNER_NOT_RECOVERABLE;
#else
    (void)lock;
    return false;
#endif
}

void
lock_orphan(struct shared_lock *lock)
{
#ifdef __GLIBC__
    struct shared_lock fresh;
    memset(&fresh, 0, sizeof(fresh));
    lock_init(&fresh);
    memcpy((uint8_t *)&lock->mutex + sizeof(int), (const uint8_t *)&fresh.mutex + sizeof(int),
           sizeof(fresh.mutex) - sizeof(int));
    /* Last: from here on the lock can be had. */
    __atomic_store_n((unsigned *)&lock->mutex.__data.__lock, FUTEX_OWNER_DIED, __ATOMIC_RELEASE);
    syscall(SYS_futex, &lock->mutex.__data.__lock, FUTEX_WAKE, 1, NULL, NULL, 0);
#else
    lock_init(lock);
#endif
}
