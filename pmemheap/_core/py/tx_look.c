/* py/tx_look.c -- what a transaction has collected, for its Python half. */
#include "py/tx.h"

DOOR(state_of, tx_object, 0, Py_BuildValue("iki", self->state, self->thread, self->writer))

DOOR(may_name, tx_object, 1, code(is_begun(self) ? ph_tx_may_name(&self->tx, n[0]) : PH_T_ENDED))

static PyObject *rooted_frees(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx = &tx_of(object)->tx;
    const struct ph_tx_block *frees = tx->frees.items;

    (void)ignored;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    for (uint64_t i = ph_tx_next_rooted(tx, 0); list != NULL && i < tx->frees.count; i = ph_tx_next_rooted(tx, i + 1))
        if (ph_append_new(list, number(frees[i].offset)) < 0)
            Py_CLEAR(list);
    ph_let_collector(held);
    return list;
}

PyDoc_STRVAR(fresh_doc, "_fresh($self, /)\n--\n\nBytes reserved, and the reserved blocks as (offset, nbytes).");

static PyObject *fresh(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx = &tx_of(object)->tx;
    const struct ph_tx_block *blocks = tx->fresh.items;

    (void)ignored;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    for (uint64_t i = 0; list != NULL && i < tx->fresh.count; i++)
        if (!blocks[i].is_cancelled && ph_append_new(list, pair(blocks[i].offset, blocks[i].nbytes)) < 0)
            Py_CLEAR(list);
    ph_let_collector(held);
    return list;
}

PyDoc_STRVAR(snapshots_doc, "_snapshots($self, /)\n--\n\nWhat may have to be undone, as (offset, nbytes).");

static PyObject *snapshots(PyObject *object, PyObject *ignored)
{
    const struct ph_tx *tx = &tx_of(object)->tx;
    const struct ph_tx_bytes *kept = tx->snapshots.items;

    (void)ignored;
    int held = ph_hold_collector();
    PyObject *list = PyList_New(0);
    for (uint64_t i = 0; list != NULL && i < tx->snapshots.count; i++)
        if (!kept[i].fresh && ph_append_new(list, pair(kept[i].offset, kept[i].nbytes)) < 0)
            Py_CLEAR(list);
    ph_let_collector(held);
    return list;
}

DOOR(fresh_changes, tx_object, 0, number(self->tx.fresh_changes))
DOOR(short_bytes, tx_object, 0, number(self->tx.fresh_bytes - self->tx.long_bytes))
DOOR(long_bytes, tx_object, 0, number(self->tx.long_bytes))
DOOR(fresh_is_durable, tx_object, 0, truth(ph_tx_fresh_is_durable(&self->tx)))

/* Bytes of fresh blocks that the record of the commit will carry. */
static uint64_t carried_bytes(const struct ph_tx *tx)
{
    if (!ph_tx_fresh_is_durable(tx))
        return tx->fresh_bytes;
    return tx->durable_least == 0 ? 0 : tx->fresh_bytes - tx->long_bytes;
}

/* About how long it will be. */
static uint64_t record_bytes(const struct ph_tx *tx)
{
    uint64_t items = tx->fresh.count + tx->frees.count + tx->writes.count + tx->snapshots.count;

    return 128 + items * 80 + tx->used + carried_bytes(tx);
}

DOOR(log_bytes, tx_object, 0, number(record_bytes(&self->tx)))

PyMethodDef ph_tx_look_methods[] = {
    AS_METHOD("_state", state_of, NULL),
    AS_METHOD("_may_name", may_name, "Whether a root may name a block when this commits: 0, or a negative code."),
    {"_rooted_frees", rooted_frees, METH_NOARGS, "The blocks to be freed that a root names now."},
    {"_fresh", fresh, METH_NOARGS, fresh_doc},
    AS_METHOD("_fresh_changes", fresh_changes, "How often blocks were reserved or stored to."),
    AS_METHOD("_short_bytes", short_bytes, "Of fresh blocks that a record may carry."),
    AS_METHOD("_long_bytes", long_bytes, "Of those that are synced before it."),
    AS_METHOD("_fresh_is_durable", fresh_is_durable, "Whether the bytes of all of them were synced."),
    {"_snapshots", snapshots, METH_NOARGS, snapshots_doc},
    AS_METHOD("_log_bytes", log_bytes, NULL),
    {NULL, NULL, 0, NULL},
};
