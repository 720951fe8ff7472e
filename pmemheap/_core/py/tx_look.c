/* py/tx_look.c -- what a transaction has collected, for its Python half. */
#include "py/tx.h"

static PyObject *state_of(PyObject *object, PyObject *ignored)
{
    const struct tx_object *self = tx_of(object);

    (void)ignored;
    return Py_BuildValue("iki", self->state, self->thread, self->writer);
}

static PyObject *may_name(PyObject *object, PyObject *argument)
{
    unsigned long long offset = PyLong_AsUnsignedLongLong(argument);

    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromLong(is_begun(tx_of(object)) ? ph_tx_may_name(&tx_of(object)->tx, offset) : PH_T_ENDED);
}

static PyObject *rooted_frees(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx = &tx_of(object)->tx;
    const struct ph_tx_block *frees = tx->frees.items;

    (void)ignored;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    for (uint64_t i = ph_tx_next_rooted(tx, 0); list != NULL && i < tx->frees.count; i = ph_tx_next_rooted(tx, i + 1)) {
        PyObject *offset = PyLong_FromUnsignedLongLong(frees[i].offset);
        if (offset == NULL || PyList_Append(list, offset) < 0)
            Py_CLEAR(list);
        Py_XDECREF(offset);
    }
    ph_let_collector(held);
    return list;
}

PyDoc_STRVAR(fresh_doc, "_fresh()\n--\n\nBytes reserved, and the reserved blocks as (offset, nbytes).");

static PyObject *fresh(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx = &tx_of(object)->tx;
    const struct ph_tx_block *blocks = tx->fresh.items;

    (void)ignored;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    for (uint64_t i = 0; list != NULL && i < tx->fresh.count; i++) {
        if (blocks[i].is_cancelled)
            continue;
        PyObject *block = Py_BuildValue("KK", (unsigned long long)blocks[i].offset, (unsigned long long)blocks[i].nbytes);
        if (block == NULL || PyList_Append(list, block) < 0)
            Py_CLEAR(list);
        Py_XDECREF(block);
    }
    ph_let_collector(held);
    return list;
}

PyDoc_STRVAR(snapshots_doc, "_snapshots()\n--\n\nWhat may have to be undone, as (offset, nbytes).");

static PyObject *snapshots(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx = &tx_of(object)->tx;
    const struct ph_tx_bytes *kept = tx->snapshots.items;

    (void)ignored;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    for (uint64_t i = 0; list != NULL && i < tx->snapshots.count; i++) {
        if (kept[i].fresh)
            continue;
        PyObject *one = Py_BuildValue("KK", (unsigned long long)kept[i].offset, (unsigned long long)kept[i].nbytes);
        if (one == NULL || PyList_Append(list, one) < 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    ph_let_collector(held);
    return list;
}

static PyObject *fresh_changes(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(tx_of(object)->tx.fresh_changes);
}

static PyObject *fresh_bytes(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(tx_of(object)->tx.fresh_bytes);
}

static PyObject *fresh_is_durable(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    return PyBool_FromLong(ph_tx_fresh_is_durable(&tx_of(object)->tx));
}

/* About how long the record of the commit will be. */
static PyObject *log_bytes(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx = &tx_of(object)->tx;
    uint64_t items = tx->fresh.count + tx->frees.count + tx->writes.count + tx->snapshots.count;

    (void)ignored;
    return PyLong_FromUnsignedLongLong(128 + items * 80 + tx->used + (ph_tx_fresh_is_durable(tx) ? 0 : tx->fresh_bytes));
}

PyMethodDef ph_tx_look_methods[] = {
    {"_state", state_of, METH_NOARGS, NULL},
    {"_may_name", may_name, METH_O, "Whether a root may name a block when this commits: 0, or a negative code."},
    {"_rooted_frees", rooted_frees, METH_NOARGS, "The blocks to be freed that a root names now."},
    {"_fresh", fresh, METH_NOARGS, fresh_doc},
    {"_fresh_changes", fresh_changes, METH_NOARGS, "How often blocks were reserved or stored to."},
    {"_fresh_bytes", fresh_bytes, METH_NOARGS, NULL},
    {"_fresh_is_durable", fresh_is_durable, METH_NOARGS, "Whether the bytes of all of them were synced."},
    {"_snapshots", snapshots, METH_NOARGS, snapshots_doc},
    {"_log_bytes", log_bytes, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
