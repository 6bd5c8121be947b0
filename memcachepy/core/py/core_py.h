/* Shared by the files of the extension memcachepy._core. */
#ifndef PY_CORE_PY_H
#define PY_CORE_PY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "store/store.h"

struct module_state {
    PyTypeObject *segment_type;
    PyTypeObject *connection_type;
    PyTypeObject *cache_type;
    PyTypeObject *copy_node_type;
    PyObject *core_error;
    PyObject *memory_shortage;
};

extern struct PyModuleDef core_module;

struct module_state *state_of_type(PyTypeObject *type);

/* Raises an exception of memcachepy.errors. Returns NULL. */
PyObject *raise_error(const char *name, const char *format, ...);

struct segment_object {
    PyObject_HEAD struct segment *segment; /* NULL after close() */
    struct store *store; /* of the slot this process claimed; opened on first use */
    unsigned slot_index;
    uint32_t shortages_seen, recoveries_seen, mended_seen, emptied_seen;
};

/* An open segment, or its store; NULL with an exception if it is closed. */
struct segment *segment_opened(struct segment_object *self);
struct store *segment_store(struct segment_object *self);

/* False with ValueError if there is no such slot. */
bool segment_has_slot(struct segment_object *self, unsigned slot);

bool dict_add(PyObject *dict, const char *name, uint64_t number);

/* Methods of Segment about process slots: slots.c. */
PyObject *segment_recover(struct segment_object *self, PyObject *args, PyObject *kwargs);
PyObject *segment_open_slot(struct segment_object *self, PyObject *args);
PyObject *segment_end_slot(struct segment_object *self, PyObject *args);
PyObject *segment_close_slot(struct segment_object *self, PyObject *args);
PyObject *segment_die_with_supervisor(struct segment_object *self, PyObject *unused);
PyObject *segment_mend(struct segment_object *self, PyObject *unused);
PyObject *segment_lock_holders(struct segment_object *self, PyObject *unused);
PyObject *segment_set_stuck(struct segment_object *self, PyObject *args);

/* Methods of Segment about configurations: config.c. */
PyObject *segment_set_config(struct segment_object *self, PyObject *args);
PyObject *segment_get_config(struct segment_object *self, PyObject *args);
PyObject *segment_delete_config(struct segment_object *self, PyObject *args);

/* Segment.explain(): explain.c. */
PyObject *segment_explain(struct segment_object *self, PyObject *args);

/* Segment.replay(): replay.c. Segment.memory_report(): memory_report.c. */
PyObject *segment_replay(struct segment_object *self, PyObject *args, PyObject *kwargs);
PyObject *segment_memory_report(struct segment_object *self, PyObject *unused);

/* Of the module: process.c. */
PyObject *process_lock_memory(PyObject *module, PyObject *unused);
PyObject *process_allow_core(PyObject *module, PyObject *unused);

extern PyType_Spec cache_spec;
extern PyType_Spec copy_node_spec;
extern PyType_Spec segment_spec;
extern PyType_Spec connection_spec;

/* ---- settings.c ----------------------------------------------------------------------------- */

void settings_defaults(struct segment_settings *settings);

/* A dict of every setting. */
PyObject *settings_to_dict(const struct segment_settings *settings);

/* Overrides from a mapping. False with ValueError, naming setting, value and range. */
bool settings_from_mapping(PyObject *mapping, struct segment_settings *settings);
/* Of a running node, all of the mapping or, with an exception set, nothing. */
bool settings_change(PyObject *mapping, struct segment_settings *settings);

#endif
