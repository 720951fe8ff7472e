/* block/check.c -- every structure against every other. Findings are numbers; Python makes sentences of them. */
#include "block/block.h"

struct check {
    struct ph_heap *h;
    struct ph_finding *findings;
    uint64_t capacity, count;
    uint64_t free_ranges, free_units, run_units, large_units, large_bytes, large_blocks, returned_units;
    uint64_t packed_units, packed_blocks, packed_bytes;
    uint64_t live[PH_CLASSES_MAX], withheld_of[PH_CLASSES_MAX], runs[PH_CLASSES_MAX], roomy[PH_CLASSES_MAX];
    struct ph_withheld withheld; /* its counters alone */
};

static void expect(struct check *k, uint32_t code, uint64_t unit, uint64_t expected, uint64_t found)
{
    if (expected == found)
        return;
    if (k->count < k->capacity)
        k->findings[k->count] = (struct ph_finding){unit, expected, found, code};
    k->count++;
}

static void expect_entry(struct check *k, uint64_t unit, uint64_t word, uint64_t nbytes)
{
    if (k->h->entries == NULL)
        return;
    const uint64_t *words = (const uint64_t *)&k->h->entries[unit];
    expect(k, PH_F_ENTRY_WORD, unit, word, words[0]);
    expect(k, PH_F_ENTRY_BYTES, unit, nbytes, words[1]);
}

/* The second word says nothing where the first is zero: a process that is killed between the two leaves it behind. */
static void expect_no_entries(struct check *k, uint64_t from, uint64_t to)
{
    if (k->h->entries == NULL)
        return;
    for (uint64_t unit = from; unit < to; unit++)
        expect(k, PH_F_ENTRY_WORD, unit, 0, *(const uint64_t *)&k->h->entries[unit]);
}

static void expect_no_bits(struct check *k, uint64_t from, uint64_t to)
{
    for (uint64_t word = from * PH_UNIT_WORDS; word < to * PH_UNIT_WORDS; word++)
        expect(k, PH_F_STRAY_BITS, word / PH_UNIT_WORDS, 0, k->h->bits[word]);
}

/* Withheld blocks of one word, counted. */
static uint64_t check_withheld(struct check *k, const struct ph_class *c, uint64_t word, uint64_t starts)
{
    const struct ph_withheld_word *withheld = ph_withheld_find(k->h, word);
    if (withheld == NULL)
        return 0;
    uint64_t reserved = (uint64_t)__builtin_popcountll(withheld->reserved), freed = (uint64_t)__builtin_popcountll(withheld->freed);
    uint64_t unfit = ~starts | k->h->bits[word];
    expect(k, PH_F_WITHHELD_BITS, word / PH_UNIT_WORDS, 0, ((withheld->reserved | withheld->freed) & unfit) | (withheld->reserved & withheld->freed));
    k->withheld.words.used++;
    k->withheld.reserved_blocks += reserved;
    k->withheld.freed_blocks += freed;
    k->withheld.reserved_bytes += reserved * c->granules * PH_GRANULE;
    k->withheld.freed_bytes += freed * c->granules * PH_GRANULE;
    return reserved + freed;
}

static void check_run(struct check *k, uint64_t head)
{
    struct ph_heap *h = k->h;
    const struct ph_unit *run = &h->units[head];
    const struct ph_class *c = &h->classes[run->class_index];
    uint64_t live = 0, withheld = 0;
    for (uint64_t i = 0; i < (uint64_t)c->run_units * PH_UNIT_WORDS; i++) {
        uint64_t word = head * PH_UNIT_WORDS + i, bits = h->bits[word];
        live += (uint64_t)__builtin_popcountll(bits);
        expect(k, PH_F_MISPLACED_BITS, word / PH_UNIT_WORDS, 0, bits & ~c->starts[i]);
        withheld += check_withheld(k, c, word, c->starts[i]);
    }
    expect(k, PH_F_RUN_LIVE, head, live, run->u.run.live);
    expect(k, PH_F_RUN_WITHHELD, head, withheld, run->u.run.withheld);
    expect(k, PH_F_RUN_UNITS, head, c->run_units, run->nunits);
    for (uint64_t i = 1; i < c->run_units; i++) {
        expect(k, PH_F_RUN_BODY, head + i, PH_U_RUN_BODY, run[i].state);
        expect(k, PH_F_RUN_BODY, head + i, i, run[i].back);
    }
    expect_entry(k, head, ph_run_entry(h, run->class_index), ph_row_bytes(h));
    expect_no_entries(k, head + 1, head + c->run_units);
    k->live[run->class_index] += live;
    k->runs[run->class_index]++;
    k->run_units += c->run_units;
    k->withheld_of[run->class_index] += withheld;
    k->roomy[run->class_index] += live + withheld < c->run_blocks && c->current != (uint32_t)head && !ph_run_is_shown(run);
}

