/* The extension module memcachepy._core; its surface is described in _core.pyi. */
#include "py/core_py.h"

#include "base/xxh64.h"
#include "mem/ref.h"
#include "mem/track.h"
#include "net/loop.h"
#include "proto/conn.h"
#include "store/shard.h"

#include <stdarg.h>

PyObject *
raise_error(const char *name, const char *format, ...)
{
    PyObject *errors = PyImport_ImportModule("memcachepy.errors");
    PyObject *type = errors == NULL ? NULL : PyObject_GetAttrString(errors, name);
    if (type != NULL) {
        va_list arguments;
        va_start(arguments, format);
        PyErr_FormatV(type, format, arguments);
        va_end(arguments);
    }
    Py_XDECREF(type);
    Py_XDECREF(errors);
    return NULL;
}

struct module_state *
state_of_type(PyTypeObject *type)
{
    return PyType_GetModuleState(type);
}

static PyObject *
core_xxh64(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    static char *names[] = {"data", "seed", NULL};
    Py_buffer data;
    unsigned long long seed = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|K", names, &data, &seed)) {
        return NULL;
    }
    uint64_t hash = xxh64(data.buf, (size_t)data.len, seed);
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLongLong(hash);
}

/* Which node a key belongs to: a call for each of them would cost ten times as much. */
static PyObject *
core_xxh64_highest(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "xxh64_highest() takes 2 arguments, not %zd", count);
    }
    Py_buffer data, seeds;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) != 0) {
        return NULL;
    }
    if (PyObject_GetBuffer(args[1], &seeds, PyBUF_SIMPLE) != 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    uint64_t highest = 0;
    Py_ssize_t winner = -1;
    for (Py_ssize_t i = 0; i < seeds.len / (Py_ssize_t)sizeof(uint64_t); i++) {
        uint64_t seed;
        memcpy(&seed, (const char *)seeds.buf + i * (Py_ssize_t)sizeof(seed), sizeof(seed));
        uint64_t hash = xxh64(data.buf, (size_t)data.len, seed);
        if (winner < 0 || hash > highest) {
            highest = hash;
            winner = i;
        }
    }
    PyBuffer_Release(&seeds);
    PyBuffer_Release(&data);
    if (winner < 0) {
        PyErr_SetString(PyExc_ValueError, "there must be a seed");
        return NULL;
    }
    return PyLong_FromSsize_t(winner);
}

static PyMethodDef core_methods[] = {
    {"allow_core", process_allow_core, METH_NOARGS, NULL},
    {"lock_memory", process_lock_memory, METH_NOARGS, NULL},
    {"xxh64", (PyCFunction)(void (*)(void))core_xxh64, METH_VARARGS | METH_KEYWORDS, NULL},
    {"xxh64_highest", (PyCFunction)(void (*)(void))core_xxh64_highest, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static int
add_constants(PyObject *module)
{
    const struct {
        const char *name;
        long value;
    } constants[] = {
        {"LAYOUT_VERSION", SEGMENT_LAYOUT_VERSION},
        {"WORKERS_MAX", WORKERS_MAX},
        {"ATTACHED_MAX", ATTACHED_MAX},
        {"SLOT_SUPERVISOR", SLOT_SUPERVISOR},
        {"SLOT_ACCEPTOR", SLOT_ACCEPTOR},
        {"SLOT_MAINTAINER", SLOT_MAINTAINER},
        {"SLOT_DISCOVERY", SLOT_DISCOVERY},
        {"SLOT_WORKER_FIRST", SLOT_WORKER_FIRST},
        {"RUNNING", NODE_RUNNING},
        {"DRAINING", NODE_DRAINING},
        {"STOPPING", NODE_STOPPING},
        {"REPAIR_ATTEMPTS_MAX", REPAIR_ATTEMPTS_MAX},
        {"EXIT_STOPPED", LOOP_STOPPED},
        {"EXIT_ORPHANED", LOOP_ORPHANED},
        {"COPIES_OUTLIVED_NS", TRACK_OUTLIVED_NS},
    };
    for (size_t i = 0; i < sizeof(constants) / sizeof(constants[0]); i++) {
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) != 0) {
            return -1;
        }
    }
    /* A thirty-second of what the largest refs reach is for the parts before the pages. */
    uint64_t reach = UINT64_C(1) << (32 + UNIT_SHIFT_MAX);
    PyObject *bytes_max = PyLong_FromUnsignedLongLong(reach - reach / 16);
    struct segment_settings defaults;
    settings_defaults(&defaults);
    PyObject *settings = settings_to_dict(&defaults);
    int failed = bytes_max == NULL || settings == NULL ||
                 PyModule_AddObjectRef(module, "MEMORY_BYTES_MAX", bytes_max) != 0 ||
                 PyModule_AddObjectRef(module, "SETTINGS", settings) != 0 ||
                 PyModule_AddStringConstant(module, "PROTOCOL_VERSION", PROTOCOL_VERSION) != 0;
    Py_XDECREF(bytes_max);
    Py_XDECREF(settings);
    PyObject *policies = PyTuple_New(POLICY_COUNT);
    for (Py_ssize_t i = 0; policies != NULL && i < POLICY_COUNT; i++) {
        PyTuple_SET_ITEM(policies, i, PyUnicode_FromString(policy_names[i]));
    }
    failed = failed || policies == NULL ||
             PyModule_AddObjectRef(module, "EVICTION_POLICIES", policies) != 0;
    Py_XDECREF(policies);
    return failed ? -1 : 0;
}

static int
core_exec(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    state->core_error = PyErr_NewException("memcachepy._core.CoreError", NULL, NULL);
    if (state->core_error == NULL) {
        return -1;
    }
    state->memory_shortage =
        PyErr_NewException("memcachepy._core.MemoryShortage", state->core_error, NULL);
    state->segment_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &segment_spec, NULL);
    state->connection_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &connection_spec, NULL);
    state->cache_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &cache_spec, NULL);
    state->copy_node_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &copy_node_spec, NULL);
    if (state->memory_shortage == NULL || state->cache_type == NULL ||
        state->copy_node_type == NULL || state->segment_type == NULL ||
        state->connection_type == NULL ||
        PyModule_AddObjectRef(module, "CoreError", state->core_error) != 0 ||
        PyModule_AddObjectRef(module, "MemoryShortage", state->memory_shortage) != 0 ||
        PyModule_AddType(module, state->segment_type) != 0 ||
        PyModule_AddType(module, state->connection_type) != 0 ||
        PyModule_AddType(module, state->cache_type) != 0 ||
        PyModule_AddType(module, state->copy_node_type) != 0) {
        return -1;
    }
    return add_constants(module);
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);
    Py_VISIT(state->segment_type);
    Py_VISIT(state->connection_type);
    Py_VISIT(state->cache_type);
    Py_VISIT(state->copy_node_type);
    Py_VISIT(state->core_error);
    Py_VISIT(state->memory_shortage);
    return 0;
}

static int
core_clear(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->segment_type);
    Py_CLEAR(state->connection_type);
    Py_CLEAR(state->cache_type);
    Py_CLEAR(state->copy_node_type);
    Py_CLEAR(state->core_error);
    Py_CLEAR(state->memory_shortage);
    return 0;
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
    {0, NULL},
};

struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "memcachepy._core",
    .m_doc = "One segment, the loops of its processes, and the protocol without sockets.",
    .m_size = sizeof(struct module_state),
    .m_methods = core_methods,
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
