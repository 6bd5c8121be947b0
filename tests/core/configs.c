/* Configurations: limits and shortages, readers that meet writers, and writers that are killed, at
 * each crash point in turn and at random. Values say themselves whether they are whole.
 *
 *     configs SEED KILLS */
#include "expect.h"

#include "base/crash.h"
#include "base/clock.h"
#include "mem/config_table.h"
#include "mem/populate.h"
#include "store/store.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Linked in place of populate(). */
bool __real_populate(int fd, uint8_t *base, uint64_t offset, uint64_t bytes);
bool __wrap_populate(int fd, uint8_t *base, uint64_t offset, uint64_t bytes);

static bool short_of_memory;

bool
__wrap_populate(int fd, uint8_t *base, uint64_t offset, uint64_t bytes)
{
    return !short_of_memory && __real_populate(fd, base, offset, bytes);
}

static struct segment *segment;
static uint64_t random_state;

static uint32_t
draw(uint32_t bound)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % bound;
}

static enum config_result
set(const char *key, uint32_t client_flags, const void *value, uint32_t value_len)
{
    struct config_entry entry = {key, value, (uint32_t)strlen(key), value_len, client_flags};
    return config_set(segment, &entry);
}

static enum config_result
delete_key(const char *key)
{
    return config_delete(segment, key, (uint32_t)strlen(key));
}

static enum config_result
read_key(const char *key, uint8_t *out, struct config_view *view)
{
    return config_read(segment, key, (uint32_t)strlen(key), out, view);
}

/* A value of which every byte follows from the flags, and the length, too. */
static uint32_t
pattern(uint8_t *value, uint32_t client_flags)
{
    uint32_t len = client_flags % 5 == 0 ? CONFIG_VALUE_LEN_MAX : client_flags * 37 % 9000;
    for (uint32_t i = 0; i < len; i++) {
        value[i] = (uint8_t)(client_flags + i / 7);
    }
    return len;
}

static enum config_result
set_pattern(const char *key, uint32_t client_flags)
{
    static uint8_t value[CONFIG_VALUE_LEN_MAX];
    uint32_t len = pattern(value, client_flags);
    return set(key, client_flags, value, len);
}

/* Reads the key and looks whether it is whole; its flags. */
static uint32_t
expect_whole(const char *key)
{
    static uint8_t value[CONFIG_VALUE_LEN_MAX], wanted[CONFIG_VALUE_LEN_MAX];
    struct config_view view;
    EXPECT(read_key(key, value, &view) == CONFIG_OK);
    EXPECT(view.value_len == pattern(wanted, view.client_flags));
    EXPECT(memcmp(value, wanted, view.value_len) == 0);
    return view.client_flags;
}

/* ---- one process ---------------------------------------------------------------------------- */

static void
entries_are_found_by_their_keys(void)
{
    static uint8_t value[CONFIG_VALUE_LEN_MAX + 1];
    struct config_view view;
    EXPECT(read_key("cluster", value, &view) == CONFIG_NOT_FOUND);
    EXPECT(set("cluster", 7, "abc", 3) == CONFIG_OK);
    EXPECT(read_key("cluster", value, &view) == CONFIG_OK);
    EXPECT(view.client_flags == 7 && view.value_len == 3 && memcmp(value, "abc", 3) == 0);
    uint64_t version = config_version(&view);
    EXPECT(version != 0);
    EXPECT(read_key("cluste", value, &view) == CONFIG_NOT_FOUND);
    EXPECT(set("cluste", 1, "", 0) == CONFIG_OK && config_count(segment) == 2);
    EXPECT(read_key("cluste", value, &view) == CONFIG_OK && view.value_len == 0);
    EXPECT(set("cluster", 4294967295u, "defg", 4) == CONFIG_OK && config_count(segment) == 2);
    EXPECT(read_key("cluster", value, &view) == CONFIG_OK);
    EXPECT(view.client_flags == 4294967295u && memcmp(value, "defg", 4) == 0);
    EXPECT(config_version(&view) != version);
    EXPECT(set("cluster", 0, value, CONFIG_VALUE_LEN_MAX + 1) == CONFIG_TOO_LONG);
    EXPECT(read_key("cluster", value, &view) == CONFIG_OK && view.value_len == 4);
    EXPECT(delete_key("cluster") == CONFIG_OK && delete_key("cluster") == CONFIG_NOT_FOUND);
    EXPECT(read_key("cluster", value, &view) == CONFIG_NOT_FOUND && config_count(segment) == 1);
    EXPECT(delete_key("cluste") == CONFIG_OK);
}

