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
    SETTING_PROTOCOL,
    SETTING_LETTER,
};

struct setting {
    const char *name;
    enum setting_kind kind;
    size_t offset, bytes;
    double smallest,
        largest; /* numbers; memory_limit_bytes has a ceiling of its own in the segment */
};

#define SETTING(field, kind, smallest, largest)                                                    \
    {#field,                                                                                       \
     kind,                                                                                         \
     offsetof(struct segment_settings, field),                                                     \
     sizeof(((struct segment_settings *)0)->field),                                                \
     smallest,                                                                                     \
     largest}

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
    SETTING(maxconns_fast, SETTING_BOOL, 0, 1),
    SETTING(dump_enabled, SETTING_BOOL, 0, 1),
    SETTING(watch_enabled, SETTING_BOOL, 0, 1),
    SETTING(track_sizes, SETTING_BOOL, 0, 1),
    SETTING(slab_reassign, SETTING_BOOL, 0, 1),
    SETTING(drop_privileges, SETTING_BOOL, 0, 1),
    SETTING(lru_maintainer, SETTING_BOOL, 0, 1),
    SETTING(clock_is_fixed, SETTING_BOOL, 0, 1),
    SETTING(prefix_delimiter, SETTING_LETTER, 0, 0),
    SETTING(detail_enabled, SETTING_BOOL, 0, 1),
    SETTING(lru_crawler, SETTING_BOOL, 0, 1),
    SETTING(lru_segmented, SETTING_BOOL, 0, 1),
    SETTING(temp_lru, SETTING_BOOL, 0, 1),
    SETTING(slab_automove, SETTING_U32, 0, 2),
    SETTING(slab_automove_window, SETTING_U32, 3, 1800),
    SETTING(slab_automove_ratio, SETTING_FLOAT, 0.01, 1),
    SETTING(slab_automove_freeratio, SETTING_FLOAT, 0, 1),
    SETTING(lru_crawler_sleep_us, SETTING_U32, 0, 1000000),
    SETTING(lru_crawler_tocrawl, SETTING_U32, 0, 4294967295.0),
    SETTING(hot_lru_pct, SETTING_U32, 1, 80),
    SETTING(warm_lru_pct, SETTING_U32, 1, 80),
    SETTING(temporary_ttl_s, SETTING_U32, 0, 4294967295.0),
    SETTING(hot_max_factor, SETTING_FLOAT, 0.000001, 1000000000),
    SETTING(warm_max_factor, SETTING_FLOAT, 0.000001, 1000000000),
    SETTING(binding_protocol, SETTING_PROTOCOL, 0, 0),
    SETTING(idle_timeout_s, SETTING_U32, 0, 2147483647),
    SETTING(worker_logbuf_bytes, SETTING_U32, 1024, 1024 * MIB),
    SETTING(watcher_logbuf_bytes, SETTING_U32, 1024, 1024 * MIB),
    SETTING(hashpower_init, SETTING_U32, 0, 63),
    SETTING(tail_repair_time_s, SETTING_U32, 0, 2147483647),
    SETTING(slab_chunk_max_bytes, SETTING_U32, 1024, 1024 * MIB),
    SETTING(napi_id_count, SETTING_U32, 0, 2147483647),
    SETTING(read_buf_limit_bytes, SETTING_U64, 0, MIB *MIB),
    SETTING(hash_algorithm, SETTING_TEXT, 0, 0),
    SETTING(slab_sizes, SETTING_TEXT, 0, 0),
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
        .maxconns_fast = true,
        .dump_enabled = true,
        .watch_enabled = true,
        .slab_reassign = true,
        .lru_maintainer = true,
        .prefix_delimiter = ':',
        .lru_crawler = true,
        .lru_segmented = true,
        .slab_automove = 1,
        .slab_automove_window = 10,
        .slab_automove_ratio = 0.8,
        .slab_automove_freeratio = 0.01,
        .lru_crawler_sleep_us = 100,
        .hot_lru_pct = 20,
        .warm_lru_pct = 40,
        .temporary_ttl_s = 61,
        .hot_max_factor = 0.2,
        .warm_max_factor = 2.0,
        .worker_logbuf_bytes = 64u << 10,
        .watcher_logbuf_bytes = 256u << 10,
        .slab_chunk_max_bytes = 512u << 10,
        .hash_algorithm = "siphash13",
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
    case SETTING_PROTOCOL:
        return PyUnicode_FromString(binding_names[*(const uint32_t *)at]);
    case SETTING_LETTER:
        return PyUnicode_FromStringAndSize((const char *)at, 1);
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
        (size_t)PyBytes_GET_SIZE(bytes) >= setting->bytes) {
        PyErr_Format(PyExc_ValueError, "%s: %R is not a text of at most %zu bytes", setting->name,
                     value, setting->bytes - 1);
        Py_XDECREF(bytes);
        return false;
    }
    memcpy(at, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes) + 1);
    Py_DECREF(bytes);
    return true;
}

