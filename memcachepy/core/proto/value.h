/* Storage commands whose value is arriving, of every protocol: see value.c. Not for callers of
 * proto.
 */
#ifndef PROTO_VALUE_H
#define PROTO_VALUE_H

#include "proto/execute.h"
#include "proto/meta.h"

struct value_command;

/* What is said of a value that did not get as far as the store. */
enum value_refusal {
    VALUE_BAD_END,   /* It is not followed by its line end. */
    VALUE_TOO_LARGE, /* Larger than -I. */
    VALUE_ABORTED,   /* The memory it was being received in was needed by others. */
};

/* How the storage commands of one protocol are answered. Commands are answered once; both functions
 * look at nothing that lies in the input. */
struct value_words {
    unsigned end_len; /* Bytes of the line end that follows the value: 2, or 0 for none. */
    void (*result)(struct protocol *, const struct value_command *, enum put_result);
    void (*refusal)(struct protocol *, const struct value_command *, enum value_refusal);
};

/* What the replies to a packet repeat. */
struct packet_id {
    uint32_t opaque; /* As it came. */
    uint8_t opcode;
};

/* A storage command, as it is remembered until its value is there. */
struct value_command {
    struct put put; /* All but the value. */
    const struct value_words *words;
    struct packet_id packet;       /* Of the binary protocol. */
    const struct meta_reply *meta; /* ms: its own; copied if the value has to be awaited */
    bool noreply;
    /* What becomes of the whole value, if it is not stored and counted like any other. */
    void (*take)(struct protocol *, const struct value_command *, const uint8_t *value);
};

/* A value that is still arriving. */
struct pending {
    struct value_command command;
    struct meta_reply meta;
    struct upload upload;
    uint8_t *space; /* Uploads: where the next bytes go. */
    uint32_t space_len;
    uint32_t collect_len; /* Others: the value and its line end. */
    uint32_t collected;
    uint8_t key[MEMCACHED_KEY_LEN_MAX];
    uint8_t bytes[];
};

/* The input stands at the value's first byte; stores it, or awaits it. */
void value_begin(struct protocol *protocol, struct conn *conn, struct input *input,
                 struct value_command *command);

/* The same of a command that has a `take`, and whose value may lie in memory of the connection. */
void value_take(struct protocol *protocol, struct conn *conn, struct input *input,
                const struct value_command *command);

/* Of a command that was answered already: passes over its value and line end. */
void value_skip(struct conn *conn, const struct value_words *words, uint32_t value_len);

/* The steps of the states that conn.h names. */
enum step value_step(struct protocol *protocol, struct conn *conn, struct input *input) MUST_CHECK;
enum step value_upload_wait_step(struct protocol *protocol, struct conn *conn) MUST_CHECK;
enum step value_upload_step(struct protocol *protocol, struct conn *conn,
                            struct input *input) MUST_CHECK;
enum step value_end_step(struct protocol *protocol, struct conn *conn,
                         struct input *input) MUST_CHECK;

/* Bytes were put where conn_space() had pointed: into the value itself. */
void value_arrived(struct protocol *protocol, struct conn *conn, uint32_t len);

/* Whether an upload has space for its next bytes. Else value_upload_step() looks for some. */
bool value_has_space(struct protocol *protocol, struct conn *conn) MUST_CHECK;

/* Ends the upload with an error; the rest of its value is swallowed. */
void value_upload_fail(struct protocol *protocol, struct conn *conn, enum put_result result);

#endif
