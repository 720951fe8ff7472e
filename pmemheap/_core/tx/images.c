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

#include "base/hints.h"
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

static struct ph_image *find(const struct ph_tx *tx, uint64_t offset)
{
    return ph_hash_find(&tx->images.pages, sizeof(struct ph_image), offset + 1);
}

uint8_t *ph_tx_image(const struct ph_tx *tx, uint64_t offset, const uint8_t *home)
{
    struct ph_image *image = find(tx, offset);
    if (image == NULL || image->bytes == NULL)
        return NULL;
    if (image->rest != 0)
        ph_copy_long(image->bytes + image->rest, home + image->rest, PH_PAGE_BYTES - image->rest);
    image->rest = 0;
    return image->bytes;
}

int ph_tx_has_image(const struct ph_tx *tx, uint64_t offset)
{
    const struct ph_image *image = find(tx, offset);
    return image != NULL && image->bytes != NULL;
}

int ph_tx_image_room(struct ph_tx *tx, uint64_t more)
{
    return ph_hash_room(&tx->images.pages, sizeof(struct ph_image), more) < 0 ? PH_L_NOMEM : 0;
}

void ph_tx_image_keep(struct ph_tx *tx, uint64_t offset, uint8_t *bytes, uint64_t rest)
{
    struct ph_image *image = find(tx, offset);
    if (image == NULL)
        image = ph_hash_place(&tx->images.pages, sizeof *image, offset + 1);
    ph_page_give(tx->log, image->bytes);
    image->bytes = bytes;
    image->rest = rest;
}

/* It stays in the table: an image without bytes has to be made again. */
void ph_tx_image_drop(struct ph_tx *tx, uint64_t offset)
{
    struct ph_image *image = find(tx, offset);
    if (image == NULL)
        return;
    ph_page_give(tx->log, image->bytes);
    image->bytes = NULL;
    image->rest = 0;
    tx->resets++;
}

void ph_tx_images_drop(struct ph_tx *tx)
{
    struct ph_hash_table *pages = &tx->images.pages;
    for (struct ph_image *image = (struct ph_image *)pages->slots; pages->used != 0; image++) {
        if (image->key == 0)
            continue;
        ph_page_give(tx->log, image->bytes);
        *image = (struct ph_image){0};
        pages->used--;
    }
    tx->resets++;
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

/* The pins of the block tell; a brief one has none, and few bytes. */
int ph_tx_changes(const struct ph_tx *tx, uint64_t offset)
{
    struct ph_heap *h = ph_core_of(tx->log, offset);
    const struct ph_refs *refs = h == NULL || tx->is_brief ? NULL : ph_refs_find(h, ph_local(offset));
    if (refs != NULL && refs->changes != 0)
        return 1;
    for (uint64_t i = 0; tx->is_brief && i < tx->writes.count; i++) {
        const struct ph_tx_bytes *one = &ph_writes(tx)[i];
        if (!one->fresh && one->offset - ph_local(one->offset) + one->start == offset)
            return 1;
    }
    return 0;
}

int ph_tx_touches(const struct ph_tx *tx, uint64_t offset)
{
    if (tx->writes.count == 0)
        return 0;
    if (ph_tx_changes(tx, offset))
        return 1;
    const struct ph_tx_block *block = ph_tx_fresh(tx, offset);
    return block != NULL && block->is_written;
}
