/* What a process of the node asks of the kernel for itself, where Python has no word for it. */
#include "py/core_py.h"

#include <sys/mman.h>
#include <sys/prctl.h>

PyObject *
process_lock_memory(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    /* On fault: the mapping of the segment is as long as the host's memory, and what of it nobody
     * has populated must stay untouched. */
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

PyObject *
process_allow_core(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (prctl(PR_SET_DUMPABLE, 1) != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}
