/* os/pagemap.c -- how much memory is behind a range of addresses, by the page tables alone.
 *
 * Where nothing is mapped there are no page tables: a range that is reserved costs nothing to look at. */
#define _GNU_SOURCE
#include "os/seam.h"

#include <sys/ioctl.h>

enum { STRETCHES = 64 };

/* What <linux/fs.h> has since Linux 6.7. */
enum {
    PRESENT = 1 << 3,
    SWAPPED = 1 << 4,
    ZERO_PAGE = 1 << 5,
    FENCED = 1 << 8, /* since 6.15 */
};

struct stretch {
    uint64_t start, stop, categories;
};

struct scan {
    uint64_t size, flags;
    uint64_t start, stop, walked; /* walked: where it ended */
    uint64_t stretches, room, most;
    uint64_t inverted, all_of, any_of, told;
};

#define SCAN _IOWR('f', 16, struct scan)

static int64_t scan_once(int32_t fd, struct scan *scan, uint64_t unwanted)
{
    scan->inverted = scan->all_of = unwanted;
    return PH_CALL(PH_CALL_PAGEMAP, ioctl(fd, SCAN, scan));
}

int64_t ph_count_memory(int32_t fd, uint64_t start, uint64_t stop, struct ph_memory *out)
{
    struct stretch found[STRETCHES];
    struct scan scan = {
        .size = sizeof(scan), .start = start, .stop = stop, .walked = start, .room = STRETCHES,
        .stretches = (uint64_t)(uintptr_t)found, .any_of = PRESENT | SWAPPED, .told = PRESENT | SWAPPED,
    };

    for (*out = (struct ph_memory){0}; scan.walked < stop; scan.start = scan.walked) {
        int64_t count = scan_once(fd, &scan, ZERO_PAGE | FENCED);

        if (count == -EINVAL)
            count = scan_once(fd, &scan, ZERO_PAGE);
        if (count < 0)
            return count;
        for (int64_t i = 0; i < count; i++)
            *(found[i].categories & PRESENT ? &out->resident : &out->swapped) += found[i].stop - found[i].start;
    }
    return 0;
}
