/* memcachepy._core.CopyNode: a node that items are copied from or to, for the process that leads a
 * change of a cluster; memcachepy/cluster/warm.py decides what goes where.
 *
 * For one thread. The GIL is kept: every method does a bounded piece of work. */
#include "py/core_py.h"

#include "py/attachment.h"
#include "store/copy.h"

#include <string.h>

/* A piece that is read: at most so many items, about so many bytes of values, and so many steps of
 * the walk, each of which may pass by hundreds of items that are dead. */
#define ITEMS_MAX 512
#define VALUE_BYTES (256u << 10)
#define READ_STEPS 64

/* About so many bytes are stored at once. */
#define TAKE_BYTES (1u << 20)

/* And this many buckets of the walk that ends a session. */
#define END_STEPS 256

#define ALL_CLASSES (~UINT64_C(0))

/* An item that was read; its value lies behind those before it. */
struct record {
    struct copy copy;
    size_t value_at;
    uint8_t key_len;
    uint8_t key[DUMP_KEY_LEN_MAX];
};

struct copy_node_object {
    PyObject_HEAD struct attachment attachment;
    struct dump_cursor reading, ending;
    struct record *records;
    unsigned count;
    uint8_t *values; /* VALUE_BYTES, and those of one more step of the walk */
};

static PyObject *
raise_busy(void)
{
    return raise_error("Busy", "a process that is stopped holds the lock of one of the shards");
}

static void
leave(struct copy_node_object *self)
{
    attachment_close(&self->attachment);
    PyMem_Free(self->records);
    PyMem_Free(self->values);
    self->records = NULL;
    self->values = NULL;
    self->count = 0;
}

/* The store of this very process; NULL with an exception. */
static struct store *
opened_store(struct copy_node_object *self)
{
    if (self->attachment.segment == NULL || *self->attachment.ours == 0) {
        PyErr_SetString(PyExc_ValueError, "the node is not attached");
        return NULL;
    }
    return self->attachment.store;
}

static PyObject *
node_open(struct copy_node_object *self, PyObject *args)
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
        PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &core_module);
        struct module_state *state = module == NULL ? NULL : PyModule_GetState(module);
        if (state != NULL) {
            PyErr_SetString(state->core_error, sentence);
        }
        return NULL;
    }
    self->records = PyMem_Calloc(ITEMS_MAX, sizeof(self->records[0]));
    size_t page_bytes = self->attachment.segment->superblock->page_bytes;
    self->values = PyMem_Malloc(VALUE_BYTES + DUMP_ITEMS_MAX * page_bytes);
    if (self->records == NULL || self->values == NULL) {
        self->attachment.connection.fd = -1; /* Its end is what frees the slot. */
        leave(self);
        return PyErr_NoMemory();
    }
    self->reading = self->ending = (struct dump_cursor){0};
    Py_RETURN_NONE;
}

static PyObject *
node_close(struct copy_node_object *self, PyObject *unused)
{
    (void)unused;
    leave(self);
    Py_RETURN_NONE;
}

static void
node_dealloc(struct copy_node_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    leave(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- the session ---------------------------------------------------------------------------- */

static PyObject *
node_begin(struct copy_node_object *self, PyObject *args)
{
    unsigned long long session;
    unsigned shift;
    struct store *store = opened_store(self);
    if (store == NULL || !PyArg_ParseTuple(args, "KI", &session, &shift)) {
        return NULL;
    }
    if (session == 0 || shift < TRACK_SHIFT_MIN || shift > TRACK_SHIFT_MAX) {
        return PyErr_Format(PyExc_ValueError, "shift is %u: the range is %d to %d", shift,
                            TRACK_SHIFT_MIN, TRACK_SHIFT_MAX);
    }
    switch (store_copy_begin(store, session, shift)) {
    case COPY_BEGUN:
        self->reading = self->ending = (struct dump_cursor){0};
        Py_RETURN_NONE;
    case COPY_TAKEN:
        return raise_error("WarmError", "another process copies items from or to it");
    case COPY_NO_MEMORY:
        return raise_error("WarmError", "the host or its cgroup has no memory left to track what "
                                        "is changed");
    case COPY_FLUSHING:
        return raise_error("WarmError", "a flush_all for a later moment waits in it");
    case COPY_BUSY:
        break;
    }
    return raise_busy();
}

static PyObject *
node_accept(struct copy_node_object *self, PyObject *nodes)
{
    struct store *store = opened_store(self);
    struct track_source sources[TRACK_SOURCES_MAX];
    Py_ssize_t count = PySequence_Size(nodes);
    if (store == NULL || count < 0) {
        return NULL;
    }
    if (count > TRACK_SOURCES_MAX) {
        return PyErr_Format(PyExc_ValueError, "%zd sources: the range is 0 to %d", count,
                            TRACK_SOURCES_MAX);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *node = PySequence_GetItem(nodes, i);
        bool usable =
            node != NULL && Py_IS_TYPE(node, Py_TYPE(self)) &&
            opened_store((struct copy_node_object *)node) != NULL &&
            track_source_of(((struct copy_node_object *)node)->attachment.segment, &sources[i]);
        Py_XDECREF(node); /* The sequence has it. */
        if (!usable) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_TypeError, "a source must be an attached CopyNode");
            }
            return NULL;
        }
    }
    track_accept(self->attachment.segment, sources, (uint32_t)count);
    store_tick(store);
    Py_RETURN_NONE;
}

