/* Kills a process after exactly n instructions of what it does.
 *
 * The process is forked, stops, and is driven by ptrace, an instruction at a time; then it is
 * killed by SIGKILL, a real one, so that the kernel does with its robust locks what it does for any
 * process that dies. Stepping to n for every n would cost n^2 / 2 steps; so the instructions are
 * written down once, and a later run goes at full speed up to the last one before n that it passes
 * for the first time, by a breakpoint, and steps from there.
 *
 * Deep in a loop there is no such instruction near. There one process is walked on, and its death
 * is played: its locks are marked as the kernel would mark them, and once the verdict is spoken
 * the caller puts everything back for the next step.
 *
 * What the kernel does within a system call counts as one instruction. */
#ifndef TESTS_CRASH_STEPPER_H
#define TESTS_CRASH_STEPPER_H

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define INSTRUCTIONS_MAX 4000000u

/* What the process does; its return is the process's end. */
typedef void body_fn(void *context);

/* The instructions of one run from its first to its end. */
struct path {
    uint64_t *at;     /* where the (i + 1)-th instruction lies */
    uint32_t *resume; /* the last step up to i at which a breakpoint can stop a later run */
    uint32_t count;
};

/* In memory that parent and child share. */
struct progress {
    volatile bool answered; /* the operation has returned */
    volatile bool finished; /* nothing follows */
    volatile bool failed;   /* it returned what it must not */
};

static void
stepper_fail(const char *what)
{
    printf("ptrace: %s: errno %d\n", what, errno);
    exit(2);
}

static int
wait_for_stop(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            stepper_fail("waitpid");
        }
    }
    return status;
}

/* Forks a process that stops before the body. */
static pid_t
stepper_start(body_fn *body, void *context)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) {
        stepper_fail("fork");
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        body(context);
        _exit(0);
    }
    if (!WIFSTOPPED(wait_for_stop(pid))) {
        stepper_fail("the child did not stop");
    }
    return pid;
}

static uint64_t
stepper_place(pid_t pid)
{
    errno = 0;
    long at = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), NULL);
    if (errno != 0) {
        stepper_fail("PEEKUSER");
    }
    return (uint64_t)at;
}

/* False: it has ended by itself. */
static bool
stepper_step(pid_t pid)
{
    if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0) {
        stepper_fail("SINGLESTEP");
    }
    int status = wait_for_stop(pid);
    if (WIFSTOPPED(status) && WSTOPSIG(status) != SIGTRAP) {
        printf("the stepped process got signal %d\n", WSTOPSIG(status));
        exit(1);
    }
    return WIFSTOPPED(status);
}

/* Runs on to the instruction at `at`. False: it ended before. */
static bool
stepper_run_to(pid_t pid, uint64_t at)
{
    errno = 0;
    long word = ptrace(PTRACE_PEEKTEXT, pid, (void *)at, NULL);
    if (errno != 0) {
        stepper_fail("PEEKTEXT");
    }
    long trap = (word & ~0xFFL) | 0xCC; /* int3 */
    if (ptrace(PTRACE_POKETEXT, pid, (void *)at, (void *)trap) != 0 ||
        ptrace(PTRACE_CONT, pid, NULL, NULL) != 0) {
        stepper_fail("CONT");
    }
    int status = wait_for_stop(pid);
    if (!WIFSTOPPED(status)) {
        return false;
    }
    if (WSTOPSIG(status) != SIGTRAP || stepper_place(pid) != at + 1) {
        stepper_fail("stopped where no breakpoint is");
    }
    if (ptrace(PTRACE_POKETEXT, pid, (void *)at, (void *)word) != 0 ||
        ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, rip), (void *)at) != 0) {
        stepper_fail("POKEUSER");
    }
    return true;
}

static void
stepper_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    int status;
    do {
        status = wait_for_stop(pid);
    } while (WIFSTOPPED(status));
}

/* The kernel's own page of code cannot be written. */
static bool
can_stop_at(uint64_t at)
{
    uint64_t kernels = getauxval(AT_SYSINFO_EHDR);
    return at < kernels || at >= kernels + 16384;
}