/* One word of a list, as its index. */
static bool
set_word(const struct setting *setting, PyObject *value, const char *const *words, uint32_t count,
         uint32_t *index)
{
    const char *text = PyUnicode_Check(value) ? PyUnicode_AsUTF8(value) : NULL;
    for (*index = 0; text != NULL && *index < count; ++*index) {
        if (strcmp(words[*index], text) == 0) {
            return true;
        }
    }
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "%s: %R is not one of its words", setting->name, value);
    return false;
}

static bool
set_letter(const struct setting *setting, PyObject *value, char *letter)
{
    Py_ssize_t len = 0;
    const char *text = PyUnicode_Check(value) ? PyUnicode_AsUTF8AndSize(value, &len) : NULL;
    if (text == NULL || len != 1) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s: %R is not one ASCII character", setting->name, value);
        return false;
    }
    *letter = text[0];
    return true;
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
set_number(const struct setting *setting, PyObject *value, uint8_t *at)
{
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
    case SETTING_PROTOCOL:
    case SETTING_LETTER:
        break;
    }
    return !PyErr_Occurred();
}

static bool
setting_set(const struct setting *setting, PyObject *value, struct segment_settings *settings)
{
    uint8_t *at = (uint8_t *)settings + setting->offset;
    switch (setting->kind) {
    case SETTING_TEXT:
        return set_text(setting, value, (char *)at);
    case SETTING_LETTER:
        return set_letter(setting, value, (char *)at);
    case SETTING_POLICY:
        return set_word(setting, value, policy_names, POLICY_COUNT, (uint32_t *)at);
    case SETTING_PROTOCOL:
        return set_word(setting, value, binding_names, BINDING_COUNT, (uint32_t *)at);
    case SETTING_U64:
    case SETTING_U32:
    case SETTING_I32:
    case SETTING_BOOL:
    case SETTING_FLOAT:
        return set_number(setting, value, at);
    }
    Py_UNREACHABLE();
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

/* What `settings_change` takes: [atomic], a word, and looked at whenever it matters. */
static const char *const changeable[] = {"requests_per_event", "flush_enabled", "shutdown_enabled",
                                         "dump_enabled", "watch_enabled"};

static const struct setting *
changeable_named(PyObject *name)
{
    const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    for (size_t i = 0; text != NULL && i < sizeof(changeable) / sizeof(changeable[0]); i++) {
        if (strcmp(changeable[i], text) == 0) {
            return setting_named(text);
        }
    }
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "%R is not a setting that a running node takes", name);
    return NULL;
}

bool
settings_change(PyObject *mapping, struct segment_settings *settings)
{
    PyObject *items = PyMapping_Items(mapping);
    if (items == NULL) {
        return false;
    }
    bool good = true;
    /* All of them are looked at before the first is changed. */
    for (int pass = 0; good && pass < 2; pass++) {
        for (Py_ssize_t i = 0; good && i < PyList_GET_SIZE(items); i++) {
            PyObject *value = PyTuple_GET_ITEM(PyList_GET_ITEM(items, i), 1);
            const struct setting *setting =
                changeable_named(PyTuple_GET_ITEM(PyList_GET_ITEM(items, i), 0));
            union {
                uint8_t bytes[8];
                uint32_t number;
                bool is_on;
            } wanted;
            good = setting != NULL && set_number(setting, value, wanted.bytes);
            if (good && pass == 1) {
                uint8_t *at = (uint8_t *)settings + setting->offset;
                if (setting->kind == SETTING_BOOL) {
                    atomic_store_explicit((_Atomic bool *)at, wanted.is_on, memory_order_relaxed);
                } else {
                    atomic_store_explicit((_Atomic uint32_t *)at, wanted.number,
                                          memory_order_relaxed);
                }
            }
        }
    }
    Py_DECREF(items);
    return good;
}
