/* memcachepy._core.Cache: the store without a socket, for a process that is attached to a node.
 *
 * The GIL is kept during an operation, which takes well under a microsecond, so a process has one
 * slot however many threads it has. Nothing of Python runs while a shard's lock is held: arguments
 * are read before, results are made after. When the attachment is of no use, in a forked child or
 * because the node has ended, memcachepy.cache.Cache._renew() is asked to attach anew. */
#include "py/core_py.h"

#include "proto/conn.h"
#include "py/attachment.h"

#include <time.h>

/* A long value that cannot be read because others hold as much as may be held. */
#define HELD_WAIT_NS 1000000
#define HELD_WAITS_MAX 1000

/* As on the wire. */
#define EXPTIME_MAX INT64_C(4294967295)

struct cache_object {
    PyObject_HEAD struct attachment attachment;
    uint8_t *copy; /* as many bytes as a page of the attached segment */
    bool closed;
};

static PyObject *
raise_busy(void)
{
    return raise_error("Busy", "a process that is stopped holds the lock of this key's shard");
}

/* ---- attaching ------------------------------------------------------------------------------ */

static void
leave(struct cache_object *self)
{
    attachment_close(&self->attachment);
    PyMem_Free(self->copy);
    self->copy = NULL;
}

static PyObject *
raise_core_error(struct cache_object *self, const char *sentence)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &core_module);
    struct module_state *state = module == NULL ? NULL : PyModule_GetState(module);
    if (state != NULL) {
        PyErr_SetString(state->core_error, sentence);
    }
    return NULL;
}

static PyObject *
cache_open(struct cache_object *self, PyObject *args)
{
    int fd, run_fd, connection_fd;
    unsigned slot;
    Py_buffer farewell;
    char sentence[SEGMENT_SENTENCE_MAX];
    if (!PyArg_ParseTuple(args, "iiIiy*", &fd, &run_fd, &slot, &connection_fd, &farewell)) {
        return NULL;
    }
    leave(self);
    bool opened = attachment_open(&self->attachment, fd, run_fd, slot, connection_fd, farewell.buf,
                                  (size_t)farewell.len, sentence);
    PyBuffer_Release(&farewell);
    if (!opened) {
        return raise_core_error(self, sentence);
    }
    self->copy = PyMem_Malloc(self->attachment.segment->superblock->page_bytes);
    if (self->copy == NULL) {
        /* The connection's end is what frees the slot. */
        self->attachment.connection.fd = -1;
        leave(self);
        return PyErr_NoMemory();
    }
    self->closed = false;
    Py_RETURN_NONE;
}

static PyObject *
cache_close(struct cache_object *self, PyObject *unused)
{
    (void)unused;
    leave(self);
    self->closed = true;
    Py_RETURN_NONE;
}

static void
cache_dealloc(struct cache_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    leave(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static struct store *
renewed_store(struct cache_object *self)
{
    while (!self->closed) {
        leave(self);
        PyObject *done = PyObject_CallMethod((PyObject *)self, "_renew", NULL);
        if (done == NULL) {
            return NULL;
        }
        Py_DECREF(done);
        /* NULL: another thread found it of no use already, has left it and is attaching. */
        if (self->attachment.store != NULL) {
            return self->attachment.store;
        }
    }
    PyErr_SetString(PyExc_ValueError, "the cache is closed");
    return NULL;
}

/* The store of this very process and of a live node; NULL with an exception. May run Python. */
static inline struct store *
usable_store(struct cache_object *self)
{
    return LIKELY(attachment_is_usable(&self->attachment)) ? self->attachment.store
                                                           : renewed_store(self);
}

/* ---- arguments ------------------------------------------------------------------------------ */

/* Arguments by place or by name into `values`, of which the first `required` must be given. */
static bool
take_arguments(const char *function, const char *const *names, Py_ssize_t max, Py_ssize_t required,
               PyObject *const *args, Py_ssize_t count, PyObject *keywords, PyObject **values)
{
    if (count > max) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments", function, max);
        return false;
    }
    for (Py_ssize_t i = 0; i < max; i++) {
        values[i] = i < count ? args[i] : NULL;
    }
    for (Py_ssize_t i = 0; keywords != NULL && i < PyTuple_GET_SIZE(keywords); i++) {
        PyObject *name = PyTuple_GET_ITEM(keywords, i);
        Py_ssize_t at = 0;
        while (at < max && PyUnicode_CompareWithASCIIString(name, names[at]) != 0) {
            at++;
        }
        if (at == max || values[at] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected or repeated argument %R",
                         function, name);
            return false;
        }
        values[at] = args[count + i];
    }
    for (Py_ssize_t i = 0; i < required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() misses the argument '%s'", function, names[i]);
            return false;
        }
    }
    return true;
}

