/* Replaying a trace of keys against the real store, as a read-through client does: get, and on a
 * miss set. What `memcachepy simulate` and bench/ measure miss ratios with. */
#include "py/core_py.h"

#include "proto/conn.h"
#include "store/store.h"

#include <string.h>

/* The clock is read, and the maintainer has its turn, once in so many requests. */
#define REQUESTS_PER_TICK 1024
#define MAINTAIN_STEPS_MAX 4
#define TTL_S_MAX (30u * 24 * 3600)

/* A number for each request, or one for all of them. */
struct column {
    const uint32_t *each; /* NULL: `all` */
    uint32_t all;
    uint32_t largest;
    Py_buffer buffer;
};

struct replay {
    struct store *store;
    const uint64_t *ids;
    const uint32_t *times_s; /* NULL: no time passes but the machine's */
    struct column value_lens, key_lens;
    struct expiry expire;
    uint32_t ttl_s;
    Py_ssize_t count;
    const uint8_t *value;
    uint32_t value_room;
    uint64_t hits, misses, refused, missed_bytes;
};

static uint32_t
column_at(const struct column *column, Py_ssize_t i)
{
    return column->each != NULL ? column->each[i] : column->all;
}

/* The key of a number: its bytes, lowest first, filled up with zeros. */
static void
key_write(uint64_t id, uint32_t key_len, uint8_t *key)
{
    for (uint32_t i = 0; i < key_len; i++, id >>= 8) {
        key[i] = (uint8_t)id;
        if (i == 7) {
            memset(key + 8, 0, key_len - 8);
            break;
        }
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
replay_tick(struct replay *replay)
{
    store_tick(replay->store);
    replay->expire = store_expiry(replay->store, replay->ttl_s);
}

/* What lies between two requests of the trace passes on the node's clock. */
static void
replay_advance(struct replay *replay, uint32_t seconds)
{
    atomic_fetch_add(&store_run(replay->store)->advance_s, seconds);
    replay_tick(replay);
}

static void
replay_maintain(struct replay *replay)
{
    for (unsigned i = 0; i < MAINTAIN_STEPS_MAX && store_maintain(replay->store); i++) {
    }
}

static void
replay_one(struct replay *replay, Py_ssize_t i)
{
    uint8_t bytes[MEMCACHED_KEY_LEN_MAX];
    uint32_t key_len = column_at(&replay->key_lens, i);
    struct put put = {.mode = PUT_SET, .value = replay->value, .expire = replay->expire};
    key_write(replay->ids[i], key_len, bytes);
    key_init(replay->store, &put.key, bytes, key_len);
    if (replay_get(replay->store, &put.key)) {
        replay->hits++;
        return;
    }
    put.value_len = column_at(&replay->value_lens, i);
    replay->misses++;
    replay->missed_bytes += put.value_len;
    /* The room is as large as the largest value that -I lets in. */
    replay->refused +=
        put.value_len > replay->value_room || store_put(replay->store, &put) != PUT_STORED;
}

static void
replay_run(struct replay *replay)
{
    uint32_t time_s = replay->times_s != NULL && replay->count > 0 ? replay->times_s[0] : 0;
    for (Py_ssize_t i = 0; i < replay->count; i++) {
        if (i % REQUESTS_PER_TICK == 0) {
            replay_tick(replay);
            replay_maintain(replay);
        }
        if (replay->times_s != NULL && replay->times_s[i] > time_s) {
            replay_advance(replay, replay->times_s[i] - time_s);
            time_s = replay->times_s[i];
        }
        replay_one(replay, i);
    }
}

/* ---- arguments ------------------------------------------------------------------------------ */

/* A number, or a buffer of 32-bit numbers, one for each id. */
static bool
take_column(const char *name, PyObject *object, Py_ssize_t count, uint32_t least, uint32_t most,
            struct column *column)
{
    if (PyLong_Check(object)) {
        unsigned long all = PyLong_AsUnsignedLong(object);
        bool fits = !PyErr_Occurred() && all <= UINT32_MAX;
        PyErr_Clear();
        column->all = column->largest = fits ? (uint32_t)all : UINT32_MAX;
        if (!fits || all < least || all > most) {
            PyErr_Format(PyExc_ValueError, "%s: %R is out of range; the range is %u to %u", name,
                         object, least, most);
            return false;
        }
        return true;
    }
    if (PyObject_GetBuffer(object, &column->buffer, PyBUF_C_CONTIGUOUS) != 0) {
        return false;
    }
    if (column->buffer.len != count * 4) {
        PyErr_Format(PyExc_ValueError, "%s: %zd bytes are not 4 for each of %zd ids", name,
                     column->buffer.len, count);
        return false;
    }
    column->each = column->buffer.buf;
    for (Py_ssize_t i = 0; i < count; i++) {
        uint32_t number = column->each[i];
        if (number < least || number > most) {
            PyErr_Format(PyExc_ValueError,
                         "%s: request %zd has %u, which is out of range; the range is %u to %u",
                         name, i, number, least, most);
            return false;
        }
        column->largest = number > column->largest ? number : column->largest;
    }
    return true;
}

/* No two ids of one length may become one key. */
static bool
ids_fit_keys(const struct replay *replay)
{
    for (Py_ssize_t i = 0; i < replay->count; i++) {
        uint32_t key_len = column_at(&replay->key_lens, i);
        if (key_len < 8 && replay->ids[i] >> (8 * key_len) != 0) {
            PyErr_Format(PyExc_ValueError, "id %llu of request %zd does not fit a key of %u bytes",
                         (unsigned long long)replay->ids[i], i, key_len);
            return false;
        }
    }
    return true;
}

static bool
take_columns(struct replay *replay, const Py_buffer *ids, PyObject *value_lens, PyObject *key_lens,
             const Py_buffer *times)
{
    if (ids->len % 8 != 0) {
        PyErr_Format(PyExc_ValueError, "ids: %zd bytes are not 8 for each", ids->len);
        return false;
    }
    replay->ids = ids->buf;
    replay->count = ids->len / 8;
    if (times->buf != NULL && times->len != replay->count * 4) {
        PyErr_Format(PyExc_ValueError, "times_s: %zd bytes are not 4 for each of %zd ids",
                     times->len, replay->count);
        return false;
    }
    replay->times_s = times->buf;
    if (replay->ttl_s > TTL_S_MAX) {
        PyErr_Format(PyExc_ValueError, "ttl_s: %u is out of range; the range is 0 to %u",
                     replay->ttl_s, TTL_S_MAX);
        return false;
    }
    return take_column("value_lens", value_lens, replay->count, 0, UINT32_MAX,
                       &replay->value_lens) &&
           (key_lens == NULL || take_column("key_lens", key_lens, replay->count, 1,
                                            MEMCACHED_KEY_LEN_MAX, &replay->key_lens)) &&
           ids_fit_keys(replay);
}

static PyObject *
replay_released(struct replay *replay)
{
    uint64_t item_max = store_run(replay->store)->boot_settings.item_size_max_bytes;
    uint32_t largest = replay->value_lens.largest;
    replay->value_room = largest < item_max ? largest : (uint32_t)item_max;
    uint8_t *value = PyMem_Calloc(1, (size_t)replay->value_room + 1);
    if (value == NULL) {
        return PyErr_NoMemory();
    }
    replay->value = value;
    Py_BEGIN_ALLOW_THREADS;
    replay_run(replay);
    Py_END_ALLOW_THREADS;
    PyMem_Free(value);
    return Py_BuildValue("KKKK", (unsigned long long)replay->hits,
                         (unsigned long long)replay->misses, (unsigned long long)replay->refused,
                         (unsigned long long)replay->missed_bytes);
}

PyObject *
segment_replay(struct segment_object *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ids", "value_lens", "key_lens", "ttl_s", "times_s", NULL};
    struct replay replay = {.key_lens = {.all = 16}, .store = segment_store(self)};
    Py_buffer ids = {0}, times = {0};
    PyObject *value_lens, *key_lens = NULL;
    if (replay.store == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "y*O|OIz*", names, &ids, &value_lens, &key_lens,
                                     &replay.ttl_s, &times)) {
        return NULL;
    }
    PyObject *result = NULL;
    if (take_columns(&replay, &ids, value_lens, key_lens, &times)) {
        result = replay_released(&replay);
    }
    PyBuffer_Release(&ids);
    /* Releasing what was never filled does nothing. */
    PyBuffer_Release(&times);
    PyBuffer_Release(&replay.value_lens.buffer);
    PyBuffer_Release(&replay.key_lens.buffer);
    return result;
}
