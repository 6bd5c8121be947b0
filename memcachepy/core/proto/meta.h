/* The meta commands: what their lines say and how their replies are written; see meta.c. Not for
 * callers of proto. */
#ifndef PROTO_META_H
#define PROTO_META_H

#include "proto/execute.h"

/* Of a key in base64, which counts as it is sent. */
#define META_KEY_DECODED_MAX ((MEMCACHED_KEY_LEN_MAX + 3) / 4 * 3)
#define META_KEY_BUFFER_BYTES (META_KEY_DECODED_MAX + INPUT_SLACK_BYTES)

/* The name and the key are two of them, the length of `ms` a third. */
#define META_TOKENS_MAX 20
#define META_FLAGS_MAX (META_TOKENS_MAX - 2)

/* With its O. */
#define META_OPAQUE_LEN_MAX 32

/* One parsed line. What belongs to a flag is set only if the flag was seen. */
struct meta {
    struct key key;
    uint64_t seen; /* META_BIT() of every flag */
    bool binary;   /* The key came in base64. */
    uint8_t mode;
    uint8_t reply_count;
    uint8_t reply_order[META_FLAGS_MAX]; /* Flags that a reply may look at, as they came. */
    struct slice opaque;                 /* Lies in the line. */
    int64_t exptime, create_exptime, recache_exptime;
    uint64_t cas, cas_given, initial, delta;
    uint32_t client_flags;
};

#define META_BIT(flag) (UINT64_C(1) << ((flag) - 'A'))

static inline bool
meta_has(const struct meta *meta, char flag)
{
    return meta->seen & META_BIT(flag);
}

/* Decodes a key to `decoded` and returns its length, 0 if it is wrong. As memcached does it: what
 * is no character of base64 is passed over, what follows a padded group is not looked at, but the
 * number of characters has to be a multiple of four. */
uint32_t meta_decode_key(struct slice text, uint8_t *decoded) MUST_CHECK;

/* Parses the tokens of a line from the key on; flags begin at token `first`. A key in base64 is
 * decoded to `decoded`, of META_KEY_BUFFER_BYTES. NULL, or the error line to answer with. */
const char *meta_parse(struct protocol *protocol, const struct line *line, unsigned first,
                       uint8_t *decoded, struct meta *meta);

/* The expiry that a flag's number means, 0 if the flag was not seen. */
static inline struct expiry
meta_expiry(const struct protocol *protocol, const struct meta *meta, char flag, int64_t exptime)
{
    return meta_has(meta, flag) ? store_expiry(protocol->store, exptime) : (struct expiry){0};
}

static inline struct cas_option
meta_cas_option(const struct meta *meta, char flag, uint64_t unique)
{
    return (struct cas_option){.given = meta_has(meta, flag), .unique = unique};
}

/* Texts that end with their line end; errors are never silent. */
void meta_reply_text(struct protocol *protocol, const char *text);

/* Writers of a reply's flags, each with the space before it. All return the place behind. */
uint8_t *meta_write_number(uint8_t *out, char flag, uint64_t number);
uint8_t *meta_write_ttl(uint8_t *out, const struct protocol *protocol, uint32_t expire_word);
uint8_t *meta_write_opaque(uint8_t *out, const uint8_t *opaque, uint32_t len);

/* A key that came in base64, and would break a line that had it as it is. */
bool meta_breaks_line(const struct meta *meta);

uint8_t *meta_write_binary_key(uint8_t *out, const struct key *key);

/* As k<key>, or as k<base64> b. The key lies in a buffer that has INPUT_SLACK_BYTES behind it. */
static inline uint8_t *
meta_write_key(uint8_t *out, const struct key *key, bool binary)
{
    if (UNLIKELY(binary)) {
        return meta_write_binary_key(out, key);
    }
    memcpy(out, " k", 2);
    if (LIKELY(key->len <= INPUT_SLACK_BYTES)) {
        memcpy(out + 2, key->bytes, INPUT_SLACK_BYTES);
    } else {
        memcpy(out + 2, key->bytes, key->len);
    }
    return out + 2 + key->len;
}

/* A whole line: the code, key and opaque as they were asked for. */
void meta_reply_code(struct protocol *protocol, const struct meta *meta, const char *code);

/* The reply of `ms` is made when its value is there and its line is gone. */
struct meta_reply {
    bool binary;
    bool quiet;
    uint8_t order_count;
    uint8_t order[4]; /* of c, k, O and s */
    uint8_t opaque_len;
    uint8_t opaque[META_OPAQUE_LEN_MAX];
};

/* meta_get.c: mg lines at the input's start, as many as fit a batch. */
static inline bool
meta_get_is_next(const struct input *input)
{
    return input->end - input->at >= 3 && memcmp(input->at, "mg ", 3) == 0;
}

enum step execute_meta_gets(struct protocol *protocol, struct conn *conn,
                            struct input *input) MUST_CHECK;

#endif
