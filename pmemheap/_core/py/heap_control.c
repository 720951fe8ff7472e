/* py/heap_control.c -- what the Python half of a heap asks of the C core: tables, units, walks, counters. */
#include "py/log.h"

static struct ph_heap *core_of(PyObject *object)
{
    return &((struct heap_object *)object)->heap;
}

/* An int argument as an offset in the arena; (uint64_t)-1 with an exception set if it is none. */
static uint64_t read_inner(PyObject *object, PyObject *argument)
{
    uint64_t offset = PyLong_AsUnsignedLongLong(argument);

    return PyErr_Occurred() ? offset : ph_inner((struct heap_object *)object, offset);
}

static PyObject *offset_from(PyObject *object, int64_t inner)
{
    if (inner < 0)
        return PyLong_FromLongLong(inner);
    return PyLong_FromUnsignedLongLong(ph_outer((struct heap_object *)object, (uint64_t)inner));
}

static PyObject *set_origin(PyObject *object, PyObject *argument)
{
    uint64_t origin = PyLong_AsUnsignedLongLong(argument);

    if (PyErr_Occurred())
        return NULL;
    ((struct heap_object *)object)->origin = origin;
    Py_RETURN_NONE;
}

static PyObject *configure(PyObject *object, PyObject *args)
{
    PyObject *size_bytes, *unit_bytes;
    char *sizes, *units;
    Py_ssize_t sizes_length, units_length;

    if (!PyArg_ParseTuple(args, "SS", &size_bytes, &unit_bytes)
        || PyBytes_AsStringAndSize(size_bytes, &sizes, &sizes_length) < 0
        || PyBytes_AsStringAndSize(unit_bytes, &units, &units_length) < 0)
        return NULL;
    if (sizes_length / 4 != units_length / 2)
        return PyErr_Format(PyExc_ValueError, "configure: as many run lengths as sizes expected");
    int failure = ph_heap_init(core_of(object), (const uint32_t *)sizes, (const uint16_t *)units,
                               (uint32_t)(sizes_length / 4));
    if (failure == PH_H_NOMEM)
        return PyErr_NoMemory();
    if (failure < 0)
        return PyErr_Format(PyExc_ValueError, "configure: ascending sizes up to %d expected", PH_SMALL_MAX);
    Py_RETURN_NONE;
}

