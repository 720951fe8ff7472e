/* py/sites.c -- where in a program a call comes from.
 *
 *     frame ──► code ──► its number in `codes` ──► (number, instruction) in `places` ──► the number of the site
 *                                                  (number, line), for the first call of an instruction
 *
 * Python finds a line by going through the code from its begin; so that is done once for each instruction.
 *
 * Frames of the package itself are passed over: a slow path of Python, a layer; and those of layers of the user. It is asked in the middle of calls, so nothing
 * here runs Python: no frame, code or str of Python does when it is made or looked at, as long as the collector waits. */
#include "py/sites.h"

#include <stdio.h>
#include <stdlib.h>

struct code_slot {
    uint64_t key;     /* address of the code */
    uint32_t number;
    uint32_t is_own;  /* of the package */
};

struct place_slot {
    uint64_t key;     /* of an instruction or of a line */
    uint64_t site;    /* as in an event */
};

static PyObject *name_of_back, *name_of_instruction, *name_of_file;

int ph_sites_init(void)
{
    name_of_back = PyUnicode_InternFromString("f_back");
    name_of_instruction = PyUnicode_InternFromString("f_lasti");
    name_of_file = PyUnicode_InternFromString("co_filename");
    return name_of_back == NULL || name_of_instruction == NULL || name_of_file == NULL ? -1 : 0;
}

static uint64_t key_of(const struct code_slot *code, int is_line, int at)
{
    return (uint64_t)code->number << 33 | (uint64_t)is_line << 32 | (uint32_t)(at + 1);
}

static PyObject *file_of(PyObject *code)
{
    PyObject *file = PyObject_GetAttr(code, name_of_file);

    if (file == NULL)
        PyErr_Clear();
    return file;
}

static int is_own(const struct ph_sites *sites, PyObject *code)
{
    PyObject *file = file_of(code);
    Py_ssize_t found = file == NULL || !PyUnicode_Check(file) ? 0 : PyUnicode_Tailmatch(file, sites->own, 0, PY_SSIZE_T_MAX, -1);

    Py_XDECREF(file);
    if (found < 0)
        PyErr_Clear();
    return found > 0;
}

/* The slot of a code; NULL: there is no memory. */
static struct code_slot *find_code(struct ph_sites *sites, PyObject *code)
{
    uint64_t key = (uint64_t)(uintptr_t)code, number = sites->codes.used;
    struct code_slot *slot = ph_hash_find(&sites->codes, sizeof *slot, key);

    if (PH_LIKELY(slot != NULL))
        return slot;
    int own = is_own(sites, code);
    if (ph_hash_room(&sites->codes, sizeof *slot, 1) < 0)
        return NULL;
    slot = ph_hash_place(&sites->codes, sizeof *slot, key);
    slot->number = (uint32_t)number;
    slot->is_own = (uint32_t)own;
    Py_INCREF(code); /* so that no other one gets its address */
    return slot;
}

/* ph_site_text -- file:line, of which the beginning is left out if it is long; how many bytes, 0: it cannot be told. */
uint64_t ph_site_text(PyObject *file, int line, char *name, uint64_t room)
{
    PyObject *bytes = PyUnicode_AsEncodedString(file, "utf-8", "backslashreplace");
    char *text;
    Py_ssize_t length;
    uint64_t used = 0;

    if (bytes != NULL && PyBytes_AsStringAndSize(bytes, &text, &length) == 0) {
        Py_ssize_t most = (Py_ssize_t)room - 16;
        for (text += length > most ? length - most : 0; (*text & 0xC0) == 0x80;)
            text++; /* the rest of a letter */
        used = (uint64_t)snprintf(name, room, "%s:%d", text, line);
    }
    Py_XDECREF(bytes);
    return used;
}

static uint32_t name_site(struct ph_sites *sites, PyObject *code, int line)
{
    PyObject *file = file_of(code);
    uint32_t number = file == NULL ? 0 : sites->name(sites, file, line);

    PyErr_Clear();
    Py_XDECREF(file);
    return number;
}

/* The site of a key; 0: not known. */
static uint64_t find_place(const struct ph_sites *sites, uint64_t key)
{
    const struct place_slot *slot = ph_hash_find(&sites->places, sizeof *slot, key);

    return slot == NULL ? 0 : slot->site;
}

static void set_place(struct ph_sites *sites, uint64_t key, uint64_t site)
{
    struct place_slot *slot = ph_hash_place(&sites->places, sizeof *slot, key);

    slot->site = site;
}

