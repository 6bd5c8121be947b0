/* Keys, values and sets as bytes. */
#include "load/workload.h"

#include "base/number.h"

#include <stdio.h>
#include <stdlib.h>

static const char alphabet[64] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static uint64_t
mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

bool
workload_init(struct workload *workload, const struct load_config *config)
{
    memset(workload, 0, sizeof(*workload));
    workload->text_len = VALUE_STARTS + config->value_bytes_max;
    workload->text = malloc(workload->text_len);
    if (workload->text == NULL) {
        return false;
    }
    for (size_t i = 0; i < workload->text_len; i++) {
        workload->text[i] = alphabet[mix(i + 1) & 63];
    }
    workload->key_len = config->key_bytes;
    memset(workload->key, '0', sizeof(workload->key));
    memcpy(workload->key, config->key_prefix, strlen(config->key_prefix));
    workload->set_tail_len = (size_t)snprintf(workload->set_tail, sizeof(workload->set_tail),
                                              " 0 %u ", (unsigned)config->exptime);
    return true;
}

void
workload_free(struct workload *workload)
{
    free(workload->text);
    workload->text = NULL;
}

static size_t
stretch_start(uint64_t key, uint64_t value_len)
{
    return mix(mix(key + 1) ^ value_len) % VALUE_STARTS;
}

static size_t
put_stamp(char stamp[VALUE_STAMP_LEN], uint64_t key, uint64_t value_len)
{
    for (unsigned i = 0; i < VALUE_STAMP_LEN; i++) {
        stamp[i] = alphabet[(key >> (6 * i)) & 63];
    }
    return value_len < VALUE_STAMP_LEN ? (size_t)value_len : VALUE_STAMP_LEN;
}

char *
workload_put_value(const struct workload *workload, char *out, uint64_t key, uint64_t value_len)
{
    char stamp[VALUE_STAMP_LEN];
    size_t stamp_len = put_stamp(stamp, key, value_len);
    const char *stretch = workload->text + stretch_start(key, value_len);
    out = put_bytes(out, stamp, stamp_len);
    return put_bytes(out, stretch + stamp_len, value_len - stamp_len);
}

char *
workload_put_set(const struct workload *workload, char *out, uint64_t key, uint64_t value_len)
{
    out = put_bytes(out, "set ", 4);
    out = workload_put_key(workload, out, key);
    out = put_bytes(out, workload->set_tail, workload->set_tail_len);
    out += number_format_u64(value_len, out);
    out = put_bytes(out, "\r\n", 2);
    out = workload_put_value(workload, out, key, value_len);
    return put_bytes(out, "\r\n", 2);
}

size_t
workload_set_size_max(const struct workload *workload)
{
    size_t value_len_max = workload->text_len - VALUE_STARTS;
    return sizeof("set ") + workload->key_len + workload->set_tail_len + 24 + value_len_max;
}

bool
workload_value_matches(const struct workload *workload, uint64_t key, uint64_t value_len,
                       uint64_t at, const char *bytes, size_t len)
{
    if (value_len > workload->text_len - VALUE_STARTS) {
        return false;
    }
    char stamp[VALUE_STAMP_LEN];
    size_t stamp_len = put_stamp(stamp, key, value_len);
    if (at < stamp_len) {
        size_t part = stamp_len - at < len ? (size_t)(stamp_len - at) : len;
        if (memcmp(bytes, stamp + at, part) != 0) {
            return false;
        }
        at += part;
        bytes += part;
        len -= part;
    }
    return memcmp(bytes, workload->text + stretch_start(key, value_len) + at, len) == 0;
}