static PyObject *attach(PyObject *object, PyObject *args)
{
    struct heap_object *self = (struct heap_object *)object;
    unsigned long long data, bits, entries, units;
    PyObject *keep, *old = self->keep;

    if (!PyArg_ParseTuple(args, "KKKKO", &data, &bits, &entries, &units, &keep))
        return NULL;
    self->heap.data = (uint8_t *)(uintptr_t)data;
    self->heap.bits = (uint64_t *)(uintptr_t)bits;
    self->heap.entries = (struct ph_entry *)(uintptr_t)entries;
    self->heap.units = (struct ph_unit *)(uintptr_t)units;
    self->keep = Py_NewRef(keep);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *set_bounds(PyObject *object, PyObject *args)
{
    struct ph_heap *h = core_of(object);
    unsigned long long first, end, scanned_to;

    if (!PyArg_ParseTuple(args, "KKK", &first, &end, &scanned_to))
        return NULL;
    ph_set_bounds(h, first, end, scanned_to);
    Py_RETURN_NONE;
}

/* Only the data is mapped: a heap without units, as far as the allocator is concerned. */
static PyObject *sleep_in(PyObject *object, PyObject *args)
{
    struct ph_heap *h = core_of(object);
    unsigned long long first, end;

    if (!PyArg_ParseTuple(args, "KK", &first, &end))
        return NULL;
    ph_set_bounds(h, 0, 0, 0);
    h->data_first = first;
    h->data_end = end;
    Py_RETURN_NONE;
}

static PyObject *get_bounds(PyObject *object, PyObject *ignored)
{
    const struct ph_heap *h = core_of(object);

    (void)ignored;
    return Py_BuildValue("KKKK", (unsigned long long)h->first_unit, (unsigned long long)h->end_unit,
                         (unsigned long long)h->scanned_to, (unsigned long long)h->recorded_to);
}

static PyObject *set_state(PyObject *object, PyObject *argument)
{
    struct heap_object *self = (struct heap_object *)object;
    long state = PyLong_AsLong(argument);

    if (state == -1 && PyErr_Occurred())
        return NULL;
    if (state != PH_S_CLOSED && (self->state == PH_S_LOST || self->state == PH_S_FORKED))
        Py_RETURN_NONE;
    self->state = (int)state;
    core_of(object)->readonly = state != PH_S_OPEN; /* also what is clean: nothing of it may change by being read */
    Py_RETURN_NONE;
}

static PyObject *set_file(PyObject *object, PyObject *argument)
{
    uint64_t file = PyLong_AsUnsignedLongLong(argument);

    if (PyErr_Occurred())
        return NULL;
    ((struct heap_object *)object)->file = file;
    Py_RETURN_NONE;
}

static PyObject *get_state(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromLong(((struct heap_object *)object)->state);
}

/* A callback may have begun a transaction since the caller looked for open ones; another may be in its finalizer. */
static void end_transactions(struct heap_object *self)
{
    struct log_object *log = (struct log_object *)self->log;
    if (log != NULL && log->log.homes[0].heap == &self->heap)
        ph_tx_abort_all(log);
}

static void shut_one(struct heap_object *self)
{
    self->state = PH_S_CLOSED;
    self->heap.readonly = 1;
    ph_forget_bounds(&self->heap);
}

/* Close with all `others`, unless views of any live, in one step that no other thread can split: nobody sees some of
 * them closed that stay open. From then on no table is read. */
static PyObject *shut(PyObject *object, PyObject *others)
{
    unsigned long long views = core_of(object)->refs.views;
    Py_ssize_t count = PyList_Size(others);

    for (Py_ssize_t i = 0; i < count; i++)
        views += core_of(PyList_GetItem(others, i))->refs.views;
    if (count < 0)
        return NULL;
    if (views != 0)
        return PyLong_FromUnsignedLongLong(views);
    for (Py_ssize_t i = 0; i < count; i++)
        ((struct heap_object *)PyList_GetItem(others, i))->state = PH_S_CLOSED;
    ((struct heap_object *)object)->state = PH_S_CLOSED;
    end_transactions((struct heap_object *)object);
    for (Py_ssize_t i = 0; i < count; i++)
        shut_one((struct heap_object *)PyList_GetItem(others, i));
    shut_one((struct heap_object *)object);
    return PyLong_FromLong(0);
}

/* Close, unless anybody uses a block, in the same way; it can be opened again. */
static PyObject *shut_unused(PyObject *object, PyObject *ignored)
{
    struct ph_heap *h = core_of(object);

    (void)ignored;
    if (h->refs.views != 0 || h->refs.pins != 0 || h->withheld.reserved_blocks != 0)
        Py_RETURN_FALSE;
    ((struct heap_object *)object)->state = PH_S_CLOSED;
    h->readonly = 1;
    Py_RETURN_TRUE;
}

static PyObject *upkeep_if_due(PyObject *object, PyObject *ignored)
{
    struct heap_object *self = (struct heap_object *)object;
    uint32_t until_look = self->heap.until_look;

    (void)ignored;
    int failed = ph_look(self);
    self->heap.until_look = until_look;
    if (failed < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Whether a transaction can begin at once. It may call Python, as any call may. */
static PyObject *is_ready(PyObject *object, PyObject *ignored)
{
    struct heap_object *self = (struct heap_object *)object;

    (void)ignored;
    if (ph_look_freeing(self) < 0)
        return NULL;
    return PyBool_FromLong(self->state == PH_S_OPEN);
}

static PyObject *try_malloc(PyObject *object, PyObject *args)
{
    unsigned long long size, align;

    if (!PyArg_ParseTuple(args, "KK", &size, &align))
        return NULL;
    return offset_from(object, ph_malloc(core_of(object), size, align));
}

static PyObject *try_realloc(PyObject *object, PyObject *args)
{
    unsigned long long offset, size;

    if (!PyArg_ParseTuple(args, "KK", &offset, &size))
        return NULL;
    return offset_from(object, ph_realloc(core_of(object), ph_inner((struct heap_object *)object, offset), size));
}

static PyObject *try_expand(PyObject *object, PyObject *args)
{
    unsigned long long offset, size;

    if (!PyArg_ParseTuple(args, "KK", &offset, &size))
        return NULL;
    return PyLong_FromLong(ph_expand(core_of(object), ph_inner((struct heap_object *)object, offset), size));
}

static PyObject *try_free(PyObject *object, PyObject *args)
{
    unsigned long long offset;
    int deferred;

    if (!PyArg_ParseTuple(args, "Kp", &offset, &deferred))
        return NULL;
    uint64_t inner = ph_inner((struct heap_object *)object, offset);
    return PyLong_FromLong(deferred ? ph_free_deferred(core_of(object), inner) : ph_free(core_of(object), inner));
}

static PyObject *free_refusal(PyObject *object, PyObject *argument)
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromLong(ph_free_refusal(core_of(object), offset));
}

static PyObject *large_make(PyObject *object, PyObject *args)
{
    unsigned long long unit, nunits, nbytes;

    if (!PyArg_ParseTuple(args, "KKK", &unit, &nunits, &nbytes))
        return NULL;
    if (ph_journal_reserve(core_of(object), 2, 0) < 0)
        return PyErr_NoMemory();
    ph_large_make(core_of(object), unit, nunits, nbytes);
    return offset_from(object, (int64_t)(unit << PH_UNIT_SHIFT));
}

static PyObject *large_extend(PyObject *object, PyObject *args)
{
    unsigned long long offset, start, stop, nbytes;

    if (!PyArg_ParseTuple(args, "KKKK", &offset, &start, &stop, &nbytes))
        return NULL;
    return PyBool_FromLong(ph_large_extend(core_of(object), ph_inner((struct heap_object *)object, offset), start, stop, nbytes));
}

static PyObject *room_after(PyObject *object, PyObject *argument)
{
    unsigned long long unit = PyLong_AsUnsignedLongLong(argument);

    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromUnsignedLongLong(ph_room_after(core_of(object), unit));
}

static PyObject *donate(PyObject *object, PyObject *args)
{
    unsigned long long start, nunits;
    int never_used;

    if (!PyArg_ParseTuple(args, "KKp", &start, &nunits, &never_used))
        return NULL;
    ph_donate(core_of(object), start, nunits, never_used);
    Py_RETURN_NONE;
}

static PyObject *range_or_none(int found, uint64_t start, uint64_t nunits)
{
    if (!found)
        Py_RETURN_NONE;
    return Py_BuildValue("KK", (unsigned long long)start, (unsigned long long)nunits);
}

static int append_range(PyObject *list, uint64_t start, uint64_t nunits, uint64_t some)
{
    PyObject *range = Py_BuildValue("KKK", (unsigned long long)start, (unsigned long long)nunits, (unsigned long long)some);
    int result = range == NULL ? -1 : PyList_Append(list, range);
    Py_XDECREF(range);
    return result;
}

static PyObject *reclaim(PyObject *object, PyObject *argument)
{
    unsigned long long at_least = PyLong_AsUnsignedLongLong(argument);
    uint64_t start = 0, nunits = 0;

    if (PyErr_Occurred())
        return NULL;
    int found = ph_reclaim(core_of(object), at_least, &start, &nunits);
    return range_or_none(found, start, nunits);
}

static PyObject *reclaim_range(PyObject *object, PyObject *argument)
{
    unsigned long long start = PyLong_AsUnsignedLongLong(argument);

    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromUnsignedLongLong(ph_reclaim_range(core_of(object), start));
}

/* [(first unit, units, old ones among them), ...] of the pool's free ranges with units that are old. */
static PyObject *old_pool(PyObject *object, PyObject *ignored)
{
    const struct ph_heap *h = core_of(object);
    PyObject *list = PyList_New(0);
    uint32_t bin = 0, node = PH_NIL;
    uint64_t start, nunits;

    (void)ignored;
    while (list != NULL && ph_pool_next(h, &bin, &node, &start, &nunits)) {
        struct ph_old_part part;
        uint64_t old = 0;
        for (uint64_t from = start; ph_ages_old(&h->ages, from, start + nunits, &part); from = part.stop)
            old += part.units;
        if (old != 0 && append_range(list, start, nunits, old) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* [(first unit, units, old ones among them), ...] of the parts of a free range that are old. */
static PyObject *old_parts(PyObject *object, PyObject *args)
{
    unsigned long long start, nunits;
    struct ph_old_part part;

    if (!PyArg_ParseTuple(args, "KK", &start, &nunits))
        return NULL;
    const struct ph_ages *ages = &core_of(object)->ages;
    PyObject *list = PyList_New(0);
    for (uint64_t from = start; list != NULL && ph_ages_old(ages, from, start + nunits, &part); from = part.stop)
        if (append_range(list, part.start, part.stop - part.start, part.units) < 0)
            Py_CLEAR(list);
    return list;
}

static PyObject *young_end(PyObject *object, PyObject *args)
{
    unsigned long long start, nunits;

    if (!PyArg_ParseTuple(args, "KK", &start, &nunits))
        return NULL;
    return PyLong_FromUnsignedLongLong(ph_ages_young_end(&core_of(object)->ages, start, start + nunits));
}

static PyObject *given_back(PyObject *object, PyObject *args)
{
    unsigned long long start, nunits;

    if (!PyArg_ParseTuple(args, "KK", &start, &nunits))
        return NULL;
    ph_ages_given_back(&core_of(object)->ages, start, nunits);
    Py_RETURN_NONE;
}

static PyObject *next_interval(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    ph_ages_next(&core_of(object)->ages);
    Py_RETURN_NONE;
}

static PyObject *pop_returned(PyObject *object, PyObject *ignored)
{
    uint64_t start = 0, nunits = 0;

    (void)ignored;
    int found = ph_returned_pop(core_of(object), &start, &nunits);
    return range_or_none(found, start, nunits);
}

static PyObject *release_idle_runs(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyBool_FromLong(ph_release_idle_runs(core_of(object)));
}

static PyObject *release_empties(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyBool_FromLong(ph_release_empties(core_of(object)));
}

static PyObject *handle_make(PyObject *object, PyObject *argument)
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromLongLong(ph_handle_make(core_of(object), offset));
}

static PyObject *handle_is_valid(PyObject *object, PyObject *args)
{
    unsigned long long offset, serial;

    if (!PyArg_ParseTuple(args, "KK", &offset, &serial))
        return NULL;
    return PyBool_FromLong(ph_handle_valid(core_of(object), ph_inner((struct heap_object *)object, offset), serial));
}

static PyObject *handle_drop(PyObject *object, PyObject *args)
{
    unsigned long long offset, serial;

    if (!PyArg_ParseTuple(args, "KK", &offset, &serial))
        return NULL;
    ph_handle_drop(core_of(object), ph_inner((struct heap_object *)object, offset), serial);
    Py_RETURN_NONE;
}

static PyObject *set_rooted(PyObject *object, PyObject *args)
{
    unsigned long long offset;
    int rooted;

    if (!PyArg_ParseTuple(args, "Kp", &offset, &rooted))
        return NULL;
    return PyLong_FromLong(ph_set_rooted(core_of(object), ph_inner((struct heap_object *)object, offset), rooted));
}

static PyObject *forget_roots(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    ph_forget_roots(core_of(object));
    Py_RETURN_NONE;
}

static PyObject *views_of(PyObject *object, PyObject *argument)
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    const struct ph_refs *refs = ph_refs_find(core_of(object), offset);
    return PyLong_FromUnsignedLong(refs == NULL ? 0 : refs->views);
}

static PyObject *live_views(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(core_of(object)->refs.views);
}

enum { VIEWED = 5 };

/* (number of blocks with live views, [(offset, size, views), ...] of the lowest ones). */
static PyObject *viewed(PyObject *object, PyObject *ignored)
{
    struct ph_viewed found[VIEWED];
    uint64_t total = ph_viewed(core_of(object), found, VIEWED), kept = total < VIEWED ? total : VIEWED;

    (void)ignored;
    PyObject *list = PyList_New((Py_ssize_t)kept);
    for (uint64_t i = 0; list != NULL && i < kept; i++) {
        struct ph_block block = ph_block_at(core_of(object), found[i].offset);
        uint64_t size = block.state == PH_B_NONE ? 0 : ph_block_capacity(&block);
        PyObject *one = Py_BuildValue("KKI", (unsigned long long)ph_outer((struct heap_object *)object, found[i].offset),
                                      (unsigned long long)size, found[i].views);
        if (one == NULL || PyList_SetItem(list, (Py_ssize_t)i, one) < 0)
            Py_CLEAR(list);
    }
    return list == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)total, list);
}

static PyObject *move_into(PyObject *object, PyObject *args)
{
    unsigned long long offset, to, size;

    if (!PyArg_ParseTuple(args, "KKK", &offset, &to, &size))
        return NULL;
    const struct heap_object *self = (struct heap_object *)object;
    return PyLong_FromLong(ph_move_into(core_of(object), ph_inner(self, offset), ph_inner(self, to), size));
}

/* (state, first unit, units, class) of what covers the unit of an offset, as far as it is read; all zero outside. The
 * state is that of the block where a withheld one begins. */
static PyObject *place_of(PyObject *object, PyObject *argument)
{
    struct ph_heap *h = core_of(object);
    uint64_t offset = read_inner(object, argument), unit = offset >> PH_UNIT_SHIFT;

    if (PyErr_Occurred())
        return NULL;
    if (unit - h->first_unit >= h->end_unit - h->first_unit) /* trimmed or closed by another thread */
        return Py_BuildValue("iKII", 0, 0ULL, 0U, 0U);
    struct ph_block block = ph_block_at(h, offset); /* reads the unit if need be */
    const struct ph_unit *record = &h->units[unit];
    if (record->state == PH_U_RUN_BODY) {
        unit -= record->back;
        record = &h->units[unit];
    }
    int state = block.state == PH_B_RESERVED      ? PH_U_RESERVED
                : block.state == PH_B_QUARANTINED ? PH_U_QUARANTINE
                                                  : record->state;
    return Py_BuildValue("iKII", state, (unsigned long long)unit, record->nunits, record->class_index);
}

enum { GAPS = 256 };

/* [(start, nunits), ...]; None when an entry is impossible: `scanned_to` stands at its unit. */
static PyObject *scan_step(PyObject *object, PyObject *args)
{
    unsigned long long budget, pool_below;
    struct ph_gap gaps[GAPS];
    struct ph_heap *h = core_of(object);

    if (!PyArg_ParseTuple(args, "KK", &budget, &pool_below))
        return NULL;
    int64_t count = ph_scan_step(h, budget, pool_below, gaps, GAPS);
    if (count < 0)
        Py_RETURN_NONE;
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (int64_t i = 0; list != NULL && i < count; i++) {
        PyObject *range = range_or_none(1, gaps[i].start, gaps[i].nunits);
        if (range == NULL || PyList_SetItem(list, (Py_ssize_t)i, range) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* Whether there was something left to adopt; None when an entry is impossible. */
static PyObject *adopt_step(PyObject *object, PyObject *argument)
{
    unsigned long long budget = PyLong_AsUnsignedLongLong(argument);

    if (PyErr_Occurred())
        return NULL;
    int adopted = ph_adopt_step(core_of(object), budget);
    if (adopted < 0)
        Py_RETURN_NONE;
    return PyBool_FromLong(adopted);
}

/* (next cursor, start, nunits, state, class, live, nbytes), or None at the end. */
static PyObject *walk(PyObject *object, PyObject *argument)
{
    uint64_t cursor = PyLong_AsUnsignedLongLong(argument);
    struct ph_piece piece;

    if (PyErr_Occurred())
        return NULL;
    if (!ph_walk(core_of(object), &cursor, &piece))
        Py_RETURN_NONE;
    return Py_BuildValue("KKKIIIK", (unsigned long long)cursor, (unsigned long long)piece.start,
                         (unsigned long long)piece.nunits, piece.state, piece.class_index, piece.live,
                         (unsigned long long)piece.nbytes);
}

PyDoc_STRVAR(described_doc, "_described()\n--\n\nStart and length of each piece that is described, as uint64, in one step.");

static PyObject *described(PyObject *object, PyObject *ignored)
{
    const struct ph_heap *h = core_of(object);
    struct ph_piece piece;
    uint64_t cursor = h->first_unit, count = 0;

    (void)ignored;
    while (ph_walk(h, &cursor, &piece))
        count++;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * 2 * sizeof(uint64_t)));
    if (bytes == NULL)
        return NULL;
    uint64_t *pair = (uint64_t *)PyBytes_AsString(bytes);
    cursor = h->first_unit;
    for (uint64_t i = 0; i < count && ph_walk(h, &cursor, &piece); i++) {
        *pair++ = piece.start;
        *pair++ = piece.nunits;
    }
    return bytes;
}

enum { BLOCKS = 512 };

/* (next cursor, [(offset, usable size), ...]); an empty list at the end. */
static PyObject *blocks(PyObject *object, PyObject *argument)
{
    uint64_t cursor = PyLong_AsUnsignedLongLong(argument), offsets[BLOCKS], sizes[BLOCKS];

    if (PyErr_Occurred())
        return NULL;
    int64_t count = ph_blocks(core_of(object), &cursor, offsets, sizes, BLOCKS);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (int64_t i = 0; list != NULL && i < count; i++) {
        PyObject *block = range_or_none(1, ph_outer((struct heap_object *)object, offsets[i]), sizes[i]);
        if (block == NULL || PyList_SetItem(list, (Py_ssize_t)i, block) < 0)
            Py_CLEAR(list);
    }
    return list == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)cursor, list);
}

