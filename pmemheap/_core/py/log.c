/* py/log.c -- LogCore: what Python decides about the log, done in C. `RedoLog` derives from it. */
#include "py/door.h"
#include "py/log.h"

static struct ph_log *log_of(PyObject *object)
{
    return &((struct log_object *)object)->log;
}

/* ---------------------------------------------------------------- syncing */

DOOR(sync_log, log_object, 1, code(ph_log_sync(self, n[0])))

/* ---------------------------------------------------------------- the file */

DOOR(watch, log_object, 2, self->log.fd = (int)n[0], self->log.named = n[1] != 0, done())

DOOR(is_gone, log_object, 0, truth(ph_log_is_gone(&self->log)))

/* ---------------------------------------------------------------- positions */

PyDoc_STRVAR(begin_doc,
"_begin($self, base, size, place, power, header, tail, head, epoch, chain, txid, file_end, /)\n--\n\n"
"Write to the ring at `base` from `head` on. `header`: address of the mapped header area; `place`: offset of the ring\n"
"in its file.");

static PyObject *begin(PyObject *object, PyObject *args)
{
    struct ph_log *log = log_of(object);
    unsigned long long base, size, place, header, tail, head, epoch, file_end;
    unsigned int chain, txid;
    int power;

    if (!PyArg_ParseTuple(args, "KKKpKKKKIIK", &base, &size, &place, &power, &header, &tail, &head, &epoch, &chain, &txid,
                          &file_end))
        return NULL;
    log->base = (uint8_t *)(uintptr_t)base;
    log->size = size;
    log->place = place;
    log->power = (uint8_t)power;
    log->header = (uint8_t *)(uintptr_t)header;
    log->tail = tail;
    log->limit = 0;
    log->applied = log->durable = log->head = head;
    log->epoch = epoch;
    log->chain = chain;
    log->txid = txid;
    log->file_end = file_end;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(move_doc,
"_move($self, base, size, place, epoch, /)\n--\n\n"
"Go on in another ring; nothing of the old one is needed any more [R28].");

static PyObject *move(PyObject *object, PyObject *args)
{
    struct ph_log *log = log_of(object);
    unsigned long long base, size, place, epoch;

    if (!PyArg_ParseTuple(args, "KKKK", &base, &size, &place, &epoch))
        return NULL;
    log->base = (uint8_t *)(uintptr_t)base;
    log->size = size;
    log->place = place;
    log->epoch = epoch;
    log->tail = log->head;
    log->limit = 0;
    ph_lease_settle(log);
    Py_RETURN_NONE;
}

DOOR(positions, log_object, 0,
     Py_BuildValue("KKKKKK", self->log.tail, self->log.applied, self->log.durable, self->log.head, self->log.open_undo,
                   self->log.promised))

DOOR(counters, log_object, 0, Py_BuildValue("KKK", self->log.records, self->log.bytes, self->log.syncs))
DOOR(replayed, log_object, 0, pair(self->log.undone, self->log.revoked))

DOOR(chain_at, log_object, 1, number(ph_log_chain_at(&self->log, n[0])))

/* While the log moves nothing is appended: a thread that wants to waits for the lock of the heap. */
DOOR(freeze, log_object, 1, self->log.frozen = n[0] != 0, done())

/* The superblock with this tail is durable: the space before it is free [R2]. */
DOOR(set_tail, log_object, 1, self->log.tail = n[0], ph_lease_settle(&self->log), done())

/* How far the ring has blocks of the file system, as an LSN; 0: it has all. */
DOOR(set_limit, log_object, 1, self->log.limit = n[0], done())

/* There may be readers of snapshots, from the era `n[1]` on, or no more. */
DOOR(set_copies, log_object, 2, ph_log_copies(&self->log, n[0] != 0, n[1]) < 0 ? PyErr_NoMemory() : done())

DOOR(set_era, log_object, 1, ph_set_era(&self->log, n[0]), done())
DOOR(recycle, log_object, 1, number(ph_recycle(&self->log, n[0])))

static PyObject *tagged_in(const struct ph_log *log)
{
    struct ph_tagged all = ph_tagged(log);

    return Py_BuildValue("KKK", (unsigned long long)all.bytes, (unsigned long long)all.count, (unsigned long long)all.oldest);
}

DOOR(tagged, log_object, 0, tagged_in(&self->log))
DOOR(tagged_since, log_object, 1, number(ph_tagged_since(&self->log, n[0])))

DOOR(die, log_object, 0, self->log.dead = PH_KEPT(R7), done()) /* [R7] */

/* Nanoseconds between two upkeeps of the heap, from now on; UINT64_MAX: none. */
DOOR(set_pace, log_object, 1, ph_pace_set(&self->pace, n[0]), done())

/* The maps go: nothing is stored through this log any more. */
static void forget_maps(struct ph_log *log)
{
    log->dead = 1;
    ph_lease_forget(log);
    log->base = log->header = NULL;
    log->fd = -1;
    log->open_undo = 0;
    for (uint32_t arena = 0; arena < log->homes_room; arena++)
        log->homes[arena].data = NULL;
}

DOOR(detach, log_object, 0, forget_maps(&self->log), done())

DOOR(is_dead, log_object, 0, truth(self->log.dead))

PyDoc_STRVAR(room_doc, "_room($self, nbytes, /)\n--\n\nWhy a record of so many bytes, or of as many as the last one that was refused,\n"
"could not be appended; 0 if it could.");

static int64_t room_for(const struct ph_log *log, uint64_t bytes)
{
    uint64_t spare = log->promised;

    return ph_log_room(log, bytes > log->refused ? bytes : log->refused,
                       spare > log->refused_spare ? spare : log->refused_spare);
}

DOOR(room, log_object, 1, code(room_for(&self->log, ph_record_bytes(n[0]))))

/* ---------------------------------------------------------------- homes */

PyDoc_STRVAR(set_home_doc,
"set_home($self, arena, data, bits, entries, first_unit, end_unit, doors, /)\n--\n\n"
"Where the images of an arena go, by virtual base addresses, and the doors of the heap whose freed blocks leave quarantine.\n"
"With doors None there is nobody yet: in recovery. With data 0 the arena has no home any more.");

static PyObject *set_home(PyObject *object, PyObject *args)
{
    struct log_object *self = (struct log_object *)object;
    unsigned long long data, bits, entries, first, end;
    unsigned int arena;
    PyObject *doors;
    struct heap_object *heap = NULL;

    if (!PyArg_ParseTuple(args, "IKKKKKO", &arena, &data, &bits, &entries, &first, &end, &doors)
        || (doors != Py_None && (heap = ph_heap_behind(doors)) == NULL))
        return NULL;
    if (arena >= PH_ARENAS)
        return PyErr_Format(PyExc_ValueError, "set_home: an arena below %d expected, %u found", PH_ARENAS, arena);
    struct ph_home *home = ph_log_home_make(&self->log, arena);
    if (home == NULL)
        return PyErr_NoMemory();
    *home = (struct ph_home){
        .data = (uint8_t *)(uintptr_t)data, .bits = (uint64_t *)(uintptr_t)bits,
        .entries = (uint8_t *)(uintptr_t)entries, .first_unit = first, .end_unit = end,
        .heap = heap == NULL ? NULL : ph_join_log(heap, object),
    };
    if (home->heap != NULL && arena >= self->log.arenas)
        self->log.arenas = (uint16_t)(arena + 1);
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- records */

PyDoc_STRVAR(change_doc,
"_change($self, operations, count, file_end, /)\n--\n\n"
"Append encoded operations as one record; the LSN behind it, or a negative code with nothing changed.");

static PyObject *change(PyObject *object, PyObject *args)
{
    PyObject *bytes;
    char *operations;
    Py_ssize_t length;
    unsigned int count;
    unsigned long long file_end;

    if (!PyArg_ParseTuple(args, "SIK", &bytes, &count, &file_end)
        || PyBytes_AsStringAndSize(bytes, &operations, &length) < 0)
        return NULL;
    return PyLong_FromLongLong(ph_log_change(log_of(object), operations, (uint64_t)length, (uint16_t)count, file_end));
}

/* ---------------------------------------------------------------- recovery */

PyDoc_STRVAR(scan_doc,
"scan($self, base, size, tail, chain, epoch, /)\n--\n\n"
"Read the ring at `base`: (end, chain, records, undos, file_end, txid, damage) of what is accepted; damage is the LSN\n"
"of a record that proves that acknowledged work behind the end is lost, or 0.");

static PyObject *scan(PyObject *object, PyObject *args)
{
    struct ph_log *log = log_of(object);
    unsigned long long base, size, tail, epoch;
    unsigned int chain;
    struct ph_scan found;

    if (!PyArg_ParseTuple(args, "KKKIK", &base, &size, &tail, &chain, &epoch))
        return NULL;
    log->base = (uint8_t *)(uintptr_t)base;
    log->size = size;
    log->epoch = epoch;
    ph_log_scan(log, tail, chain, &found);
    return Py_BuildValue("KIKKKIK", (unsigned long long)found.end, found.chain, (unsigned long long)found.records,
                         (unsigned long long)found.undos, (unsigned long long)found.file_end, found.txid,
                         (unsigned long long)ph_log_damage(log, found.end));
}

PyDoc_STRVAR(header_tables_doc,
"header_tables($self, start, end, commits_from, header, /)\n--\n\n"
"Apply what records from `commits_from` on say of roots, segments and arenas to a bytearray of the header area.");

static PyObject *header_tables(PyObject *object, PyObject *args)
{
    unsigned long long start, end, commits_from;
    PyObject *header;

    if (!PyArg_ParseTuple(args, "KKKO!", &start, &end, &commits_from, &PyByteArray_Type, &header))
        return NULL;
    ph_log_header_tables(log_of(object), start, end, commits_from, (uint8_t *)PyByteArray_AsString(header),
                         (uint64_t)PyByteArray_Size(header));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(replay_doc,
"replay($self, start, end, commits_from, undo_from, header, /)\n--\n\n"
"Bring the records of [start, end) home, the header tables to the address `header`; 0 or a negative code.");

DOOR(replay, log_object, 5,
     self->log.header = (uint8_t *)(uintptr_t)n[4], code(ph_log_replay(&self->log, n[0], n[1], n[2], n[3])))

/* Where the last range of a list ends: calls of one word after the other name the same page a thousand times. */
struct range_list {
    PyObject *list;
    int table;
    uint64_t first, stop;
};

static int append_range(void *context, int table, uint64_t off, uint64_t length)
{
    struct range_list *ranges = context;
    if (table == ranges->table && off >= ranges->first && off + length <= ranges->stop)
        return 0;
    uint64_t page = PH_UNIT_BYTES - 1, most = UINT64_MAX - page;
    ranges->table = table;
    ranges->first = off & ~page;
    ranges->stop = length > most - ranges->first ? most : (off + length + page) & ~page; /* a forged one has any length */
    return ph_append_new(ranges->list, Py_BuildValue("iKK", table, ranges->first, ranges->stop - ranges->first));
}

PyDoc_STRVAR(ranges_doc, "ranges($self, start, end, /)\n--\n\n"
"What the records of [start, end) write to or rely on: (table, offset, length) in whole pages of the table or of the\n"
"data; table -1 is data that is written, -2 data that is there already.");

static PyObject *ranges(PyObject *object, PyObject *args)
{
    unsigned long long start, end;

    if (!PyArg_ParseTuple(args, "KK", &start, &end))
        return NULL;
    int held = ph_hold_collector();
    struct range_list ranges = {.list = PyList_New(0), .table = PH_TABLES};
    if (ranges.list != NULL && ph_log_touched(log_of(object), start, end, append_range, &ranges) < 0)
        Py_CLEAR(ranges.list);
    ph_let_collector(held);
    return ranges.list;
}

/* ---------------------------------------------------------------- the type */

static PyObject *log_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    struct log_object *self = ph_new_object(type);

    (void)args;
    (void)keywords;
    if (self == NULL)
        return NULL;
    self->log.fd = -1;
    ph_lease_init(&self->log);
    ph_pace_set(&self->pace, UINT64_MAX);
    self->syncing = PyThread_allocate_lock();
    self->writer = PyThread_allocate_lock();
    if (self->syncing == NULL || self->writer == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void log_dealloc(PyObject *object)
{
    struct log_object *self = (struct log_object *)object;

    ph_forget_pins(self);
    if (self->syncing != NULL)
        PyThread_free_lock(self->syncing);
    if (self->writer != NULL)
        PyThread_free_lock(self->writer);
    ph_tx_fini(&self->spare);
    ph_log_fini(&self->log);
    ph_free_object(object);
}

static PyMethodDef log_methods[] = {
    {"_begin", begin, METH_VARARGS, begin_doc},
    {"_move", move, METH_VARARGS, move_doc},
    AS_METHOD("positions", positions, NULL),
    AS_METHOD("counters", counters, NULL),
    AS_METHOD("replayed", replayed, "What the last replay did: UNDOs that it stored, parts of writes that it left out."),
    AS_METHOD("_chain_at", chain_at, NULL),
    AS_METHOD("_set_limit", set_limit, NULL),
    AS_METHOD("_set_copies", set_copies, "Whether there may be readers of snapshots, and the era; without, what has a tag is free."),
    AS_METHOD("_set_era", set_era, "The tag of what is freed from now on; one that is older changes nothing."),
    AS_METHOD("_recycle", recycle, "What has a tag below an era becomes free: bytes."),
    AS_METHOD("_tagged_since", tagged_since, "Bytes that were freed in an era or later, and wait for readers."),
    AS_METHOD("_tagged", tagged, "(bytes, tags, oldest era) of what was freed and waits for readers."),
    AS_METHOD("_set_tail", set_tail, NULL),
    AS_METHOD("freeze", freeze, NULL),
    AS_METHOD("_die", die, NULL),
    AS_METHOD("detach", detach, NULL),
    AS_METHOD("set_pace", set_pace, "Nanoseconds between two upkeeps of the heap."),
    AS_METHOD("_watch", watch, "The descriptor of the file, to see whether somebody takes it away, or its name."),
    AS_METHOD("_is_gone", is_gone, "Whether the file was removed, cut, or written over."),
    AS_METHOD("_is_dead", is_dead, NULL),
    AS_METHOD("_room", room, room_doc),
    {"set_home", set_home, METH_VARARGS, set_home_doc},
    {"_change", change, METH_VARARGS, change_doc},
    AS_METHOD("_sync", sync_log, NULL),
    {"scan", scan, METH_VARARGS, scan_doc},
    {"header_tables", header_tables, METH_VARARGS, header_tables_doc},
    AS_METHOD("replay", replay, replay_doc),
    {"ranges", ranges, METH_VARARGS, ranges_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot log_slots[] = {
    {Py_tp_doc, (void *)"LogCore()\n--\n\nThe redo log of a heap, as far as C has it; `RedoLog` derives from it."},
    {Py_tp_new, log_new},
    {Py_tp_dealloc, log_dealloc},
    {Py_tp_methods, NULL}, /* filled in by ph_add_log_type */
    {0, NULL},
};

static PyType_Spec log_spec = {
    .name = "pmemheap._core._hot.LogCore",
    .basicsize = sizeof(struct log_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = log_slots,
};

int ph_add_log_type(PyObject *module)
{
    static PyMethodDef methods[48];
    const PyMethodDef *const tables[] = {log_methods, ph_log_transaction_methods, ph_log_lease_methods, NULL};

    log_slots[3].pfunc = ph_join_methods(methods, tables);
    if (ph_add_type(module, "LogCore", &log_spec) < 0)
        return -1;
    PyObject *type = PyObject_GetAttrString(module, "LogCore"); /* kept for ever: for the type check */
    ph_log_type = (PyTypeObject *)type;
    return type == NULL ? -1 : 0;
}
