/* The node's configurations: what `config get` answers, above all `cluster`, the list of nodes.
 *
 *   run_head.configs     lock | a state word for each entry: sequence 62 | copy 1 | present 1
 *   run_head.configs_at  entry 0: copy 0, copy 1 | entry 1: copy 0, copy 1 | …
 *
 * Any process of the node reads them without a lock, and changes them under one. An entry has two
 * copies, and its state word says which of them it is. Who changes it fills the other one, and a
 * single store of the state word makes that the entry: killed before, the old one stands, killed
 * after, the new one, and there is nothing to repair. Nobody writes to a copy as long as a state
 * word names it, so who has copied its bytes believes them if the state word is still the same.
 *
 * Memory beside the memory limit, taken as entries come: a system page for each copy of a short
 * one, 68 KiB for one of the longest; 2.2 MiB if all are as long as they may be. It is kept. */
#ifndef MEM_CONFIG_TABLE_H
#define MEM_CONFIG_TABLE_H

#include "mem/segment.h"

/* As many and as long as ElastiCache's config_max and config_size_max. */
#define CONFIG_VALUE_LEN_MAX 65536
#define CONFIG_KEY_LEN_MAX 250

/* The list of nodes. */
#define CONFIG_CLUSTER "cluster"

struct config_copy {
    uint32_t client_flags;
    uint32_t value_len;
    uint32_t key_len;
    uint8_t key[CONFIG_KEY_LEN_MAX + 2];
    uint8_t value[CONFIG_VALUE_LEN_MAX];
};

/* Bytes of the part of the segment. */
uint64_t config_table_bytes(void);

/* What a reader looks at. Everything but the value is a copy; all of it is to be believed only
 * after config_confirm(). */
struct config_view {
    const struct config_copy *copy; /* The value lies here, and the key. */
    unsigned index;
    uint64_t state;
    uint32_t client_flags;
    uint32_t key_len, value_len; /* Within their bounds in any case. */
};

/* Finds an entry. False: there is none. */
bool config_find(const struct segment *segment, const void *key, uint32_t key_len,
                 struct config_view *view) MUST_CHECK;

/* The next entry from *index on, which begins with 0 and is moved behind it. False: no more. */
bool config_next(const struct segment *segment, unsigned *index,
                 struct config_view *view) MUST_CHECK;

/* Whether the entry is still what was viewed: to be asked after its bytes were copied. False:
 * look again. */
bool config_confirm(const struct segment *segment, const struct config_view *view) MUST_CHECK;

/* A number that is another one after every change of the entry, and never 0. */
static inline uint64_t
config_version(const struct config_view *view)
{
    return view->state >> 2;
}

/* Nothing that would end or part a line. */
bool config_key_is_sound(const void *key, uint32_t key_len);

uint32_t config_count(const struct segment *segment);

enum config_result {
    CONFIG_OK,
    CONFIG_NOT_FOUND,
    CONFIG_TOO_LONG,
    CONFIG_TOO_MANY,
    CONFIG_NO_MEMORY,
    CONFIG_BUSY, /* A stopped process has the lock. */
};

struct config_entry {
    const void *key; /* Of 1 to CONFIG_KEY_LEN_MAX bytes, sound. */
    const void *value;
    uint32_t key_len, value_len;
    uint32_t client_flags;
};

enum config_result config_set(struct segment *segment, const struct config_entry *entry) MUST_CHECK;
enum config_result config_delete(struct segment *segment, const void *key,
                                 uint32_t key_len) MUST_CHECK;

/* Copies a whole value to `out`, which has room for CONFIG_VALUE_LEN_MAX bytes. CONFIG_OK, or
 * CONFIG_NOT_FOUND, or CONFIG_BUSY: it is changed all the time. */
enum config_result config_read(const struct segment *segment, const void *key, uint32_t key_len,
                               uint8_t *out, struct config_view *view) MUST_CHECK;

/* A reader fails only if a change falls into the microseconds of its copy; after so many times in a
 * row somebody does nothing but change the entry. */
#define CONFIG_TRIES_MAX 1000

#endif
