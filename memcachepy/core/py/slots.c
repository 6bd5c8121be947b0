/* Segment's methods about process slots, for the supervisor: what a dead process left, and who
 * holds a lock just now. */
#include "py/core_py.h"

#include "store/recover.h"

#include <sys/ioctl.h>
#include <time.h>

/* ---- recovery ------------------------------------------------------------------------------- */

#define SETTLE_TRIES_MAX 20

static void
sleep_ms(long ms)
{
    struct timespec span = {.tv_nsec = ms * 1000000};
    nanosleep(&span, NULL);
}

/* The connections of a dead worker are gone but for those that still wait in its channel, one byte
 * each. The acceptor may be in the middle of passing one: then assigned and sent differ for a
 * moment. */
static uint64_t
settle_worker(struct process_slot *slot, int channel_fd)
{
    uint64_t assigned = 0;
    int queued = 0;
    for (unsigned i = 0; i < SETTLE_TRIES_MAX; i++) {
        assigned = atomic_load(&slot->conns_assigned);
        uint64_t sent = atomic_load(&slot->conns_sent);
        if (ioctl(channel_fd, FIONREAD, &queued) != 0) {
            queued = 0;
        }
        if (sent == assigned && atomic_load(&slot->conns_assigned) == assigned) {
            break;
        }
        sleep_ms(1);
    }
    uint64_t closed = assigned - (uint64_t)queued;
    uint64_t lost = closed - atomic_load(&slot->conns_closed);
    atomic_store(&slot->conns_received, closed);
    atomic_store(&slot->conns_closed, closed);
    return lost;
}

#define ARRIVAL_MS_MAX 20

/* A dead acceptor may have counted a connection that it never passed on: it arrives soon or not at
 * all. */
static void
settle_acceptor(struct segment *segment)
{
    for (unsigned i = 0; i < segment->superblock->settings.worker_count; i++) {
        struct process_slot *slot = &segment->slots[SLOT_WORKER_FIRST + i];
        uint64_t assigned = atomic_load(&slot->conns_assigned);
        if (assigned == atomic_load(&slot->conns_sent)) {
            continue;
        }
        for (unsigned j = 0; j < ARRIVAL_MS_MAX; j++) {
            if (atomic_load(&slot->conns_received) >= assigned) {
                atomic_store(&slot->conns_sent, assigned);
                break;
            }
            sleep_ms(1);
        }
        atomic_store(&slot->conns_assigned, atomic_load(&slot->conns_sent));
    }
}

PyObject *
segment_recover(struct segment_object *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"slot", "channel_fd", NULL};
    unsigned slot;
    int channel_fd = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|i", names, &slot, &channel_fd)) {
        return NULL;
    }
    struct store *store = segment_store(self);
    if (store == NULL || !segment_has_slot(self, slot)) {
        return NULL;
    }
    struct recovery recovery;
    uint64_t lost = 0;
    bool recovered;
    Py_BEGIN_ALLOW_THREADS;
    recovered = store_recover(store, slot, &recovery);
    if (!recovered) {
        /* Nothing is settled before. */
    } else if (slot == SLOT_ACCEPTOR) {
        settle_acceptor(self->segment);
    } else if (channel_fd >= 0) {
        lost = settle_worker(&self->segment->slots[slot], channel_fd);
    }
    Py_END_ALLOW_THREADS;
    if (!recovered) {
        Py_RETURN_NONE;
    }
    PyObject *dict = PyDict_New();
    if (dict == NULL || !dict_add(dict, "shards_repaired", recovery.shards_repaired) ||
        !dict_add(dict, "shards_rebuilt", recovery.shards_rebuilt) ||
        !dict_add(dict, "uploads_freed", recovery.uploads_freed) ||
        !dict_add(dict, "pins_released", recovery.pins_released) ||
        !dict_add(dict, "connections_lost", lost)) {
        Py_XDECREF(dict);
        return NULL;
    }
    return dict;
}

/* ---- who holds a lock ----------------------------------------------------------------------- */

PyObject *
segment_lock_holders(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    struct segment *segment = segment_opened(self);
    PyObject *list = segment == NULL ? NULL : PyList_New(0);
    unsigned slot_count = list == NULL ? 0 : segment_slot_count(segment);
    for (unsigned i = 0; i < slot_count; i++) {
        struct process_slot *slot = &segment->slots[i];
        uint32_t locked = atomic_load(&slot->locked_shard);
        if (locked == 0) {
            continue;
        }
        PyObject *holder = Py_BuildValue("(IiII)", i, (int)atomic_load(&slot->pid), locked - 1,
                                         atomic_load(&slot->lock_count));
        int appended = holder == NULL ? -1 : PyList_Append(list, holder);
        Py_XDECREF(holder);
        if (appended != 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

PyObject *
segment_set_stuck(struct segment_object *self, PyObject *args)
{
    unsigned slot;
    int stuck;
    if (!PyArg_ParseTuple(args, "Ip", &slot, &stuck) || segment_opened(self) == NULL ||
        !segment_has_slot(self, slot)) {
        return NULL;
    }
    atomic_store(&self->segment->slots[slot].stuck, (uint32_t)stuck);
    Py_RETURN_NONE;
}

/* ---- attached processes --------------------------------------------------------------------- */

PyObject *
segment_open_slot(struct segment_object *self, PyObject *args)
{
    int pid;
    unsigned slot;
    char sentence[SEGMENT_SENTENCE_MAX];
    if (!PyArg_ParseTuple(args, "i", &pid) || segment_opened(self) == NULL) {
        return NULL;
    }
    if (!segment_open_attached(self->segment, pid, &slot, sentence)) {
        PyErr_SetString(state_of_type(Py_TYPE(self))->core_error, sentence);
        return NULL;
    }
    return PyLong_FromUnsignedLong(slot);
}
