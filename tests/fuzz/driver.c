/* A main() for the fuzz target that needs no fuzzing engine: it plays a corpus, then mutations of
 * it.
 *
 *     driver CORPUS_FOLDER DICTIONARY ITERATIONS SEED [SECONDS]
 *     driver INPUT...
 *
 * The second plays these inputs only, as libFuzzer does.
 *
 * Without feedback from coverage it is no match for libFuzzer; it finds what is near the corpus,
 * runs under plain gcc and its sanitizers, and repeats exactly from its seed. The input under test
 * is kept in `crash-input` of the working folder while it runs, so that it survives an abort. */
#include "fuzz_protocol.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define CORPUS_FILES_MAX 1024
#define WORDS_MAX 256
#define INPUT_BYTES_MAX (128u << 10)
#define MUTATIONS_MAX 6
#define INPUT_NAME "crash-input"

struct bytes {
    uint8_t *at;
    size_t len;
};

struct driver {
    struct bytes corpus[CORPUS_FILES_MAX];
    size_t corpus_count;
    struct bytes words[WORDS_MAX];
    size_t word_count;
    uint64_t random;
    uint8_t input[INPUT_BYTES_MAX];
    size_t input_len;
};

static uint32_t
pick(struct driver *driver, size_t limit)
{
    driver->random = driver->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((driver->random >> 33) % (limit == 0 ? 1 : limit));
}

static void
fail(const char *what, const char *name)
{
    fprintf(stderr, "driver: %s: %s\n", what, name);
    exit(2);
}

static struct bytes
read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fail("cannot open", path);
    }
    struct bytes bytes = {malloc(INPUT_BYTES_MAX), 0};
    if (bytes.at == NULL) {
        fail("out of memory for", path);
    }
    bytes.len = fread(bytes.at, 1, INPUT_BYTES_MAX, file);
    fclose(file);
    return bytes;
}

static int
by_name(const struct dirent **one, const struct dirent **other)
{
    return strcmp((*one)->d_name, (*other)->d_name);
}

static void
read_corpus(struct driver *driver, const char *folder)
{
    struct dirent **names;
    int count = scandir(folder, &names, NULL, by_name); /* Sorted: a seed must repeat. */
    if (count < 0) {
        fail("cannot read", folder);
    }
    for (int i = 0; i < count; i++) {
        if (names[i]->d_name[0] != '.' && driver->corpus_count < CORPUS_FILES_MAX) {
            char path[4096];
            snprintf(path, sizeof(path), "%s/%s", folder, names[i]->d_name);
            driver->corpus[driver->corpus_count++] = read_file(path);
        }
        free(names[i]);
    }
    free(names);
    if (driver->corpus_count == 0) {
        fail("nothing in", folder);
    }
}

/* libFuzzer's dictionary: lines of "word", with \xNN, \\ and \". */
static void
read_dictionary(struct driver *driver, const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fail("cannot open", path);
    }
    char line[1024];
    while (fgets(line, sizeof(line), file) != NULL && driver->word_count < WORDS_MAX) {
        const char *from = strchr(line, '"');
        const char *to = strrchr(line, '"');
        if (line[0] == '#' || from == NULL || to == from) {
            continue;
        }
        struct bytes word = {malloc(sizeof(line)), 0};
        if (word.at == NULL) {
            fail("out of memory for", path);
        }
        for (from++; from < to; from++) {
            unsigned value;
            if (from[0] == '\\' && from[1] == 'x' && sscanf(from + 2, "%2x", &value) == 1) {
                word.at[word.len++] = (uint8_t)value;
                from += 3;
            } else {
                from += from[0] == '\\';
                word.at[word.len++] = (uint8_t)*from;
            }
        }
        driver->words[driver->word_count++] = word;
    }
    fclose(file);
}

/* Replaces input[at .. at + removed) by `len` bytes, which must not lie in the input. */
static void
splice(struct driver *driver, size_t at, size_t removed, const uint8_t *bytes, size_t len)
{
    if (driver->input_len - removed + len > INPUT_BYTES_MAX) {
        return;
    }
    memmove(driver->input + at + len, driver->input + at + removed,
            driver->input_len - at - removed);
    if (len != 0) {
        memcpy(driver->input + at, bytes, len);
    }
    driver->input_len += len - removed;
}

