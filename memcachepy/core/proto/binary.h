/* The binary protocol: packets of 24 bytes of header, extras, key and value, all numbers
 * big-endian.
 *
 *     0        1        2           4        5         6        8          12       16     24
 *     magic    opcode   key_len     extras   datatype  status   body_len   opaque   cas    extras
 *
 * The body is extras, key and value together. A reply repeats opcode and opaque; of a request's
 * sixth and seventh byte (vbucket) and of the datatype nothing is asked. Shared by the files
 * binary*.c, not for callers of proto.
 *
 * What is malformed is answered and closed as memcached 1.6 does it, save that a body which nobody
 * asked for is passed over whole. */
#ifndef PROTO_BINARY_H
#define PROTO_BINARY_H

#include "proto/value.h"

#define PACKET_HEADER_BYTES 24
#define PACKET_REQUEST 0x80
#define PACKET_REPLY 0x81

/* memcached's limit: the length of value and line end fits an int. */
#define PACKET_VALUE_LEN_MAX (INT32_MAX - 2)

/* X(name, number, text) */
#define STATUS_LIST(X)                                                                             \
    X(NOT_FOUND, 0x01, "Not found")                                                                \
    X(EXISTS, 0x02, "Data exists for key.")                                                        \
    X(TOO_LARGE, 0x03, "Too large.")                                                               \
    X(INVALID, 0x04, "Invalid arguments")                                                          \
    X(NOT_STORED, 0x05, "Not stored.")                                                             \
    X(NOT_A_NUMBER, 0x06, "Non-numeric server-side value for incr or decr")                        \
    X(AUTH_ERROR, 0x20, "Auth failure.")                                                           \
    X(UNKNOWN_COMMAND, 0x81, "Unknown command")                                                    \
    X(NO_MEMORY, 0x82, "Out of memory")                                                            \
    X(BUSY, 0x85, "shard is locked by a stopped process")

enum status {
    STATUS_OK = 0,
#define X(name, number, text) STATUS_##name = number,
    STATUS_LIST(X)
#undef X
};

/* Whether a packet has a key. */
enum key_rule { KEY_NONE, KEY_MAY, KEY_MUST };

/* What follows the key. */
enum rest_rule {
    REST_NONE,  /* Nothing, or the packet is malformed. */
    REST_VALUE, /* The value. */
    REST_NEXT,  /* The next packet, whatever the body's length: memcached does not look. */
};