/* The bytes stay the object's. */
static bool
key_of(struct store *store, PyObject *object, struct key *key)
{
    const char *bytes;
    Py_ssize_t len;
    if (PyUnicode_Check(object)) {
        bytes = PyUnicode_AsUTF8AndSize(object, &len);
        if (bytes == NULL) {
            return false;
        }
    } else if (PyBytes_Check(object)) {
        bytes = PyBytes_AS_STRING(object);
        len = PyBytes_GET_SIZE(object);
    } else {
        PyErr_Format(PyExc_TypeError, "key: must be str or bytes, not %.100s",
                     Py_TYPE(object)->tp_name);
        return false;
    }
    if (len < 1 || len > MEMCACHED_KEY_LEN_MAX) {
        raise_error("InvalidKey", "key %.60R has %zd bytes; the range is 1 to %d", object, len,
                    MEMCACHED_KEY_LEN_MAX);
        return false;
    }
    for (Py_ssize_t i = 0; i < len; i++) {
        if (UNLIKELY((uint8_t)bytes[i] <= ' ' || bytes[i] == 0x7F)) {
            raise_error(
                "InvalidKey",
                "key %.260R has a space or control character at byte %zd; a key may have none",
                object, i);
            return false;
        }
    }
    key_init(store, key, bytes, (uint32_t)len);
    return true;
}

static bool
exptime_of(PyObject *object, int64_t *exptime)
{
    int overflow = 0;
    *exptime = object == NULL ? 0 : PyLong_AsLongLongAndOverflow(object, &overflow);
    if (*exptime == -1 && PyErr_Occurred()) {
        return false;
    }
    if (overflow != 0 || *exptime < INT32_MIN || *exptime > EXPTIME_MAX) {
        PyErr_Format(PyExc_ValueError, "expire is %R: the range is %d to %lld", object, INT32_MIN,
                     (long long)EXPTIME_MAX);
        return false;
    }
    return true;
}

static bool
delta_of(PyObject *object, uint64_t *delta)
{
    *delta = 1;
    if (object == NULL) {
        return true;
    }
    *delta = PyLong_AsUnsignedLongLong(object);
    if (*delta != UINT64_MAX || !PyErr_Occurred()) {
        return true;
    }
    if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "delta is %R: the range is 0 to 2**64 - 1", object);
    }
    return false;
}

/* ---- get ------------------------------------------------------------------------------------ */

enum long_read {
    LONG_READ,
    LONG_AGAIN, /* It is no long value any more: look again. */
    LONG_WAIT,
    LONG_BUSY,
};

/* LONG_READ: *value is new, or NULL with an exception. */
static enum long_read
read_long(struct store *store, const struct key *key, PyObject **value)
{
    struct pin pin = {0};
    switch (store_pin(store, key, &pin)) {
    case PIN_GONE:
    case PIN_SMALL:
        return LONG_AGAIN;
    case PIN_WAIT:
        return LONG_WAIT;
    case PIN_BUSY:
        return LONG_BUSY;
    case PIN_OK:
        break;
    }
    *value = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)pin.value_len);
    struct iovec piece;
    while (*value != NULL && store_pin_pieces(store, &pin, &piece, 1) == 1) {
        memcpy(PyBytes_AS_STRING(*value) + pin.consumed, piece.iov_base, piece.iov_len);
        store_pin_advance(store, &pin, piece.iov_len);
    }
    bool whole = pin.consumed == pin.value_len;
    store_count_pinned_get(store, &pin);
    store_unpin(store, &pin);
    if (*value != NULL && UNLIKELY(!whole)) {
        Py_CLEAR(*value);
        return LONG_BUSY; /* The chain is damaged. */
    }
    return LONG_READ;
}

static void
wait_for_held(void)
{
    struct timespec span = {.tv_nsec = HELD_WAIT_NS};
    Py_BEGIN_ALLOW_THREADS;
    nanosleep(&span, NULL);
    Py_END_ALLOW_THREADS;
}

