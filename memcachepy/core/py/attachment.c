/* See attachment.h. */
#include "py/attachment.h"

#include "store/own.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Far less than the second in which the store's times count. */
#define LOOK_EVERY_NS 10000000u

static struct own_fd
own_fd(int fd)
{
    struct stat file = {0};
    struct own_fd own = {.fd = fd};
    if (fstat(fd, &file) == 0) {
        own.device = file.st_dev;
        own.inode = file.st_ino;
    }
    return own;
}

static bool
is_still_own(const struct own_fd *own)
{
    struct stat file;
    return fstat(own->fd, &file) == 0 && file.st_dev == own->device && file.st_ino == own->inode;
}

/* NULL with errno set. */
static uint32_t *
map_page_of_ours(void)
{
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    uint32_t *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return NULL;
    }
    if (madvise(page, bytes, MADV_WIPEONFORK) != 0) {
        munmap(page, bytes);
        return NULL;
    }
    *page = 1;
    return page;
}

static bool
is_attached_slot(const struct segment *segment, unsigned slot)
{
    return slot >= SLOT_WORKER_FIRST + segment->run->boot_settings.worker_count &&
           slot < segment_slot_count(segment);
}

bool
attachment_open(struct attachment *attachment, int data_fd, int run_fd, unsigned slot,
                int connection_fd, const void *farewell, size_t farewell_len, char *sentence)
{
    struct segment *segment;
    if (farewell_len > FAREWELL_BYTES_MAX) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "a farewell has at most %d bytes",
                 FAREWELL_BYTES_MAX);
        return false;
    }
    if (store_attach(data_fd, run_fd, &segment, sentence) != SEGMENT_OK) {
        return false;
    }
    if (!is_attached_slot(segment, slot)) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "slot %u is not one of an attached process", slot);
        segment_close(segment);
        return false;
    }
    uint32_t *ours = map_page_of_ours();
    if (ours == NULL) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "no page that a fork wipes can be had: %s",
                 strerror(errno));
        segment_close(segment);
        return false;
    }
    *attachment = (struct attachment){
        .segment = segment,
        .store = store_open(segment, slot),
        .ours = ours,
        .data_fd = own_fd(segment->fd),
        .run_fd = own_fd(segment->run_fd),
        .connection = own_fd(connection_fd),
        .farewell_len = farewell_len,
    };
    memcpy(attachment->farewell, farewell, farewell_len);
    return true;
}

void
attachment_close(struct attachment *attachment)
{
    if (attachment->segment == NULL) {
        return;
    }
    bool forked = *attachment->ours == 0;
    store_close(attachment->store);
    if (!is_still_own(&attachment->data_fd)) {
        attachment->segment->fd = -1;
    }
    if (!is_still_own(&attachment->run_fd)) {
        attachment->segment->run_fd = -1;
    }
    segment_close(attachment->segment);
    munmap(attachment->ours, sizeof(*attachment->ours));
    attachment->segment = NULL;
    attachment->store = NULL;
    if (is_still_own(&attachment->connection)) {
        if (!forked) {
            ssize_t sent = send(attachment->connection.fd, attachment->farewell,
                                attachment->farewell_len, MSG_DONTWAIT | MSG_NOSIGNAL);
            (void)sent;
        }
        close(attachment->connection.fd);
    }
}

bool
attachment_look(struct attachment *attachment, uint64_t now_ns)
{
    const struct run_head *run = attachment->segment->run;
    char byte;
    store_tick(attachment->store);
    store_look_at_own(attachment->store, false);
    attachment->look_at_ns = now_ns + LOOK_EVERY_NS;
    if (atomic_load_explicit(&run->node_state, memory_order_acquire) == NODE_STOPPING) {
        return false;
    }
    /* The end of the connection is the node's. */
    ssize_t received = recv(attachment->connection.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return received > 0 || (received < 0 && (errno == EAGAIN || errno == EINTR));
}