static void
there_are_sixteen(void)
{
    char key[CONFIG_KEY_LEN_MAX + 1];
    struct config_view view;
    unsigned index = 0, seen = 0;
    memset(key, 'k', sizeof(key));
    key[CONFIG_KEY_LEN_MAX] = '\0';
    for (unsigned i = 0; i < CONFIG_COUNT_MAX; i++) {
        key[0] = (char)('a' + i);
        EXPECT(set_pattern(key, 5 * i) == CONFIG_OK);
    }
    EXPECT(set("more", 0, "x", 1) == CONFIG_TOO_MANY);
    for (unsigned i = 0; i < CONFIG_COUNT_MAX; i++) {
        key[0] = (char)('a' + i);
        EXPECT(set_pattern(key, 5 * i + 5) == CONFIG_OK && expect_whole(key) == 5 * i + 5);
    }
    while (config_next(segment, &index, &view)) {
        EXPECT(view.key_len == CONFIG_KEY_LEN_MAX && view.copy->key[0] == 'a' + seen);
        seen++;
    }
    EXPECT(seen == CONFIG_COUNT_MAX);
    key[0] = 'c';
    EXPECT(delete_key(key) == CONFIG_OK && set("more", 0, "x", 1) == CONFIG_OK);
    EXPECT(delete_key("more") == CONFIG_OK);
    for (unsigned i = 0; i < CONFIG_COUNT_MAX; i++) {
        key[0] = (char)('a' + i);
        EXPECT(delete_key(key) == (i == 2 ? CONFIG_NOT_FOUND : CONFIG_OK));
    }
    EXPECT(config_count(segment) == 0);
}

static void
a_shortage_leaves_what_was_there(void)
{
    EXPECT(set_pattern("k", 1) == CONFIG_OK);
    short_of_memory = true;
    EXPECT(set_pattern("k", 2) == CONFIG_NO_MEMORY && expect_whole("k") == 1);
    short_of_memory = false;
    EXPECT(set_pattern("k", 3) == CONFIG_OK && expect_whole("k") == 3);
    EXPECT(delete_key("k") == CONFIG_OK);
}

static void
keys_that_would_part_a_line_are_not_sound(void)
{
    EXPECT(config_key_is_sound("cluster", 7) && config_key_is_sound("\xc3\xa4", 2));
    EXPECT(!config_key_is_sound("a b", 3) && !config_key_is_sound("a\n", 2));
    EXPECT(!config_key_is_sound("a\0b", 3) && !config_key_is_sound("\x7f", 1));
}

/* ---- several -------------------------------------------------------------------------------- */

