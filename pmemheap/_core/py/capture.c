/* py/capture.c -- the roots of a header as one commit left them, for a snapshot. */
#include "py/door.h"
#include "py/log.h"

const char ph_capture_doc[] =
"capture(header, sequence, /)\n--\n\n"
"The roots of the header that is mapped at an address, or None if the sequence is the one given: (sequence, slots in use,\n"
"era, sequence of the layout), the last two as they are after the roots were copied.\n"
"An empty tuple: a commit is half done, and stays so.";

PyObject *ph_capture_roots(PyObject *module, PyObject *args)
{
    struct ph_root_slot slots[PH_ROOT_SLOTS];
    unsigned long long address, known;
    uint64_t sequence;

    (void)module;
    if (!PyArg_ParseTuple(args, "KK", &address, &known))
        return NULL;
    const uint8_t *header = (const uint8_t *)(uintptr_t)address;
    if (ph_shared_word(header, PH_COMMIT_SEQ_AT) == known)
        return Py_NewRef(Py_None);
    int64_t used = ph_capture(header, &sequence, slots);
    if (used < 0)
        return PyTuple_New(0);
    return Py_BuildValue("KNKK", (unsigned long long)sequence,
                         PyBytes_FromStringAndSize((const char *)slots, (Py_ssize_t)used * PH_SLOT_BYTES),
                         (unsigned long long)ph_shared_word(header, PH_ERA_AT),
                         (unsigned long long)ph_shared_word(header, PH_LAYOUT_SEQ_AT));
}
