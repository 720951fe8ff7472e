/* py/places.h -- the table of the maps of a reservation. */
#pragma once
#include "py/address_range.h"

struct entry {
    uint64_t start, length; /* of the content: it takes whole pages */
    PyObject *map;
    struct exporter *exporter;
};

struct places {
    PyObject_HEAD
    struct address_range *line;
    struct entry *entries;
    size_t count, room;
    int closed;
};

static inline PyObject *result_of(int64_t code)
{
    return PyLong_FromLongLong(code);
}

static inline struct ph_range *range_of(const struct places *self)
{
    return self->line->range;
}

static inline uint64_t page_end(const struct entry *entry)
{
    return entry->start + (entry->length + PH_PAGE - 1) / PH_PAGE * PH_PAGE;
}

/* Index of the first entry that begins at an address or behind it. */
static inline size_t index_of(const struct places *self, uint64_t address)
{
    size_t low = 0, high = self->count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (self->entries[middle].start < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Index of the lowest map with a byte in [start, stop), or with a page in it; `count` if there is none. */
static inline size_t first_meeting(const struct places *self, uint64_t start, uint64_t stop, int whole_pages)
{
    size_t index = index_of(self, start);

    if (index > 0) {
        const struct entry *before = &self->entries[index - 1];
        if (start < (whole_pages ? page_end(before) : before->start + before->length))
            return index - 1;
    }
    return index < self->count && self->entries[index].start < stop ? index : self->count;
}

static inline int is_vacant(const struct places *self, uint64_t start, uint64_t stop)
{
    return first_meeting(self, start, stop, 1) == self->count;
}

/* Return the entry of an exporter, NULL if it is not here. */
static inline struct entry *entry_of(const struct places *self, PyObject *exporter)
{
    size_t index;

    if (!ph_is_exporter(exporter))
        return NULL;
    index = index_of(self, (uint64_t)(uintptr_t)((struct exporter *)exporter)->address);
    if (index == self->count || (PyObject *)self->entries[index].exporter != exporter)
        return NULL;
    return &self->entries[index];
}

extern PyMethodDef ph_place_methods[], ph_remove_methods[], ph_search_methods[];
