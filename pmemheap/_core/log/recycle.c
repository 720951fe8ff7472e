/* log/recycle.c -- what was freed while there may be readers of snapshots: when it gets tags, and when it becomes free [Q3] [Q4].
 *
 *     freed ---> quarantined ---> tagged with the era ---> free         as soon as nobody in this process views it
 *                          its record                 a recycle below
 *                          is home                    a later era
 */
#include "log/log.h"

enum { PH_ERA_BYTES = 512 * 1024 }; /* freed in an era */

/* What is told of the arenas of a log, one after the other. */
static struct ph_heap *next_core(const struct ph_log *log, uint32_t *arena)
{
    while (*arena < log->homes_room) {
        struct ph_heap *h = log->homes[(*arena)++].heap;
        if (h != NULL)
            return h;
    }
    return NULL;
}

uint64_t ph_recycle(struct ph_log *log, uint64_t bound)
{
    uint64_t bytes = 0;
    uint32_t arena = 0;
    if (log->lost)
        return 0;
    for (struct ph_heap *h; (h = next_core(log, &arena)) != NULL;) {
        struct ph_tag tag;
        while (ph_tags_take(&h->tags, bound, &tag))
            bytes += ph_each_retired(h, tag.offset, tag.nbytes, ph_release);
    }
    return bytes;
}

struct ph_tagged ph_tagged(const struct ph_log *log)
{
    struct ph_tagged all = {0};
    uint32_t arena = 0;
    for (const struct ph_heap *h; (h = next_core(log, &arena)) != NULL;) {
        uint64_t oldest = h->tags.count == 0 ? 0 : ph_tags_at(&h->tags, 0)->era;
        all.bytes += h->tags.bytes;
        all.count += h->tags.count;
        if (all.oldest == 0 || (oldest != 0 && oldest < all.oldest))
            all.oldest = oldest;
    }
    return all;
}

uint64_t ph_tagged_since(const struct ph_log *log, uint64_t era)
{
    uint64_t bytes = 0;
    uint32_t arena = 0;
    for (const struct ph_heap *h; (h = next_core(log, &arena)) != NULL;)
        for (uint64_t i = h->tags.count; i-- > 0 && ph_tags_at(&h->tags, i)->era >= era;)
            bytes += ph_tags_at(&h->tags, i)->nbytes;
    return bytes;
}

void ph_set_era(struct ph_log *log, uint64_t era)
{
    if (era > log->era.now)
        log->era = (struct ph_era){.now = era};
}

void ph_end_era(struct ph_log *log)
{
    if (PH_LIKELY(log->era.freed < PH_ERA_BYTES) || log->header == NULL)
        return;
    ph_set_era(log, log->era.now + 1);
    ph_put_word((uint64_t *)(log->header + PH_ERA_AT), log->era.now);
}

void ph_tags_join(struct ph_log *log, struct ph_heap *h)
{
    h->tags.era = log->copies ? &log->era : NULL;
    h->tags.lender = log->copies && !log->power ? &log->lease.lender : NULL;
    ph_set_journal(h, (enum ph_durability)h->journal->durability);
}

/* Room for the tags of what has been freed, in some arena, by records that are not home yet. */
static int make_room(const struct ph_log *log)
{
    uint32_t arena = 0;
    for (struct ph_heap *h; (h = next_core(log, &arena)) != NULL;)
        if (ph_tags_room(&h->tags, h->withheld.freed_blocks) < 0)
            return PH_L_NOMEM;
    return 0;
}

static void begin_tags(struct ph_log *log)
{
    uint32_t arena = 0;
    for (struct ph_heap *h; (h = next_core(log, &arena)) != NULL;) {
        h->tags.awaited = h->withheld.freed_blocks;
        ph_tags_join(log, h);
    }
}

static void end_tags(struct ph_log *log)
{
    uint32_t arena = 0;
    for (struct ph_heap *h; (h = next_core(log, &arena)) != NULL;) {
        ph_offer_aside(h);
        ph_tags_fini(&h->tags);
        ph_tags_join(log, h);
    }
}

int ph_set_copies(struct ph_log *log, int copies, uint64_t era)
{
    if (copies && !log->copies && make_room(log) < 0)
        return PH_L_NOMEM;
    int changes = log->copies != copies;
    ph_set_era(log, era);
    log->copies = (uint8_t)copies;
    if (changes && copies)
        begin_tags(log);
    if (changes && !copies) {
        ph_recycle(log, UINT64_MAX);
        end_tags(log);
    }
    return 0;
}
