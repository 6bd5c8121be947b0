/* The extension module memcachepy._load: the load generator for Python.
 *
 * Thin: it turns a mapping into a load_config, runs the phases with the GIL released, and turns the
 * results into dicts. The generator calls back every LOAD_TICK_MS; there the GIL is taken, signals
 * are looked at (so Ctrl-C ends a run) and the caller's progress function is called. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "load/generator.h"
#include "load/sampler.h"
#include "load/workload.h"

#include <string.h>

struct module_state {
    PyObject *load_error;
};

static const char *const phase_names[] = {
    [LOAD_PREFILL] = "prefill",
    [LOAD_WARMUP] = "warmup",
    [LOAD_MEASURE] = "load",
};

/* ---- settings ----------------------------------------------------------------------------- */

static bool
take_u64(PyObject *value, const char *name, uint64_t *out)
{
    if (!PyLong_Check(value)) {
        PyErr_Format(PyExc_ValueError, "%s is %R; it must be a whole number", name, value);
        return false;
    }
    unsigned long long number = PyLong_AsUnsignedLongLong(value);
    if (number == (unsigned long long)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s is %R; it must be 0 to 2^64 - 1", name, value);
        return false;
    }
    *out = number;
    return true;
}

static bool
take_text(PyObject *value, const char *name, char *out, size_t size)
{
    Py_ssize_t len;
    const char *text = PyUnicode_Check(value) ? PyUnicode_AsUTF8AndSize(value, &len) : NULL;
    if (text == NULL) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s is %R; it must be text", name, value);
        return false;
    }
    if ((size_t)len >= size || strlen(text) != (size_t)len) {
        PyErr_Format(PyExc_ValueError, "%s is %R; it must be at most %zu bytes without NUL", name,
                     value, size - 1);
        return false;
    }
    memcpy(out, text, (size_t)len + 1);
    return true;
}

static bool
take_double(PyObject *value, const char *name, double *out)
{
    *out = PyFloat_AsDouble(value);
    if (*out == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s is %R; it must be a number", name, value);
        return false;
    }
    return true;
}