/* The site of an instruction that has not called before. */
static PH_SELDOM uint64_t new_place(struct ph_sites *sites, PyObject *code, const struct code_slot *slot, int line,
                                    uint64_t key)
{
    uint64_t key_of_line = key_of(slot, 1, line), site = find_place(sites, key_of_line);
    PyObject *kind, *value, *traceback;

    if (ph_hash_room(&sites->places, sizeof(struct place_slot), 2) < 0)
        return 0;
    if (site == 0) {
        PyErr_Fetch(&kind, &value, &traceback);
        site = name_site(sites, code, line);
        PyErr_Restore(kind, value, traceback);
        if (site == 0)
            return 0;
        set_place(sites, key_of_line, site);
    }
    set_place(sites, key, site);
    return site;
}

static int instruction_of(PyFrameObject *frame)
{
    PyObject *found = PyObject_GetAttr((PyObject *)frame, name_of_instruction);
    long at = found == NULL ? -1 : PyLong_AsLong(found);

    if (at == -1)
        PyErr_Clear();
    Py_XDECREF(found);
    return (int)at;
}

static uint64_t site_at(struct ph_sites *sites, PyFrameObject *frame, PyObject *code,
                        const struct code_slot *slot)
{
    uint64_t key = key_of(slot, 0, instruction_of(frame)), site = find_place(sites, key);

    return PH_LIKELY(site != 0) ? site : new_place(sites, code, slot, PyFrame_GetLineNumber(frame), key);
}

/* The frame that called one, or NULL. */
static PyFrameObject *back_of(PyFrameObject *frame)
{
    PyObject *back = PyObject_GetAttr((PyObject *)frame, name_of_back);

    if (back == NULL)
        PyErr_Clear();
    if (back == Py_None) {
        Py_DECREF(back);
        return NULL;
    }
    return (PyFrameObject *)back;
}

/* The first frame that is none of the package, else the first one; its code is the caller's, like the frame. */
static PyFrameObject *find_caller(struct ph_sites *sites, PyObject **code_found)
{
    PyFrameObject *frame = (PyFrameObject *)Py_XNewRef((PyObject *)PyEval_GetFrame());

    while (frame != NULL) {
        PyObject *code = (PyObject *)PyFrame_GetCode(frame);
        const struct code_slot *slot = find_code(sites, code);
        PyFrameObject *back = slot != NULL && slot->is_own ? back_of(frame) : NULL;
        if (back == NULL) {
            *code_found = code;
            return frame;
        }
        Py_DECREF(code);
        Py_DECREF((PyObject *)frame);
        frame = back;
    }
    return NULL;
}

uint32_t ph_site_of(struct ph_sites *sites)
{
    int held = ph_hold_collector();
    PyObject *code = NULL;
    PyFrameObject *frame = find_caller(sites, &code);
    uint64_t site = 0;

    if (frame != NULL) {
        const struct code_slot *slot = ph_hash_find(&sites->codes, sizeof *slot, (uint64_t)(uintptr_t)code);
        if (slot != NULL)
            site = site_at(sites, frame, code, slot);
        Py_DECREF(code);
        Py_DECREF((PyObject *)frame);
    }
    ph_let_collector(held);
    return (uint32_t)site;
}

void ph_site_name(struct ph_sites *sites, char *name, uint64_t room)
{
    PyObject *code = NULL, *kind, *value, *traceback;
    int held = ph_hold_collector();

    PyErr_Fetch(&kind, &value, &traceback);
    PyFrameObject *frame = find_caller(sites, &code);
    *name = 0;
    if (frame != NULL) {
        PyObject *file = file_of(code);
        if (file != NULL)
            (void)ph_site_text(file, PyFrame_GetLineNumber(frame), name, room);
        PyErr_Clear();
        Py_XDECREF(file);
        Py_DECREF(code);
        Py_DECREF((PyObject *)frame);
    }
    PyErr_Restore(kind, value, traceback);
    ph_let_collector(held);
}

void ph_pass_over(struct ph_sites *sites, PyObject *code)
{
    struct code_slot *slot = sites->own == NULL ? NULL : find_code(sites, code);

    if (slot != NULL)
        slot->is_own = 1;
}

void ph_sites_fini(struct ph_sites *sites)
{
    for (uint64_t i = 0; i < sites->codes.capacity; i++)
        Py_XDECREF((PyObject *)(uintptr_t)ph_hash_key(&sites->codes, sizeof(struct code_slot), i));
    free(sites->codes.slots);
    free(sites->places.slots);
    Py_XDECREF(sites->own);
    *sites = (struct ph_sites){0};
}