static PyObject *
count_miss(struct counters *counters, PyObject *otherwise)
{
    COUNT(counters, cmd_get);
    COUNT(counters, get_misses);
    return Py_NewRef(otherwise == NULL ? Py_None : otherwise);
}

static PyObject *
count_hit(struct counters *counters, PyObject *value)
{
    COUNT(counters, cmd_get);
    COUNT(counters, get_hits);
    return value;
}

/* Apart, for everything that it reads may be changing; only what is confirmed is believed. */
static RACY_READ void
copy_value(uint8_t *copy, const struct view *view)
{
    memcpy(copy, view->value, view->value_len);
}

/* NULL without an exception: a long value has to wait for memory that others hold. */
static PyObject *
get_once(struct cache_object *self, PyObject *key_object, PyObject *otherwise)
{
    struct store *store = usable_store(self);
    struct key key;
    if (store == NULL || !key_of(store, key_object, &key)) {
        return NULL;
    }
    struct counters *counters = store_counters(store);
    struct view view;
    view.tries = 0;
    view.locked = false;
    for (;;) {
        PyObject *value = NULL;
        switch (store_view(store, &key, &view)) {
        case VIEW_HIT:
            copy_value(self->copy, &view);
            uint32_t len = view.value_len;
            if (store_view_confirm(store, &view, VIEW_GET)) {
                value = PyBytes_FromStringAndSize((const char *)self->copy, (Py_ssize_t)len);
                return count_hit(counters, value);
            }
            break;
        case VIEW_EXPIRED:
            COUNT(counters, get_expired);
            return count_miss(counters, otherwise);
        case VIEW_FLUSHED:
            COUNT(counters, get_flushed);
            return count_miss(counters, otherwise);
        case VIEW_MISS:
            return count_miss(counters, otherwise);
        case VIEW_BUSY:
            return raise_busy();
        case VIEW_HIT_LARGE:
            switch (read_long(store, &key, &value)) {
            case LONG_READ:
                return count_hit(counters, value);
            case LONG_WAIT:
                return NULL;
            case LONG_BUSY:
                return raise_busy();
            case LONG_AGAIN:
                view.tries = 0;
                view.locked = false;
                break;
            }
            break;
        }
    }
}

static PyObject *
cache_get(struct cache_object *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"key", "default"};
    PyObject *values[2];
    if (!take_arguments("get", names, 2, 1, args, count, keywords, values)) {
        return NULL;
    }
    for (unsigned i = 0; i < HELD_WAITS_MAX; i++) {
        PyObject *value = get_once(self, values[0], values[1]);
        if (LIKELY(value != NULL || PyErr_Occurred())) {
            return value;
        }
        wait_for_held();
        if (PyErr_CheckSignals() != 0) {
            return NULL;
        }
    }
    return raise_error("Busy",
                       "values that others are reading hold all the memory that may be held");
}

/* ---- changes -------------------------------------------------------------------------------- */

static PyObject *
set_result(struct store *store, const struct put *put, PyObject *key, enum put_result result)
{
    struct counters *counters = store_counters(store);
    store_count_put(store, put, result);
    store_tell_put(store, put, result, 0);
    if (result == PUT_STORED) {
        COUNT(counters, cmd_set);
        Py_RETURN_NONE;
    }
    if (result == PUT_TOO_LARGE) {
        COUNT(counters, cmd_set);
        COUNT(counters, store_too_large);
        return raise_error("ValueTooLarge",
                           "the value of key %.260R has %u bytes; an item may have %llu (-I)", key,
                           put->value_len,
                           (unsigned long long)store_run(store)->boot_settings.item_size_max_bytes);
    }
    if (result == PUT_BUSY || result == PUT_WAIT) {
        return raise_busy();
    }
    COUNT(counters, store_no_memory);
    return raise_error("CacheFull", "there is no memory for key %.260R", key);
}

static PyObject *
set_bytes(struct cache_object *self, PyObject *key, const Py_buffer *value, int64_t exptime)
{
    struct store *store = usable_store(self);
    if (store == NULL) {
        return NULL;
    }
    struct put put = {.mode = PUT_SET, .value = value->buf};
    if (!key_of(store, key, &put.key)) {
        return NULL;
    }
    put.expire = store_expiry(store, exptime);
    /* No longer value has a place anyway; this one is refused as too large. */
    put.value_len = value->len < INT32_MAX ? (uint32_t)value->len : INT32_MAX;
    return set_result(store, &put, key, store_put(store, &put));
}

