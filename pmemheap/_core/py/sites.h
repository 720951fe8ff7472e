/* py/sites.h -- call sites: the file and line of the Python frame that a call came from, and their numbers in a trace. */
#pragma once
#include "py/types.h"

#include "block/block.h"

struct ph_sites {
    struct ph_hash_table codes;  /* of code objects, which it keeps */
    struct ph_hash_table places; /* in them, which are numbered: instructions, and lines */
    PyObject *own;               /* str: what the file names of the package begin with */
};

/* ph_site_of -- the site of the call that is under way, named in the trace if it is new, as in an event; 0: there is none, or no
 * memory for it. No Python runs meanwhile. ph_site_name -- the same as text; empty: it is not known. ph_sites_fini -- forget all. ph_sites_init -- before the first. */
int ph_sites_init(void);
uint32_t ph_site_of(struct ph_sites *sites, struct ph_recorder *recorder);
void ph_site_name(struct ph_sites *sites, char *name, uint64_t room);
void ph_sites_fini(struct ph_sites *sites);