enum { FINDINGS = 64 };

/* (number of findings, [(code, unit, expected, found), ...] of the first ones). */
static PyObject *check(PyObject *object, PyObject *ignored)
{
    struct ph_finding findings[FINDINGS];

    (void)ignored;
    int64_t total = ph_check(core_of(object), findings, FINDINGS);
    int64_t kept = total < FINDINGS ? total : FINDINGS;
    PyObject *list = PyList_New((Py_ssize_t)kept);
    for (int64_t i = 0; list != NULL && i < kept; i++) {
        PyObject *finding = Py_BuildValue("IKKK", findings[i].code, (unsigned long long)findings[i].unit,
                                          (unsigned long long)findings[i].expected,
                                          (unsigned long long)findings[i].found);
        if (finding == NULL || PyList_SetItem(list, (Py_ssize_t)i, finding) < 0)
            Py_CLEAR(list);
    }
    return list == NULL ? NULL : Py_BuildValue("LN", (long long)total, list);
}

static PyObject *counters(PyObject *object, PyObject *ignored)
{
    const struct ph_heap *h = core_of(object);

    (void)ignored;
    return Py_BuildValue(
        "{sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK}",
        "wilderness_units", (unsigned long long)(h->wilderness_end - h->wilderness),
        "pool_free_units", (unsigned long long)h->pool_free,
        "pool_longest_units", (unsigned long long)ph_pool_longest(h),
        "returned_units", (unsigned long long)h->returned_units,
        "run_units", (unsigned long long)h->run_units,
        "large_units", (unsigned long long)h->large_units,
        "large_bytes", (unsigned long long)h->large_bytes,
        "large_blocks", (unsigned long long)h->large_blocks,
        "live_views", (unsigned long long)h->refs.views,
        "blocks_with_refs", (unsigned long long)h->refs.used,
        "pins", (unsigned long long)h->refs.pins,
        "reserved_blocks", (unsigned long long)h->withheld.reserved_blocks,
        "reserved_units", (unsigned long long)h->withheld.reserved_units,
        "reserved_bytes", (unsigned long long)h->withheld.reserved_bytes,
        "quarantined_blocks", (unsigned long long)h->withheld.freed_blocks,
        "quarantined_units", (unsigned long long)h->withheld.freed_units,
        "quarantined_bytes", (unsigned long long)h->withheld.freed_bytes);
}

