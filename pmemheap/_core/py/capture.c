/* py/capture.c -- the roots of a header as one commit left them, for a snapshot. */
#include "py/door.h"
#include "py/log.h"

const char ph_capture_doc[] =
"capture(header, sequence, /)\n--\n\n"
"The roots of the header that is mapped at an address, or None if the sequence is the one given: (sequence, slots in use,\n"
"era, sequence of the layout), the last two as they are after the roots were copied.\n"
"An empty tuple: a commit is half done, and stays so.";

static unsigned long long word_of(unsigned long long header, uint32_t at)
{
    return __atomic_load_n((const uint64_t *)(uintptr_t)(header + at), __ATOMIC_ACQUIRE);
}

PyObject *ph_capture_roots(PyObject *module, PyObject *args)
{
    struct ph_root_slot slots[PH_ROOT_SLOTS];
    unsigned long long header, known;
    uint64_t sequence;

    (void)module;
    if (!PyArg_ParseTuple(args, "KK", &header, &known))
        return NULL;
    if (ph_sequence_now((const uint8_t *)(uintptr_t)header) == known)
        return Py_NewRef(Py_None);
    int64_t used = ph_capture((const uint8_t *)(uintptr_t)header, &sequence, slots);
    if (used < 0)
        return PyTuple_New(0);
    return Py_BuildValue("KNKK", (unsigned long long)sequence,
                         PyBytes_FromStringAndSize((const char *)slots, (Py_ssize_t)used * PH_SLOT_BYTES),
                         word_of(header, PH_ERA_AT), word_of(header, PH_LAYOUT_SEQ_AT));
}
