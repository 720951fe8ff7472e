/* py/heap_list.c -- the heaps of this process, and what becomes of them when it forks, or when the file of one is lost.
 *
 * All HeapCores are in one list, arenas too, under the lock of the table of files. The two functions below run where no
 * call of Python can be made, and other threads may be anywhere: they store a few flags, which every call looks at before
 * it touches a table. A log that has lost its file appends, brings home and puts back nothing. */
#include "py/log.h"

#include "os/file_table.h"

static struct heap_object *heaps;

void ph_heap_enter(struct heap_object *self)
{
    ph_files_lock();
    self->next = heaps;
    self->link = &heaps;
    if (heaps != NULL)
        heaps->link = &self->next;
    heaps = self;
    ph_files_unlock();
}

void ph_heap_leave(struct heap_object *self)
{
    ph_files_lock();
    *self->link = self->next;
    if (self->next != NULL)
        self->next->link = self->link;
    ph_files_unlock();
}

static void give_up(struct heap_object *self, int state)
{
    struct log_object *log = (struct log_object *)self->log;

    if (self->state != PH_S_CLOSED)
        self->state = state;
    self->heap.readonly = 1;
    if (log != NULL) {
        log->log.dead = log->log.lost = 1;
        ph_lease_forget(&log->log);
    }
}

/* In a forked child: the heaps are those of the parent. Views of them may be released, and find no table. */
static void forked(void)
{
    for (struct heap_object *one = heaps; one != NULL; one = one->next) {
        give_up(one, PH_S_FORKED);
        ph_forget_bounds(&one->heap);
    }
}

static int has_views(uint64_t file)
{
    for (const struct heap_object *one = heaps; one != NULL; one = one->next)
        if (one->file == file && one->heap.refs.views > one->own_views)
            return 1;
    return 0;
}

static int lost(uint64_t file)
{
    if (has_views(file))
        return 0;
    for (struct heap_object *one = heaps; one != NULL; one = one->next)
        if (one->file == file)
            give_up(one, PH_S_LOST);
    return 1;
}

int64_t ph_heap_watch(void)
{
    static const struct ph_file_hooks hooks = {forked, lost};

    return ph_files_begin(&hooks);
}
