/* memcachepy._core.Segment: see _core.pyi for what each method promises. */
#include "py/core_py.h"

#include "mem/page.h"
#include "net/acceptor.h"
#include "net/maintainer.h"
#include "net/reactor.h"
#include "store/check.h"
#include "store/rebuild.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct segment *
segment_opened(struct segment_object *self)
{
    if (self->segment == NULL) {
        PyErr_SetString(PyExc_ValueError, "the segment is closed");
    }
    return self->segment;
}

struct store *
segment_store(struct segment_object *self)
{
    if (segment_opened(self) == NULL) {
        return NULL;
    }
    if (self->store == NULL) {
        self->store = store_open(self->segment, self->slot_index);
    }
    store_tick(self->store);
    return self->store;
}

bool
segment_has_slot(struct segment_object *self, unsigned slot)
{
    /* All that there can be: how many were ever used is a word that may be damaged. */
    unsigned count =
        SLOT_WORKER_FIRST + self->segment->run->boot_settings.worker_count + ATTACHED_MAX;
    if (slot >= count) {
        PyErr_Format(PyExc_ValueError, "slot: %u is out of range; the range is 0 to %u", slot,
                     count - 1);
        return false;
    }
    return true;
}

bool
dict_add(PyObject *dict, const char *name, uint64_t number)
{
    PyObject *value = PyLong_FromUnsignedLongLong(number);
    bool added = value != NULL && PyDict_SetItemString(dict, name, value) == 0;
    Py_XDECREF(value);
    return added;
}

/* ---- life ----------------------------------------------------------------------------------- */

static PyObject *
segment_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"settings", NULL};
    PyObject *mapping;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", names, &mapping)) {
        return NULL;
    }
    struct segment_settings settings;
    settings_defaults(&settings);
    if (!settings_from_mapping(mapping, &settings)) {
        return NULL;
    }
    struct segment_object *self = (struct segment_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    char sentence[SEGMENT_SENTENCE_MAX];
    PyObject *error = NULL;
    switch (store_create(&settings, &self->segment, sentence)) {
    case SEGMENT_OK:
        segment_note_settings(self->segment);
        return (PyObject *)self;
    case SEGMENT_BAD_SETTING:
        error = PyExc_ValueError;
        break;
    case SEGMENT_SHORTAGE:
        error = state_of_type(type)->memory_shortage;
        break;
    case SEGMENT_FAILED:
        error = state_of_type(type)->core_error;
        break;
    }
    PyErr_SetString(error, sentence);
    Py_DECREF(self);
    return NULL;
}

