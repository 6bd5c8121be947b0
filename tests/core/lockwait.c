/* Waits for a lock take as long as they are asked to take, whatever happens to the system clock
 * meanwhile. The system clock is the test's: an hour fast when the wait begins, which to the kernel
 * is the same as a step back by an hour while it lasts. */
#include "base/clock.h"
#include "mem/lock.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("line %d: %s\n", __LINE__, #condition);                                         \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define WAIT_MS 50

/* Linked in place of clock_gettime(). */
int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = __real_clock_gettime(clock, now);
    if (clock == CLOCK_REALTIME) {
        now->tv_sec += 3600;
    }
    return result;
}

static struct shared_lock *lock;
static int held[2], released[2];

/* A process that takes the lock, says so, and ends when it is told to, with the lock or without. */
static pid_t
start_holder(bool dies)
{
    EXPECT(pipe(held) == 0 && pipe(released) == 0);
    pid_t child = fork();
    if (child == 0) {
        char byte = 0;
        EXPECT(lock_acquire(lock, 1000) == LOCK_OK);
        EXPECT(write(held[1], &byte, 1) == 1);
        EXPECT(read(released[0], &byte, 1) == 1);
        if (!dies) {
            lock_release(lock);
        }
        _exit(0);
    }
    char byte;
    EXPECT(read(held[0], &byte, 1) == 1);
    return child;
}

static void
end_holder(pid_t child)
{
    char byte = 0;
    int status;
    EXPECT(write(released[1], &byte, 1) == 1);
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    close(held[0]);
    close(held[1]);
    close(released[0]);
    close(released[1]);
}

static void
a_wait_times_out(void)
{
    pid_t child = start_holder(false);
    uint64_t before_ns = clock_mono_ns();
    EXPECT(lock_acquire(lock, WAIT_MS) == LOCK_TIMEOUT);
    EXPECT(clock_mono_ns() - before_ns >= WAIT_MS * UINT64_C(1000000));
    end_holder(child);
    EXPECT(lock_acquire(lock, WAIT_MS) == LOCK_OK);
    lock_release(lock);
}

/* The holder goes on while another process waits. */
static void
a_wait_ends_with_the_hold(bool dies)
{
    pid_t holder = start_holder(dies);
    pid_t waiter = fork();
    if (waiter == 0) {
        enum lock_result result = lock_acquire(lock, 20000);
        if (result == LOCK_OWNER_DIED) {
            lock_repaired(lock);
        }
        lock_release(lock);
        _exit(result == (dies ? LOCK_OWNER_DIED : LOCK_OK) ? 0 : 1);
    }
    end_holder(holder);
    int status;
    EXPECT(waitpid(waiter, &status, 0) == waiter && status == 0);
}

int
main(void)
{
    alarm(30); /* Instead of the hour. */
    lock = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(lock != MAP_FAILED);
    lock_init(lock);
    a_wait_times_out();
    a_wait_ends_with_the_hold(false);
    a_wait_ends_with_the_hold(true);
    puts("ok");
    return 0;
}
