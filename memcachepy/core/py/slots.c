/* Segment's methods about process slots, for the supervisor: what a dead process left, and who
 * holds a lock just now. */
#include "py/core_py.h"

#include "mem/conn_table.h"
#include "store/mend.h"
#include "store/recover.h"

#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

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
    for (unsigned i = 0; i < segment->run->boot_settings.worker_count; i++) {
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
    static char *names[] = {"slot", "channel_fd", "is_suspect", NULL};
    unsigned slot;
    int channel_fd = -1;
    int suspect = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|ip", names, &slot, &channel_fd, &suspect)) {
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
    recovered = suspect ? store_recover_suspect(store, slot, &recovery)
                        : store_recover(store, slot, &recovery);
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

PyObject *
segment_die_with_supervisor(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    if (segment_opened(self) == NULL) {
        return NULL;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int32_t supervisor_pid = self->segment->run->boot_settings.supervisor_pid;
    return PyBool_FromLong(supervisor_pid <= 0 || getppid() == supervisor_pid);
}

/* ---- what others have damaged ---------------------------------------------------------------- */

/* 0 for a jump that no count makes: the word was written over. */
static uint32_t
count_since(uint32_t count, uint32_t seen)
{
    return count - seen < 1u << 20 ? count - seen : 0;
}

/* Whether each worker's counts of connections can be what they say. */
static bool
counts_are_possible(const struct segment *segment)
{
    const struct segment_settings *settings = &segment->run->boot_settings;
    uint64_t most = conn_table_capacity(settings);
    for (unsigned i = 0; i < settings->worker_count; i++) {
        const struct process_slot *slot = &segment->slots[SLOT_WORKER_FIRST + i];
        uint64_t assigned = atomic_load(&slot->conns_assigned);
        uint64_t received = atomic_load(&slot->conns_received);
        if (assigned - received > most || received - atomic_load(&slot->conns_closed) > most) {
            return false;
        }
    }
    return true;
}

PyObject *
segment_mend(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    struct store *store = segment_store(self);
    if (store == NULL) {
        return NULL;
    }
    struct run_head *run = self->segment->run;
    segment_reassert(self->segment);
    unsigned locks = store_mend_locks(store);
    uint32_t mended = atomic_load(&run->mended_count);
    uint32_t emptied = atomic_load(&run->emptied_count);
    PyObject *found =
        Py_BuildValue("(IIIIO)", locks, count_since(mended, self->mended_seen),
                      count_since(emptied, self->emptied_seen), atomic_load(&run->emptied_shard),
                      counts_are_possible(self->segment) ? Py_False : Py_True);
    self->mended_seen = mended;
    self->emptied_seen = emptied;
    return found;
}

/* ---- who holds a lock ----------------------------------------------------------------------- */

/* Whether the thread is one of the process. */
static bool
has_thread(int32_t pid, int32_t thread)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task/%d", (int)pid, (int)thread);
    return thread == pid || thread < 0 || (thread > 0 && access(path, F_OK) == 0);
}

/* False with an exception. */
static bool
add_holder(PyObject *list, unsigned slot, int32_t pid, int shard, uint32_t count)
{
    PyObject *holder = Py_BuildValue("(IiiI)", slot, (int)pid, shard, count);
    bool added = holder != NULL && PyList_Append(list, holder) == 0;
    Py_XDECREF(holder);
    return added;
}

PyObject *
segment_lock_holders(struct segment_object *self, PyObject *unused)
{
    (void)unused;
    struct segment *segment = segment_opened(self);
    struct store *store = segment == NULL ? NULL : segment_store(self);
    PyObject *list = store == NULL ? NULL : PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    const struct growth *growth = &segment->run->growth;
    const struct config_words *configs = &segment->run->configs;
    uint32_t grow_count = atomic_load(&growth->grow_count);
    int32_t grower = lock_owner(&growth->grow_lock);
    uint32_t config_lock_count = atomic_load(&configs->lock_count);
    int32_t configurer = lock_owner(&configs->lock);
    bool good = true;
    for (unsigned i = 0; good && i < segment_slot_count(segment); i++) {
        struct process_slot *slot = &segment->slots[i];
        int32_t pid = atomic_load(&slot->pid);
        uint32_t wanted = atomic_load(&slot->wanted_shard);
        uint32_t count = atomic_load(&slot->lock_count);
        if (wanted - 1 < segment->superblock->shard_count &&
            has_thread(pid, store_lock_owner(store, wanted - 1))) {
            good = add_holder(list, i, pid, (int)wanted - 1, count);
        }
        if (good && pid != 0 && grower > 0 && has_thread(pid, grower)) {
            good = add_holder(list, i, pid, -1, grow_count);
        }
        if (good && pid != 0 && configurer > 0 && has_thread(pid, configurer)) {
            good = add_holder(list, i, pid, -2, config_lock_count);
        }
    }
    if (!good) {
        Py_CLEAR(list);
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
segment_end_slot(struct segment_object *self, PyObject *args)
{
    unsigned slot;
    if (!PyArg_ParseTuple(args, "I", &slot) || segment_opened(self) == NULL ||
        !segment_has_slot(self, slot)) {
        return NULL;
    }
    self->segment->ended[slot] = true;
    Py_RETURN_NONE;
}

PyObject *
segment_close_slot(struct segment_object *self, PyObject *args)
{
    unsigned slot;
    if (!PyArg_ParseTuple(args, "I", &slot) || segment_opened(self) == NULL) {
        return NULL;
    }
    if (!segment_has_slot(self, slot)) {
        return NULL;
    }
    self->segment->ended[slot] = false;
    segment_close_attached(self->segment, slot);
    Py_RETURN_NONE;
}

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
