/* py/map_look.c -- what every look at a map begins and ends with, and the bytes that go in and out. */
#include "py/admit.h"
#include "py/map.h"

static PyObject *name_refuse, *name_confirm;

int ph_map_begin_looking(void)
{
    name_refuse = PyUnicode_InternFromString("_refuse");
    name_confirm = PyUnicode_InternFromString("_is_committed");
    return name_refuse == NULL || name_confirm == NULL ? -1 : 0;
}

int ph_read_bytes(PyObject *object, const char *what, struct bytes_in *in)
{
    in->buffer.obj = NULL;
    if (PyBytes_Check(object)) {
        char *at;
        Py_ssize_t length;
        PyBytes_AsStringAndSize(object, &at, &length);
        in->at = at;
        in->length = (uint64_t)length;
        return 0;
    }
    if (!PyObject_CheckBuffer(object)) {
        PyErr_Format(PyExc_TypeError, "map: %s: bytes expected, found %R", what, object);
        return -1;
    }
    if (PyObject_GetBuffer(object, &in->buffer, PyBUF_CONTIG_RO) < 0)
        return -1;
    in->at = in->buffer.buf;
    in->length = (uint64_t)in->buffer.len;
    return 0;
}

void ph_release_bytes(struct bytes_in *in)
{
    if (in->buffer.obj != NULL)
        PyBuffer_Release(&in->buffer);
}

PyObject *ph_map_refuse(PyObject *self, int64_t code)
{
    PyObject *number = PyLong_FromLongLong(code);
    PyObject *done = number == NULL ? NULL : PyObject_CallMethodObjArgs(self, name_refuse, number, NULL);
    Py_XDECREF(number);
    if (done != NULL) {
        Py_DECREF(done);
        PyErr_SetString(PyExc_SystemError, "map: _refuse has to raise");
    }
    return NULL;
}

/* The open transaction of this thread; NULL without one. */
static struct ph_tx *tx_here(const struct map_object *self)
{
    int busy;
    return ph_log_of(self) == NULL ? NULL : ph_tx_here(ph_log_of(self), 0, &busy);
}

void ph_map_note_maker(struct map_object *self)
{
    const struct ph_tx *tx = tx_here(self);
    self->made_in = tx == NULL ? 0 : tx->number;
    self->made_at = tx == NULL ? 0 : tx->rollbacks;
}

int ph_map_confirm(PyObject *object)
{
    struct map_object *self = ph_map_of(object);
    const struct ph_tx *tx = tx_here(self);
    if (tx != NULL && tx->number == self->made_in && tx->rollbacks == self->made_at)
        return 0;
    PyObject *is_committed = PyObject_CallMethodObjArgs(object, name_confirm, NULL);
    int committed = is_committed == NULL ? -1 : PyObject_IsTrue(is_committed);
    Py_XDECREF(is_committed);
    if (committed < 0)
        return -1;
    ph_map_note_maker(self);
    if (committed)
        self->made_in = 0;
    return 0;
}

int ph_map_look(PyObject *object)
{
    struct map_object *self = ph_map_of(object);
    if (self->space != NULL && ph_tick(ph_space_of(self)) < 0)
        return -1;
    if (self->space == NULL || !ph_may_read(ph_space_of(self))) {
        ph_map_refuse(object, PH_M_NO_TX);
        return -1;
    }
    if (self->made_in != 0 && ph_map_confirm(object) < 0)
        return -1;
    self->map.is_alone = 0;
    self->map.tx = tx_here(self);
    return 0;
}

int ph_map_kept(PyObject *object, int result)
{
    if (result < 0 || ph_space_of(ph_map_of(object))->state != PH_S_LOST)
        return result;
    ph_map_refuse(object, PH_M_NO_TX);
    return -1;
}

int ph_map_tables(PyObject *object)
{
    struct heap_object *space = ph_space_of(ph_map_of(object));
    if (space->state == PH_S_UNATTACHED)
        return ph_attach_tables(space);
    ph_map_refuse(object, PH_M_CORRUPT);
    return -1;
}

PyObject *ph_map_bytes(const struct ph_map *map, const struct ph_map_value *value)
{
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)value->bytes, (Py_ssize_t)value->length);
    if (bytes != NULL && map->tx != NULL && value->is_apart && ph_tx_touches(map->tx, value->block))
        ph_tx_overlay(map->tx, value->block, value->length, (uint8_t *)PyBytes_AsString(bytes));
    return bytes;
}
