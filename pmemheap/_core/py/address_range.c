/* py/address_range.c -- AddressRange: a range of the address space, owned.
 *
 *     start             stop                end
 *       |  shown          |    headroom      |
 *       +-----------------+------------------+
 *
 * The only owner: whatever needs the memory to stay holds a reference, and the range goes back to the system, with all
 * that is mapped in it, when the last one has gone. There is no finalizer and nothing the garbage collector could clear.
 * The borders change under the GIL, which is enough to read them. Unmapping touched memory takes long: the end of a
 * address_range gives the GIL up for it.
 */
#include "py/address_range.h"
#include "py/door.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <structmember.h>
#include <time.h>

/* ---------------------------------------------------------------- having the space */

#define SHORTEST_PAUSE 20000L /* nanoseconds */
#define LONGEST_PAUSE 1000000L

static int is_taken; /* changes under the GIL */
static unsigned era;

static void begin_era(void)
{
    is_taken = 0;
    era++;
}

unsigned ph_era(void)
{
    return era;
}

int ph_start_eras(void)
{
    static int is_started;

    if (is_started)
        return 0;
    is_started = 1;
    return -pthread_atfork(NULL, NULL, begin_era);
}

static void wait_without_gil(long nanoseconds)
{
    const struct timespec moment = {0, nanoseconds};

    Py_BEGIN_ALLOW_THREADS
    nanosleep(&moment, NULL);
    Py_END_ALLOW_THREADS
}

/* Unmap ranges that have ended. What takes long, dropping what was touched, is done without the GIL and leaves the
 * addresses reserved; they go together with the record of them, so that a fork in between finds both or none. */
static void sweep(void)
{
    struct ph_range *next;

    for (struct ph_range *each = ph_leftovers(); each != NULL; each = next) {
        next = each->next;
        Py_BEGIN_ALLOW_THREADS
        ph_unmap(each->start, each->end - each->start);
        Py_END_ALLOW_THREADS
        if (ph_unreserve(each->start, each->end - each->start) >= 0)
            ph_forget_leftover(each);
    }
}

/* Most calls take the kernel a few microseconds; unmapping what was touched, up to a third of a second. While the
 * interpreter ends, a daemon thread may have died in the middle, and nobody else runs. */
void ph_enter(void)
{
    for (long pause = SHORTEST_PAUSE; is_taken && Py_IsInitialized(); pause *= pause < LONGEST_PAUSE ? 2 : 1)
        wait_without_gil(pause);
    is_taken = 1;
    sweep();
}

void ph_leave(void)
{
    is_taken = 0;
}

/* ---------------------------------------------------------------- the type */

PyDoc_STRVAR(address_range_doc,
             "AddressRange(address, size, headroom=0, alignment=4096, skew=0, left=2**64 - 1, /)\n--\n\n"
             "Reserve [address, address + size), or an aligned range anywhere for address 0, and own it.\n\n"
             "`left` is what the process may still have: see ph_range_make. Raises OSError with nothing changed.");

/* One without addresses. */
static struct address_range *new_address_range(PyTypeObject *type)
{
    struct address_range *self = ph_new_object(type);

    if (self == NULL)
        return NULL;
    self->range = calloc(1, sizeof(*self->range));
    if (self->range != NULL)
        return self;
    Py_DECREF(self);
    PyErr_NoMemory();
    return NULL;
}

static PyObject *address_range_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    struct ph_wish wish = {.alignment = PH_PAGE};
    unsigned long long address, size, headroom = 0, alignment = PH_PAGE, skew = 0, left = PH_NO_LIMIT;
    struct address_range *self;
    int64_t result;

    if (keywords != NULL && PyDict_Size(keywords) != 0) {
        PyErr_SetString(PyExc_TypeError, "AddressRange: positional arguments expected, keywords found");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "KK|KKKK:AddressRange", &address, &size, &headroom, &alignment, &skew, &left))
        return NULL;
    wish = (struct ph_wish){address, size, headroom, alignment, skew};
    self = new_address_range(type);
    if (self == NULL)
        return NULL;
    ph_enter();
    result = ph_range_make(self->range, &wish, left);
    ph_leave();
    if (result < 0) {
        Py_DECREF(self);
        return ph_raise_errno(result);
    }
    return (PyObject *)self;
}

