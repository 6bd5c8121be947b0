/* Threads as the processes of a node, over one mapping, for ThreadSanitizer: readers copy and
 * confirm while writers store, touch, delete, evict and make the table grow, and a maintainer
 * sweeps what expires and gives memory back. Values are one byte repeated, so that a tear shows.
 *
 * usage: threads SECONDS SEED */
#include "settings.h"

#include "mem/config_table.h"
#include "store/check.h"
#include "store/store.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREADS 4
#define KEY_COUNT 40000
#define LIMIT_MB 16
#define LIMIT_LOW_MB 8
#define VALUE_MAX 30000

static struct segment *segment;
static _Atomic bool stop;
static _Atomic unsigned torn;

struct worker {
    pthread_t thread;
    unsigned slot;
    uint64_t random;
};

static uint64_t
draw(struct worker *worker, uint64_t below)
{
    worker->random ^= worker->random << 13;
    worker->random ^= worker->random >> 7;
    worker->random ^= worker->random << 17;
    return worker->random % below;
}

/* Racy on purpose until it is confirmed; named in tsan.supp. */
static __attribute__((noinline)) void
copy_unconfirmed(uint8_t *out, const uint8_t *from, uint32_t len)
{
    memcpy(out, from, len);
}

static void
expect_whole(const uint8_t *bytes, uint32_t len)
{
    for (uint32_t i = 1; i < len; i++) {
        if (bytes[i] != bytes[0]) {
            atomic_fetch_add(&torn, 1);
            return;
        }
    }
}

static void
read_key(struct store *store, const struct key *key, uint8_t *out)
{
    struct view view = {0};
    enum view_result result;
    do {
        result = store_view(store, key, &view);
        if (result != VIEW_HIT) {
            return;
        }
        copy_unconfirmed(out, view.value, view.value_len);
    } while (!store_view_confirm(store, &view, VIEW_BUMP));
    expect_whole(out, view.value_len);
}

/* The locked form of a read, which may touch, create or mark what it finds. */
static void
fetch_key(struct worker *worker, struct store *store, const struct key *key, uint8_t *out)
{
    struct fetch fetch = {.key = *key,
                          .wants_value = draw(worker, 2),
                          .bump = VIEW_GET,
                          .touches = draw(worker, 8) == 0,
                          .expire = store_expiry(store, 50),
                          .wins = true,
                          .vivifies = draw(worker, 4) == 0};
    struct view view;
    switch (store_fetch(store, &fetch, &view)) {
    case FETCH_HIT:
        memcpy(out, view.value, view.value_len);
        expect_whole(out, view.value_len);
        if (!store_view_confirm(store, &view, VIEW_GET)) {
            atomic_fetch_add(&torn, 1);
        }
        return;
    case FETCH_HIT_LARGE: {
        struct iovec piece;
        if (fetch.pin.held && store_pin_pieces(store, &fetch.pin, &piece, 1) == 1) {
            expect_whole(piece.iov_base, (uint32_t)piece.iov_len);
        }
        store_unpin(store, &fetch.pin);
        return;
    }
    case FETCH_MISS:
    case FETCH_EXPIRED:
    case FETCH_FLUSHED:
    case FETCH_WAIT:
    case FETCH_BUSY:
        return;
    }
}

/* A few configurations, of one byte repeated, too. */
static void
configure(struct worker *worker, uint8_t *buffer)
{
    const char key[] = {(char)('a' + draw(worker, 3))};
    struct config_view view;
    switch (draw(worker, 6)) {
    case 0:
        (void)!config_delete(segment, key, 1);
        return;
    case 1: {
        struct config_entry entry = {key, buffer, 1, (uint32_t)draw(worker, 300), 0};
        memset(buffer, (int)draw(worker, 256), entry.value_len);
        (void)!config_set(segment, &entry);
        return;
    }
    default:
        if (config_read(segment, key, 1, buffer, &view) == CONFIG_OK) {
            expect_whole(buffer, view.value_len);
        }
    }
}

