/* Replaying a trace of keys against the real store, as a read-through client does: get, and on a
 * miss set. What `memcachepy simulate` and bench/ measure miss ratios with. */
#include "py/core_py.h"

#include "store/store.h"

#include <string.h>

#define REPLAY_VALUE_LEN_MAX (1u << 20)

/* The clock is read once in so many requests, as a worker does once in a batch. */
#define REQUESTS_PER_TICK 1024

struct replay {
    struct store *store;
    const uint64_t *ids;
    const uint32_t *value_lens; /* NULL: all are value_len */
    uint32_t value_len;
    uint32_t key_len;
    Py_ssize_t count;
    const uint8_t *value;
    uint64_t hits, misses, refused;
};

/* The key of a trace's number: its digits, filled up in front. */
static void
key_write(uint64_t id, uint32_t key_len, uint8_t *key)
{
    static const char digits[] = "0123456789abcdef";
    for (uint32_t i = key_len; i-- > 0; id >>= 4) {
        key[i] = (uint8_t)digits[id & 15];
    }
}

/* A chain is counted as read when it is pinned. */
static bool
replay_get_large(struct store *store, const struct key *key)
{
    struct pin pin = {0};
    if (store_pin(store, key, &pin) != PIN_OK) {
        return false;
    }
    store_unpin(store, &pin);
    return true;
}

static bool
replay_get(struct store *store, const struct key *key)
{
    struct view view = {0};
    for (;;) {
        switch (store_view(store, key, &view)) {
        case VIEW_HIT:
            if (store_view_confirm(store, &view, VIEW_BUMP)) {
                return true;
            }
            continue;
        case VIEW_HIT_LARGE:
            return replay_get_large(store, key);
        case VIEW_MISS:
        case VIEW_EXPIRED:
        case VIEW_FLUSHED:
        case VIEW_BUSY:
            return false;
        }
    }
}

static void
replay_run(struct replay *replay)
{
    uint8_t bytes[KEY_LEN_MAX];
    for (Py_ssize_t i = 0; i < replay->count; i++) {
        if (i % REQUESTS_PER_TICK == 0) {
            store_tick(replay->store);
        }
        struct put put = {.mode = PUT_SET, .value = replay->value};
        key_write(replay->ids[i], replay->key_len, bytes);
        key_init(replay->store, &put.key, bytes, replay->key_len);
        if (replay_get(replay->store, &put.key)) {
            replay->hits++;
            continue;
        }
        replay->misses++;
        put.value_len = replay->value_lens != NULL ? replay->value_lens[i] : replay->value_len;
        replay->refused += store_put(replay->store, &put) != PUT_STORED;
    }
}

/* `value_lens` is a number or a buffer of 32-bit numbers, one for each id. */
static bool
take_value_lens(PyObject *value_lens, Py_buffer *buffer, struct replay *replay)
{
    uint32_t largest = 0;
    if (PyLong_Check(value_lens)) {
        unsigned long len = PyLong_AsUnsignedLong(value_lens);
        replay->value_len = largest = len > UINT32_MAX ? UINT32_MAX : (uint32_t)len;
    } else {
        if (PyObject_GetBuffer(value_lens, buffer, PyBUF_C_CONTIGUOUS) != 0) {
            return false;
        }
        replay->value_lens = buffer->buf;
        if (buffer->len != replay->count * 4) {
            PyErr_Format(PyExc_ValueError, "value_lens: %zd bytes are not 4 for each of %zd ids",
                         buffer->len, replay->count);
            return false;
        }
        for (Py_ssize_t i = 0; i < replay->count; i++) {
            largest = replay->value_lens[i] > largest ? replay->value_lens[i] : largest;
        }
    }
    if (PyErr_Occurred() || largest > REPLAY_VALUE_LEN_MAX) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "value_lens: %u is out of range; the range is 0 to %u",
                     largest, REPLAY_VALUE_LEN_MAX);
        return false;
    }
    return true;
}

PyObject *
segment_replay(struct segment_object *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ids", "value_lens", "key_len", NULL};
    struct replay replay = {.key_len = 16, .store = segment_store(self)};
    Py_buffer ids = {0}, lens = {0};
    PyObject *value_lens;
    if (replay.store == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "y*O|I", names, &ids,
                                                             &value_lens, &replay.key_len)) {
        return NULL;
    }
    replay.ids = ids.buf;
    replay.count = ids.len / 8;
    PyObject *result = NULL;
    uint8_t *value = PyMem_Calloc(1, REPLAY_VALUE_LEN_MAX);
    if (value == NULL) {
        PyErr_NoMemory();
    } else if (ids.len % 8 != 0 || replay.key_len < 1 || replay.key_len > KEY_LEN_MAX) {
        PyErr_Format(PyExc_ValueError,
                     "ids of %zd bytes, key_len: %u; ids have 8 bytes each, "
                     "key_len ranges from 1 to %d",
                     ids.len, replay.key_len, KEY_LEN_MAX);
    } else if (take_value_lens(value_lens, &lens, &replay)) {
        replay.value = value;
        Py_BEGIN_ALLOW_THREADS;
        replay_run(&replay);
        Py_END_ALLOW_THREADS;
        result =
            Py_BuildValue("KKK", (unsigned long long)replay.hits, (unsigned long long)replay.misses,
                          (unsigned long long)replay.refused);
    }
    PyMem_Free(value);
    if (lens.buf != NULL) {
        PyBuffer_Release(&lens);
    }
    PyBuffer_Release(&ids);
    return result;
}
