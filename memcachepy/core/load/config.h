/* What a load run is asked to do, as a table: the struct, the ranges, and the list that Python sees
 * (settings, command line options) are made from it.
 *
 * A config is a plain value, filled by the caller and copied by generator_open(). */
#ifndef LOAD_CONFIG_H
#define LOAD_CONFIG_H

#include "base/platform.h"

#define LOAD_KEY_LEN_MAX 250
#define LOAD_ADDRESS_LEN_MAX 107 /* Of a UNIX socket's path; numeric addresses are shorter. */

/* X(name, smallest, largest, default). Switches are 0 or 1. */
#define LOAD_SETTINGS(X)                                                                           \
    X(port, 0, 65535, 11211)                 /* 0: the address is a UNIX socket's path. */         \
    X(connection_count, 1, 100000, 50)       /* Held open, or in flight with reconnect. */         \
    X(pipeline_depth, 1, 4096, 1)            /* Requests in flight per connection. */              \
    X(keys_per_get, 1, 1000, 1)              /* 1: single gets. */                                 \
    X(set_share, 0, 1000000, 0)              /* Sets per get_share gets, evenly spread. */         \
    X(get_share, 0, 1000000, 1)              /* See above. */                                      \
    X(key_count, 1, 4294967295, 100000)      /* Keys 0 to key_count - 1. */                        \
    X(key_bytes, 1, LOAD_KEY_LEN_MAX, 16)    /* Prefix and zero-padded number together. */         \
    X(value_bytes_min, 0, 134217728, 100)    /* A set draws its length from min to max. */         \
    X(value_bytes_max, 0, 134217728, 100)    /* 128 MiB, far above any -I in use. */               \
    X(exptime, 0, 4294967295, 0)             /* Sent with every set. */                            \
    X(rate_per_s, 0, 100000000, 0)           /* 0: closed loop. */                                 \
    X(duration_ms, 0, 604800000, 10000)      /* 0: until request_count. */                         \
    X(request_count, 0, 1000000000000000, 0) /* 0: until duration_ms. */                           \
    X(warmup_ms, 0, 604800000, 0)            /* The same load before it, not counted. */           \
    X(timeout_ms, 10, 3600000, 10000)        /* Without any reply for so long the run ends. */     \
    X(seed, 0, 9223372036854775807, 1)       /* Of the key and length draws. */                    \
    X(prefill, 0, 1, 0)                      /* Set every key once before the load. */             \
    X(meta, 0, 1, 0)                         /* mg instead of get. */                              \
    X(reconnect, 0, 1, 0)                    /* Connect, one request, close. */                    \
    X(verify, 0, 1, 0)                       /* Check key and value of every hit. */

struct load_config {
#define X(name, smallest, largest, preset) uint64_t name;
    LOAD_SETTINGS(X)
#undef X
    double zipf_exponent; /* 0: uniform. */
    char address[LOAD_ADDRESS_LEN_MAX + 1];
    char key_prefix[LOAD_KEY_LEN_MAX + 1];
};

void load_config_init(struct load_config *config);

/* When something does not fit: one sentence that names the setting, the value and the range. */
bool load_config_check(const struct load_config *config, char *sentence, size_t size) MUST_CHECK;

#endif
