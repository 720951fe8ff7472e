/* os/file_table.h -- the heap files that this process has open, and where they are mapped: see filetable.c.
 *
 * os/os.h has what Python calls; this is for os/calls.c and for the extension types. */
#pragma once
#include "os/os.h"

/* ph_files_lock, ph_files_unlock -- keep the table, and forks, from changing. Code in between makes no call of
 * Python and touches no mapped file. */
void ph_files_lock(void);
void ph_files_unlock(void);

/* ph_files_unmapped -- nothing of a file is mapped in a range any more. */
void ph_files_unmapped(uint64_t address, uint64_t length);

/* Hooks of the owner of the heaps. They run under the lock, in a signal handler or in a forked child: no call of Python, no
 * allocation. `forked`: all files belong to the parent from now on. `lost`: what is mapped of a file is not in the file;
 * 0 if somebody looks at it through a view, so that nothing can be done. */
struct ph_file_hooks {
    void (*forked)(void);
    int (*lost)(uint64_t file);
};

/* ph_files_begin -- once a process, by the copy of the core that has the heaps: watch forks and faults. */
int64_t ph_files_begin(const struct ph_file_hooks *hooks);
