/* py/capture.c -- the roots of a header as one commit left them, for a snapshot. */
#include "py/door.h"
#include "py/log.h"

PyObject *ph_captured(const uint8_t *header, uint64_t *sequence)
{
    static struct ph_root_slot slots[PH_ROOT_SLOTS]; /* under the GIL; threads may have small stacks */
    int64_t used = ph_capture(header, sequence, slots);

    return used < 0 ? NULL : PyBytes_FromStringAndSize((const char *)slots, (Py_ssize_t)used * PH_SLOT_BYTES);
}

const char ph_capture_doc[] =
"capture(header, /)\n--\n\n"
"The roots of the header that is mapped at an address: (sequence, slots in use, era, sequence of the layout), the last two\n"
"as they are after the roots were copied. An empty tuple: a commit is half done, and stays so.";

PyObject *ph_capture_roots(PyObject *module, PyObject *args)
{
    unsigned long long address;
    uint64_t sequence;

    (void)module;
    if (!PyArg_ParseTuple(args, "K", &address))
        return NULL;
    const uint8_t *header = (const uint8_t *)(uintptr_t)address;
    PyObject *slots = ph_captured(header, &sequence);
    if (slots == NULL)
        return PyErr_Occurred() ? NULL : PyTuple_New(0);
    return Py_BuildValue("KNKK", (unsigned long long)sequence, slots,
                         (unsigned long long)ph_shared_word(header, PH_ERA_AT),
                         (unsigned long long)ph_shared_word(header, PH_LAYOUT_SEQ_AT));
}
