/* tx/images.c -- images: pages of a heap as an open transaction leaves them.
 *
 * A transaction collects the writes to a block as a list of ranges. A map changes the same nodes again and again: it
 * keeps their images here and need not read the list. There is one table a transaction, keyed by the offset of the page,
 * so that two maps see the same bytes of a page. The table is a cache: the collected writes say the same, and
 * ph_tx_overlay makes a dropped image again.
 *
 * The memory of images goes back to the log, which hands it to the next transaction. */
#include <stdlib.h>
#include <string.h>

#include "tx/internal.h"

uint8_t *ph_page_take(struct ph_log *log)
{
    return log->pages.count != 0 ? log->pages.spare[--log->pages.count] : malloc(PH_PAGE_BYTES);
}

void ph_page_give(struct ph_log *log, uint8_t *bytes)
{
    if (bytes != NULL && log->pages.count < PH_PAGES_SPARE)
        log->pages.spare[log->pages.count++] = bytes;
    else
        free(bytes);
}

static uint64_t slot_of(const struct ph_images *t, uint64_t offset)
{
    uint64_t mask = t->capacity - 1, slot = ph_tx_hash(offset) & mask;
    while (t->slots[slot].key != 0 && t->slots[slot].key != offset + 1)
        slot = (slot + 1) & mask;
    return slot;
}

uint8_t *ph_tx_image(const struct ph_tx *tx, uint64_t offset)
{
    const struct ph_images *t = &tx->images;
    return t->used == 0 ? NULL : t->slots[slot_of(t, offset)].bytes;
}

int ph_tx_image_room(struct ph_tx *tx, uint64_t more)
{
    struct ph_images *t = &tx->images, wider = *t;
    if ((t->used + more) * 2 <= t->capacity)
        return 0;
    wider.capacity = t->capacity ? t->capacity : PH_IMAGES_MIN;
    while ((t->used + more) * 2 > wider.capacity)
        wider.capacity *= 4; /* a batch of 100 puts moves its images once */
    wider.slots = calloc(wider.capacity, sizeof *wider.slots);
    if (wider.slots == NULL)
        return PH_L_NOMEM;
    for (uint64_t i = 0; i < t->capacity; i++)
        if (t->slots[i].key != 0)
            wider.slots[slot_of(&wider, t->slots[i].key - 1)] = t->slots[i];
    free(t->slots);
    *t = wider;
    return 0;
}

void ph_tx_image_keep(struct ph_tx *tx, uint64_t offset, uint8_t *bytes)
{
    struct ph_image *image = &tx->images.slots[slot_of(&tx->images, offset)];
    tx->images.used += image->key == 0;
    ph_page_give(tx->log, image->bytes);
    *image = (struct ph_image){.key = offset + 1, .bytes = bytes};
}

/* The slot stays, so that no chain is torn: without bytes it is an image that has to be made again. */
void ph_tx_image_drop(struct ph_tx *tx, uint64_t offset)
{
    if (tx->images.used == 0)
        return;
    struct ph_image *image = &tx->images.slots[slot_of(&tx->images, offset)];
    ph_page_give(tx->log, image->bytes);
    image->bytes = NULL;
}

void ph_tx_images_drop(struct ph_tx *tx)
{
    struct ph_images *t = &tx->images;
    for (struct ph_image *image = t->slots; t->used != 0; image++) {
        if (image->key == 0)
            continue;
        if (image->bytes != NULL)
            ph_page_give(tx->log, image->bytes);
        *image = (struct ph_image){0};
        t->used--;
    }
}

void ph_tx_overlay(const struct ph_tx *tx, uint64_t offset, uint64_t nbytes, uint8_t *to)
{
    for (uint64_t i = 0; i < tx->writes.count; i++) {
        const struct ph_tx_bytes *one = &ph_writes(tx)[i];
        uint64_t into = one->offset - offset;
        if (into < nbytes)
            memcpy(to + into, tx->buffer + one->at, one->nbytes < nbytes - into ? one->nbytes : nbytes - into);
    }
}

int ph_tx_touches(const struct ph_tx *tx, uint64_t offset)
{
    if (tx->writes.count == 0)
        return 0;
    const struct ph_refs *refs = ph_refs_find(ph_core_of(tx->log, offset), ph_local(offset));
    if (refs != NULL && refs->changes != 0) /* only the writer changes committed bytes, and this one has some collected */
        return 1;
    const struct ph_tx_block *block = ph_tx_fresh(tx, offset);
    return block != NULL && block->is_written;
}
