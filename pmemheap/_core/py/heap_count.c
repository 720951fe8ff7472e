/* py/heap_count.c -- what is described, counted and checked. */
#include "block/guard.h"
#include "py/heap_doors.h"

/* (state, first unit, units, class) of what covers the unit of an offset, as far as it is read; (bytes, live views) of the
 * live, reserved or quarantined block that begins there, whose state that is then, and with what a free would be refused;
 * free units of the pool behind a large block. All zero outside, where there is no block. */
static PyObject *place_of(PyObject *object, PyObject *argument)
{
    struct ph_heap *h = core_of(object);
    uint64_t offset = read_inner(object, argument), unit = offset >> PH_UNIT_SHIFT;

    if (PyErr_Occurred())
        return NULL;
    if (unit - h->first_unit >= h->end_unit - h->first_unit) /* trimmed or closed by another thread */
        return Py_BuildValue("iKIIKIiK", 0, 0ULL, 0U, 0U, 0ULL, 0U, PH_H_BAD_OFFSET, 0ULL);
    struct ph_block block = ph_block_at(h, offset); /* reads the unit if need be */
    const struct ph_refs *refs = ph_refs_find(h, offset);
    const struct ph_unit *record = &h->units[unit];
    if (record->state == PH_U_RUN_BODY || record->state == PH_U_PACKED_BODY) {
        unit -= record->back;
        record = &h->units[unit];
    }
    int state = block.state == PH_B_RESERVED      ? PH_U_RESERVED
                : block.state == PH_B_QUARANTINED ? PH_U_QUARANTINE
                                                  : record->state;
    uint64_t room = state == PH_U_LARGE ? ph_room_after(h, unit + record->nunits) : 0;
    return Py_BuildValue("iKIIKIiK", state, (unsigned long long)unit, record->nunits, record->class_index,
                         (unsigned long long)(block.state == PH_B_NONE ? 0 : ph_block_usable(&block)),
                         refs == NULL ? 0 : refs->views, ph_free_refusal(h, offset), (unsigned long long)room);
}

PyDoc_STRVAR(described_doc, "described($self, /)\n--\n\nStart, length and state of each piece that is described, as uint64, in one step.");

static PyObject *described(PyObject *object, PyObject *ignored)
{
    const struct ph_heap *h = core_of(object);
    struct ph_piece piece;
    uint64_t cursor = h->first_unit, count = 0;

    (void)ignored;
    while (ph_walk(h, &cursor, &piece))
        count++;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * 3 * sizeof(uint64_t)));
    if (bytes == NULL)
        return NULL;
    uint64_t *number = (uint64_t *)PyBytes_AsString(bytes);
    cursor = h->first_unit;
    for (uint64_t i = 0; i < count && ph_walk(h, &cursor, &piece); i++) {
        *number++ = piece.start;
        *number++ = piece.nunits;
        *number++ = piece.state;
    }
    return bytes;
}

/* The fields of struct ph_surveyed of each piece of [from, stop), as uint64, in one step. */
static PyObject *surveyed(const struct ph_heap *h, uint64_t from, uint64_t stop, uint64_t cell)
{
    from = from < h->first_unit ? h->first_unit : from;
    stop = stop > h->end_unit ? h->end_unit : stop;
    uint64_t count = ph_survey(h, from, stop, cell, NULL, 0);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * sizeof(struct ph_surveyed)));
    if (bytes != NULL)
        ph_survey(h, from, stop, cell, (struct ph_surveyed *)PyBytes_AsString(bytes), count);
    return bytes;
}

DOOR(survey, heap_object, 3, surveyed(&self->heap, n[0], n[1], n[2]))

enum { FINDINGS = 64 };

/* (number of findings, [(code, unit, expected, found), ...] of the first ones). */
static PyObject *check(PyObject *object, PyObject *ignored)
{
    struct ph_finding findings[FINDINGS];

    (void)ignored;
    int64_t total = ph_check(core_of(object), findings, FINDINGS);
    int64_t kept = total < FINDINGS ? total : FINDINGS;
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list != NULL && i < kept; i++)
        if (ph_append_new(list, Py_BuildValue("IKKK", findings[i].code, findings[i].unit, findings[i].expected,
                                              findings[i].found)) < 0)
            Py_CLEAR(list);
    return list == NULL ? NULL : Py_BuildValue("LN", (long long)total, list);
}

static PyObject *counters(const struct ph_heap *h)
{
    return Py_BuildValue(
        "{sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK}",
        "wilderness_units", (unsigned long long)(h->wilderness_end - h->wilderness),
        "pool_free_units", (unsigned long long)h->pool_free,
        "pool_longest_units", (unsigned long long)ph_pool_longest(h),
        "returned_units", (unsigned long long)h->returned_units,
        "run_units", (unsigned long long)h->run_units,
        "large_units", (unsigned long long)h->large_units,
        "large_bytes", (unsigned long long)h->large_bytes,
        "large_blocks", (unsigned long long)h->large_blocks,
        "packed_units", (unsigned long long)h->packed.units,
        "packed_blocks", (unsigned long long)h->packed.blocks,
        "packed_bytes", (unsigned long long)h->packed.bytes,
        "ring_end", (unsigned long long)ph_ring_end(h),
        "live_views", (unsigned long long)h->refs.views,
        "blocks_with_refs", (unsigned long long)h->refs.blocks.used,
        "pins", (unsigned long long)h->refs.pins,
        "reserved_blocks", (unsigned long long)h->withheld.reserved_blocks,
        "reserved_units", (unsigned long long)h->withheld.reserved_units,
        "reserved_bytes", (unsigned long long)h->withheld.reserved_bytes,
        "quarantined_blocks", (unsigned long long)h->withheld.freed_blocks,
        "quarantined_units", (unsigned long long)h->withheld.freed_units,
        "quarantined_bytes", (unsigned long long)h->withheld.freed_bytes,
        "tagged_bytes", (unsigned long long)h->tags.bytes);
}

/* [(block size, run units, blocks a run, runs, live, mallocs, requested bytes, withheld), ...] */
static PyObject *class_counters(const struct ph_heap *h)
{
    PyObject *list = PyList_New(0);

    for (uint32_t i = 0; list != NULL && i < h->nclasses; i++) {
        const struct ph_class *c = &h->classes[i];
        if (ph_append_new(list, Py_BuildValue("IIIKKKKK", c->granules * PH_GRANULE, c->run_units, c->run_blocks, c->runs,
                                              c->live, c->mallocs, c->requested, c->withheld)) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* Both, of one moment. */
static PyObject *usage(PyObject *object, PyObject *ignored)
{
    int held = ph_hold_collector();
    ph_array_drop_spares(core_of(object));
    PyObject *classes = class_counters(core_of(object)), *all = classes == NULL ? NULL : counters(core_of(object));

    (void)ignored;
    ph_let_collector(held);
    if (all == NULL) {
        Py_XDECREF(classes);
        return NULL;
    }
    return Py_BuildValue("NN", all, classes);
}

PyMethodDef ph_count_methods[] = {
    {"place_of", place_of, METH_O, "What covers the unit of an offset, and the block that begins there."},
    {"described", described, METH_NOARGS, described_doc},
    AS_METHOD("survey", survey, "What the units of a range are, piece by piece, or by cells of so many units."),
    {"check_core", check, METH_NOARGS, "Verify every structure of the core against every other."},
    {"usage", usage, METH_NOARGS, "Counters of the core, in units, bytes and blocks, and those of its size classes, of one moment."},
    {NULL, NULL, 0, NULL},
};
