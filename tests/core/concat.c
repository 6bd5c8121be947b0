/* append and prepend to values that another process stores anew while they are being copied. */
#include "ledger.h"

#include "store/shard.h"

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                 \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define LONG_BYTES 200000
#define PART_BYTES 150000
#define ROUNDS 100000 /* more than any number of tries takes */

static struct segment *segment;
static struct store *store, *other;
static uint8_t value[LONG_BYTES], part[PART_BYTES], found[VALUE_MAX * 4];

/* What the other process does, so many times. */
static unsigned intrusions, intruded;
static uint32_t intruder_len;

/* As soon as it gets the lock: the key again, with another value of the same length. */
static void
intrude(void)
{
    struct put put = {.mode = PUT_SET, .value = value, .value_len = intruder_len};
    key_init(other, &put.key, "k", 1);
    struct shard *shard = shard_of_hash(other, put.key.hash);
    if (intrusions == 0 || !shard_try_lock(other, shard)) {
        return;
    }
    shard_unlock(other, shard);
    intrusions--;
    intruded++;
    value[0]++;
    EXPECT(store_put(other, &put) == PUT_STORED);
}

unsigned __real_store_pin_pieces(struct store *of, const struct pin *pin, struct iovec *iov,
                                 unsigned count);
unsigned
__wrap_store_pin_pieces(struct store *of, const struct pin *pin, struct iovec *iov, unsigned count)
{
    if (of == store) {
        intrude();
    }
    return __real_store_pin_pieces(of, pin, iov, count);
}

static void
read_all(const struct key *key, uint32_t value_len)
{
    struct pin pin = {0};
    struct iovec piece;
    EXPECT(store_pin(other, key, &pin) == PIN_OK && pin.value_len == value_len);
    while (store_pin_pieces(other, &pin, &piece, 1) == 1) {
        memcpy(found + pin.consumed, piece.iov_base, piece.iov_len);
        store_pin_advance(other, &pin, piece.iov_len);
    }
    store_unpin(other, &pin);
}

static enum put_result
store_in_pieces(struct put *put)
{
    struct upload upload = {0};
    enum put_result result = store_upload_begin(store, put, &upload);
    for (uint32_t done = 0; result == PUT_STORED && done < put->value_len;) {
        uint8_t *space;
        uint32_t room = store_upload_space(store, &upload, &space, &result);
        memcpy(space, part + done, room);
        store_upload_advance(store, &upload, room);
        done += room;
    }
    return result == PUT_STORED ? store_upload_commit(store, put, &upload) : result;
}

int
main(void)
{
    segment = segment_make(16);
    ledger = ledgers_make(1);
    store = store_open(segment, SLOT_WORKER_FIRST);
    other = store_open(segment, SLOT_WORKER_FIRST + 1);
    memset(value, 'v', sizeof(value));
    memset(part, 'p', sizeof(part));
    for (unsigned i = 0; i < 6; i++) {
        bool appends = i % 2 == 0, uploads = i >= 4;
        /* A long value, or one that becomes long. */
        intruder_len = i < 2 ? LONG_BYTES : 3000;
        uint32_t part_len = uploads ? PART_BYTES : i < 2 ? 5 : 40000;
        intruder_len = uploads ? LONG_BYTES : intruder_len;
        struct put set = {.mode = PUT_SET, .value = value, .value_len = intruder_len};
        key_init(store, &set.key, "k", 1);
        EXPECT(store_put(store, &set) == PUT_STORED);
        struct put put = {.mode = appends ? PUT_APPEND : PUT_PREPEND,
                          .key = set.key,
                          .value = part,
                          .value_len = part_len};
        intrusions = ROUNDS;
        intruded = 0;
        EXPECT((uploads ? store_in_pieces(&put) : store_put(store, &put)) == PUT_STORED);
        intrusions = 0;
        EXPECT(intruded >= (i < 2 || uploads ? 3 : 0));
        EXPECT(put.stored_len == intruder_len + part_len);
        read_all(&put.key, put.stored_len);
        EXPECT(memcmp(found + (appends ? 0 : part_len), value, intruder_len) == 0);
        EXPECT(memcmp(found + (appends ? intruder_len : 0), part, part_len) == 0);
    }
    struct key key;
    key_init(store, &key, "k", 1);
    EXPECT(store_delete(store, &key) == DELETE_DONE);
    expect_sound(segment, store, "at the end");
    expect_nothing_left(segment, store);
    store_close(store);
    store_close(other);
    segment_close(segment);
    printf("ok\n");
    return 0;
}
