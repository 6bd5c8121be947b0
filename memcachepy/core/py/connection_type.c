/* memcachepy._core.Connection: the protocol without a socket. */
#include "py/core_py.h"

#include "proto/conn.h"

struct connection_object {
    PyObject_HEAD struct segment_object *owner;
    struct store *store;
    struct protocol *protocol;
    struct conn conn;
    bool closed;
};

static PyObject *
connection_close(struct connection_object *self, PyObject *unused)
{
    (void)unused;
    if (self->protocol != NULL) {
        if (self->owner->segment != NULL) {
            conn_free(self->protocol, &self->conn);
        }
        protocol_free(self->protocol);
        self->protocol = NULL;
    }
    if (self->store != NULL) {
        store_close(self->store);
        self->store = NULL;
    }
    self->closed = true;
    Py_RETURN_NONE;
}

static PyObject *
connection_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"segment", "slot", "local", NULL};
    struct segment_object *owner;
    unsigned slot = SLOT_WORKER_FIRST;
    int local = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|Ip", names,
                                     state_of_type(type)->segment_type, &owner, &slot, &local) ||
        segment_store(owner) == NULL) {
        return NULL;
    }
    unsigned slot_count = segment_slot_count(owner->segment);
    if (slot >= slot_count) {
        return PyErr_Format(PyExc_ValueError, "slot: %u is out of range; the range is 0 to %u",
                            slot, slot_count - 1);
    }
    struct connection_object *self = (struct connection_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->owner = (struct segment_object *)Py_NewRef(owner);
    self->store = store_open(owner->segment, slot);
    self->protocol = protocol_new(self->store);
    if (self->protocol == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    self->conn.is_local = local != 0;
    return (PyObject *)self;
}

static void
connection_dealloc(struct connection_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(connection_close(self, NULL));
    Py_XDECREF(self->owner);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Everything that waits to be sent, appended to a bytearray. */
static bool
drain(struct connection_object *self, PyObject *replies, size_t *drained)
{
    uint8_t piece[16384];
    size_t len;
    *drained = 0;
    while ((len = conn_drain(self->protocol, &self->conn, piece, sizeof(piece))) > 0) {
        Py_ssize_t at = PyByteArray_GET_SIZE(replies);
        if (PyByteArray_Resize(replies, at + (Py_ssize_t)len) != 0) {
            return false;
        }
        memcpy(PyByteArray_AS_STRING(replies) + at, piece, len);
        *drained += len;
    }
    return true;
}

static bool
feed_all(struct connection_object *self, const uint8_t *bytes, size_t len, PyObject *replies)
{
    for (;;) {
        size_t taken = 0;
        size_t drained;
        enum conn_status status = conn_feed(self->protocol, &self->conn, bytes, len, &taken);
        bytes += taken;
        len -= taken;
        if (!drain(self, replies, &drained)) {
            return false;
        }
        switch (status) {
        case CONN_CLOSE:
            self->closed = true;
            return true;
        case CONN_READY:
            if (len == 0) {
                return true;
            }
            break;
        case CONN_FULL:
            break;
        case CONN_WAITING:
            if (drained == 0) {
                PyErr_SetString(PyExc_BlockingIOError,
                                "the connection waits for memory that others hold");
                return false;
            }
            break;
        }
    }
}

static PyObject *
connection_feed(struct connection_object *self, PyObject *args)
{
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "y*", &data)) {
        return NULL;
    }
    PyObject *replies = PyByteArray_FromStringAndSize(NULL, 0);
    bool good = replies != NULL;
    if (good && !self->closed && self->owner->segment != NULL) {
        store_tick(self->store);
        good = feed_all(self, data.buf, (size_t)data.len, replies);
    }
    PyBuffer_Release(&data);
    PyObject *result = good ? PyBytes_FromObject(replies) : NULL;
    Py_XDECREF(replies);
    return result;
}

static PyObject *
get_closed(struct connection_object *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(self->closed);
}

static PyMethodDef connection_methods[] = {
    {"feed", (PyCFunction)connection_feed, METH_VARARGS, NULL},
    {"close", (PyCFunction)connection_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef connection_getset[] = {
    {"closed", (getter)get_closed, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot connection_slots[] = {
    {Py_tp_doc, "The protocol without a socket: bytes in, bytes out."},
    {Py_tp_new, connection_new},
    {Py_tp_dealloc, connection_dealloc},
    {Py_tp_methods, connection_methods},
    {Py_tp_getset, connection_getset},
    {0, NULL},
};

PyType_Spec connection_spec = {
    .name = "memcachepy._core.Connection",
    .basicsize = sizeof(struct connection_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = connection_slots,
};
