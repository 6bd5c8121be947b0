/* See watch_log.h. */
#include "proto/watch_log.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

static void
write_entry(struct protocol *protocol, struct log_entry *entry)
{
    entry->head.fd_number = protocol->fd_number;
    logring_write(store_segment(protocol->store), store_slot(protocol->store), entry);
}

static void
set_text(struct log_entry *entry, const void *text, size_t len)
{
    entry->head.text_len = (uint8_t)(len < LOG_TEXT_MAX ? len : LOG_TEXT_MAX);
    memcpy(entry->text, text, entry->head.text_len);
}

void
watch_log_get(struct protocol *protocol, const struct key *key, enum watch_found found,
              uint32_t client_flags, uint32_t value_len)
{
    struct log_entry entry = {.head = {.kind = LOG_ITEM_GET, .log_class = LOG_FETCHERS}};
    entry.head.status = (uint8_t)found;
    if (found == WATCH_FOUND) {
        entry.head.class_id =
            (uint8_t)store_class_id(protocol->store, key->len, client_flags, value_len);
        entry.head.value_len = value_len;
    }
    set_text(&entry, key->bytes, key->len);
    write_entry(protocol, &entry);
}

void
watch_log_lookup(struct protocol *protocol, const struct key *key)
{
    struct view view = {0};
    for (;;) {
        enum watch_found found = WATCH_NOT_FOUND;
        switch (store_peek(protocol->store, key, &view)) {
        case VIEW_HIT:
            if (!store_view_confirm(protocol->store, &view, VIEW_PEEK)) {
                continue;
            }
            found = WATCH_FOUND;
            break;
        case VIEW_HIT_LARGE:
            found = WATCH_FOUND;
            break;
        case VIEW_MISS:
            break;
        case VIEW_EXPIRED:
            found = WATCH_EXPIRED;
            break;
        case VIEW_FLUSHED:
            found = WATCH_FLUSHED;
            break;
        case VIEW_BUSY:
            return;
        }
        watch_log_get(protocol, key, found, view.client_flags, view.value_len);
        return;
    }
}

void
watch_log_put(struct protocol *protocol, const struct put *put, enum put_result result)
{
    store_tell_put(protocol->store, put, result, protocol->fd_number);
}

static void
write_conn_event(struct protocol *protocol, const struct conn *conn, int fd,
                 struct log_entry *entry)
{
    struct sockaddr_storage peer = {0};
    socklen_t len = sizeof(peer);
    char text[INET6_ADDRSTRLEN] = "unix";
    if (getpeername(fd, (struct sockaddr *)&peer, &len) == 0) {
        if (peer.ss_family == AF_INET) {
            const struct sockaddr_in *v4 = (const struct sockaddr_in *)&peer;
            inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
            entry->head.port = ntohs(v4->sin_port);
        } else if (peer.ss_family == AF_INET6) {
            const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&peer;
            inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
            entry->head.port = ntohs(v6->sin6_port);
        }
    }
    entry->head.command = peer.ss_family == AF_INET || peer.ss_family == AF_INET6;
    set_text(entry, text, strlen(text));
    protocol->fd_number = conn->number;
    write_entry(protocol, entry);
}

void
watch_log_conn_new(struct protocol *protocol, const struct conn *conn, int fd)
{
    struct log_entry entry = {.head = {.kind = LOG_CONN_NEW, .log_class = LOG_CONNEVENTS}};
    write_conn_event(protocol, conn, fd, &entry);
}

void
watch_log_conn_close(struct protocol *protocol, const struct conn *conn, int fd,
                     enum watch_close reason)
{
    struct log_entry entry = {.head = {.kind = LOG_CONN_CLOSE, .log_class = LOG_CONNEVENTS}};
    entry.head.status = (uint8_t)reason;
    write_conn_event(protocol, conn, fd, &entry);
}