static void
expect_exit_0(pid_t pid)
{
    int status;
    EXPECT(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Writes until it is killed; other keys come and go in the entries around. */
static _Noreturn void
write_for_ever(uint64_t seed)
{
    random_state = seed;
    for (;;) {
        enum config_result result = set_pattern("k", draw(1000));
        EXPECT(result == CONFIG_OK || result == CONFIG_BUSY);
        const char *other = draw(2) ? "other" : "kk";
        result = draw(2) ? set_pattern(other, draw(1000)) : delete_key(other);
        EXPECT(result != CONFIG_TOO_MANY && result != CONFIG_NO_MEMORY);
    }
}

static pid_t
start_writer(void)
{
    uint64_t seed = draw(1u << 30);
    pid_t pid = fork();
    if (pid == 0) {
        write_for_ever(seed);
    }
    return pid;
}

/* Two writers are killed, now the one and now the other, while this process reads. */
static void
readers_see_whole_values_whoever_is_killed(unsigned kills)
{
    EXPECT(set_pattern("k", 1) == CONFIG_OK);
    pid_t writers[2] = {start_writer(), start_writer()};
    for (unsigned i = 0; i < kills; i++) {
        struct timespec now, until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        uint64_t stop_ns =
            (uint64_t)until.tv_sec * 1000000000u + (uint64_t)until.tv_nsec + 100000 + draw(5000000);
        do {
            expect_whole("k");
            clock_gettime(CLOCK_MONOTONIC, &now);
        } while ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec < stop_ns);
        pid_t *victim = &writers[draw(2)];
        EXPECT(kill(*victim, SIGKILL) == 0 && waitpid(*victim, NULL, 0) == *victim);
        *victim = start_writer();
    }
    for (unsigned i = 0; i < 2; i++) {
        EXPECT(kill(writers[i], SIGKILL) == 0 && waitpid(writers[i], NULL, 0) == writers[i]);
    }
    EXPECT(set_pattern("k", 2) == CONFIG_OK && expect_whole("k") == 2);
    (void)!delete_key("other");
    (void)!delete_key("kk");
    EXPECT(delete_key("k") == CONFIG_OK && config_count(segment) == 0);
}

/* The change that is cut off at the n-th point leaves the old value or the new. */
static unsigned
killed_at(unsigned pass)
{
    EXPECT(set_pattern("k", 10) == CONFIG_OK);
    pid_t pid = fork();
    if (pid == 0) {
        crash_arm("*", pass);
        EXPECT(set_pattern("k", 11) == CONFIG_OK);
        EXPECT(delete_key("k") == CONFIG_OK);
        EXPECT(set_pattern("k", 12) == CONFIG_OK);
        _exit(0);
    }
    int status;
    EXPECT(waitpid(pid, &status, 0) == pid);
    bool died = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    EXPECT(died || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    static uint8_t value[CONFIG_VALUE_LEN_MAX];
    struct config_view view;
    unsigned found = 0;
    if (read_key("k", value, &view) == CONFIG_OK) {
        found = expect_whole("k");
    }
    EXPECT(config_count(segment) == (found != 0));
    EXPECT(set_pattern("k", 13) == CONFIG_OK && expect_whole("k") == 13);
    EXPECT(delete_key("k") == CONFIG_OK && config_count(segment) == 0);
    return died ? found : 99;
}

static void
a_death_at_each_point_leaves_the_old_or_the_new(void)
{
    /* Half filled, filled, published; the deletion; and the same three again. */
    const unsigned expected[] = {10, 10, 11, 0, 0, 0, 12, 99};
    for (unsigned pass = 1; pass <= 8; pass++) {
        EXPECT(killed_at(pass) == expected[pass - 1]);
    }
}

/* Who holds the lock and does not run keeps writers out, and no reader. */
static void
a_stopped_writer_keeps_no_reader_out(void)
{
    EXPECT(set_pattern("k", 1) == CONFIG_OK);
    pid_t pid = fork();
    if (pid == 0) {
        EXPECT(lock_acquire(&segment->run->configs.lock, 1000) == LOCK_OK);
        raise(SIGSTOP);
        lock_release(&segment->run->configs.lock);
        _exit(0);
    }
    EXPECT(waitpid(pid, NULL, WUNTRACED) == pid);
    uint64_t began_ns = clock_mono_ns();
    for (unsigned i = 0; i < 50; i++) {
        EXPECT(set_pattern("k", 2) == CONFIG_BUSY && delete_key("k") == CONFIG_BUSY);
    }
    EXPECT(clock_mono_ns() - began_ns < 5 * UINT64_C(1000000000)); /* Only the first one waits. */
    EXPECT(expect_whole("k") == 1);
    EXPECT(kill(pid, SIGCONT) == 0);
    expect_exit_0(pid);
    EXPECT(set_pattern("k", 2) == CONFIG_OK && expect_whole("k") == 2);
    EXPECT(delete_key("k") == CONFIG_OK);
}

int
main(int argc, char **argv)
{
    static const struct segment_settings settings = {.memory_limit_bytes = 16u << 20,
                                                     .item_size_max_bytes = 1u << 20,
                                                     .growth_factor = 1.25,
                                                     .item_size_min_bytes = 8,
                                                     .conn_limit = 10,
                                                     .worker_count = 1,
                                                     .worker_logbuf_bytes = 32u << 10,
                                                     .eviction_policy = POLICY_S3FIFO};
    char sentence[SEGMENT_SENTENCE_MAX];
    if (argc != 3) {
        return 2;
    }
    random_state = strtoull(argv[1], NULL, 10);
    EXPECT(store_create(&settings, &segment, sentence) == SEGMENT_OK);
    entries_are_found_by_their_keys();
    there_are_sixteen();
    a_shortage_leaves_what_was_there();
    keys_that_would_part_a_line_are_not_sound();
    a_death_at_each_point_leaves_the_old_or_the_new();
    a_stopped_writer_keeps_no_reader_out();
    readers_see_whole_values_whoever_is_killed((unsigned)atoi(argv[2]));
    segment_close(segment);
    puts("ok");
    return 0;
}