static PyObject *
segment_attach_method(PyTypeObject *type, PyObject *args)
{
    int fd, run_fd;
    char sentence[SEGMENT_SENTENCE_MAX];
    if (!PyArg_ParseTuple(args, "ii", &fd, &run_fd)) {
        return NULL;
    }
    struct segment_object *self = (struct segment_object *)type->tp_alloc(type, 0);
    if (self != NULL && store_attach(fd, run_fd, &self->segment, sentence) != SEGMENT_OK) {
        PyErr_SetString(state_of_type(type)->core_error, sentence);
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static PyObject *
segment_close_method(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    if (self->store != NULL) {
        store_close(self->store);
        self->store = NULL;
    }
    if (self->segment != NULL) {
        segment_close(self->segment);
        self->segment = NULL;
    }
    Py_RETURN_NONE;
}

static void
segment_dealloc(struct segment_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(segment_close_method(self, NULL));
    type->tp_free(self);
    Py_DECREF(type);
}

/* What takes locks from now on does so in the name of this slot. */
static void
work_in_slot(struct segment_object *self, unsigned slot)
{
    if (self->store != NULL) {
        store_close(self->store);
        self->store = NULL;
    }
    self->slot_index = slot;
}

static PyObject *
segment_claim_slot_method(struct segment_object *self, PyObject *args)
{
    unsigned slot;
    if (!PyArg_ParseTuple(args, "I", &slot) || segment_opened(self) == NULL ||
        !segment_has_slot(self, slot)) {
        return NULL;
    }
    work_in_slot(self, slot);
    segment_claim_slot(self->segment, slot);
    Py_RETURN_NONE;
}

/* ---- loops ---------------------------------------------------------------------------------- */

static PyObject *
loop_result(enum loop_end end)
{
    if (end == LOOP_FAILED) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(end);
}

static PyObject *
segment_set_state(struct segment_object *self, PyObject *args)
{
    unsigned state;
    if (!PyArg_ParseTuple(args, "I", &state) || segment_opened(self) == NULL) {
        return NULL;
    }
    if (state > NODE_STOPPING) {
        return PyErr_Format(PyExc_ValueError, "state: %u is out of range; the range is 0 to %d",
                            state, NODE_STOPPING);
    }
    atomic_store(&self->segment->run->node_state, state);
    Py_RETURN_NONE;
}

static PyObject *
segment_change_settings(struct segment_object *self, PyObject *mapping)
{
    if (segment_opened(self) == NULL || !settings_change(mapping, &self->segment->run->settings)) {
        return NULL;
    }
    segment_note_settings(self->segment);
    Py_RETURN_NONE;
}

static PyObject *
segment_run_worker(struct segment_object *self, PyObject *args)
{
    unsigned slot;
    int channel_fd, wake_fd, liveness_fd;
    if (!PyArg_ParseTuple(args, "Iiii", &slot, &channel_fd, &wake_fd, &liveness_fd) ||
        segment_opened(self) == NULL || !segment_has_slot(self, slot)) {
        return NULL;
    }
    struct segment *segment = self->segment;
    enum loop_end end;
    Py_BEGIN_ALLOW_THREADS;
    end = reactor_run(segment, slot, channel_fd, wake_fd, liveness_fd);
    Py_END_ALLOW_THREADS;
    return loop_result(end);
}

/* Descriptors of a Python sequence; count -1 with an exception if there are too many. */
static int
take_fds(PyObject *sequence, int *fds, int max)
{
    PyObject *fast = PySequence_Fast(sequence, "descriptors must be a sequence");
    if (fast == NULL) {
        return -1;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast);
    if (count > max) {
        PyErr_Format(PyExc_ValueError, "%zd descriptors are too many; the limit is %d", count, max);
        count = -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        fds[i] = (int)PyLong_AsLong(PySequence_Fast_GET_ITEM(fast, i));
        if (PyErr_Occurred()) {
            count = -1;
        }
    }
    Py_DECREF(fast);
    return (int)count;
}

#define LISTENERS_MAX 256

static PyObject *
segment_run_acceptor(struct segment_object *self, PyObject *args)
{
    unsigned slot;
    int wake_fd, liveness_fd;
    PyObject *listeners, *channels;
    int listener_fds[LISTENERS_MAX], channel_fds[WORKERS_MAX];
    if (!PyArg_ParseTuple(args, "IOOii", &slot, &listeners, &channels, &wake_fd, &liveness_fd) ||
        segment_opened(self) == NULL || !segment_has_slot(self, slot)) {
        return NULL;
    }
    int listener_count = take_fds(listeners, listener_fds, LISTENERS_MAX);
    int channel_count = listener_count < 0 ? -1 : take_fds(channels, channel_fds, WORKERS_MAX);
    if (channel_count < 0) {
        return NULL;
    }
    struct segment *segment = self->segment;
    enum loop_end end;
    Py_BEGIN_ALLOW_THREADS;
    end = acceptor_run(segment, slot, listener_fds, (unsigned)listener_count, channel_fds,
                       (unsigned)channel_count, wake_fd, liveness_fd);
    Py_END_ALLOW_THREADS;
    return loop_result(end);
}

static PyObject *
segment_run_maintainer(struct segment_object *self, PyObject *args)
{
    unsigned slot;
    int wake_fd, liveness_fd;
    if (!PyArg_ParseTuple(args, "Iii", &slot, &wake_fd, &liveness_fd) ||
        segment_opened(self) == NULL || !segment_has_slot(self, slot)) {
        return NULL;
    }
    struct segment *segment = self->segment;
    enum loop_end end;
    Py_BEGIN_ALLOW_THREADS;
    end = maintainer_run(segment, slot, wake_fd, liveness_fd);
    Py_END_ALLOW_THREADS;
    return loop_result(end);
}

static PyObject *
segment_start_child(struct segment_object *self, PyObject *args)
{
    unsigned slot;
    if (!PyArg_ParseTuple(args, "I", &slot) || segment_opened(self) == NULL ||
        !segment_has_slot(self, slot)) {
        return NULL;
    }
    work_in_slot(self, slot);
    return PyBool_FromLong(loop_claim(self->segment, slot));
}

static PyObject *
segment_set_serving(struct segment_object *self, PyObject *args)
{
    unsigned slot;
    if (!PyArg_ParseTuple(args, "I", &slot) || segment_opened(self) == NULL ||
        !segment_has_slot(self, slot)) {
        return NULL;
    }
    atomic_store(&self->segment->slots[slot].serving, 1);
    Py_RETURN_NONE;
}

static PyObject *
segment_is_serving(struct segment_object *self, PyObject *args)
{
    unsigned slot;
    if (!PyArg_ParseTuple(args, "I", &slot) || segment_opened(self) == NULL ||
        !segment_has_slot(self, slot)) {
        return NULL;
    }
    return PyBool_FromLong(atomic_load(&self->segment->slots[slot].serving) != 0);
}

/* ---- looking at it -----------------------------------------------------------------------------
 */

static PyObject *
segment_add_child_rusage(struct segment_object *self, PyObject *args)
{
    double user_s, system_s;
    if (!PyArg_ParseTuple(args, "dd", &user_s, &system_s) || segment_opened(self) == NULL) {
        return NULL;
    }
    struct run_head *run = self->segment->run;
    atomic_fetch_add(&run->child_user_us, (uint64_t)(user_s * 1e6));
    atomic_fetch_add(&run->child_system_us, (uint64_t)(system_s * 1e6));
    Py_RETURN_NONE;
}

static PyObject *
segment_connection_count_method(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    struct segment *segment = segment_opened(self);
    return segment == NULL ? NULL : PyLong_FromUnsignedLongLong(segment_connection_count(segment));
}

static PyObject *
segment_counters(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    struct store *store = segment_store(self);
    PyObject *dict = store == NULL ? NULL : PyDict_New();
    if (dict == NULL) {
        return NULL;
    }
    uint64_t counters[COUNTER_COUNT];
    struct store_sums sums;
    store_counters_sum(store, counters);
    store_sum(store, &sums);
    bool good = true;
    for (unsigned i = 0; good && i < COUNTER_COUNT; i++) {
        good = dict_add(dict, counter_names[i], counters[i]);
    }
#define X(name) good = good && dict_add(dict, #name, sums.name);
    SHARD_SUM_LIST(X)
    X(pages_free)
    X(pages_limit)
    X(held_bytes)
#undef X
    if (!good) {
        Py_CLEAR(dict);
    }
    return dict;
}

static void
append_problem(void *context, const char *sentence)
{
    PyObject *list = context;
    PyObject *text = PyUnicode_FromString(sentence);
    if (text != NULL) {
        PyList_Append(list, text);
        Py_DECREF(text);
    }
}

static PyObject *
segment_check(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    struct store *store = segment_store(self);
    PyObject *list = store == NULL ? NULL : PyList_New(0);
    if (list != NULL) {
        store_check(store, append_problem, list);
    }
    return list;
}

static PyObject *
segment_rebuild(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    struct store *store = segment_store(self);
    if (store == NULL) {
        return NULL;
    }
    store_rebuild(store);
    Py_RETURN_NONE;
}

static PyObject *
segment_maintain(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    struct store *store = segment_store(self);
    if (store == NULL) {
        return NULL;
    }
    bool more;
    Py_BEGIN_ALLOW_THREADS;
    more = store_maintain(store);
    Py_END_ALLOW_THREADS;
    return PyBool_FromLong(more);
}

static PyObject *
segment_advance_clock(struct segment_object *self, PyObject *args)
{
    long long seconds;
    if (!PyArg_ParseTuple(args, "L", &seconds) || segment_opened(self) == NULL) {
        return NULL;
    }
    atomic_fetch_add(&self->segment->run->advance_s, seconds);
    Py_RETURN_NONE;
}

static PyObject *
segment_step_system_clock(struct segment_object *self, PyObject *args)
{
    long long seconds;
    if (!PyArg_ParseTuple(args, "L", &seconds) || segment_opened(self) == NULL) {
        return NULL;
    }
    atomic_fetch_add(&self->segment->run->wall_step_s, seconds);
    Py_RETURN_NONE;
}

static PyObject *
segment_take_shortage(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    if (segment_opened(self) == NULL) {
        return NULL;
    }
    struct growth *growth = &self->segment->run->growth;
    uint32_t number = atomic_load(&growth->shortage_number);
    if (number == self->shortages_seen) {
        Py_RETURN_NONE;
    }
    self->shortages_seen = number;
    /* It names a cgroup, whose name is bytes, and may be written to just now. */
    char text[sizeof(growth->shortage_text)];
    memcpy(text, growth->shortage_text, sizeof(text));
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strnlen(text, sizeof(text)), "replace");
}

static PyObject *
segment_take_recovery(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    if (segment_opened(self) == NULL) {
        return NULL;
    }
    struct growth *growth = &self->segment->run->growth;
    uint32_t number = atomic_load(&growth->recovery_number);
    if (number == self->recoveries_seen) {
        Py_RETURN_NONE;
    }
    self->recoveries_seen = number;
    return PyLong_FromUnsignedLong(atomic_load(&growth->recovery_after_s));
}

static PyObject *
get_fd(struct segment_object *self, void *unused)
{
    (void)unused;
    return segment_opened(self) == NULL ? NULL : PyLong_FromLong(self->segment->fd);
}

static PyObject *
get_run_fd(struct segment_object *self, void *unused)
{
    (void)unused;
    return segment_opened(self) == NULL ? NULL : PyLong_FromLong(self->segment->run_fd);
}

static PyObject *
get_reserve_bytes(struct segment_object *self, void *unused)
{
    (void)unused;
    return segment_opened(self) == NULL ? NULL : PyLong_FromUnsignedLongLong(self->segment->bytes);
}

static PyObject *
get_page_bytes(struct segment_object *self, void *unused)
{
    (void)unused;
    return segment_opened(self) == NULL
               ? NULL
               : PyLong_FromUnsignedLong(self->segment->superblock->page_bytes);
}

static PyObject *
get_shard_count(struct segment_object *self, void *unused)
{
    (void)unused;
    return segment_opened(self) == NULL
               ? NULL
               : PyLong_FromUnsignedLong(self->segment->superblock->shard_count);
}

#define METHOD(name, function, flags) {name, (PyCFunction)(void (*)(void))(function), flags, NULL}

static PyMethodDef segment_methods[] = {
    METHOD("attach", segment_attach_method, METH_VARARGS | METH_CLASS),
    METHOD("claim_slot", segment_claim_slot_method, METH_VARARGS),
    METHOD("set_state", segment_set_state, METH_VARARGS),
    METHOD("change_settings", segment_change_settings, METH_O),
    METHOD("run_worker", segment_run_worker, METH_VARARGS),
    METHOD("run_acceptor", segment_run_acceptor, METH_VARARGS),
    METHOD("run_maintainer", segment_run_maintainer, METH_VARARGS),
    METHOD("start_child", segment_start_child, METH_VARARGS),
    METHOD("set_serving", segment_set_serving, METH_VARARGS),
    METHOD("is_serving", segment_is_serving, METH_VARARGS),
    METHOD("recover", segment_recover, METH_VARARGS | METH_KEYWORDS),
    METHOD("open_slot", segment_open_slot, METH_VARARGS),
    METHOD("end_slot", segment_end_slot, METH_VARARGS),
    METHOD("close_slot", segment_close_slot, METH_VARARGS),
    METHOD("die_with_supervisor", segment_die_with_supervisor, METH_NOARGS),
    METHOD("mend", segment_mend, METH_NOARGS),
    METHOD("lock_holders", segment_lock_holders, METH_NOARGS),
    METHOD("set_stuck", segment_set_stuck, METH_VARARGS),
    METHOD("add_child_rusage", segment_add_child_rusage, METH_VARARGS),
    METHOD("connection_count", segment_connection_count_method, METH_NOARGS),
    METHOD("counters", segment_counters, METH_NOARGS),
    METHOD("check", segment_check, METH_NOARGS),
    METHOD("rebuild", segment_rebuild, METH_NOARGS),
    METHOD("memory_report", segment_memory_report, METH_NOARGS),
    METHOD("set_config", segment_set_config, METH_VARARGS),
    METHOD("get_config", segment_get_config, METH_VARARGS),
    METHOD("delete_config", segment_delete_config, METH_VARARGS),
    METHOD("explain", segment_explain, METH_VARARGS),
    METHOD("replay", segment_replay, METH_VARARGS | METH_KEYWORDS),
    METHOD("maintain", segment_maintain, METH_NOARGS),
    METHOD("advance_clock", segment_advance_clock, METH_VARARGS),
    METHOD("step_system_clock", segment_step_system_clock, METH_VARARGS),
    METHOD("take_shortage", segment_take_shortage, METH_NOARGS),
    METHOD("take_recovery", segment_take_recovery, METH_NOARGS),
    METHOD("close", segment_close_method, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef segment_getset[] = {
    {"fd", (getter)get_fd, NULL, NULL, NULL},
    {"run_fd", (getter)get_run_fd, NULL, NULL, NULL},
    {"reserve_bytes", (getter)get_reserve_bytes, NULL, NULL, NULL},
    {"page_bytes", (getter)get_page_bytes, NULL, NULL, NULL},
    {"shard_count", (getter)get_shard_count, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot segment_slots[] = {
    {Py_tp_doc, "A node's shared memory, created by the supervisor before it forks."},
    {Py_tp_new, segment_new},
    {Py_tp_dealloc, segment_dealloc},
    {Py_tp_methods, segment_methods},
    {Py_tp_getset, segment_getset},
    {0, NULL},
};

PyType_Spec segment_spec = {
    .name = "memcachepy._core.Segment",
    .basicsize = sizeof(struct segment_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = segment_slots,
};
