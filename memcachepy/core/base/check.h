/* Programmer errors. CHECK stays in release builds wherever the segment could be damaged: a worker
 * that fails one dies and is respawned, which is better than one that goes on writing. */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

#include "base/platform.h"

_Noreturn void check_failed(const char *file, int line, const char *condition);

#define CHECK(condition)                                                                           \
    (LIKELY(condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition))

#ifdef MEMCACHEPY_DEBUG
#define DCHECK(condition) CHECK(condition)
#else
#define DCHECK(condition) ((void)sizeof(condition))
#endif

#endif
