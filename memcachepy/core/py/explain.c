/* Segment.explain(): where a key is, or why it is not; see _core.pyi. */
#include "py/core_py.h"

#include "proto/conn.h"
#include "store/recent.h"

static const char *const state_names[] = {
    [EXPLAIN_STORED] = "stored", [EXPLAIN_EXPIRED] = "expired", [EXPLAIN_FLUSHED] = "flushed",
    [EXPLAIN_GONE] = "gone",     [EXPLAIN_UNKNOWN] = "unknown", [EXPLAIN_BUSY] = "busy",
};

static PyObject *
dict_of(enum explain_result result, const struct explanation *of)
{
    const char *state = state_names[result];
    switch (result) {
    case EXPLAIN_STORED:
    case EXPLAIN_EXPIRED:
    case EXPLAIN_FLUSHED:
        return Py_BuildValue(
            "{sssIsIsOsKsKsIsIsIsIsLsIsOsOsOsO}", "state", state, "shard", of->shard, "remembers_s",
            of->remembers_s, "in_ghost", of->in_ghost ? Py_True : Py_False, "cas",
            (unsigned long long)of->cas, "item_bytes", (unsigned long long)of->bytes, "value_len",
            of->value_len, "client_flags", of->client_flags, "class_id", of->class_id, "hits",
            of->hits, "ttl_s", (long long)of->ttl_s, "last_access_s", of->access_s, "probation",
            of->in_probation ? Py_True : Py_False, "chained", of->is_chained ? Py_True : Py_False,
            "stale", of->is_stale ? Py_True : Py_False, "fetched",
            of->fetched ? Py_True : Py_False);
    case EXPLAIN_GONE:
        return Py_BuildValue("{sssIsIsOsssIsO}", "state", state, "shard", of->shard, "remembers_s",
                             of->remembers_s, "in_ghost", of->in_ghost ? Py_True : Py_False, "how",
                             departure_names[of->departure], "ago_s", of->ago_s, "fetched",
                             of->fetched ? Py_True : Py_False);
    case EXPLAIN_UNKNOWN:
    case EXPLAIN_BUSY:
        break;
    }
    return Py_BuildValue("{sssIsIsO}", "state", state, "shard", of->shard, "remembers_s",
                         of->remembers_s, "in_ghost", of->in_ghost ? Py_True : Py_False);
}

PyObject *
segment_explain(struct segment_object *self, PyObject *args)
{
    const char *bytes;
    Py_ssize_t len;
    if (!PyArg_ParseTuple(args, "y#", &bytes, &len)) {
        return NULL;
    }
    struct store *store = segment_store(self);
    if (store == NULL) {
        return NULL;
    }
    if (len < 1 || len > MEMCACHED_KEY_LEN_MAX) {
        return PyErr_Format(PyExc_ValueError, "key: %zd bytes; the range is 1 to %d", len,
                            MEMCACHED_KEY_LEN_MAX);
    }
    struct key key;
    key_init(store, &key, bytes, (uint32_t)len);
    struct explanation explanation;
    enum explain_result result = store_explain(store, &key, &explanation);
    return dict_of(result, &explanation);
}