/* Which steps are the first of their instruction. */
static void
path_find_resumes(struct path *path)
{
    uint32_t room = 1024;
    while (room < 2 * path->count) {
        room *= 2;
    }
    uint64_t *seen = calloc(room, sizeof(*seen));
    uint32_t last = 0;
    for (uint32_t i = 0; i < path->count; i++) {
        uint64_t at = path->at[i];
        uint32_t place = (uint32_t)(at * 0x9E3779B97F4A7C15u >> 32) & (room - 1);
        while (seen[place] != 0 && seen[place] != at) {
            place = (place + 1) & (room - 1);
        }
        if (seen[place] == 0) {
            seen[place] = at;
            last = can_stop_at(at) ? i : last;
        }
        path->resume[i] = last;
    }
    free(seen);
}

/* Steps through a whole run; it ends when it says so in `progress`. */
static void
path_record(struct path *path, body_fn *body, void *context, struct progress *progress)
{
    *progress = (struct progress){0};
    path->at = malloc(INSTRUCTIONS_MAX * sizeof(*path->at));
    path->resume = malloc(INSTRUCTIONS_MAX * sizeof(*path->resume));
    path->count = 0;
    pid_t pid = stepper_start(body, context);
    while (!progress->finished) {
        if (path->count == INSTRUCTIONS_MAX) {
            printf("more than %u instructions\n", INSTRUCTIONS_MAX);
            exit(2);
        }
        path->at[path->count++] = stepper_place(pid);
        if (!stepper_step(pid)) {
            break;
        }
    }
    stepper_kill(pid);
    path_find_resumes(path);
}

static void
path_free(struct path *path)
{
    free(path->at);
    free(path->resume);
}

/* Starts the body and brings it to the state after `count` instructions of the path. 0: it ended
 * before. */
static pid_t
stepper_bring(const struct path *path, uint32_t count, body_fn *body, void *context,
              struct progress *progress)
{
    *progress = (struct progress){0};
    pid_t pid = stepper_start(body, context);
    uint32_t at = path->resume[count];
    bool alive = at == 0 || stepper_run_to(pid, path->at[at]);
    for (uint32_t i = at; alive && i < count; i++) {
        alive = stepper_step(pid);
    }
    return alive ? pid : 0;
}

/* Runs the body and kills it after `count` instructions of the path. False: it was not where the
 * recorded run was then; it is dead all the same. */
static bool
kill_after(const struct path *path, uint32_t count, body_fn *body, void *context,
           struct progress *progress)
{
    pid_t pid = stepper_bring(path, count, body, context, progress);
    bool same = pid != 0 && stepper_place(pid) == path->at[count];
    if (pid != 0) {
        stepper_kill(pid);
    }
    return same;
}

/* Marks a lock as the kernel does when its owner dies. Parent and child have the segment at the
 * same address. */
static void
mark_dead_owner(uint64_t entry, int64_t futex_offset, pid_t pid)
{
    _Atomic uint32_t *word = (_Atomic uint32_t *)(uintptr_t)(entry + (uint64_t)futex_offset);
    uint32_t value = atomic_load(word);
    if ((value & FUTEX_TID_MASK) == (uint32_t)pid) {
        atomic_store(word, (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED);
    }
}

/* What the kernel does with the robust locks of a process that ends, for one that is stopped. */
static void
play_death(pid_t pid)
{
    struct robust_list_head *at, head;
    size_t len;
    if (syscall(SYS_get_robust_list, pid, &at, &len) != 0) {
        stepper_fail("get_robust_list");
    }
    struct iovec to = {&head, sizeof(head)}, from = {at, sizeof(head)};
    if (process_vm_readv(pid, &to, 1, &from, 1, 0) != (ssize_t)sizeof(head)) {
        stepper_fail("process_vm_readv");
    }
    uint64_t pending = (uint64_t)(uintptr_t)head.list_op_pending & ~UINT64_C(1);
    uint64_t entry = (uint64_t)(uintptr_t)head.list.next & ~UINT64_C(1);
    while (entry != (uint64_t)(uintptr_t)at) {
        /* Read before the word is marked, as the kernel does: a lock may be reused from then on. */
        uint64_t next = (uint64_t)(uintptr_t)((struct robust_list *)(uintptr_t)entry)->next;
        if (entry != pending) {
            mark_dead_owner(entry, head.futex_offset, pid);
        }
        entry = next & ~UINT64_C(1);
    }
    if (pending != 0) {
        mark_dead_owner(pending, head.futex_offset, pid);
    }
}

#endif
