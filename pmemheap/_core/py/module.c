/* py/module.c -- `_hot`: the door to the C core that keeps the GIL. Extension types, CPython's limited API. */
#include "py/address_range.h"
#include "py/door.h"
#include "py/heap.h"
#include "py/log.h"
#include "py/pins.h"

#ifndef PH_SOURCES
#define PH_SOURCES 0 /* outside of a build, as where syntax is checked */
#endif

PyDoc_STRVAR(module_doc, "Extension types of pmemheap: calls that cannot block and keep the GIL.");

PyDoc_STRVAR(share_faults_doc,
             "share_faults(address, /)\n--\n\n"
             "Count system calls in the struct ph_faults at `address`, which must stay where it is.");

DOOR(share_faults, _object, 1, ph_faults_share((void *)(uintptr_t)n[0]), done())

PyDoc_STRVAR(share_tape_doc,
             "share_tape(address, /)\n--\n\n"
             "Tell the struct ph_tape at `address` of every change from now on; 0 ends it.");

DOOR(share_tape, _object, 1, ph_tape_share((void *)(uintptr_t)n[0]), done())

#ifdef PH_CHECKED
PyDoc_STRVAR(omit_doc, "omit(rules, /)\n--\n\nLeave the rules out whose bits are set, to show that their absence is found.");

DOOR(omit, _object, 1, ph_omit(n[0]), done())

PyDoc_STRVAR(resolutions_doc, "resolutions()\n--\n\nHow often an offset was resolved to its block.");

DOOR(resolutions, _object, 0, number(ph_resolutions))
#endif

PyDoc_STRVAR(share_files_doc,
             "share_files(address, /)\n--\n\n"
             "Use the table of files at `address`, which must stay where it is, and look after its files.");

static PyObject *watch_files(void *table)
{
    ph_file_table_share(table);
    int64_t failed = ph_heap_watch();
    return failed < 0 ? ph_raise_errno(failed) : done();
}

DOOR(share_files, _object, 1, watch_files((void *)(uintptr_t)n[0]))

PyDoc_STRVAR(class_starts_doc,
             "class_starts(sizes, units, /)\n--\n\n"
             "The bits at which blocks begin, 64 bits a word, in a run of each size class.");

static PyMethodDef functions[] = {
    {"capture", ph_capture_roots, METH_VARARGS, ph_capture_doc},
    {"class_starts", ph_class_starts, METH_VARARGS, class_starts_doc},
#ifdef PH_CHECKED
    AS_METHOD("omit", omit, omit_doc),
    AS_METHOD("resolutions", resolutions, resolutions_doc),
#endif
    AS_METHOD("share_files", share_files, share_files_doc),
    AS_METHOD("share_faults", share_faults, share_faults_doc),
    AS_METHOD("share_tape", share_tape, share_tape_doc),
    {NULL, NULL, 0, NULL},
};

static int add_types(PyObject *module)
{
    static int (*const adders[])(PyObject *) = {
        ph_add_address_range_type, ph_add_exporter_type, ph_add_places_type,
        ph_add_handle_type,        ph_add_heap_types,    ph_add_region_type,
        ph_add_log_type,           ph_add_tx_type,       ph_add_map_type,
        ph_add_numpy_memory,       ph_add_pins_types,   ph_add_snapshot_type,
    };

    for (size_t i = 0; i < sizeof(adders) / sizeof(*adders); i++)
        if (adders[i](module) < 0)
            return -1;
    return 0;
}

/* The types stand in statics, and so do the ranges and the files of the process: there is one set of them, of the main
 * interpreter. A module that is imported there again, since its name was forgotten, has the types of the first. */
static PyObject *first_module;

static void forget_first_module(void)
{
    first_module = NULL;
}

static int is_main_interpreter(void)
{
    return PyInterpreterState_GetID(PyInterpreterState_Get()) == 0;
}

/* A core that was built for the limited API of 3.12 takes None for immortal; an older Python would free it. */
static int require_no_older_python(void)
{
    if (Py_Version >> 16 >= Py_LIMITED_API >> 16)
        return 0;
    PyErr_Format(PyExc_ImportError,
                 "pmemheap: Python 3.%u or later expected, for which the C core was built, 3.%u found; in the source "
                 "tree run: pip install -e .",
                 (unsigned)(Py_LIMITED_API >> 16 & 0xFF), (unsigned)(Py_Version >> 16 & 0xFF));
    return -1;
}

/* What `sources.py` made of the sources at the build; an import in their tree makes it again. */
static int add_sources(PyObject *module)
{
    PyObject *number = PyLong_FromUnsignedLong(PH_SOURCES);
    int result = PyModule_AddObjectRef(module, "SOURCES", number);

    Py_XDECREF(number);
    return result;
}

static int execute(PyObject *module)
{
    if (require_no_older_python() < 0)
        return -1;
    if (!is_main_interpreter()) {
        PyErr_SetString(PyExc_ImportError,
                        "pmemheap: the main interpreter of the process expected, another one found; "
                        "import it there, or in a process of its own");
        return -1;
    }
    if (first_module != NULL)
        return PyDict_Merge(PyModule_GetDict(module), PyModule_GetDict(first_module), 0);
    if (ph_start_eras() < 0 || Py_AtExit(forget_first_module) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    if (add_types(module) < 0 || add_sources(module) < 0)
        return -1;
    first_module = Py_NewRef(module);
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "pmemheap._core._hot", .m_doc = module_doc,
    .m_methods = functions, .m_slots = slots,
};

PyMODINIT_FUNC PyInit__hot(void)
{
    return PyModuleDef_Init(&definition);
}
