/* py/sites.h -- call sites: the file and line of the Python frame that a call came from, and their numbers. */
#pragma once
#include "py/types.h"

#include "base/hash_table.h"

struct ph_sites {
    struct ph_hash_table codes;  /* of code objects, which it keeps */
    struct ph_hash_table places; /* in them, which are numbered: instructions, and lines */
    PyObject *own;               /* str: what the file names of the package begin with */
    uint32_t (*name)(struct ph_sites *, PyObject *file, int line); /* number a site that is new, from 1 on; 0: there is no memory */
};

/* ph_site_of -- the number of the site of the call that is under way; 0: there is none, or no memory for it. No Python runs
 * meanwhile. ph_site_name -- the same as text; empty: it is not known. ph_pass_over -- frames of a code are passed over, as those of
 * the package. ph_sites_fini -- forget all. ph_sites_init -- before the first. */
int ph_sites_init(void);
void ph_pass_over(struct ph_sites *sites, PyObject *code);
uint32_t ph_site_of(struct ph_sites *sites);
void ph_site_name(struct ph_sites *sites, char *name, uint64_t room);
uint64_t ph_site_text(PyObject *file, int line, char *name, uint64_t room);
void ph_sites_fini(struct ph_sites *sites);
