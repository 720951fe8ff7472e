/* block/track_file.c -- the records of a file of sites, as layers/sites.py reads them.
 *
 *     record      0        4      5       6       8
 *                 | CRC-32C | kind |   0   | bytes | what it says |        the sum is over all behind it
 *
 * The GIL is kept: what is told in the middle of a call cannot wait, and the bytes go no farther than the page cache. */
#include <string.h>

#include "base/crc32c.h"
#include "block/block.h"
#include "os/os.h"

struct head {
    uint32_t sum;
    uint8_t kind, zero;
    uint16_t nbytes; /* behind it */
};

static void put(struct ph_track_file *f, enum ph_track_record kind, void *record, uint64_t length)
{
    struct head *head = record;
    if (f->process != ph_process())
        f->is_on = 0;
    if (!f->is_on)
        return;
    head->kind = (uint8_t)kind;
    head->nbytes = (uint16_t)(length - sizeof *head);
    head->sum = ph_crc32c(0, &head->kind, length - sizeof head->sum);
    int64_t written = ph_write(f->fd, record, length, f->nbytes);
    if (written >= 0) {
        f->nbytes += length;
        return;
    }
    f->error = written;
    f->is_on = 0;
}

/* Whether the records are to say what becomes of a block. */
static int says(const struct ph_track_file *f, uint64_t offset)
{
    return f->is_on && (f->left_out == 0 || offset >> PH_ARENA_SHIFT != f->left_out);
}

void ph_track_file_made(struct ph_track_file *f, uint64_t offset, uint64_t size, uint32_t site)
{
    struct __attribute__((packed)) {
        struct head head;
        uint64_t offset, size;
        uint32_t site;
    } record = {.offset = offset, .size = size, .site = site};
    if (PH_UNLIKELY(says(f, offset)))
        put(f, PH_TRACK_MADE, &record, sizeof record);
}

void ph_track_file_freed(struct ph_track_file *f, uint64_t offset)
{
    struct {
        struct head head;
        uint64_t offset;
    } record = {.offset = offset};
    if (PH_UNLIKELY(says(f, offset)))
        put(f, PH_TRACK_FREED, &record, sizeof record);
}

void ph_track_file_site(struct ph_track_file *f, uint32_t number, const char *text, uint64_t length)
{
    struct {
        struct head head;
        uint32_t number;
        char text[PH_TRACK_SITE_MOST];
    } record = {.number = number};
    uint64_t left_out = length > sizeof record.text ? length - sizeof record.text : 0;
    if (!f->is_on)
        return;
    memcpy(record.text, text + left_out, length - left_out);
    put(f, PH_TRACK_SITE, &record, offsetof(__typeof__(record), text) + length - left_out);
}