/* X(name, opcode, quiet, extras_len, key, rest, handler); NULL: binary_get.c gathers them. */
#define OPCODE_LIST(X)                                                                             \
    X(GET, 0x00, false, 0, KEY_MUST, REST_NONE, NULL)                                              \
    X(SET, 0x01, false, 8, KEY_MUST, REST_VALUE, packet_store)                                     \
    X(ADD, 0x02, false, 8, KEY_MUST, REST_VALUE, packet_store)                                     \
    X(REPLACE, 0x03, false, 8, KEY_MUST, REST_VALUE, packet_store)                                 \
    X(DELETE, 0x04, false, 0, KEY_MUST, REST_NONE, packet_delete)                                  \
    X(INCREMENT, 0x05, false, 20, KEY_MUST, REST_NONE, packet_arith)                               \
    X(DECREMENT, 0x06, false, 20, KEY_MUST, REST_NONE, packet_arith)                               \
    X(QUIT, 0x07, false, 0, KEY_NONE, REST_NONE, packet_quit)                                      \
    X(FLUSH, 0x08, false, 4, KEY_NONE, REST_NONE, packet_flush)                                    \
    X(GETQ, 0x09, true, 0, KEY_MUST, REST_NONE, NULL)                                              \
    X(NOOP, 0x0a, false, 0, KEY_NONE, REST_NONE, packet_noop)                                      \
    X(VERSION, 0x0b, false, 0, KEY_NONE, REST_NONE, packet_version)                                \
    X(GETK, 0x0c, false, 0, KEY_MUST, REST_NONE, NULL)                                             \
    X(GETKQ, 0x0d, true, 0, KEY_MUST, REST_NONE, NULL)                                             \
    X(APPEND, 0x0e, false, 0, KEY_MUST, REST_VALUE, packet_store)                                  \
    X(PREPEND, 0x0f, false, 0, KEY_MUST, REST_VALUE, packet_store)                                 \
    X(STAT, 0x10, false, 0, KEY_MAY, REST_NEXT, packet_stat)                                       \
    X(SETQ, 0x11, true, 8, KEY_MUST, REST_VALUE, packet_store)                                     \
    X(ADDQ, 0x12, true, 8, KEY_MUST, REST_VALUE, packet_store)                                     \
    X(REPLACEQ, 0x13, true, 8, KEY_MUST, REST_VALUE, packet_store)                                 \
    X(DELETEQ, 0x14, true, 0, KEY_MUST, REST_NONE, packet_delete)                                  \
    X(INCREMENTQ, 0x15, true, 20, KEY_MUST, REST_NONE, packet_arith)                               \
    X(DECREMENTQ, 0x16, true, 20, KEY_MUST, REST_NONE, packet_arith)                               \
    X(QUITQ, 0x17, true, 0, KEY_NONE, REST_NONE, packet_quit)                                      \
    X(FLUSHQ, 0x18, true, 4, KEY_NONE, REST_NONE, packet_flush)                                    \
    X(APPENDQ, 0x19, true, 0, KEY_MUST, REST_VALUE, packet_store)                                  \
    X(PREPENDQ, 0x1a, true, 0, KEY_MUST, REST_VALUE, packet_store)                                 \
    X(TOUCH, 0x1c, false, 4, KEY_MUST, REST_NEXT, packet_touch)                                    \
    X(GAT, 0x1d, false, 4, KEY_MUST, REST_NEXT, NULL)                                              \
    X(GATQ, 0x1e, true, 4, KEY_MUST, REST_NEXT, NULL)                                              \
    X(SASL_LIST_MECHS, 0x20, false, 0, KEY_NONE, REST_NONE, packet_unknown)                        \
    X(SASL_AUTH, 0x21, false, 0, KEY_MUST, REST_VALUE, packet_unknown)                             \
    X(SASL_STEP, 0x22, false, 0, KEY_MUST, REST_VALUE, packet_unknown)                             \
    X(GATK, 0x23, false, 4, KEY_MUST, REST_NEXT, NULL)                                             \
    X(GATKQ, 0x24, true, 4, KEY_MUST, REST_NEXT, NULL)                                             \
    X(CONFIG_GET, 0x60, false, 0, KEY_MUST, REST_NONE, packet_config_get)                          \
    X(CONFIG_GETQ, 0x61, true, 0, KEY_MUST, REST_NONE, packet_config_get)                          \
    X(CONFIG_GETK, 0x62, false, 0, KEY_MUST, REST_NONE, packet_config_get)                         \
    X(CONFIG_GETKQ, 0x63, true, 0, KEY_MUST, REST_NONE, packet_config_get)                         \
    X(CONFIG_SET, 0x64, false, 4, KEY_MUST, REST_VALUE, packet_config_set)                         \
    X(CONFIG_SETQ, 0x65, true, 4, KEY_MUST, REST_VALUE, packet_config_set)                         \
    X(CONFIG_DELETE, 0x66, false, 0, KEY_MUST, REST_NONE, packet_config_delete)                    \
    X(CONFIG_DELETEQ, 0x67, true, 0, KEY_MUST, REST_NONE, packet_config_delete)                    \
    X(CONFIG_LIST, 0x68, false, 0, KEY_NONE, REST_NONE, packet_config_list)

enum opcode {
#define X(name, number, ...) OPCODE_##name = number,
    OPCODE_LIST(X)
#undef X
};
#define OPCODE_COUNT (OPCODE_CONFIG_LIST + 1)

/* A request whose header, extras and key are there. */
struct packet {
    struct packet_id id;
    bool quiet;
    uint8_t extras_len;
    uint16_t key_len;
    uint32_t rest_len; /* Of the body, behind the key. */
    uint64_t cas;      /* 0: none asked for. */
    const uint8_t *extras;
    const uint8_t *key;
};

/* The input stands behind the key. */
typedef enum step packet_handler(struct protocol *, struct conn *, const struct packet *,
                                 struct input *);

struct opcode_row {
    bool known;
    bool quiet;
    uint8_t extras_len;
    uint8_t key_rule;  /* enum key_rule */
    uint8_t rest_rule; /* enum rest_rule */
    packet_handler *handler;
};

extern const struct opcode_row opcode_table[OPCODE_COUNT];

enum packet_parse {
    PACKET_OK,
    PACKET_MORE,  /* Not all of header, extras and key has arrived. */
    PACKET_MAGIC, /* It is no request. */
};

