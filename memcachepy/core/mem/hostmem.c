/* See hostmem.h. Sources: proc(5) for /proc/meminfo and /proc/self/cgroup, the kernel's
 * admin-guide/cgroup-v2 and cgroup-v1/memory for the files read here. */
#include "mem/hostmem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CGROUP_ROOT "/sys/fs/cgroup"

/* A cgroup v1 without a limit reports a number close to 2^63. */
#define UNLIMITED (UINT64_C(1) << 60)

static bool
read_number(const char *folder, const char *file, uint64_t *value)
{
    char path[1200];
    snprintf(path, sizeof(path), "%s/%s", folder, file);
    FILE *stream = fopen(path, "re");
    if (stream == NULL) {
        return false;
    }
    bool found = fscanf(stream, "%" SCNu64, value) == 1;
    fclose(stream);
    return found;
}

/* The value of `name` in a file of "name value" lines; 0 if absent. */
static uint64_t
read_field(const char *path, const char *name)
{
    FILE *stream = fopen(path, "re");
    if (stream == NULL) {
        return 0;
    }
    char line[256];
    uint64_t value = 0;
    size_t name_len = strlen(name);
    while (fgets(line, sizeof(line), stream) != NULL) {
        if (strncmp(line, name, name_len) == 0 &&
            (line[name_len] == ' ' || line[name_len] == ':')) {
            value = strtoull(line + name_len + 1, NULL, 10);
            break;
        }
    }
    fclose(stream);
    return value;
}

static void
lower_to(struct memory_limit *limit, uint64_t bytes, const char *kind, const char *name)
{
    if (bytes < limit->bytes) {
        limit->bytes = bytes;
        snprintf(limit->owner, sizeof(limit->owner), "%s %s", kind, name);
    }
}

struct cgroup_files {
    const char *root;
    const char *limit;
    const char *usage;
    const char *file_cache; /* in memory.stat: what the kernel drops before it kills */
};

static const struct cgroup_files v1_files = {CGROUP_ROOT "/memory", "memory.limit_in_bytes",
                                             "memory.usage_in_bytes", "total_inactive_file"};
static const struct cgroup_files v2_files = {CGROUP_ROOT, "memory.max", "memory.current",
                                             "inactive_file"};

static void
lower_by_folder(struct memory_limit *limit, const struct cgroup_files *files, const char *folder,
                const char *name, bool available)
{
    uint64_t bytes;
    if (!read_number(folder, files->limit, &bytes) || bytes >= UNLIMITED) {
        return;
    }
    if (available) {
        uint64_t used;
        char stat_path[1200];
        if (!read_number(folder, files->usage, &used)) {
            return;
        }
        snprintf(stat_path, sizeof(stat_path), "%s/memory.stat", folder);
        uint64_t cache = read_field(stat_path, files->file_cache);
        used = used > cache ? used - cache : 0;
        bytes = bytes > used ? bytes - used : 0;
    }
    lower_to(limit, bytes, "cgroup", name);
}

/* Walks from the process's cgroup to the root. In a container the path may not exist below the
 * mount; then the mount's own files are the innermost limit. */
static void
lower_by_ancestors(struct memory_limit *limit, const struct cgroup_files *files, char *path,
                   bool available)
{
    char folder[1100];
    for (;;) {
        snprintf(folder, sizeof(folder), "%s%s", files->root, path);
        lower_by_folder(limit, files, folder, *path == '\0' ? "/" : path, available);
        char *slash = strrchr(path, '/');
        if (slash == NULL) {
            return;
        }
        *slash = '\0';
    }
}

static void
lower_by_cgroups(struct memory_limit *limit, bool available)
{
    FILE *stream = fopen("/proc/self/cgroup", "re");
    if (stream == NULL) {
        return;
    }
    char line[1024];
    while (fgets(line, sizeof(line), stream) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers == NULL ? NULL : strchr(controllers + 1, ':');
        if (path == NULL) {
            continue;
        }
        *path++ = '\0';
        if (strcmp(path, "/") == 0) {
            *path = '\0';
        }
        if (controllers[1] == '\0') {
            lower_by_ancestors(limit, &v2_files, path, available);
        } else if (strstr(controllers + 1, "memory") != NULL) {
            lower_by_ancestors(limit, &v1_files, path, available);
        }
    }
    fclose(stream);
}

static void
measure(struct memory_limit *limit, const char *meminfo_field, bool available)
{
    limit->bytes = UINT64_MAX;
    uint64_t kilobytes = read_field("/proc/meminfo", meminfo_field);
    if (kilobytes != 0) {
        lower_to(limit, kilobytes * 1024, "the host", meminfo_field);
    }
    lower_by_cgroups(limit, available);
}

void
hostmem_total(struct memory_limit *limit)
{
    measure(limit, "MemTotal", false);
}

void
hostmem_available(struct memory_limit *limit)
{
    measure(limit, "MemAvailable", true);
}
