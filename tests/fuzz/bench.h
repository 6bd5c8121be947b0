/* The segment that inputs are played on, and what may be asked of it between them. It lives through
 * many inputs: a fuzz target has no argument of its own. */
#ifndef FUZZ_BENCH_H
#define FUZZ_BENCH_H

#include "proto/conn.h"
#include "store/store.h"

#include <stdio.h>

/* As many workers, in this one process, each with a slot of its own. */
#define WORKER_COUNT 2

struct worker {
    struct store *store;
    struct protocol *protocol;
};

struct bench {
    struct segment *segment;
    struct worker workers[WORKER_COUNT];
    unsigned inputs;
    unsigned segments;
};

_Noreturn void die(const char *why);

/* A segment, made if there is none. */
void bench_open(struct bench *bench);

/* Empties the store, and the count of cas uniques with it: whatever was played before leaves no
 * trace in the replies to come. */
void bench_empty(struct bench *bench);

/* Moves the clock of the node on. */
void bench_advance(struct bench *bench, int64_t seconds);

/* The whole-segment checker, and that nobody holds anything. No connection may be open. */
void bench_check(struct bench *bench);

/* After an input: counts it, and makes an end of the segment now and then, at which everything
 * stored is flushed, swept and must be gone. */
void bench_played(struct bench *bench);

/* Makes an end of the segment in any case. */
void bench_close(struct bench *bench);

#endif