static PyObject *
cache_set(struct cache_object *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"key", "value", "expire"};
    PyObject *values[3];
    Py_buffer value;
    int64_t exptime;
    if (!take_arguments("set", names, 3, 2, args, count, keywords, values) ||
        !exptime_of(values[2], &exptime) ||
        PyObject_GetBuffer(values[1], &value, PyBUF_SIMPLE) != 0) {
        return NULL;
    }
    PyObject *result = set_bytes(self, values[0], &value, exptime);
    PyBuffer_Release(&value);
    return result;
}

static PyObject *
cache_delete(struct cache_object *self, PyObject *key_object)
{
    struct store *store = usable_store(self);
    struct key key;
    if (store == NULL || !key_of(store, key_object, &key)) {
        return NULL;
    }
    switch (store_delete(store, &key)) {
    case DELETE_DONE:
        COUNT(store_counters(store), delete_hits);
        Py_RETURN_TRUE;
    case DELETE_NOT_FOUND:
        COUNT(store_counters(store), delete_misses);
        Py_RETURN_FALSE;
    case DELETE_BUSY:
        break;
    }
    return raise_busy();
}

static void
count_arithmetic(struct counters *counters, bool increment, bool hit)
{
    counter_add(counters,
                increment ? (hit ? COUNTER_incr_hits : COUNTER_incr_misses)
                          : (hit ? COUNTER_decr_hits : COUNTER_decr_misses),
                1);
}

static PyObject *
arithmetic(struct cache_object *self, bool increment, PyObject *key_object, uint64_t delta)
{
    struct store *store = usable_store(self);
    struct key key;
    uint64_t number;
    if (store == NULL || !key_of(store, key_object, &key)) {
        return NULL;
    }
    switch (store_arith(store, &key, increment, delta, &number)) {
    case ARITH_DONE:
        count_arithmetic(store_counters(store), increment, true);
        return PyLong_FromUnsignedLongLong(number);
    case ARITH_NOT_FOUND:
        count_arithmetic(store_counters(store), increment, false);
        Py_RETURN_NONE;
    case ARITH_NOT_A_NUMBER:
        return raise_error("NotANumber", "the value of key %.260R is no number of 64 bits",
                           key_object);
    case ARITH_NO_MEMORY:
        count_arithmetic(store_counters(store), increment, true);
        return raise_error("CacheFull", "there is no memory for key %.260R", key_object);
    case ARITH_EXISTS: /* Only where a cas is asked for. */
    case ARITH_BUSY:
        break;
    }
    return raise_busy();
}

static PyObject *
cache_incr(struct cache_object *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"key", "delta"};
    PyObject *values[2];
    uint64_t delta;
    if (!take_arguments("incr", names, 2, 1, args, count, keywords, values) ||
        !delta_of(values[1], &delta)) {
        return NULL;
    }
    return arithmetic(self, true, values[0], delta);
}

static PyObject *
cache_decr(struct cache_object *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"key", "delta"};
    PyObject *values[2];
    uint64_t delta;
    if (!take_arguments("decr", names, 2, 1, args, count, keywords, values) ||
        !delta_of(values[1], &delta)) {
        return NULL;
    }
    return arithmetic(self, false, values[0], delta);
}

#define METHOD(name, function, flags) {name, (PyCFunction)(void (*)(void))(function), flags, NULL}

static PyMethodDef cache_methods[] = {
    METHOD("get", cache_get, METH_FASTCALL | METH_KEYWORDS),
    METHOD("set", cache_set, METH_FASTCALL | METH_KEYWORDS),
    METHOD("delete", cache_delete, METH_O),
    METHOD("incr", cache_incr, METH_FASTCALL | METH_KEYWORDS),
    METHOD("decr", cache_decr, METH_FASTCALL | METH_KEYWORDS),
    METHOD("close", cache_close, METH_NOARGS),
    METHOD("_open", cache_open, METH_VARARGS),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot cache_slots[] = {
    {Py_tp_doc, "The store of a node, used without a socket; memcachepy.Cache is its whole."},
    {Py_tp_dealloc, cache_dealloc},
    {Py_tp_methods, cache_methods},
    {0, NULL},
};

PyType_Spec cache_spec = {
    .name = "memcachepy._core.Cache",
    .basicsize = sizeof(struct cache_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = cache_slots,
};