static PyObject *
node_look(struct copy_node_object *self, PyObject *unused)
{
    (void)unused;
    struct store *store = opened_store(self);
    if (store == NULL) {
        return NULL;
    }
    bool alive = attachment_look(&self->attachment, clock_read_ns(CLOCK_MONOTONIC_COARSE));
    return PyBool_FromLong(alive && store_copy_holds(store));
}

static PyObject *
node_show_from(struct copy_node_object *self, PyObject *object)
{
    unsigned long long now_ns = PyLong_AsUnsignedLongLong(object);
    if ((now_ns == (unsigned long long)-1 && PyErr_Occurred()) || opened_store(self) == NULL) {
        return NULL;
    }
    track_renew(self->attachment.segment, now_ns);
    Py_RETURN_NONE;
}

static PyObject *
node_end(struct copy_node_object *self, PyObject *object)
{
    int own = PyObject_IsTrue(object);
    if (own < 0 || opened_store(self) == NULL) {
        return NULL;
    }
    track_end(self->attachment.segment, own ? COPIES_OWN : COPIES_DEAD);
    Py_RETURN_NONE;
}

/* ---- copying -------------------------------------------------------------------------------- */

/* False with an exception. */
static bool
read_one(struct copy_node_object *self, struct store *store, const struct dump_item *dumped,
         size_t *used)
{
    struct record *record = &self->records[self->count];
    switch (store_copy_read(store, dumped, self->values + *used, &record->copy)) {
    case COPY_STORED:
        record->value_at = *used;
        record->key_len = dumped->key_len;
        memcpy(record->key, dumped->key, dumped->key_len);
        *used += record->copy.value != NULL ? record->copy.value_len : 0;
        self->count++;
        return true;
    case COPY_HELD:
        raise_busy();
        return false;
    case COPY_CHANGED:
    case COPY_TOO_LARGE:
    case COPY_NO_ROOM:
    case COPY_GONE:
    case COPY_OVER:
        break;
    }
    return true;
}

static PyObject *
keys_of_records(const struct copy_node_object *self)
{
    PyObject *keys = PyList_New(self->count);
    for (unsigned i = 0; keys != NULL && i < self->count; i++) {
        PyObject *key =
            PyBytes_FromStringAndSize((const char *)self->records[i].key, self->records[i].key_len);
        if (key == NULL) {
            Py_CLEAR(keys);
            break;
        }
        PyList_SET_ITEM(keys, i, key);
    }
    return keys;
}

static PyObject *
node_read(struct copy_node_object *self, PyObject *unused)
{
    (void)unused;
    struct store *store = opened_store(self);
    if (store == NULL) {
        return NULL;
    }
    size_t used = 0;
    self->count = 0;
    for (unsigned step = 0;
         step < READ_STEPS && self->count + DUMP_ITEMS_MAX <= ITEMS_MAX && used < VALUE_BYTES;
         step++) {
        struct dump_item items[DUMP_ITEMS_MAX];
        struct dump_cursor next = self->reading;
        unsigned count;
        switch (store_dump(store, &next, ALL_CLASSES, items, &count)) {
        case DUMP_MORE:
            break;
        case DUMP_BUSY:
            return raise_busy();
        case DUMP_END:
            if (self->count == 0) {
                Py_RETURN_NONE;
            }
            return keys_of_records(self);
        }
        for (unsigned i = 0; i < count; i++) {
            if (!items[i].copied && !read_one(self, store, &items[i], &used)) {
                return NULL;
            }
        }
        self->reading = next;
    }
    return keys_of_records(self);
}

static enum copy_result
take_one(struct store *to, struct copy_node_object *from, unsigned index)
{
    const struct record *record = &from->records[index];
    struct copy copy = record->copy;
    struct key key;
    bool ended;
    copy.expire_word =
        expire_word_for(from->attachment.store, to, record->copy.expire_word, &ended);
    if (ended) {
        return COPY_GONE;
    }
    key_init(to, &copy.key, record->key, record->key_len);
    if (copy.value == NULL) {
        key_init(from->attachment.store, &key, record->key, record->key_len);
        return store_copy_long(from->attachment.store, &key, to, &copy);
    }
    copy.value = from->values + record->value_at;
    return store_copy(to, &copy);
}

