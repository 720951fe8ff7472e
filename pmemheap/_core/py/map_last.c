/* py/map_last.c -- a map beside a writer in another process: each call is answered as of the commit that is the last one then.
 *
 *     era ── last commit ── its root ── descent ── copy ── floor <= era: the answer [Q19]
 *                                                       └── else: that of a snapshot
 *
 * A lookup takes no pin, which is two calls of the system. What the last commit leads to had been freed by nobody when the era
 * was read; it is used again when the floor has come above that era, and not before. Until that is known, what is read may be
 * anything: map/read.c bears it, and no reader's file is cut. */
#include "py/map.h"
#include "py/pins.h"

#include "os/tape.h"

/* Go to the root as the last commit has left it. 0: something of it may not be mapped, or a commit stays half done. */
static int go_on(struct map_object *self, const struct pins_object *pins)
{
    uint64_t place;
    struct ph_map_header header = {0};
    const char *name = PyBytes_AsString(self->root);

    if (ph_capture_root(pins->header, name, (uint64_t)PyBytes_Size(self->root), &self->sequence, &place) < 0)
        return 0;
    self->map.header = place;
    if (place == PH_NO_ROOT || !ph_is_mapped(pins) || ph_map_header_at(&self->map, &header) < 0)
        return self->sequence = 0;
    self->map.id = header.id;
    return 1;
}

static int see(struct map_object *self, uint64_t *era)
{
    const struct pins_object *pins = (const struct pins_object *)self->pins;
    if (pins->header == NULL)
        return 0;
    *era = ph_era_now(pins);
    int seen = (self->sequence != 0 && ph_is_last(pins, self->sequence)) || go_on(self, pins);
    if (ph_tape_on())
        ph_tape_look();
    return seen;
}

/* Whether what was read since `see` has found an era is what was committed. */
static int is_kept(const struct map_object *self, uint64_t era)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return ph_shared_word(((const struct pins_object *)self->pins)->header, PH_FLOOR_AT) <= era || !PH_KEPT(Q19);
}

static int look_up(struct map_object *self, const struct bytes_in *in, PyObject **value)
{
    struct ph_map_value found;
    uint64_t era;
    int is_there = !see(self, &era) ? -1 : value == NULL ? ph_map_has(&self->map, in->at, in->length)
                                                         : ph_map_get(&self->map, in->at, in->length, &found);
    if (is_there < 0 || !is_kept(self, era))
        return PH_M_UNSEEN;
    if (is_there == 0 || value == NULL)
        return is_there;
    if ((*value = ph_map_bytes(&self->map, &found)) == NULL)
        return -1;
    if (!is_kept(self, era)) {
        Py_CLEAR(*value);
        return PH_M_UNSEEN;
    }
    return 1;
}

int ph_map_last(PyObject *object, PyObject *key, PyObject **value)
{
    struct bytes_in in = {.buffer.obj = NULL};

    if (is_bytes_like(key) && ph_read_bytes(key, "key", &in) < 0)
        return -1;
    int found = ph_map_look(object); /* it may run Python; nothing does from here on */
    if (found == 0 && is_bytes_like(key))
        found = look_up(ph_map_of(object), &in, value);
    ph_release_bytes(&in);
    return found;
}

PyObject *ph_map_read(PyObject *map)
{
    return ph_map_of(map)->pins == NULL ? Py_NewRef(map) : PyObject_CallMethod(map, "_as_read", NULL);
}
