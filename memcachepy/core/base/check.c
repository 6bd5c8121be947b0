#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Noreturn void
check_failed(const char *file, int line, const char *condition)
{
    char text[256];
    int length = snprintf(text, sizeof(text), "memcachepy: check failed pid=%d at %s:%d: %s\n",
                          (int)getpid(), file, line, condition);
    if (length > 0) {
        size_t bytes = strnlen(text, sizeof(text));
        ssize_t ignored = write(STDERR_FILENO, text, bytes);
        (void)ignored;
    }
    abort();
}