static void check_chunk(struct check *k, uint64_t head)
{
    struct ph_heap *h = k->h;
    const struct ph_unit *chunk = &h->units[head];
    struct ph_chunk_count count;
    expect(k, PH_F_CHUNK_BITS, head, 0, ph_chunk_check(h, chunk, &count));
    expect(k, PH_F_CHUNK_LIVE, head, count.live, chunk->u.packed.live);
    expect(k, PH_F_CHUNK_LIVE, head, count.dead, chunk->u.packed.dead);
    expect(k, PH_F_CHUNK_WITHHELD, head, count.reserved + count.freed, chunk->u.packed.withheld);
    for (uint64_t i = 1; i < chunk->nunits; i++) {
        expect(k, PH_F_CHUNK_BODY, head + i, PH_U_PACKED_BODY, chunk[i].state);
        expect(k, PH_F_CHUNK_BODY, head + i, i, chunk[i].back);
    }
    if (h->entries != NULL) /* its owner is what it says itself */
        expect_entry(k, head, ph_chunk_entry(chunk->nunits, h->entries[head].flags), h->entries[head].nbytes);
    expect_no_entries(k, head + 1, head + chunk->nunits);
    for (uint64_t word = head * PH_UNIT_WORDS; word < (head + chunk->nunits) * PH_UNIT_WORDS; word++)
        k->withheld.words.used += ph_withheld_find(h, word) != NULL;
    k->withheld.reserved_blocks += count.reserved;
    k->withheld.reserved_bytes += count.reserved_bytes;
    k->withheld.freed_blocks += count.freed;
    k->withheld.freed_bytes += count.freed_bytes;
    k->packed_units += chunk->nunits;
    k->packed_blocks += count.live;
    k->packed_bytes += count.live_bytes;
}

static void check_free(struct check *k, const struct ph_piece *piece)
{
    const struct ph_unit *last = &k->h->units[piece->start + piece->nunits - 1];
    if (piece->nunits > 1) {
        expect(k, PH_F_FREE_ENDS, piece->start, PH_U_FREE_LAST, last->state);
        expect(k, PH_F_FREE_ENDS, piece->start, piece->nunits, last->nunits);
    }
    k->free_ranges++;
    k->free_units += piece->nunits;
    expect_no_entries(k, piece->start, piece->start + piece->nunits);
    expect_no_bits(k, piece->start, piece->start + piece->nunits);
}

static void check_large(struct check *k, const struct ph_piece *piece)
{
    expect_entry(k, piece->start, ph_entry_word(PH_KIND_LARGE, 0, (uint32_t)piece->nunits), piece->nbytes);
    expect_no_entries(k, piece->start + 1, piece->start + piece->nunits);
    expect_no_bits(k, piece->start, piece->start + piece->nunits);
    expect(k, PH_F_LARGE_BYTES, piece->start, 1, piece->nbytes <= piece->nunits << PH_UNIT_SHIFT);
    k->large_units += piece->nunits;
    k->large_bytes += piece->nbytes;
    k->large_blocks++;
}

static void count_withheld(struct check *k, const struct ph_piece *piece)
{
    uint64_t nbytes = piece->nunits << PH_UNIT_SHIFT;
    expect(k, PH_F_LARGE_BYTES, piece->start, 1, piece->nbytes <= nbytes);
    if (piece->state == PH_U_RESERVED) {
        k->withheld.reserved_blocks++;
        k->withheld.reserved_units += piece->nunits;
        k->withheld.reserved_bytes += nbytes;
    } else {
        k->withheld.freed_blocks++;
        k->withheld.freed_units += piece->nunits;
        k->withheld.freed_bytes += nbytes;
    }
}

