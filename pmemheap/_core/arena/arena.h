/* arena/arena.h -- the calls of the allocator: malloc, free, realloc. The caller holds the lock of the arena. */
#pragma once
#include "block/block.h"

/* See ph_classes_init. */
int ph_heap_init(struct ph_heap *h, const uint32_t *sizes, const uint16_t *units, uint32_t count, const uint64_t *starts);
void ph_heap_fini(struct ph_heap *h);

int64_t ph_malloc_small(struct ph_heap *h, uint32_t class_index, uint64_t size);
int64_t ph_malloc(struct ph_heap *h, uint64_t size, uint64_t align);
uint64_t ph_malloc_many(struct ph_heap *h, uint64_t size, uint64_t count, uint64_t *offsets);
int ph_free(struct ph_heap *h, uint64_t offset);
int ph_free_refusal(struct ph_heap *h, uint64_t offset);
uint64_t ph_first_refused(struct ph_heap *h, const uint64_t *offsets, uint64_t count);
int ph_free_many(struct ph_heap *h, const uint64_t *offsets, uint64_t count);
int64_t ph_realloc(struct ph_heap *h, uint64_t offset, uint64_t size);
int ph_expand(struct ph_heap *h, uint64_t offset, uint64_t size);
int64_t ph_usable_size(struct ph_heap *h, uint64_t offset);

/* A free in spite of views: the space is free when the last one goes. */
int ph_free_deferred(struct ph_heap *h, uint64_t offset);

/* Large blocks that Python places. */
int ph_large_extend(struct ph_heap *h, uint64_t offset, uint64_t start, uint64_t stop, uint64_t nbytes);
int ph_move_into(struct ph_heap *h, uint64_t offset, uint64_t to, uint64_t size);

/* Blocks that arrays own. ph_array_make -- a reserved one of `size` bytes; failures as of ph_malloc. ph_array_take -- a reserved
 * one that Python has placed; PH_H_BAD_OFFSET if it went meanwhile. ph_array_end -- the array goes, and with it the block, unless
 * it was kept. ph_array_keep -- reserved -> live, stored; PH_H_BAD_OFFSET if no reserved block begins there, PH_H_NOMEM.
 * ph_array_drop_spares -- free what was left to arrays to come. */
int64_t ph_array_make(struct ph_heap *h, uint64_t size);
int ph_array_take(struct ph_heap *h, uint64_t offset);
void ph_array_end(struct ph_heap *h, uint64_t offset);
int ph_array_keep(struct ph_heap *h, uint64_t offset);
void ph_array_drop_spares(struct ph_heap *h);
