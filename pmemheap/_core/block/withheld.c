/* block/withheld.c -- the table of withheld blocks: those of runs that are neither live nor free.
 *
 * By the index of a word of the bits table; a word is in it as long as one of its blocks is reserved or quarantined. The record
 * of the run counts them, so that a run with one is neither full nor empty by its bits alone. */
#include "block/block.h"

struct ph_withheld_word *ph_withheld_find(const struct ph_heap *h, uint64_t word)
{
    return ph_hash_find(&h->withheld.words, sizeof(struct ph_withheld_word), word + 1);
}

int ph_withheld_reserve(struct ph_heap *h, uint64_t count)
{
    return ph_hash_room(&h->withheld.words, sizeof(struct ph_withheld_word), count + h->withheld.aside) < 0 ? PH_H_NOMEM : 0;
}

/* ph_withheld_make -- the slot of a word, for which the caller has reserved room. */
struct ph_withheld_word *ph_withheld_make(struct ph_heap *h, uint64_t word)
{
    struct ph_withheld_word *withheld = ph_withheld_find(h, word);
    return withheld != NULL ? withheld : ph_hash_place(&h->withheld.words, sizeof *withheld, word + 1);
}

/* ph_withheld_drop_if_none -- drop a word of which no block is withheld any more. */
void ph_withheld_drop_if_none(struct ph_heap *h, struct ph_withheld_word *withheld)
{
    if ((withheld->reserved | withheld->freed) == 0)
        ph_hash_remove(&h->withheld.words, sizeof *withheld, withheld);
}

uint64_t ph_withheld_bits(const struct ph_heap *h, uint64_t word)
{
    const struct ph_withheld_word *withheld = ph_withheld_find(h, word);
    return withheld == NULL ? 0 : withheld->reserved | withheld->freed;
}

/* ph_room_to_retire -- room everywhere for bare calls that free `count` blocks of a power heap. */
int ph_room_to_retire(struct ph_heap *h, uint64_t count)
{
    return ph_withheld_reserve(h, count) < 0 ? PH_H_NOMEM : h->journal->reserve(h, 2 * count, count);
}
