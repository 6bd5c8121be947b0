#include "base/crash.h"

#ifdef MEMCACHEPY_CRASH_POINTS

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Process-wide on purpose: a crash ends the process. */
static char armed_name[64];
static unsigned passes_left;

void
crash_arm(const char *name, unsigned pass)
{
    snprintf(armed_name, sizeof(armed_name), "%s", name);
    passes_left = pass;
}

void
crash_pass(const char *name)
{
    if (passes_left != 0 && (armed_name[0] == '*' || strcmp(name, armed_name) == 0)) {
        passes_left--;
        if (passes_left == 0) {
            kill(getpid(), SIGKILL);
        }
    }
}

#else
typedef int crash_points_are_compiled_out;
#endif