static void check_piece(struct check *k, const struct ph_piece *piece)
{
    switch (piece->state) {
    case PH_U_RUN:
        check_run(k, piece->start);
        return;
    case PH_U_LARGE:
        check_large(k, piece);
        return;
    case PH_U_PACKED:
        check_chunk(k, piece->start);
        return;
    case PH_U_FREE:
        check_free(k, piece);
        return;
    case PH_U_RETURNED:
        k->returned_units += piece->nunits;
        break;
    case PH_U_RESERVED:
    case PH_U_QUARANTINE:
        count_withheld(k, piece);
        break;
    case PH_U_OTHER: /* the wilderness */
        break;
    default:
        expect(k, PH_F_STATE, piece->start, PH_U_FREE, piece->state);
        return;
    }
    expect_no_entries(k, piece->start, piece->start + piece->nunits);
    expect_no_bits(k, piece->start, piece->start + piece->nunits);
}

/* Nodes of a pairing heap, each of which must satisfy what `member` tells of the heap it should be in. */
static uint64_t count_nodes(struct check *k, uint32_t root, uint8_t state, uint64_t member)
{
    struct ph_heap *h = k->h;
    uint64_t count = 0;
    for (uint32_t node = root; node != PH_NIL && count < h->end_unit - h->first_unit; node = ph_pair_next(h, root, node)) {
        uint64_t unit = ph_unit_index(h, node);
        const struct ph_unit *record = &h->units[unit];
        count++;
        expect(k, PH_F_LINK, unit, state, record->state);
        expect(k, PH_F_LINK, unit, member, state == PH_U_RUN ? record->class_index : ph_bin_of(record->nunits));
        if (record->child != PH_NIL)
            expect(k, PH_F_LINK, unit, node, ph_unit_at(h, record->child)->prev);
        if (record->sibling != PH_NIL)
            expect(k, PH_F_LINK, unit, node, ph_unit_at(h, record->sibling)->prev);
    }
    return count;
}

static void check_mask(struct check *k, const struct ph_class *c)
{
    uint64_t mask = 0;
    if (c->current != PH_NIL)
        mask = ph_free_mask(k->h, c, ph_unit_index(k->h, c->current), c->word);
    expect(k, PH_F_CLASS_MASK, (uint64_t)(c - k->h->classes), mask, c->mask ^ c->aside);
}

static void check_lists(struct check *k)
{
    struct ph_heap *h = k->h;
    uint64_t ranges = 0, units = 0;
    for (uint32_t bin = 0; bin < PH_BINS; bin++) {
        expect(k, PH_F_BIN_MASK, bin, h->bins[bin] != PH_NIL, h->bin_mask >> bin & 1);
        ranges += count_nodes(k, h->bins[bin], PH_U_FREE, bin);
    }
    expect(k, PH_F_FREE_COUNT, h->first_unit, k->free_ranges, ranges);
    for (uint32_t i = 0; i < h->nclasses; i++) {
        const struct ph_class *c = &h->classes[i];
        expect(k, PH_F_CLASS_LIVE, i, k->live[i], c->live);
        expect(k, PH_F_CLASS_WITHHELD, i, k->withheld_of[i], c->withheld);
        check_mask(k, c);
        expect(k, PH_F_CLASS_RUNS, i, k->runs[i], c->runs);
        expect(k, PH_F_CLASS_ROOMY, i, k->roomy[i], count_nodes(k, c->partial, PH_U_RUN, i));
    }
    for (uint32_t node = h->returned; node != PH_NIL; node = ph_unit_at(h, node)->sibling)
        units += ph_unit_at(h, node)->nunits;
    expect(k, PH_F_RETURNED, h->first_unit, k->returned_units, units);
}