static PyObject *freed_units(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(core_of(object)->freed_units);
}

static PyObject *quarantined(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(core_of(object)->withheld.freed_bytes);
}

/* [(block size, run units, blocks a run, runs, live, mallocs, requested bytes, withheld), ...] */
static PyObject *class_counters(PyObject *object, PyObject *ignored)
{
    const struct ph_heap *h = core_of(object);
    PyObject *list = PyList_New(h->nclasses);

    (void)ignored;
    for (uint32_t i = 0; list != NULL && i < h->nclasses; i++) {
        const struct ph_class *c = &h->classes[i];
        PyObject *row = Py_BuildValue("IIIKKKKK", c->granules * PH_GRANULE, c->run_units, c->run_blocks,
                                      (unsigned long long)c->runs, (unsigned long long)c->live,
                                      (unsigned long long)c->mallocs, (unsigned long long)c->requested,
                                      (unsigned long long)c->withheld);
        if (row == NULL || PyList_SetItem(list, (Py_ssize_t)i, row) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* Both, of one moment. */
static PyObject *usage(PyObject *object, PyObject *ignored)
{
    PyObject *classes = class_counters(object, ignored), *all = classes == NULL ? NULL : counters(object, ignored);

    if (all == NULL) {
        Py_XDECREF(classes);
        return NULL;
    }
    return Py_BuildValue("NN", all, classes);
}

/* What tests call to take the steps of a transaction one by one; each answers 0 or an offset, or a negative code. */

static PyObject *reserve_block(PyObject *object, PyObject *args)
{
    unsigned long long size, align;

    if (!PyArg_ParseTuple(args, "KK", &size, &align))
        return NULL;
    return offset_from(object, ph_reserve_block(core_of(object), size, align));
}

static PyObject *step(PyObject *object, PyObject *argument, int (*call)(const struct ph_block *))
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    struct ph_block block = ph_block_at(core_of(object), offset);
    return PyLong_FromLong(call(&block));
}

static int publish_stored(const struct ph_block *block)
{
    if (block->state != PH_B_RESERVED)
        return PH_H_BAD_OFFSET;
    if (ph_journal_reserve(block->arena, 2, 0) < 0)
        return PH_H_NOMEM;
    ph_publish(block);
    ph_describe(block);
    return 0;
}

static int cancel_reserved(const struct ph_block *block)
{
    if (block->state != PH_B_RESERVED)
        return PH_H_BAD_OFFSET;
    ph_cancel(block);
    return 0;
}

static int retire_stored(const struct ph_block *block)
{
    if (block->state != PH_B_LIVE)
        return PH_H_BAD_OFFSET;
    if (ph_withheld_reserve(block->arena, 1) < 0 || ph_journal_reserve(block->arena, 2, 0) < 0)
        return PH_H_NOMEM;
    ph_retire(block);
    ph_undescribe(block);
    return 0;
}

static int release_retired(const struct ph_block *block)
{
    if (!ph_is_retired(block))
        return PH_H_BAD_OFFSET;
    ph_release(block);
    return 0;
}

static int unpin_pinned(const struct ph_block *block)
{
    const struct ph_refs *refs = ph_refs_of(block);
    if (refs == NULL || refs->pins == 0)
        return PH_H_BAD_OFFSET;
    ph_unpin(block->arena, block->offset);
    return 0;
}

#define STEP(name, call)                                        \
    static PyObject *name(PyObject *object, PyObject *argument) \
    {                                                           \
        return step(object, argument, call);                    \
    }

STEP(publish, publish_stored)
STEP(cancel, cancel_reserved)
STEP(retire, retire_stored)
STEP(release, release_retired)
STEP(pin, ph_pin)
STEP(unpin, unpin_pinned)

static PyObject *held_size(PyObject *object, PyObject *argument)
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    struct ph_block block = ph_block_at(core_of(object), offset);
    return PyLong_FromLongLong(block.state == PH_B_NONE ? PH_H_BAD_OFFSET : (long long)ph_block_capacity(&block));
}

static PyObject *block_start(PyObject *object, PyObject *argument)
{
    uint64_t offset = read_inner(object, argument);

    if (PyErr_Occurred())
        return NULL;
    struct ph_block block = ph_block_holding(core_of(object), offset);
    return offset_from(object, block.state == PH_B_NONE ? PH_H_BAD_OFFSET : (int64_t)block.offset);
}

static PyObject *reserve_large(PyObject *object, PyObject *args)
{
    unsigned long long unit, nunits, nbytes;

    if (!PyArg_ParseTuple(args, "KKK", &unit, &nunits, &nbytes))
        return NULL;
    ph_reserve_large(core_of(object), unit, nunits, nbytes);
    return offset_from(object, (int64_t)(unit << PH_UNIT_SHIFT));
}

static PyObject *set_durability(PyObject *object, PyObject *argument)
{
    long durability = PyLong_AsLong(argument);

    if (durability == -1 && PyErr_Occurred())
        return NULL;
    ph_set_journal(core_of(object), (enum ph_durability)durability);
    Py_RETURN_NONE;
}

/* ([(offset, bytes) freed, ...], [address of a word that was stored to, ...]), which are forgotten. */
static PyObject *noted(PyObject *object, PyObject *ignored)
{
    struct ph_heap *h = core_of(object);
    PyObject *freed = PyList_New((Py_ssize_t)h->freed.count), *dirty = PyList_New((Py_ssize_t)h->dirty.count);

    (void)ignored;
    for (uint64_t i = 0; freed != NULL && i < h->freed.count; i++) {
        PyObject *one = range_or_none(1, ph_outer((struct heap_object *)object, h->freed.items[i].offset), h->freed.items[i].nbytes);
        if (one == NULL || PyList_SetItem(freed, (Py_ssize_t)i, one) < 0)
            Py_CLEAR(freed);
    }
    for (uint64_t i = 0; dirty != NULL && i < h->dirty.count; i++) {
        PyObject *one = PyLong_FromVoidPtr(h->dirty.words[i]);
        if (one == NULL || PyList_SetItem(dirty, (Py_ssize_t)i, one) < 0)
            Py_CLEAR(dirty);
    }
    if (freed == NULL || dirty == NULL) {
        Py_XDECREF(freed);
        Py_XDECREF(dirty);
        return NULL;
    }
    h->freed.count = h->dirty.count = 0;
    return Py_BuildValue("NN", freed, dirty);
}

PyMethodDef ph_upkeep_methods[] = {
    {"_configure", configure, METH_VARARGS, "Set the size classes; forgets everything."},
    {"_attach", attach, METH_VARARGS, "Set the virtual bases of the four tables, and who keeps them mapped."},
    {"_set_bounds", set_bounds, METH_VARARGS, "Set first_unit, end_unit and scanned_to."},
    {"_sleep_in", sleep_in, METH_VARARGS, "Have no units but the data of these, until _set_bounds is called."},
    {"_bounds", get_bounds, METH_NOARGS, "(first_unit, end_unit, scanned_to, recorded_to)."},
    {"_set_state", set_state, METH_O, "Set what the public calls may do."},
    {"_set_file", set_file, METH_O, "Say in which file it lies, by the number that the file was registered under."},
    {"_state", get_state, METH_NOARGS, "What the public calls may do."},
    {"_shut", shut, METH_O, "Close, with a list of others, unless views of any live; how many do."},
    {"_shut_unused", shut_unused, METH_NOARGS, "Close unless blocks are viewed, pinned or reserved; tell whether."},
    {"_upkeep_if_due", upkeep_if_due, METH_NOARGS, "Look at the clock, and have what is due done."},
    {"_is_ready", is_ready, METH_NOARGS, "One more call; whether it is open, and at work."},
    {"_try_malloc", try_malloc, METH_VARARGS, "Offset, or a negative code."},
    {"_try_realloc", try_realloc, METH_VARARGS, "Offset, or a negative code."},
    {"_try_expand", try_expand, METH_VARARGS, "0, or a negative code."},
    {"_try_free", try_free, METH_VARARGS, "0, or a negative code."},
    {"_free_refusal", free_refusal, METH_O, "0, or the code with which free would refuse."},
    {"_large_make", large_make, METH_VARARGS, "Describe units of nobody as one large block; its offset."},
    {"_large_extend", large_extend, METH_VARARGS, "Append the pool's units and those given to a block; False if it is too late."},
    {"_room_after", room_after, METH_O, "Free units of the pool from a unit on."},
    {"_donate", donate, METH_VARARGS, "Give units to the pool."},
    {"_reclaim", reclaim, METH_O, "Take a range of at least so many units out of the pool."},
    {"_reclaim_range", reclaim_range, METH_O, "Take the free range that begins at a unit; its length, 0 if none."},
    {"_old_pool", old_pool, METH_NOARGS, "The free ranges of the pool with units that were freed before this interval."},
    {"_old_parts", old_parts, METH_VARARGS, "The parts of a free range that were freed before this interval."},
    {"_young_end", young_end, METH_VARARGS, "The unit behind the last one of a range that was freed in this interval."},
    {"_given_back", given_back, METH_VARARGS, "Note that nothing is behind free units any more."},
    {"_next_interval", next_interval, METH_NOARGS, "Begin another interval of decay."},
    {"_pop_returned", pop_returned, METH_NOARGS, "Take the extent that was freed last."},
    {"_release_idle_runs", release_idle_runs, METH_NOARGS, "Give back the empty runs that were read; tell whether there were any."},
    {"_release_empties", release_empties, METH_NOARGS, "Give the empty runs that classes keep to the pool."},
    {"_handle_make", handle_make, METH_O, "Serial number for a handle to a live block, or a negative code."},
    {"_handle_is_valid", handle_is_valid, METH_VARARGS, "Whether the block of a handle still lives."},
    {"_handle_drop", handle_drop, METH_VARARGS, "A handle is gone."},
    {"_set_origin", set_origin, METH_O, "Tell the number of the arena, shifted: what its offsets begin with."},
    {"_set_rooted", set_rooted, METH_VARARGS, "Note whether a root names the block at an offset; 0, or a negative code."},
    {"_forget_roots", forget_roots, METH_NOARGS, "Note that no root names any block."},
    {"_views_of", views_of, METH_O, "Live views of the block at an offset."},
    {"_freed_units", freed_units, METH_NOARGS, "Units that were given back to the pool or to Python since open."},
    {"_quarantined", quarantined, METH_NOARGS, "Bytes that were freed and may not be used again yet."},
    {"_viewed", viewed, METH_NOARGS, "Blocks with live views: how many, and the lowest ones."},
    {"_live_views", live_views, METH_NOARGS, "Live views of all blocks."},
    {"_move_into", move_into, METH_VARARGS, "Copy a block into a large one and free it: from, to, size."},
    {"_place_of", place_of, METH_O, "What covers the unit of an offset."},
    {"_scan_step", scan_step, METH_VARARGS, "Read on in the entries; gaps for the extents, None at damage."},
    {"_adopt_step", adopt_step, METH_O, "Make records of what is only described by entries; False at the end."},
    {"_described", described, METH_NOARGS, described_doc},
    {"_walk", walk, METH_O, "The next piece that is described."},
    {"_blocks", blocks, METH_O, "Some live blocks."},
    {"_check_core", check, METH_NOARGS, "Verify every structure of the core against every other."},
    {"_counters", counters, METH_NOARGS, "Counters of the core, in units, bytes and blocks."},
    {"_class_counters", class_counters, METH_NOARGS, "Counters of the size classes."},
    {"_usage", usage, METH_NOARGS, "Both counters, of one moment."},
    {"_reserve", reserve_block, METH_VARARGS, "Offset of a block that is reserved, or a negative code."},
    {"_reserve_large", reserve_large, METH_VARARGS, "The same of units of nobody: first, number, bytes."},
    {"_publish", publish, METH_O, "Reserved to live, stored."},
    {"_cancel", cancel, METH_O, "Reserved to free."},
    {"_retire", retire, METH_O, "Live to quarantined, stored."},
    {"_release", release, METH_O, "Quarantined to free."},
    {"_pin", pin, METH_O, "A transaction holds the block."},
    {"_unpin", unpin, METH_O, "It holds it no more."},
    {"_held_size", held_size, METH_O, "Bytes of a live, reserved or quarantined block."},
    {"_block_start", block_start, METH_O, "Where the block begins that holds a byte, or a negative code."},
    {"_set_durability", set_durability, METH_O, "What a change outlives, of enum ph_durability."},
    {"_noted", noted, METH_NOARGS, "Take what a power heap has noted for its log: freed, and words stored to."},
    {NULL, NULL, 0, NULL},
};
