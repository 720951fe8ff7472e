/* block/survey.c -- what every unit of an arena is, in pieces that lie end to end: for pictures of a heap.
 *
 *   units    | run | run | free, young | free, given back |   large block   | never used ... |
 *   cell 0   |  1  |  2  |      3      |        4         |        5        |       6        |
 *   cell 4   |        1        |         2         |           3            |       4        |    what begins in a cell
 *
 * A piece of several kinds adds up what they have. */
#include "block/block.h"
#include "space/space.h"

/* What a piece is, as far as units are counted. */
static uint64_t *units_of(struct ph_surveyed *one, uint32_t state)
{
    switch (state) {
    case PH_U_RUN:
        return &one->run_units;
    case PH_U_PACKED:
        return &one->packed_units;
    case PH_U_LARGE:
        return &one->large_units;
    case PH_U_RESERVED:
    case PH_U_QUARANTINE:
        return &one->withheld_units;
    case PH_U_OTHER:
        return &one->unused_units;
    default:
        return &one->free_units;
    }
}

static struct ph_surveyed of_run(const struct ph_heap *h, const struct ph_piece *piece)
{
    uint64_t size = (uint64_t)h->classes[piece->class_index].granules * PH_GRANULE;
    return (struct ph_surveyed){
        .size = size, .live = piece->live, .room = h->units[piece->start].u.run.blocks,
        .allocated = size * piece->live, .asked = size * piece->live,
    };
}

static struct ph_surveyed of_chunk(const struct ph_heap *h, const struct ph_piece *piece)
{
    const struct ph_unit *chunk = &h->units[piece->start];
    uint64_t bytes = (uint64_t)(chunk->u.packed.fill - chunk->u.packed.dead) << PH_GRANULE_SHIFT;
    return (struct ph_surveyed){
        .live = piece->live, .room = piece->live, .allocated = bytes, .asked = bytes,
        .regions = (chunk->has_refs & PH_HEADS_REGION) != 0,
    };
}

static struct ph_surveyed of_used(const struct ph_heap *h, const struct ph_piece *piece)
{
    uint64_t bytes = piece->nunits << PH_UNIT_SHIFT;
    switch (piece->state) {
    case PH_U_RUN:
        return of_run(h, piece);
    case PH_U_PACKED:
        return of_chunk(h, piece);
    case PH_U_LARGE:
        return (struct ph_surveyed){.live = 1, .room = 1, .allocated = bytes, .asked = piece->nbytes};
    default: /* withheld, or never used */
        return (struct ph_surveyed){0};
    }
}

static void add(struct ph_surveyed *sum, const struct ph_surveyed *one)
{
    uint64_t size = sum->size == one->size ? sum->size : 0, young = sum->young < one->young ? sum->young : one->young;
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)one;
    for (uint32_t i = PH_SURVEY_SUMS; i < sizeof *sum / sizeof *to; i++)
        to[i] += from[i];
    sum->size = size;
    sum->young = young;
}

/* Where the pieces go; beyond `capacity` they are only counted. */
struct output {
    struct ph_surveyed *pieces;
    uint64_t capacity, count, cell, border;
    struct ph_surveyed last;
};

static void put_last(struct output *out)
{
    if (out->last.nunits == 0)
        return;
    if (out->count < out->capacity)
        out->pieces[out->count] = out->last;
    out->count++;
    out->last = (struct ph_surveyed){0};
}

static int is_free_and_alike(const struct ph_surveyed *last, const struct ph_surveyed *one)
{
    return last->free_units == last->nunits && one->free_units == one->nunits && last->young == one->young;
}

static void put(struct output *out, struct ph_surveyed one, uint64_t start, uint64_t nunits, uint32_t state)
{
    one.start = start;
    one.nunits = nunits;
    *units_of(&one, state) = nunits;
    int is_joined = out->cell == 0 ? is_free_and_alike(&out->last, &one) : start < out->border;
    if (out->last.nunits != 0 && is_joined) {
        add(&out->last, &one);
        return;
    }
    put_last(out);
    out->last = one;
    out->border = out->cell == 0 ? 0 : (start / out->cell + 1) * out->cell;
}

/* Free units: parts that became free in one interval. */
static void put_free(struct output *out, const struct ph_heap *h, uint64_t start, uint64_t stop)
{
    for (uint64_t next; start < stop; start = next) {
        int64_t age;
        next = ph_ages_part(&h->ages, start, stop, &age);
        struct ph_surveyed one = {.pieces = 1, .young = age < 0 ? UINT64_MAX : (uint64_t)age, .bare_units = age < 0 ? next - start : 0};
        put(out, one, start, next - start, PH_U_FREE);
    }
}

static void put_piece(struct output *out, const struct ph_heap *h, const struct ph_piece *piece)
{
    if (piece->state == PH_U_FREE || piece->state == PH_U_RETURNED) {
        put_free(out, h, piece->start, piece->start + piece->nunits);
        return;
    }
    struct ph_surveyed one = of_used(h, piece);
    one.pieces = 1;
    one.young = UINT64_MAX;
    put(out, one, piece->start, piece->nunits, piece->state);
}

/* ph_survey -- the pieces from the unit `from` to before `stop`, which begin at borders of pieces, at most `capacity` of them;
 * returns how many there are. All units must be read. */
uint64_t ph_survey(const struct ph_heap *h, uint64_t from, uint64_t stop, uint64_t cell, struct ph_surveyed *pieces, uint64_t capacity)
{
    struct output out = {.pieces = pieces, .capacity = capacity, .cell = cell};
    struct ph_piece piece;
    uint64_t reached = from, cursor = from;

    while (reached < stop && ph_walk(h, &cursor, &piece) && piece.start < stop) {
        put_free(&out, h, reached, piece.start);
        put_piece(&out, h, &piece);
        reached = piece.start + piece.nunits;
    }
    put_free(&out, h, reached, stop);
    put_last(&out);
    return out.count;
}
