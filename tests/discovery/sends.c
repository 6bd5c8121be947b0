/* Loaded before the C library: writes the length of every send() of a reply to the file that
 * MEMCACHEPY_TEST_SENDS names, a line each. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/types.h>

ssize_t
send(int fd, const void *bytes, size_t len, int flags)
{
    static ssize_t (*next)(int, const void *, size_t, int);
    if (next == NULL) {
        *(void **)&next = dlsym(RTLD_NEXT, "send");
    }
    ssize_t sent = next(fd, bytes, len, flags);
    const char *path = getenv("MEMCACHEPY_TEST_SENDS");
    FILE *file = path != NULL ? fopen(path, "ae") : NULL;
    if (file != NULL) {
        fprintf(file, "%zd\n", sent);
        fclose(file);
    }
    return sent;
}
