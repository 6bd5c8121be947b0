/* Named crash points: places where a killed process leaves a half-done change in the segment.
 *
 * In a test build (-DMEMCACHEPY_CRASH_POINTS) a process can be told to die by SIGKILL at the n-th
 * pass through one. Releases compile them to nothing. */
#ifndef BASE_CRASH_H
#define BASE_CRASH_H

#ifdef MEMCACHEPY_CRASH_POINTS
void crash_arm(const char *name, unsigned pass);
void crash_pass(const char *name);
#define CRASH_POINT(name) crash_pass(#name)
#else
#define CRASH_POINT(name) ((void)0)
#endif

#endif