static PyObject *
node_take(struct copy_node_object *self, PyObject *args)
{
    struct copy_node_object *from;
    PyObject *indices;
    unsigned long stored = 0, changed = 0, left_out = 0, gone = 0;
    uint64_t bytes = 0;
    Py_ssize_t done = 0;
    struct store *store = opened_store(self);
    if (store == NULL ||
        !PyArg_ParseTuple(args, "O!O!", Py_TYPE(self), &from, &PyList_Type, &indices) ||
        opened_store(from) == NULL) {
        return NULL;
    }
    while (done < PyList_GET_SIZE(indices) && bytes < TAKE_BYTES) {
        unsigned long index = PyLong_AsUnsignedLong(PyList_GET_ITEM(indices, done));
        if (index >= from->count) {
            if (!PyErr_Occurred()) {
                PyErr_Format(PyExc_IndexError, "the piece that was read has %u items", from->count);
            }
            return NULL;
        }
        bytes += from->records[index].copy.value_len;
        done++;
        switch (take_one(store, from, (unsigned)index)) {
        case COPY_STORED:
            stored++;
            break;
        case COPY_CHANGED:
            changed++;
            break;
        case COPY_TOO_LARGE:
        case COPY_NO_ROOM:
            left_out++;
            break;
        case COPY_GONE:
            gone++;
            break;
        case COPY_OVER:
            return raise_error("WarmError", "it was flushed");
        case COPY_HELD:
            return raise_busy();
        }
    }
    return Py_BuildValue("(nkkkk)", done, stored, changed, left_out, gone);
}

static PyObject *
node_end_step(struct copy_node_object *self, PyObject *object)
{
    struct store *store = opened_store(self);
    int confirm = PyObject_IsTrue(object);
    uint64_t kept = 0, dropped = 0;
    if (store == NULL || confirm < 0) {
        return NULL;
    }
    store_tick(store);
    for (unsigned i = 0; i < END_STEPS; i++) {
        switch (store_copy_end(store, &self->ending, confirm ? COPY_CONFIRM : COPY_DROP, &kept,
                               &dropped)) {
        case DUMP_MORE:
            break;
        case DUMP_BUSY:
            return raise_busy();
        case DUMP_END:
            if (i == 0) {
                self->ending = (struct dump_cursor){0};
                Py_RETURN_NONE;
            }
            i = END_STEPS;
            break;
        }
    }
    return Py_BuildValue("(KK)", (unsigned long long)kept, (unsigned long long)dropped);
}

static PyObject *
node_copies(struct copy_node_object *self, PyObject *unused)
{
    (void)unused;
    if (opened_store(self) == NULL) {
        return NULL;
    }
    static const char *const names[] = {"own", "checked", "dead"};
    return PyUnicode_FromString(
        names[atomic_load(&track_head_of(self->attachment.segment)->copies)]);
}

static PyObject *
node_items(struct copy_node_object *self, PyObject *unused)
{
    (void)unused;
    struct store_sums sums;
    struct store *store = opened_store(self);
    if (store == NULL) {
        return NULL;
    }
    store_sum(store, &sums);
    return PyLong_FromUnsignedLongLong(sums.curr_items);
}

static PyMethodDef node_methods[] = {
    {"open", (PyCFunction)node_open, METH_VARARGS, NULL},
    {"close", (PyCFunction)node_close, METH_NOARGS, NULL},
    {"begin", (PyCFunction)node_begin, METH_VARARGS, NULL},
    {"accept", (PyCFunction)node_accept, METH_O, NULL},
    {"look", (PyCFunction)node_look, METH_NOARGS, NULL},
    {"show_from", (PyCFunction)node_show_from, METH_O, NULL},
    {"read", (PyCFunction)node_read, METH_NOARGS, NULL},
    {"take", (PyCFunction)node_take, METH_VARARGS, NULL},
    {"end_step", (PyCFunction)node_end_step, METH_O, NULL},
    {"end", (PyCFunction)node_end, METH_O, NULL},
    {"copies", (PyCFunction)node_copies, METH_NOARGS, NULL},
    {"items", (PyCFunction)node_items, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot node_slots[] = {
    {Py_tp_doc, "A node that items are copied from or to; see memcachepy.cluster.warm."},
    {Py_tp_dealloc, node_dealloc},
    {Py_tp_methods, node_methods},
    {0, NULL},
};

PyType_Spec copy_node_spec = {
    .name = "memcachepy._core.CopyNode",
    .basicsize = sizeof(struct copy_node_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = node_slots,
};
