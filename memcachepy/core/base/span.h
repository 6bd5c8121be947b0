/* Named spans: stretches of code whose CPU time a bench build (-DMEMCACHEPY_SPANS) measures, each
 * time they are passed. Releases compile them to nothing. */
#ifndef BASE_SPAN_H
#define BASE_SPAN_H

#ifdef MEMCACHEPY_SPANS

#include "base/clock.h"

/* Defined by the program that measures. */
void span_ended(const char *name, uint64_t cpu_ns);

#define SPAN_BEGIN(name) uint64_t span_##name = clock_read_ns(CLOCK_THREAD_CPUTIME_ID)
#define SPAN_END(name) span_ended(#name, clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - span_##name)

#else
#define SPAN_BEGIN(name) ((void)0)
#define SPAN_END(name) ((void)0)
#endif

#endif
