/* py/log_lease.c -- what Python says to a log about readers of snapshots: whether what they may show is edited in place. */
#include "py/door.h"
#include "py/log.h"
#include "py/pins.h"

void ph_forget_pins(struct log_object *self)
{
    if (self->pins != NULL)
        ((struct pins_object *)self->pins)->log = NULL;
    Py_CLEAR(self->pins);
}

PyDoc_STRVAR(begin_lease_doc,
"_begin_lease($self, fd, pins, length, /)\n--\n\n"
"Let commits edit in place while nobody reads. `fd`: of the locks; `pins`: of this process; `length`: nanoseconds of a lease.");

static PyObject *begin_lease(PyObject *object, PyObject *args)
{
    struct log_object *self = (struct log_object *)object;
    unsigned long long length;
    PyObject *pins;
    int fd;

    if (!PyArg_ParseTuple(args, "iOK", &fd, &pins, &length))
        return NULL;
    if (!ph_is_pins(pins))
        return PyErr_Format(PyExc_TypeError, "log: Pins expected, found %R", pins);
    ph_forget_pins(self);
    self->pins = Py_NewRef(pins);
    ((struct pins_object *)pins)->log = &self->log;
    ph_lease_begin(&self->log, &(struct ph_lease){
        .fd = fd, .pinned = &((struct pins_object *)pins)->used, .length = length});
    Py_RETURN_NONE;
}

static int64_t end_for_good(struct log_object *self)
{
    int64_t failed = ph_lease_end(&self->log);
    if (failed == 0)
        ph_forget_pins(self);
    return failed;
}

DOOR(end_lease, log_object, 0, code(end_for_good(self)))
DOOR(edited_floor, log_object, 0, number(self->log.lease.floor))
DOOR(stop_edits, log_object, 0, code(ph_lease_stop(&self->log)))

PyMethodDef ph_log_lease_methods[] = {
    {"_begin_lease", begin_lease, METH_VARARGS, begin_lease_doc},
    AS_METHOD("_end_lease", end_lease, "Copy whatever a commit can reach, from now on: 0; or a code, since something is being edited."),
    AS_METHOD("_edited_floor", edited_floor, "The era below which nothing can be adopted, since something was edited in place later."),
    AS_METHOD("_stop_edits", stop_edits, "Copy it as long as this process reads: 0; or a code, since something is being edited."),
    {NULL, NULL, 0, NULL},
};