static bool
take_setting(PyObject *key, PyObject *value, struct load_config *config)
{
    const char *name = PyUnicode_Check(key) ? PyUnicode_AsUTF8(key) : NULL;
    if (name == NULL) {
        PyErr_Clear();
        PyErr_SetString(PyExc_ValueError, "a setting's name must be text");
        return false;
    }
    if (strcmp(name, "address") == 0) {
        return take_text(value, name, config->address, sizeof(config->address));
    }
    if (strcmp(name, "key_prefix") == 0) {
        return take_text(value, name, config->key_prefix, sizeof(config->key_prefix));
    }
    if (strcmp(name, "zipf_exponent") == 0) {
        return take_double(value, name, &config->zipf_exponent);
    }
#define X(field, smallest, largest, preset)                                                        \
    if (strcmp(name, #field) == 0) {                                                               \
        return take_u64(value, name, &config->field);                                              \
    }
    LOAD_SETTINGS(X)
#undef X
    PyErr_Format(PyExc_ValueError, "%s is no setting of the load generator", name);
    return false;
}

/* Items of a copy, because a mapping's own code could change it while we look. */
static bool
take_settings(PyObject *settings, struct load_config *config)
{
    PyObject *copy = PyDict_New();
    if (copy == NULL || PyDict_Update(copy, settings) != 0) {
        Py_XDECREF(copy);
        return false;
    }
    PyObject *key, *value;
    Py_ssize_t position = 0;
    bool fits = true;
    load_config_init(config);
    while (fits && PyDict_Next(copy, &position, &key, &value)) {
        fits = take_setting(key, value, config);
    }
    Py_DECREF(copy);
    char sentence[256];
    if (fits && !load_config_check(config, sentence, sizeof(sentence))) {
        PyErr_SetString(PyExc_ValueError, sentence);
        fits = false;
    }
    return fits;
}

/* ---- results ------------------------------------------------------------------------------ */

/* Steals the value. */
static bool
put(PyObject *dict, const char *name, PyObject *value)
{
    bool done = value != NULL && PyDict_SetItemString(dict, name, value) == 0;
    Py_XDECREF(value);
    return done;
}

static PyObject *
latency_dict(const struct histogram *histogram)
{
    static const struct {
        const char *name;
        double share;
    } columns[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99_9", 0.999}};
    PyObject *dict = PyDict_New();
    if (dict == NULL) {
        return NULL;
    }
    double count = histogram->count == 0 ? 1 : (double)histogram->count;
    uint64_t min_ns = histogram->count == 0 ? 0 : histogram->min;
    bool done = put(dict, "min", PyFloat_FromDouble((double)min_ns / 1e3)) &&
                put(dict, "mean", PyFloat_FromDouble((double)histogram->sum / count / 1e3));
    for (size_t i = 0; done && i < sizeof(columns) / sizeof(columns[0]); i++) {
        uint64_t ns = histogram_percentile(histogram, columns[i].share);
        done = put(dict, columns[i].name, PyFloat_FromDouble((double)ns / 1e3));
    }
    if (!done || !put(dict, "max", PyFloat_FromDouble((double)histogram->max / 1e3))) {
        Py_CLEAR(dict);
    }
    return dict;
}

static PyObject *
text_or_none(const char *text)
{
    if (text[0] == '\0') {
        Py_RETURN_NONE;
    }
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "backslashreplace");
}

static PyObject *
result_dict(const struct load_result *result)
{
    PyObject *dict = PyDict_New();
    if (dict == NULL) {
        return NULL;
    }
    bool done = true;
#define X(name) done = done && put(dict, #name, PyLong_FromUnsignedLongLong(result->name));
    LOAD_COUNTERS(X)
#undef X
    done = done && put(dict, "wall_s", PyFloat_FromDouble((double)result->wall_ns / 1e9)) &&
           put(dict, "generator_cpu_s", PyFloat_FromDouble((double)result->cpu_ns / 1e9)) &&
           put(dict, "send_delay_us_max", PyLong_FromUnsignedLongLong(result->send_delay_us_max)) &&
           put(dict, "error_sample", text_or_none(result->error_sample)) &&
           put(dict, "wrong_sample", text_or_none(result->wrong_sample)) &&
           put(dict, "latency_us", latency_dict(&result->latency_ns));
    if (!done) {
        Py_CLEAR(dict);
    }
    return dict;
}

/* ---- the run ------------------------------------------------------------------------------ */

struct run {
    PyThreadState *thread; /* While the GIL is released. */
    PyObject *progress;    /* Or None. */
};

static bool
tick(void *context, const struct load_progress *progress)
{
    struct run *run = context;
    PyEval_RestoreThread(run->thread);
    bool go_on = PyErr_CheckSignals() == 0;
    if (go_on && run->progress != Py_None) {
        PyObject *answer = PyObject_CallFunction(
            run->progress, "sdKK", phase_names[progress->phase], (double)progress->elapsed_ns / 1e9,
            (unsigned long long)progress->requests, (unsigned long long)progress->errors);
        go_on = answer != NULL;
        Py_XDECREF(answer);
    }
    run->thread = PyEval_SaveThread();
    return go_on;
}

static PyObject *
run_phase(struct module_state *state, struct load_generator *generator, enum load_phase phase,
          struct load_result *result, PyObject *progress)
{
    struct run run = {.progress = progress};
    run.thread = PyEval_SaveThread();
    enum load_status status = generator_run(generator, phase, result, tick, &run);
    PyEval_RestoreThread(run.thread);
    switch (status) {
    case LOAD_DONE:
        return result_dict(result);
    case LOAD_INTERRUPTED: /* The exception is set. */
        return NULL;
    case LOAD_UNREACHABLE:
    case LOAD_STALLED:
        PyErr_Format(state->load_error, "%s: %s", phase_names[phase], generator_error(generator));
        return NULL;
    }
    Py_UNREACHABLE();
}

static bool
run_phases(struct module_state *state, const struct load_config *config,
           struct load_generator *generator, PyObject *progress, PyObject *results)
{
    const bool wanted[] = {
        [LOAD_PREFILL] = config->prefill != 0,
        [LOAD_WARMUP] = config->warmup_ms != 0,
        [LOAD_MEASURE] = true,
    };
    struct load_result *result = PyMem_Malloc(sizeof(*result));
    if (result == NULL) {
        PyErr_NoMemory();
        return false;
    }
    bool done = true;
    for (int phase = LOAD_PREFILL; done && phase <= LOAD_MEASURE; phase++) {
        PyObject *value = Py_None;
        if (wanted[phase]) {
            value = run_phase(state, generator, (enum load_phase)phase, result, progress);
        } else {
            Py_INCREF(value);
        }
        done = put(results, phase_names[phase], value);
    }
    PyMem_Free(result);
    return done;
}

static PyObject *
load_run(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"settings", "progress", NULL};
    struct module_state *state = PyModule_GetState(module);
    PyObject *settings;
    PyObject *progress = Py_None;
    struct load_config config;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:run", names, &settings, &progress) ||
        !take_settings(settings, &config)) {
        return NULL;
    }
    char sentence[256];
    struct load_generator *generator = generator_open(&config, sentence, sizeof(sentence));
    if (generator == NULL) {
        PyErr_SetString(state->load_error, sentence);
        return NULL;
    }
    PyObject *results = PyDict_New();
    if (results != NULL && !run_phases(state, &config, generator, progress, results)) {
        Py_CLEAR(results);
    }
    generator_close(generator);
    return results;
}

