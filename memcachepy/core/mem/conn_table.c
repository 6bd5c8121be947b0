/* See conn_table.h. */
#include "mem/conn_table.h"

#include "base/check.h"
#include "mem/populate.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* Entries get memory so many at a time: a system page. */
#define STEP 64

uint64_t
conn_table_bytes(const struct segment_settings *settings)
{
    return (uint64_t)(1 + settings->worker_count) * conn_table_capacity(settings) *
           sizeof(struct conn_entry);
}

static struct conn_entry *
entries_of(const struct segment *segment, unsigned slot_index)
{
    const struct run_head *run = segment->run;
    unsigned process = slot_index == SLOT_ACCEPTOR ? 0 : slot_index - SLOT_WORKER_FIRST + 1;
    DCHECK(process <= run->boot_settings.worker_count);
    struct conn_entry *entries = run_at(segment, run->conns_at);
    return entries + (size_t)process * conn_table_capacity(&run->boot_settings);
}

/* Entries that have memory. */
static uint32_t
entries_present(const struct segment *segment, unsigned slot_index)
{
    uint32_t high =
        atomic_load_explicit(&segment->slots[slot_index].conn_high, memory_order_acquire);
    uint32_t capacity = conn_table_capacity(&segment->run->boot_settings);
    return high < capacity ? high : capacity;
}

void
conn_table_clear(const struct segment *segment, unsigned slot_index)
{
    struct conn_entry *entries = entries_of(segment, slot_index);
    uint32_t high = entries_present(segment, slot_index);
    for (uint32_t i = 0; i < high; i++) {
        conn_table_close(&entries[i]);
    }
}

/* Whether the entry may be touched; takes memory for it if not. */
static bool
has_memory(const struct segment *segment, unsigned slot_index, uint32_t index)
{
    const struct run_head *run = segment->run;
    _Atomic uint32_t *high = &segment->slots[slot_index].conn_high;
    uint32_t from = entries_present(segment, slot_index);
    if (index < from) {
        return true;
    }
    if (index >= conn_table_capacity(&run->boot_settings)) {
        return false;
    }
    uint32_t to = (index / STEP + 1) * STEP;
    uint64_t at =
        (uint64_t)((uint8_t *)(entries_of(segment, slot_index) + from) - segment->run_base);
    if (!populate(segment->run_fd, segment->run_base, at,
                  (to - from) * sizeof(struct conn_entry))) {
        return false;
    }
    /* Pairs with the acquire load in conn_table_next(). */
    atomic_store_explicit(high, to, memory_order_release);
    return true;
}

static void
describe(struct conn_address *address, const struct sockaddr_storage *socket_address)
{
    *address = (struct conn_address){.family = socket_address->ss_family};
    if (socket_address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)socket_address;
        address->port = ntohs(in->sin_port);
        memcpy(address->bytes, &in->sin_addr, sizeof(in->sin_addr));
    } else if (socket_address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)socket_address;
        address->port = ntohs(in6->sin6_port);
        memcpy(address->bytes, &in6->sin6_addr, sizeof(in6->sin6_addr));
    }
}

struct conn_entry *
conn_table_open(const struct segment *segment, unsigned slot_index, int fd, uint32_t state,
                uint32_t now_s)
{
    if (!has_memory(segment, slot_index, (uint32_t)fd)) {
        return NULL;
    }
    struct conn_entry *entry = &entries_of(segment, slot_index)[fd];
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof(address);
    conn_table_close(entry);
    uint32_t version = atomic_load_explicit(&entry->version, memory_order_relaxed);
    if (getsockname(fd, (struct sockaddr *)&address, &len) == 0) {
        describe(&entry->local, &address);
    }
    memset(&address, 0, sizeof(address));
    len = sizeof(address);
    if (state != CONN_STATE_LISTENING && getpeername(fd, (struct sockaddr *)&address, &len) == 0) {
        describe(&entry->peer, &address);
    }
    atomic_store_explicit(&entry->state, state, memory_order_relaxed);
    atomic_store_explicit(&entry->command_at_s, now_s, memory_order_relaxed);
    /* Pairs with the acquire load in conn_table_next(). */
    atomic_store_explicit(&entry->version, version + 1, memory_order_release);
    return entry;
}

void
conn_table_close(struct conn_entry *entry)
{
    uint32_t version = atomic_load_explicit(&entry->version, memory_order_relaxed);
    if (version & 1) {
        atomic_store_explicit(&entry->version, version + 1, memory_order_relaxed);
        /* Pairs with the acquire fence in conn_table_next(): who copies what is written from now
         * on sees the version. */
        atomic_thread_fence(memory_order_release);
    }
}

static RACY_READ bool
copy_entry(const struct conn_entry *entry, struct conn_entry *copy)
{
    uint32_t version = atomic_load_explicit(&entry->version, memory_order_acquire);
    if ((version & 1) == 0) {
        return false;
    }
    memcpy(copy, entry, sizeof(*copy));
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&entry->version, memory_order_relaxed) == version;
}

bool
conn_table_next(const struct segment *segment, unsigned slot_index, int *fd,
                struct conn_entry *copy)
{
    const struct process_slot *slot = &segment->slots[slot_index];
    uint32_t high = entries_present(segment, slot_index);
    const struct conn_entry *entries = entries_of(segment, slot_index);
    if (atomic_load_explicit(&slot->serving, memory_order_acquire) == 0) {
        return false;
    }
    for (uint32_t i = (uint32_t)*fd; i < high; i++) {
        if (copy_entry(&entries[i], copy)) {
            *fd = (int)i;
            return true;
        }
    }
    return false;
}

bool
conn_address_is_local(const struct conn_address *address)
{
    /* ::1, and 127.0.0.0/8 as it is seen by a socket of both families. */
    static const uint8_t loopback[16] = {[15] = 1};
    static const uint8_t mapped[13] = {[10] = 0xff, [11] = 0xff, [12] = 127};
    switch (address->family) {
    case AF_UNIX:
        return true;
    case AF_INET:
        return address->bytes[0] == 127;
    case AF_INET6:
        return memcmp(address->bytes, loopback, sizeof(loopback)) == 0 ||
               memcmp(address->bytes, mapped, sizeof(mapped)) == 0;
    default:
        return false; /* Nobody knows. */
    }
}

void
conn_address_format(const struct segment_settings *settings, const struct conn_address *address,
                    char text[CONN_ADDRESS_TEXT_MAX])
{
    char host[INET6_ADDRSTRLEN] = "";
    switch (address->family) {
    case AF_INET:
        inet_ntop(AF_INET, address->bytes, host, sizeof(host));
        snprintf(text, CONN_ADDRESS_TEXT_MAX, "tcp:%s:%u", host, address->port);
        return;
    case AF_INET6:
        inet_ntop(AF_INET6, address->bytes, host, sizeof(host));
        snprintf(text, CONN_ADDRESS_TEXT_MAX, "tcp6:[%s]:%u", host, address->port);
        return;
    default:
        snprintf(text, CONN_ADDRESS_TEXT_MAX, "unix:%s", settings->unix_socket);
    }
}
