/* What other processes may know of a process's sockets: for `stats conns`.
 *
 *   the acceptor's entries | worker 0's | worker 1's | …      an entry per descriptor
 *
 * Only the process itself writes its entries; they get memory a system page at a time, as
 * descriptors with higher numbers come. Who reads them copies an entry and looks whether it is
 * still the same one. What a dead process has left is harmless: nobody looks while the slot has no
 * process, and the next one begins with closed entries. */
#ifndef MEM_CONN_TABLE_H
#define MEM_CONN_TABLE_H

#include "mem/segment.h"

/* The descriptors a process has beside its connections fit in, too. */
#define CONN_TABLE_SPARE 192

/* Of a socket's end. */
struct conn_address {
    uint16_t family; /* AF_INET, AF_INET6, AF_UNIX: the node's only one; 0: unknown */
    uint16_t port;
    uint8_t bytes[16]; /* as in the socket address */
};

/* [own] */
struct conn_entry {
    _Atomic uint32_t version;      /* odd: a connection; 0: never used */
    _Atomic uint32_t state;        /* as proto/conn.h names it */
    _Atomic uint32_t command_at_s; /* on the node's clock */
    _Atomic uint32_t unused;
    struct conn_address peer, local; /* [const] while the version is the same */
    uint8_t padding[8];
};
static_assert(sizeof(struct conn_entry) == 64, "layout change: bump SEGMENT_LAYOUT_VERSION");

/* Of a listening socket. */
#define CONN_STATE_LISTENING 0x100u
/* Its replies wait for the peer. */
#define CONN_STATE_WRITING 0x101u

/* Entries of one process. */
static inline uint32_t
conn_table_capacity(const struct segment_settings *settings)
{
    return (settings->conn_limit + CONN_TABLE_SPARE + 63) / 64 * 64;
}

/* Bytes of the part of the segment. */
uint64_t conn_table_bytes(const struct segment_settings *settings);

/* Closes what an earlier process left in the slot; before its process serves. */
void conn_table_clear(const struct segment *segment, unsigned slot_index);

/* Opens the entry of a socket. NULL: there is no memory for it; it is not shown. */
struct conn_entry *conn_table_open(const struct segment *segment, unsigned slot_index, int fd,
                                   uint32_t state, uint32_t now_s);
void conn_table_close(struct conn_entry *entry);

/* Copies the slot's next open entry from *fd on, and moves that to its descriptor. False: there
 * are no more. */
bool conn_table_next(const struct segment *segment, unsigned slot_index, int *fd,
                     struct conn_entry *copy) MUST_CHECK;

/* Whether it is this machine's: a loopback address or a UNIX socket. */
bool conn_address_is_local(const struct conn_address *address);

/* `tcp:127.0.0.1:11211`, `tcp6:[::1]:11211`, `unix:/run/cache.sock`. */
#define CONN_ADDRESS_TEXT_MAX (SETTING_TEXT_MAX + 8)
void conn_address_format(const struct segment_settings *settings,
                         const struct conn_address *address, char text[CONN_ADDRESS_TEXT_MAX]);

#endif