static void
mutate(struct driver *driver)
{
    size_t at = pick(driver, driver->input_len + 1);
    size_t rest = driver->input_len - at;
    switch (pick(driver, 10)) {
    case 0: /* Another byte. */
        if (rest > 0) {
            driver->input[at] = (uint8_t)pick(driver, 256);
        }
        break;
    case 1: /* One bit. */
        if (rest > 0) {
            driver->input[at] ^= (uint8_t)(1u << pick(driver, 8));
        }
        break;
    case 2: /* A piece less. */
        splice(driver, at, pick(driver, (rest < 32 ? rest : 32) + 1), NULL, 0);
        break;
    case 3: { /* Some bytes more. */
        uint8_t bytes[8];
        size_t len = 1 + pick(driver, sizeof(bytes));
        for (size_t i = 0; i < len; i++) {
            bytes[i] = (uint8_t)pick(driver, 256);
        }
        splice(driver, at, 0, bytes, len);
        break;
    }
    case 4:
    case 5: { /* A word of the dictionary. */
        const struct bytes *word = &driver->words[pick(driver, driver->word_count)];
        splice(driver, at, pick(driver, 2) == 0 ? 0 : (rest < word->len ? rest : word->len),
               word->at, word->len);
        break;
    }
    case 6: { /* A piece of the input again, somewhere else. */
        uint8_t bytes[256];
        size_t len = pick(driver, (rest < sizeof(bytes) ? rest : sizeof(bytes)) + 1);
        memcpy(bytes, driver->input + at, len);
        splice(driver, pick(driver, driver->input_len + 1), 0, bytes, len);
        break;
    }
    case 7: { /* A piece of another file. */
        const struct bytes *other = &driver->corpus[pick(driver, driver->corpus_count)];
        size_t from = pick(driver, other->len);
        size_t len = other->len - from;
        splice(driver, at, 0, other->at + from, len < 2048 ? len : 2048);
        break;
    }
    case 8: { /* Another number. */
        char number[24];
        uint64_t value = (uint64_t)1 << pick(driver, 64);
        int len = snprintf(number, sizeof(number), "%llu",
                           (unsigned long long)(value - pick(driver, 3) + 1));
        size_t digits = 0;
        while (at < driver->input_len && (driver->input[at] < '0' || driver->input[at] > '9')) {
            at++;
        }
        while (at + digits < driver->input_len && driver->input[at + digits] >= '0' &&
               driver->input[at + digits] <= '9') {
            digits++;
        }
        splice(driver, at, digits, (const uint8_t *)number, (size_t)len);
        break;
    }
    default: { /* A run of one byte: long keys, long lines. */
        uint8_t bytes[2100];
        size_t len = pick(driver, 4) == 0 ? sizeof(bytes) : pick(driver, 300);
        memset(bytes, "k 0\xff"[pick(driver, 4)], len);
        splice(driver, at, 0, bytes, len);
        break;
    }
    }
}

static void
play(struct driver *driver)
{
    FILE *file = fopen(INPUT_NAME, "wb");
    if (file == NULL) {
        fail("cannot write", INPUT_NAME);
    }
    fwrite(driver->input, 1, driver->input_len, file);
    fclose(file);
    /* In memory of its own, so that a sanitizer sees a read past its end. */
    uint8_t *copy = malloc(driver->input_len + 1);
    if (copy == NULL) {
        fail("out of memory for", "an input");
    }
    memcpy(copy, driver->input, driver->input_len);
    LLVMFuzzerTestOneInput(copy, driver->input_len);
    free(copy);
}

static void
take_file(struct driver *driver, size_t index)
{
    memcpy(driver->input, driver->corpus[index].at, driver->corpus[index].len);
    driver->input_len = driver->corpus[index].len;
}

static double
now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static bool
is_folder(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static int
replay(struct driver *driver, char **paths)
{
    for (; *paths != NULL; paths++) {
        struct bytes bytes = read_file(*paths);
        memcpy(driver->input, bytes.at, bytes.len);
        driver->input_len = bytes.len;
        free(bytes.at);
        play(driver);
    }
    fuzz_finish();
    remove(INPUT_NAME);
    free(driver);
    return 0;
}

int
main(int argc, char **argv)
{
    if (argc < 2 || (is_folder(argv[1]) && argc < 5)) {
        fprintf(stderr, "usage: %s CORPUS_FOLDER DICTIONARY ITERATIONS SEED [SECONDS]\n", argv[0]);
        return 64;
    }
    struct driver *driver = calloc(1, sizeof(*driver));
    if (driver == NULL) {
        fail("out of memory for", "the driver");
    }
    if (!is_folder(argv[1])) {
        return replay(driver, argv + 1);
    }
    read_corpus(driver, argv[1]);
    read_dictionary(driver, argv[2]);
    unsigned long iterations = strtoul(argv[3], NULL, 10);
    driver->random = strtoull(argv[4], NULL, 10);
    double end_s = now_s() + (argc > 5 ? strtod(argv[5], NULL) : 1e9);
    printf("seed %s, %zu files, %zu words\n", argv[4], driver->corpus_count, driver->word_count);
    fflush(stdout);

    for (size_t i = 0; i < driver->corpus_count; i++) {
        for (unsigned fragmentation = 0; fragmentation < 4; fragmentation++) {
            take_file(driver, i);
            driver->input[0] = (uint8_t)(driver->input[0] + fragmentation);
            play(driver);
        }
    }
    unsigned long done = 0;
    while (done < iterations && now_s() < end_s) {
        take_file(driver, pick(driver, driver->corpus_count));
        for (uint32_t left = 1 + pick(driver, MUTATIONS_MAX); left > 0; left--) {
            mutate(driver);
        }
        if (driver->input_len > 1) {
            play(driver);
        }
        done++;
    }
    fuzz_finish();
    remove(INPUT_NAME);
    printf("%lu mutations\n", done);
    for (size_t i = 0; i < driver->corpus_count; i++) {
        free(driver->corpus[i].at);
    }
    for (size_t i = 0; i < driver->word_count; i++) {
        free(driver->words[i].at);
    }
    free(driver);
    return 0;
}
