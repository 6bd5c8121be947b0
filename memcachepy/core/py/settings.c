/* The segment's settings as one table, between Python values and struct segment_settings. */
#include "py/core_py.h"

#include <stddef.h>
#include <string.h>

enum setting_kind {
    SETTING_U64,
    SETTING_U32,
    SETTING_I32,
    SETTING_BOOL,
    SETTING_FLOAT,
    SETTING_TEXT,
    SETTING_POLICY,
};

struct setting {
    const char *name;
    enum setting_kind kind;
    size_t offset;
    double smallest,
        largest; /* numbers; memory_limit_bytes has a ceiling of its own in the segment */
};

#define SETTING(field, kind, smallest, largest)                                                    \
    {#field, kind, offsetof(struct segment_settings, field), smallest, largest}

#define MIB 1048576.0

static const struct setting settings_table[] = {
    SETTING(memory_limit_bytes, SETTING_U64, MIB, MIB *MIB),
    SETTING(item_size_max_bytes, SETTING_U64, 1024, 1024 * MIB),
    SETTING(growth_factor, SETTING_FLOAT, 1.0001, 100),
    SETTING(item_size_min_bytes, SETTING_U32, 1, 1024),
    SETTING(conn_limit, SETTING_U32, 1, 10000000),
    SETTING(worker_count, SETTING_U32, 1, WORKERS_MAX),
    SETTING(requests_per_event, SETTING_U32, 1, 1000000000),
    SETTING(backlog, SETTING_U32, 1, 1000000000),
    SETTING(verbosity, SETTING_U32, 0, 3),
    SETTING(eviction_policy, SETTING_POLICY, 0, 0),
    SETTING(cas_enabled, SETTING_BOOL, 0, 1),
    SETTING(flush_enabled, SETTING_BOOL, 0, 1),
    SETTING(shutdown_enabled, SETTING_BOOL, 0, 1),
    SETTING(large_pages, SETTING_BOOL, 0, 1),
    SETTING(tcp_port, SETTING_I32, 0, 65535),
    SETTING(unix_mask, SETTING_U32, 0, 0777),
    SETTING(supervisor_pid, SETTING_I32, 0, 2147483647),
    SETTING(unix_socket, SETTING_TEXT, 0, 0),
    SETTING(listen, SETTING_TEXT, 0, 0),
};

#define SETTING_COUNT (sizeof(settings_table) / sizeof(settings_table[0]))

void
settings_defaults(struct segment_settings *settings)
{
    *settings = (struct segment_settings){
        .memory_limit_bytes = 64u << 20,
        .item_size_max_bytes = 1u << 20,
        .growth_factor = 1.1,
        .item_size_min_bytes = 8,
        .conn_limit = 1024,
        .worker_count = 4,
        .requests_per_event = 20,
        .backlog = 1024,
        .cas_enabled = true,
        .flush_enabled = true,
        .tcp_port = 11211,
        .unix_mask = 0700,
        .listen = "127.0.0.1",
    };
}

static PyObject *
setting_get(const struct setting *setting, const struct segment_settings *settings)
{
    const uint8_t *at = (const uint8_t *)settings + setting->offset;
    switch (setting->kind) {
    case SETTING_U64:
        return PyLong_FromUnsignedLongLong(*(const uint64_t *)at);
    case SETTING_U32:
        return PyLong_FromUnsignedLong(*(const uint32_t *)at);
    case SETTING_I32:
        return PyLong_FromLong(*(const int32_t *)at);
    case SETTING_BOOL:
        return PyBool_FromLong(*(const bool *)at);
    case SETTING_FLOAT:
        return PyFloat_FromDouble(*(const double *)at);
    case SETTING_TEXT:
        return PyUnicode_DecodeFSDefault((const char *)at);
    case SETTING_POLICY:
        return PyUnicode_FromString(policy_names[*(const uint32_t *)at]);
    }
    Py_UNREACHABLE();
}

PyObject *
settings_to_dict(const struct segment_settings *settings)
{
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < SETTING_COUNT; i++) {
        PyObject *value = setting_get(&settings_table[i], settings);
        if (value == NULL || PyDict_SetItemString(dict, settings_table[i].name, value) != 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
    }
    return dict;
}

static bool
set_text(const struct setting *setting, PyObject *value, char *at)
{
    PyObject *bytes = NULL;
    if (!PyUnicode_Check(value) || (bytes = PyUnicode_EncodeFSDefault(value)) == NULL ||
        PyBytes_GET_SIZE(bytes) >= SETTING_TEXT_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: %R is not a text of at most %d bytes", setting->name,
                     value, SETTING_TEXT_MAX - 1);
        Py_XDECREF(bytes);
        return false;
    }
    memcpy(at, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes) + 1);
    Py_DECREF(bytes);
    return true;
}

