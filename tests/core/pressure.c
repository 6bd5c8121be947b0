/* Several processes store values of many sizes, up to nearly a megabyte, in a cache much too small
 * for all of them: every set finds room, by eviction or from another shard, and the segment stays
 * sound.
 *
 * usage: pressure MEGABYTES CHILDREN SETS VALUE_MAX SEED */
#include "settings.h"

#include "store/check.h"
#include "store/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY_COUNT 300

static uint64_t random_state;

static uint64_t
draw(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

static void
print_problem(void *context, const char *sentence)
{
    (void)context;
    puts(sentence);
}

static int
child(struct segment *segment, unsigned index, unsigned sets, uint32_t value_max)
{
    const uint32_t lengths[] = {10, 500, 5000, 30000, value_max};
    segment_claim_slot(segment, SLOT_WORKER_FIRST + index);
    struct store *store = store_open(segment, SLOT_WORKER_FIRST + index);
    uint8_t *value = calloc(1, value_max);
    unsigned refused = 0;
    for (unsigned i = 0; i < sets; i++) {
        char text[32];
        struct put put = {.value = value};
        int len = sprintf(text, "key-%u-%d", index, (int)draw(KEY_COUNT));
        key_init(store, &put.key, text, (uint32_t)len);
        put.value_len = draw(2) ? lengths[draw(5)] : (uint32_t)draw(value_max);
        refused += store_put(store, &put) != PUT_STORED;
    }
    free(value);
    store_close(store);
    if (refused != 0) {
        printf("child %u: %u of %u sets were refused\n", index, refused, sets);
        fflush(stdout);
    }
    return refused != 0;
}

int
main(int argc, char **argv)
{
    if (argc < 6) {
        return 2;
    }
    struct segment_settings settings = small_settings(strtoull(argv[1], NULL, 10) << 20, 8);
    unsigned children = (unsigned)atoi(argv[2]);
    struct segment *segment;
    char sentence[SEGMENT_SENTENCE_MAX];
    if (store_create(&settings, &segment, sentence) != SEGMENT_OK) {
        return 2;
    }
    for (unsigned i = 0; i < children; i++) {
        if (fork() == 0) {
            random_state = (strtoull(argv[5], NULL, 10) + 1) * 7919 + i;
            _exit(child(segment, i, (unsigned)atoi(argv[3]), (uint32_t)atoi(argv[4])));
        }
    }
    int failed = 0, status;
    while (wait(&status) > 0) {
        failed |= status;
    }
    struct store *store = store_open(segment, SLOT_SUPERVISOR);
    unsigned problems = store_check(store, print_problem, NULL);
    store_close(store);
    segment_close(segment);
    printf("%s, %u problems\n", failed ? "failed" : "all stored", problems);
    return failed != 0 || problems != 0;
}