/* ---- the parts, for tests and tools ------------------------------------------------------- */

static PyObject *
load_make_value(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long key, value_len;
    struct load_config config;
    struct workload workload;
    if (!PyArg_ParseTuple(args, "KK:make_value", &key, &value_len)) {
        return NULL;
    }
    load_config_init(&config);
    if (key > UINT32_MAX || value_len > 134217728) {
        PyErr_SetString(PyExc_ValueError, "key must be below 2^32, value_bytes at most 2^27");
        return NULL;
    }
    config.value_bytes_max = value_len;
    if (!workload_init(&workload, &config)) {
        return PyErr_NoMemory();
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)value_len);
    if (bytes != NULL) {
        (void)workload_put_value(&workload, PyBytes_AS_STRING(bytes), key, value_len);
    }
    workload_free(&workload);
    return bytes;
}

static PyObject *
load_sample_keys(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long key_count, seed;
    double exponent;
    Py_ssize_t count;
    struct sampler sampler;
    if (!PyArg_ParseTuple(args, "KdKn:sample_keys", &key_count, &exponent, &seed, &count)) {
        return NULL;
    }
    if (key_count < 1 || key_count > UINT32_MAX || !(exponent >= 0 && exponent <= 10) ||
        count < 0) {
        PyErr_SetString(PyExc_ValueError,
                        "key_count must be 1 to 2^32 - 1, zipf_exponent 0 to 10, count at least 0");
        return NULL;
    }
    PyObject *list = PyList_New(count);
    sampler_init(&sampler, key_count, exponent, seed);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyObject *key = PyLong_FromUnsignedLongLong(sampler_key(&sampler));
        if (key == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, key);
    }
    return list;
}

static PyObject *
load_percentiles(PyObject *Py_UNUSED(module), PyObject *values)
{
    PyObject *iterator = PyObject_GetIter(values);
    struct histogram *histogram = PyMem_Malloc(sizeof(*histogram));
    PyObject *dict = NULL;
    if (iterator == NULL || histogram == NULL) {
        goto done;
    }
    histogram_init(histogram);
    for (PyObject *value; (value = PyIter_Next(iterator)) != NULL;) {
        uint64_t number = 0;
        bool fits = take_u64(value, "latency_ns", &number);
        Py_DECREF(value);
        if (!fits) {
            goto done;
        }
        histogram_record(histogram, number);
    }
    if (!PyErr_Occurred()) {
        dict = latency_dict(histogram);
    }
done:
    Py_XDECREF(iterator);
    PyMem_Free(histogram);
    return dict;
}

/* ---- the module --------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"run", (PyCFunction)(void (*)(void))load_run, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("Run the load that the settings describe; returns a dict of phases.")},
    {"make_value", load_make_value, METH_VARARGS,
     PyDoc_STR("The value of a key's number and a length.")},
    {"sample_keys", load_sample_keys, METH_VARARGS,
     PyDoc_STR("Key numbers as a run with these settings draws them.")},
    {"percentiles", load_percentiles, METH_O,
     PyDoc_STR("Latencies in nanoseconds, summed up as a run does.")},
    {NULL, NULL, 0, NULL},
};

static PyObject *
settings_dict(void)
{
    PyObject *dict = PyDict_New();
    if (dict == NULL) {
        return NULL;
    }
    bool done = true;
#define X(name, smallest, largest, preset)                                                         \
    done =                                                                                         \
        done && put(dict, #name,                                                                   \
                    Py_BuildValue("KKK", (unsigned long long)(smallest),                           \
                                  (unsigned long long)(largest), (unsigned long long)(preset)));
    LOAD_SETTINGS(X)
#undef X
    if (!done) {
        Py_CLEAR(dict);
    }
    return dict;
}

static int
module_exec(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    state->load_error =
        PyErr_NewExceptionWithDoc("memcachepy._load.LoadError",
                                  "The load could not run; the message is a sentence.", NULL, NULL);
    if (state->load_error == NULL ||
        PyModule_AddObjectRef(module, "LoadError", state->load_error) != 0) {
        return -1;
    }
    PyObject *settings = settings_dict();
    int status = settings == NULL ? -1 : PyModule_AddObjectRef(module, "SETTINGS", settings);
    Py_XDECREF(settings);
    return status;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);
    Py_VISIT(state->load_error);
    return 0;
}

static int
module_clear(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->load_error);
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "memcachepy._load",
    .m_doc = PyDoc_STR("The load generator; use it through `memcachepy bench`."),
    .m_size = sizeof(struct module_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC
PyInit__load(void)
{
    return PyModuleDef_Init(&module_def);
}