static bool
set_policy(const struct setting *setting, PyObject *value, uint32_t *policy)
{
    const char *text = PyUnicode_Check(value) ? PyUnicode_AsUTF8(value) : NULL;
    for (*policy = 0; text != NULL && *policy < POLICY_COUNT; ++*policy) {
        if (strcmp(policy_names[*policy], text) == 0) {
            return true;
        }
    }
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "%s: %R is not a policy", setting->name, value);
    return false;
}

static bool
refuse_range(const struct setting *setting, PyObject *value)
{
    char range[96];
    PyErr_Clear();
    snprintf(range, sizeof(range), "%.15g to %.15g", setting->smallest, setting->largest);
    PyErr_Format(PyExc_ValueError, "%s: %R is out of range; the range is %s", setting->name, value,
                 range);
    return false;
}

static bool
setting_set(const struct setting *setting, PyObject *value, struct segment_settings *settings)
{
    uint8_t *at = (uint8_t *)settings + setting->offset;
    if (setting->kind == SETTING_TEXT) {
        return set_text(setting, value, (char *)at);
    }
    if (setting->kind == SETTING_POLICY) {
        return set_policy(setting, value, (uint32_t *)at);
    }
    double number = PyFloat_AsDouble(value);
    if ((number == -1.0 && PyErr_Occurred()) ||
        !(number >= setting->smallest && number <= setting->largest) ||
        (setting->kind != SETTING_FLOAT && !PyLong_Check(value))) {
        return refuse_range(setting, value);
    }
    switch (setting->kind) {
    case SETTING_U64:
        *(uint64_t *)at = PyLong_AsUnsignedLongLong(value);
        break;
    case SETTING_U32:
        *(uint32_t *)at = (uint32_t)PyLong_AsUnsignedLong(value);
        break;
    case SETTING_I32:
        *(int32_t *)at = (int32_t)PyLong_AsLong(value);
        break;
    case SETTING_BOOL:
        *(bool *)at = number != 0;
        break;
    case SETTING_FLOAT:
        *(double *)at = number;
        break;
    case SETTING_TEXT:
    case SETTING_POLICY:
        break;
    }
    return !PyErr_Occurred();
}

static const struct setting *
setting_named(const char *name)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (strcmp(settings_table[i].name, name) == 0) {
            return &settings_table[i];
        }
    }
    return NULL;
}

bool
settings_from_mapping(PyObject *mapping, struct segment_settings *settings)
{
    PyObject *items = PyMapping_Items(mapping);
    if (items == NULL) {
        return false;
    }
    bool good = true;
    for (Py_ssize_t i = 0; good && i < PyList_GET_SIZE(items); i++) {
        PyObject *name = PyTuple_GET_ITEM(PyList_GET_ITEM(items, i), 0);
        PyObject *value = PyTuple_GET_ITEM(PyList_GET_ITEM(items, i), 1);
        const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
        const struct setting *setting = text == NULL ? NULL : setting_named(text);
        if (setting == NULL) {
            PyErr_Format(PyExc_ValueError, "%R is not a setting of the segment", name);
            good = false;
        } else {
            good = setting_set(setting, value, settings);
        }
    }
    Py_DECREF(items);
    if (good && settings->item_size_max_bytes > settings->memory_limit_bytes / 2) {
        PyErr_Format(PyExc_ValueError,
                     "item_size_max_bytes: %llu is out of range; the range ends at half of "
                     "memory_limit_bytes, %llu",
                     (unsigned long long)settings->item_size_max_bytes,
                     (unsigned long long)settings->memory_limit_bytes / 2);
        good = false;
    }
    return good;
}