static void check_counters(struct check *k)
{
    struct ph_heap *h = k->h;
    expect(k, PH_F_FREE_UNITS, h->first_unit, k->free_units, h->pool_free);
    expect(k, PH_F_RUN_COUNT, h->first_unit, k->run_units, h->run_units);
    expect(k, PH_F_LARGE_UNITS, h->first_unit, k->large_units, h->large_units);
    expect(k, PH_F_LARGE_BYTES, h->first_unit, k->large_bytes, h->large_bytes);
    expect(k, PH_F_LARGE_COUNT, h->first_unit, k->large_blocks, h->large_blocks);
    expect(k, PH_F_RETURNED, h->first_unit, k->returned_units, h->returned_units);
    expect(k, PH_F_CHUNK_COUNT, h->first_unit, k->packed_units, h->packed.units);
    expect(k, PH_F_CHUNK_COUNT, h->first_unit, k->packed_blocks, h->packed.blocks);
    expect(k, PH_F_CHUNK_COUNT, h->first_unit, k->packed_bytes, h->packed.bytes);
    expect(k, PH_F_WITHHELD_COUNT, h->first_unit, k->withheld.words.used, h->withheld.words.used);
    expect(k, PH_F_WITHHELD_COUNT, h->first_unit, k->withheld.reserved_blocks, h->withheld.reserved_blocks);
    expect(k, PH_F_WITHHELD_COUNT, h->first_unit, k->withheld.freed_blocks, h->withheld.freed_blocks);
    expect(k, PH_F_WITHHELD_UNITS, h->first_unit, k->withheld.reserved_units, h->withheld.reserved_units);
    expect(k, PH_F_WITHHELD_UNITS, h->first_unit, k->withheld.freed_units, h->withheld.freed_units);
    expect(k, PH_F_WITHHELD_BYTES, h->first_unit, k->withheld.reserved_bytes, h->withheld.reserved_bytes);
    expect(k, PH_F_WITHHELD_BYTES, h->first_unit, k->withheld.freed_bytes, h->withheld.freed_bytes);
}

/* What has a tag is in quarantine, and waits for nothing else. */
static void leave_alone(const struct ph_block *block)
{
    (void)block;
}

static void check_tags(struct check *k)
{
    const struct ph_tags *tags = &k->h->tags;
    uint64_t bytes = 0, era = 0;
    for (uint64_t i = 0; i < tags->count; i++) {
        const struct ph_tag *tag = ph_tags_at(tags, i);
        uint64_t unit = tag->offset >> PH_UNIT_SHIFT;
        expect(k, PH_F_TAGGED, unit, tag->nbytes, ph_each_retired(k->h, tag->offset, tag->nbytes, leave_alone));
        expect(k, PH_F_TAG_ERA, unit, 1, tag->era >= era);
        bytes += tag->nbytes;
        era = tag->era;
    }
    expect(k, PH_F_TAGGED, k->h->first_unit, bytes, tags->bytes);
}

/* Units between two pieces belong to nobody here: no record, no entry, no bit. */
static void check_gap(struct check *k, uint64_t start, uint64_t stop)
{
    for (uint64_t unit = start; unit < stop; unit++)
        expect(k, PH_F_STATE, unit, PH_U_OTHER, k->h->units[unit].state);
    expect_no_entries(k, start, stop);
    expect_no_bits(k, start, stop);
}

/* ph_check -- number of findings, the first `capacity` of them written; all units must have been read. */
int64_t ph_check(struct ph_heap *h, struct ph_finding *findings, uint64_t capacity)
{
    struct check k = {.h = h, .findings = findings, .capacity = capacity};
    struct ph_piece piece;
    uint64_t cursor = h->first_unit, reached = h->first_unit;
    int was_free = 0;
    while (ph_walk(h, &cursor, &piece)) {
        check_gap(&k, reached, piece.start);
        expect(&k, PH_F_OVERLAP, piece.start, 1, piece.nunits > 0 && piece.start + piece.nunits <= h->end_unit);
        if (piece.nunits == 0 || piece.start + piece.nunits > h->end_unit)
            return (int64_t)k.count;
        if (reached == piece.start)
            expect(&k, PH_F_UNMERGED, piece.start, 0, was_free && piece.state == PH_U_FREE);
        was_free = piece.state == PH_U_FREE;
        reached = piece.start + piece.nunits;
        check_piece(&k, &piece);
    }
    check_gap(&k, reached, h->end_unit);
    check_lists(&k);
    check_counters(&k);
    check_tags(&k);
    return (int64_t)k.count;
}
