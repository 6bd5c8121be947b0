/* The bytes of a run: keys, values and whole requests, rendered from templates.
 *
 * A value is a function of its key's number and its length, so that any hit can be checked without
 * remembering what was stored, by another process too:
 *
 *   bytes 0-7    the key's number, six bits a character (fewer when the value is shorter)
 *   the rest     a stretch of one pseudo-random text, its start hashed from number and length
 *
 * It is printable, so that a person with telnet can look at it. */
#ifndef LOAD_WORKLOAD_H
#define LOAD_WORKLOAD_H

#include "load/config.h"

#include <string.h>

#define VALUE_STARTS 4096u /* Different stretches; few, so that the text stays in the cache. */
#define VALUE_STAMP_LEN 8u

struct workload {
    char *text; /* VALUE_STARTS + value_bytes_max characters. */
    size_t text_len;
    size_t key_len;
    char key[LOAD_KEY_LEN_MAX]; /* The key of number 0. */
    char set_tail[16];          /* " 0 <exptime> " of a set. */
    size_t set_tail_len;
};

/* False when there is no memory. */
bool workload_init(struct workload *workload, const struct load_config *config) MUST_CHECK;
void workload_free(struct workload *workload);

/* Each renders at `out`, which must have room, and returns the end. */
char *workload_put_set(const struct workload *workload, char *out, uint64_t key,
                       uint64_t value_len);
char *workload_put_value(const struct workload *workload, char *out, uint64_t key,
                         uint64_t value_len);

/* The most bytes that one set of the longest value needs. */
size_t workload_set_size_max(const struct workload *workload);

/* Whether `len` bytes, found `at` bytes into a value of `value_len`, are what the key's value holds
 * there. Values longer than any this run stores never match. */
bool workload_value_matches(const struct workload *workload, uint64_t key, uint64_t value_len,
                            uint64_t at, const char *bytes, size_t len) MUST_CHECK;

static inline char *
workload_put_key(const struct workload *workload, char *out, uint64_t key)
{
    memcpy(out, workload->key, workload->key_len);
    out += workload->key_len;
    char *place = out;
    uint32_t rest = (uint32_t)key;
    while (rest != 0) {
        *--place = (char)('0' + rest % 10);
        rest /= 10;
    }
    return out;
}

static inline char *
put_bytes(char *out, const char *bytes, size_t len)
{
    memcpy(out, bytes, len);
    return out + len;
}

#endif
