/* Compiler and machine facts that every layer may assume. */
#ifndef BASE_PLATFORM_H
#define BASE_PLATFORM_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if !defined(__linux__) || !(defined(__x86_64__) || defined(__aarch64__))
#error "memcachepy runs on Linux, x86-64 or arm64"
#endif

#define CACHE_LINE_BYTES 64
#define EXTENT_BYTES (2u << 20)

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define COLD __attribute__((cold, noinline))
#define MUST_CHECK __attribute__((warn_unused_result))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NEVER_INLINE __attribute__((noinline))
#define PRINTF_LIKE(format_at, first) __attribute__((format(printf, format_at, first)))
#define PREFETCH(address) __builtin_prefetch(address)

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif

/* For the reads a sequence lock allows to race, whose result is believed only after the check, and
 * for estimates. Not inlined under ThreadSanitizer, so that tests/core/tsan.supp can name them. */
#ifdef UNDER_TSAN
#define RACY_READ __attribute__((noinline))
#else
#define RACY_READ
#endif

/* Tells the core that this is a spin loop. */
static inline void
cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
}

static inline uint64_t
round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

#endif