static void end_range(struct ph_range *range)
{
    ph_enter();
    ph_leave_over(range);
    sweep();
    ph_leave();
}

static void address_range_dealloc(PyObject *object)
{
    struct address_range *self = (struct address_range *)object;

    if (self->weak_references != NULL)
        PyObject_ClearWeakRefs(object);
    if (self->range != NULL && self->range->listed)
        end_range(self->range);
    else
        free(self->range);
    ph_free_object(object);
}

int ph_is_address_range(PyObject *object)
{
    return PyType_GetSlot(Py_TYPE(object), Py_tp_dealloc) == (void *)address_range_dealloc;
}

void ph_address_range_pin(PyObject *object, Py_ssize_t change)
{
    if (ph_is_address_range(object))
        ((struct address_range *)object)->exporters += change;
}

FIELD(address_range_start, address_range, number(self->range->start))
FIELD(address_range_stop, address_range, number(self->range->stop))
FIELD(address_range_end, address_range, number(self->range->end))
FIELD(address_range_size, address_range, number(self->range->stop - self->range->start))
FIELD(address_range_headroom, address_range, number(self->range->end - self->range->stop))

PyDoc_STRVAR(split_doc, "split($self, shown, length, /)\n--\n\n"
                        "Make the first `length` bytes a range of its own, of which `shown` are shown; the rest is headroom.\n\n"
                        "Whole pages, and fewer than are shown here; nothing may be mapped there.");

static PyObject *split_off(struct address_range *self, uint64_t shown, uint64_t length)
{
    struct ph_range *range = self->range;

    if ((shown | length) % PH_PAGE || shown == 0 || shown > length || length >= range->stop - range->start)
        return PyErr_Format(PyExc_ValueError, "split: whole pages, fewer than are shown, expected");
    struct address_range *part = new_address_range(Py_TYPE((PyObject *)self));
    if (part == NULL)
        return NULL;
    ph_enter();
    ph_range_split(range, part->range, shown, length);
    ph_leave();
    return (PyObject *)part;
}

DOOR(split, address_range, 2, split_off(self, n[0], n[1]))

static PyMethodDef address_range_methods[] = {
    AS_METHOD("split", split, split_doc),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef address_range_attributes[] = {
    {"start", address_range_start, NULL, "First address.", NULL},
    {"stop", address_range_stop, NULL, "Address behind the shown part.", NULL},
    {"end", address_range_end, NULL, "Address behind the headroom.", NULL},
    {"size", address_range_size, NULL, "Bytes shown: stop - start.", NULL},
    {"headroom", address_range_headroom, NULL, "Bytes reserved behind them: end - stop.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef address_range_members[] = {
    {"exporters", T_PYSSIZET, offsetof(struct address_range, exporters), READONLY, "Exporters that live."},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct address_range, weak_references), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot address_range_slots[] = {
    {Py_tp_doc, (void *)address_range_doc},
    {Py_tp_new, address_range_new},
    {Py_tp_dealloc, address_range_dealloc},
    {Py_tp_methods, address_range_methods},
    {Py_tp_getset, address_range_attributes},
    {Py_tp_members, address_range_members},
    {0, NULL},
};

static PyType_Spec address_range_spec = {
    .name = "pmemheap._core._hot.AddressRange",
    .basicsize = sizeof(struct address_range),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = address_range_slots,
};

int ph_add_address_range_type(PyObject *module)
{
    return ph_add_type(module, "AddressRange", &address_range_spec);
}
