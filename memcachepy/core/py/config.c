/* Segment's methods about configurations, which `config get` answers; see _core.pyi. */
#include "py/core_py.h"

#include "mem/config_table.h"

/* False with an exception. */
static bool
check_key(const char *key, Py_ssize_t len)
{
    if (len < 1 || len > CONFIG_KEY_LEN_MAX || !config_key_is_sound(key, (uint32_t)len)) {
        PyErr_Format(PyExc_ValueError,
                     "key: 1 to %d bytes without spaces and control characters are wanted",
                     CONFIG_KEY_LEN_MAX);
        return false;
    }
    return true;
}

/* Raises what a result other than CONFIG_OK means. */
static PyObject *
raise_result(struct segment_object *self, enum config_result result, Py_ssize_t len)
{
    const struct module_state *state = state_of_type(Py_TYPE(self));
    switch (result) {
    case CONFIG_TOO_LONG:
        return PyErr_Format(PyExc_ValueError, "data: %zd bytes; the range is 0 to %d", len,
                            CONFIG_VALUE_LEN_MAX);
    case CONFIG_TOO_MANY:
        return PyErr_Format(state->core_error,
                            "there are %d configurations already, and that is the limit: delete "
                            "one",
                            CONFIG_COUNT_MAX);
    case CONFIG_NO_MEMORY:
        PyErr_SetString(state->memory_shortage,
                        "the host or its cgroup has no memory left for the configuration");
        return NULL;
    case CONFIG_BUSY:
        PyErr_SetString(state->core_error,
                        "the configurations are being changed by a process that is stopped");
        return NULL;
    case CONFIG_OK:
    case CONFIG_NOT_FOUND:
        break;
    }
    return NULL;
}

PyObject *
segment_set_config(struct segment_object *self, PyObject *args)
{
    const char *key, *data;
    Py_ssize_t key_len, len;
    unsigned long flags;
    if (!PyArg_ParseTuple(args, "s#ky#", &key, &key_len, &flags, &data, &len) ||
        segment_opened(self) == NULL || !check_key(key, key_len)) {
        return NULL;
    }
    if (flags > UINT32_MAX) {
        return PyErr_Format(PyExc_ValueError, "client_flags: %lu; the range is 0 to %u", flags,
                            UINT32_MAX);
    }
    struct config_entry entry = {
        .key = key,
        .key_len = (uint32_t)key_len,
        .client_flags = (uint32_t)flags,
        .value = data,
        .value_len = len <= CONFIG_VALUE_LEN_MAX ? (uint32_t)len : UINT32_MAX,
    };
    enum config_result result;
    Py_BEGIN_ALLOW_THREADS;
    result = config_set(self->segment, &entry);
    Py_END_ALLOW_THREADS;
    if (result != CONFIG_OK) {
        return raise_result(self, result, len);
    }
    COUNT(&self->segment->slots[self->slot_index].counters, cmd_config_set);
    Py_RETURN_NONE;
}

PyObject *
segment_get_config(struct segment_object *self, PyObject *args)
{
    const char *key;
    Py_ssize_t key_len;
    struct config_view view;
    if (!PyArg_ParseTuple(args, "s#", &key, &key_len) || segment_opened(self) == NULL ||
        !check_key(key, key_len)) {
        return NULL;
    }
    uint8_t *value = PyMem_Malloc(CONFIG_VALUE_LEN_MAX);
    if (value == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *found = NULL;
    switch (config_read(self->segment, key, (uint32_t)key_len, value, &view)) {
    case CONFIG_OK:
        found = Py_BuildValue("(Iy#)", view.client_flags, value, (Py_ssize_t)view.value_len);
        break;
    case CONFIG_NOT_FOUND:
        found = Py_NewRef(Py_None);
        break;
    default:
        PyErr_SetString(state_of_type(Py_TYPE(self))->core_error,
                        "the configuration is changed all the time");
        break;
    }
    PyMem_Free(value);
    return found;
}

PyObject *
segment_delete_config(struct segment_object *self, PyObject *args)
{
    const char *key;
    Py_ssize_t key_len;
    if (!PyArg_ParseTuple(args, "s#", &key, &key_len) || segment_opened(self) == NULL ||
        !check_key(key, key_len)) {
        return NULL;
    }
    enum config_result result;
    Py_BEGIN_ALLOW_THREADS;
    result = config_delete(self->segment, key, (uint32_t)key_len);
    Py_END_ALLOW_THREADS;
    if (result != CONFIG_OK && result != CONFIG_NOT_FOUND) {
        return raise_result(self, result, 0);
    }
    return PyBool_FromLong(result == CONFIG_OK);
}
