/* Segment.memory_report(). */
#include "py/core_py.h"

#include "store/account.h"

PyObject *
segment_memory_report(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    struct store *store = segment_store(self);
    if (store == NULL) {
        return NULL;
    }
    struct store_account account;
    if (!store_account(store, &account)) {
        PyErr_SetString(PyExc_TimeoutError, "a shard is locked by a stopped process");
        return NULL;
    }
    PyObject *report = PyDict_New();
    bool ok = report != NULL && dict_add(report, "items", account.items) &&
              dict_add(report, "pages_bytes", account.pages_bytes);
#define X(name) ok = ok && dict_add(report, #name, account.name);
    ACCOUNT_PART_LIST(X)
#undef X
    if (!ok) {
        Py_CLEAR(report);
    }
    return report;
}