static void *
run(void *argument)
{
    struct worker *worker = argument;
    struct store *store = store_open(segment, worker->slot);
    uint8_t *buffer = malloc(CONFIG_VALUE_LEN_MAX);
    while (!atomic_load(&stop)) {
        char text[24];
        struct key key;
        int len = sprintf(text, "key%d", (int)draw(worker, KEY_COUNT));
        key_init(store, &key, text, (uint32_t)len);
        switch (draw(worker, 100) == 0 ? 12 : draw(worker, 12)) {
        case 0:
            (void)!store_delete(store, &key);
            break;
        case 1:
            (void)!store_touch(store, &key, store_expiry(store, (int64_t)draw(worker, 100)));
            break;
        case 2:
        case 3:
        case 6:
        case 7: {
            struct put put = {.key = key,
                              .mode = draw(worker, 4) == 0 ? PUT_ADD : PUT_SET,
                              .expire = store_expiry(store, draw(worker, 3) == 0 ? 6 : 0),
                              .value = buffer,
                              .value_len =
                                  (uint32_t)(draw(worker, 20) == 0 ? draw(worker, VALUE_MAX)
                                                                   : draw(worker, 200))};
            memset(buffer, (int)draw(worker, 256), put.value_len);
            (void)!store_put(store, &put);
            break;
        }
        case 4: {
            struct removal removal = {.key = key,
                                      .invalidates = draw(worker, 8) > 0,
                                      .empties = draw(worker, 8) == 0,
                                      .sets_expire = draw(worker, 8) == 0,
                                      .expire = store_expiry(store, 50)};
            (void)!store_remove(store, &removal);
            break;
        }
        case 12:
            configure(worker, buffer);
            break;
        case 5:
            fetch_key(worker, store, &key, buffer);
            break;
        default:
            read_key(store, &key, buffer);
        }
    }
    free(buffer);
    store_close(store);
    return NULL;
}

/* Lets time fly, sweeps, and moves the limit up and down. */
static void *
maintain(void *argument)
{
    (void)argument;
    struct store *store = store_open(segment, SLOT_MAINTAINER);
    for (unsigned i = 0; !atomic_load(&stop); i++) {
        atomic_fetch_add(&segment->run->advance_s, 1);
        (void)!store_set_memory_limit(store, (uint64_t)(i % 8 < 4 ? LIMIT_MB : LIMIT_LOW_MB) << 20);
        while (store_maintain(store) && !atomic_load(&stop)) {
        }
    }
    store_close(store);
    return NULL;
}

static void
print_problem(void *context, const char *sentence)
{
    (void)context;
    puts(sentence);
}

int
main(int argc, char **argv)
{
    if (argc < 3) {
        return 2;
    }
    struct segment_settings settings = small_settings(LIMIT_MB << 20, THREADS);
    char sentence[SEGMENT_SENTENCE_MAX];
    struct worker workers[THREADS];
    if (store_create(&settings, &segment, sentence) != SEGMENT_OK) {
        return 2;
    }
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].slot = SLOT_WORKER_FIRST + i;
        workers[i].random = strtoull(argv[2], NULL, 10) * 31 + i + 1;
        pthread_create(&workers[i].thread, NULL, run, &workers[i]);
    }
    pthread_t maintainer;
    pthread_create(&maintainer, NULL, maintain, NULL);
    struct timespec span = {.tv_sec = atoi(argv[1])};
    nanosleep(&span, NULL);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    pthread_join(maintainer, NULL);
    struct store *store = store_open(segment, SLOT_SUPERVISOR);
    unsigned problems = store_check(store, print_problem, NULL);
    struct store_sums sums;
    store_sum(store, &sums);
    printf("%llu evicted, %llu reclaimed\n", (unsigned long long)sums.evictions,
           (unsigned long long)sums.reclaimed);
    problems += sums.evictions == 0 || sums.reclaimed == 0;
    store_close(store);
    segment_close(segment);
    printf("%u torn, %u problems\n", torn, problems);
    return torn != 0 || problems != 0;
}