/* Does not judge what it reads. */
enum packet_parse packet_parse(const struct input *input, struct packet *packet) MUST_CHECK;

/* Whether it is what its opcode's row says. */
bool packet_is_sound(const struct packet *packet, const struct opcode_row *row);

/* One step at the start of a packet. */
enum step binary_step(struct protocol *protocol, struct conn *conn, struct input *input) MUST_CHECK;

/* The key of a packet that begins with these bytes. False: it is not all there, or has none. */
bool binary_key(const uint8_t *bytes, size_t len, struct slice *key);

/* The kinds of get at the input's start, as many as fit a batch; the first is sound. */
enum step binary_gets(struct protocol *protocol, struct conn *conn, struct input *input) MUST_CHECK;

packet_handler packet_store, packet_delete, packet_arith, packet_touch;
packet_handler packet_config_get, packet_config_set, packet_config_delete, packet_config_list;
packet_handler packet_quit, packet_flush, packet_noop, packet_version, packet_stat, packet_unknown;

/* ---- numbers -------------------------------------------------------------------------------- */

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "packets are swapped");

static inline uint16_t
read_u16(const uint8_t *at)
{
    uint16_t number;
    memcpy(&number, at, sizeof(number));
    return __builtin_bswap16(number);
}

static inline uint32_t
read_u32(const uint8_t *at)
{
    uint32_t number;
    memcpy(&number, at, sizeof(number));
    return __builtin_bswap32(number);
}

static inline uint64_t
read_u64(const uint8_t *at)
{
    uint64_t number;
    memcpy(&number, at, sizeof(number));
    return __builtin_bswap64(number);
}

static inline void
write_u16(uint8_t *at, uint16_t number)
{
    number = __builtin_bswap16(number);
    memcpy(at, &number, sizeof(number));
}

static inline void
write_u32(uint8_t *at, uint32_t number)
{
    number = __builtin_bswap32(number);
    memcpy(at, &number, sizeof(number));
}

static inline void
write_u64(uint8_t *at, uint64_t number)
{
    number = __builtin_bswap64(number);
    memcpy(at, &number, sizeof(number));
}

/* ---- exptimes -----------------------------------------------------------------------------------
 */

/* Exptimes have no sign here: those that a line of text takes for negative are moments, which no
 * clock here reaches. */
#define PACKET_EXPTIME_MAX 0xDFFFFFFFu

static inline struct expiry
read_expiry(struct store *store, const uint8_t *at)
{
    uint32_t exptime = read_u32(at);
    return store_expiry(store, exptime < PACKET_EXPTIME_MAX ? exptime : PACKET_EXPTIME_MAX);
}

/* ---- replies -------------------------------------------------------------------------------- */

/* What a reply's header says beside what it repeats. */
struct reply {
    enum status status;
    uint32_t extras_len, key_len;
    uint32_t body_len;
    uint64_t cas;
};

/* Writes the header at `out`, returns the place behind it. */
static inline uint8_t *
write_reply_header(uint8_t *out, struct packet_id id, struct reply reply)
{
    out[0] = PACKET_REPLY;
    out[1] = id.opcode;
    write_u16(out + 2, (uint16_t)reply.key_len);
    out[4] = (uint8_t)reply.extras_len;
    out[5] = 0;
    write_u16(out + 6, (uint16_t)reply.status);
    write_u32(out + 8, reply.body_len);
    memcpy(out + 12, &id.opaque, sizeof(id.opaque));
    write_u64(out + 16, reply.cas);
    return out + PACKET_HEADER_BYTES;
}

/* Appends a reply of a header and reply.body_len bytes, which the caller knows to be room for. */
static inline void
add_reply(struct protocol *protocol, struct packet_id id, struct reply reply, const void *body)
{
    struct output *output = &protocol->output;
    write_reply_header(output->bytes + output->end, id, reply);
    output->end += PACKET_HEADER_BYTES;
    output_add(output, body, reply.body_len);
}

/* A success without a body; a quiet request has none. */
static inline void
add_success(struct protocol *protocol, struct packet_id id, bool quiet, uint64_t cas)
{
    if (!quiet) {
        add_reply(protocol, id, (struct reply){.cas = cas}, "");
    }
}

/* Errors are told to quiet requests, too. */
void add_error(struct protocol *protocol, struct packet_id id, enum status status);
void add_error_text(struct protocol *protocol, struct packet_id id, enum status status,
                    const char *text);

#endif
