/* See run_segment.h. */
#include "mem/run_segment.h"

#include "base/xxh64.h"
#include "mem/config_table.h"
#include "mem/conn_table.h"
#include "mem/logring.h"
#include "mem/populate.h"
#include "mem/prefix_table.h"
#include "mem/track.h"

#include <stdio.h>
#include <string.h>

const char *const binding_names[BINDING_COUNT] = {
    [BINDING_AUTO] = "auto-negotiate",
    [BINDING_ASCII] = "ascii",
    [BINDING_BINARY] = "binary",
};

static uint64_t
place(uint64_t *at, uint64_t bytes, uint64_t alignment)
{
    uint64_t offset = round_up(*at, alignment);
    *at = offset + bytes;
    return offset;
}

void
run_plan(const struct segment_settings *settings, uint32_t shard_count, uint64_t system_page_bytes,
         struct run_head *run)
{
    memset(run, 0, sizeof(*run));
    run->log_ring_bytes = logring_bytes(settings->worker_logbuf_bytes);
    uint64_t at = sizeof(struct run_head);
    run->slots_at = place(&at, (uint64_t)SLOT_COUNT * sizeof(struct process_slot), 4096);
    run->locks_at = place(&at, (uint64_t)shard_count * sizeof(struct shard_lock), 4096);
    run->logs_at = place(&at, (uint64_t)SLOT_COUNT * run->log_ring_bytes, 4096);
    run->prefixes_at = place(&at, prefix_table_bytes(), 4096);
    run->conns_at = place(&at, conn_table_bytes(settings), 4096);
    run->configs_at = place(&at, config_table_bytes(), 4096);
    /* Other nodes map this part alone. */
    run->tracks_at = place(&at, track_bytes(), system_page_bytes);
    run->bytes = round_up(at, system_page_bytes);
}

/* Sizes, and the mutex as its library makes it: two libraries, or two versions of one, may attach
 * to the same node if these agree. */
static uint32_t
run_fingerprint(void)
{
    struct shared_lock lock;
    memset(&lock, 0, sizeof(lock));
    lock_init(&lock);
    const uint64_t facts[] = {
        SEGMENT_LAYOUT_VERSION,
        sizeof(struct run_head),
        sizeof(struct process_slot),
        sizeof(struct shard_lock),
        sizeof(struct segment_settings),
        sizeof(struct growth),
        sizeof(struct config_words),
        COUNTER_COUNT,
        sizeof(struct class_counters),
        sizeof(pthread_mutex_t),
        xxh64((const uint8_t *)&lock, sizeof(lock), 0),
    };
    return (uint32_t)xxh64((const uint8_t *)facts, sizeof(facts), 0);
}

uint64_t
run_constants_check(const struct run_head *run)
{
    return xxh64((const uint8_t *)run, offsetof(struct run_head, constants_check), 0);
}

void
run_fill(struct run_head *run, const struct run_head *plan, const struct superblock *superblock,
         const struct segment_settings *settings)
{
    *run = *plan;
    run->layout_version = SEGMENT_LAYOUT_VERSION;
    run->fingerprint = run_fingerprint();
    run->data_check = superblock->constants_check;
    run->settings = *settings;
    run->boot_settings = *settings;
    lock_init(&run->growth.grow_lock);
    lock_init(&run->configs.lock);
    atomic_store(&run->growth.limit_check, ~settings->memory_limit_bytes);
    struct shard_lock *locks = (struct shard_lock *)(void *)((uint8_t *)run + run->locks_at);
    for (uint32_t i = 0; i < superblock->shard_count; i++) {
        lock_init(&locks[i].lock);
    }
    memcpy(run->magic, RUN_MAGIC, sizeof(RUN_MAGIC));
    run->constants_check = run_constants_check(run);
}

bool
run_refuse(const struct run_head *run, uint64_t bytes, char *sentence)
{
    if (memcmp(run->magic, RUN_MAGIC, sizeof(RUN_MAGIC)) != 0) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX, "this is no segment of a node");
    } else if (run->layout_version != SEGMENT_LAYOUT_VERSION) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the node's segment has layout version %u and this memcachepy reads %u: use the "
                 "same release as the node",
                 run->layout_version, SEGMENT_LAYOUT_VERSION);
    } else if (run->fingerprint != run_fingerprint()) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the node's segment was made by another build (%08x) than this memcachepy (%08x): "
                 "its sizes or its mutexes differ; use the node's own environment",
                 run->fingerprint, run_fingerprint());
    } else if (run->bytes != bytes) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the node's segment says it has %llu bytes and has %llu",
                 (unsigned long long)run->bytes, (unsigned long long)bytes);
    } else if (run->constants_check != run_constants_check(run)) {
        snprintf(sentence, SEGMENT_SENTENCE_MAX,
                 "the node's segment is damaged: another process has written over its head; "
                 "restart the node");
    } else {
        return false;
    }
    return true;
}

bool
run_populate(int fd, uint8_t *base, const struct run_head *plan, uint32_t shard_count,
             unsigned slot_count)
{
    return populate(fd, base, 0, sizeof(struct run_head)) &&
           populate(fd, base, plan->slots_at, (uint64_t)slot_count * sizeof(struct process_slot)) &&
           populate(fd, base, plan->locks_at, (uint64_t)shard_count * sizeof(struct shard_lock)) &&
           populate(fd, base, plan->tracks_at, TRACK_HEAD_PRESENT_BYTES);
}
