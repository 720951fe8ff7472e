/* os/flush.c -- write cache lines back to where they come from, and order that.
 *
 * Which instruction the machine has is asked once per call of ph_flush_best; callers keep the answer.
 */
#include "os/tape.h"

#include <errno.h>

#define CACHE_LINE ((uint64_t)64)

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

int32_t ph_flush_best(void)
{
    unsigned a, b, c, d;

    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        if (b & (1u << 24))
            return PH_FLUSH_CLWB;
        if (b & (1u << 23))
            return PH_FLUSH_CLFLUSHOPT;
    }
    return PH_FLUSH_CLFLUSH;
}

__attribute__((target("clwb"))) static void write_back(uint64_t line)
{
    _mm_clwb((void *)(uintptr_t)line);
}

__attribute__((target("clflushopt"))) static void flush_unordered(uint64_t line)
{
    _mm_clflushopt((void *)(uintptr_t)line);
}

static void flush_ordered(uint64_t line)
{
    _mm_clflush((const void *)(uintptr_t)line);
}

static void (*flusher(int32_t kind))(uint64_t)
{
    switch (kind) {
    case PH_FLUSH_CLFLUSH:
        return flush_ordered;
    case PH_FLUSH_CLFLUSHOPT:
        return flush_unordered;
    case PH_FLUSH_CLWB:
        return write_back;
    default:
        return NULL;
    }
}

void ph_fence(void)
{
    _mm_sfence();
    if (ph_tape_on())
        ph_tape_fence();
}

#elif defined(__aarch64__)

#include <sys/auxv.h>

#ifndef HWCAP_DCPOP
#define HWCAP_DCPOP (1ul << 16)
#endif

int32_t ph_flush_best(void)
{
    return getauxval(AT_HWCAP) & HWCAP_DCPOP ? PH_FLUSH_DC_CVAP : PH_FLUSH_DC_CVAC;
}

static void clean_to_coherency(uint64_t line)
{
    __asm__ volatile("dc cvac, %0" : : "r"(line) : "memory");
}

/* "sys #3, c7, c12, #1" is dc cvap for assemblers that do not know it yet. */
static void clean_to_persistence(uint64_t line)
{
    __asm__ volatile("sys #3, c7, c12, #1, %0" : : "r"(line) : "memory");
}

static void (*flusher(int32_t kind))(uint64_t)
{
    switch (kind) {
    case PH_FLUSH_DC_CVAC:
        return clean_to_coherency;
    case PH_FLUSH_DC_CVAP:
        return clean_to_persistence;
    default:
        return NULL;
    }
}

void ph_fence(void)
{
    __asm__ volatile("dmb ish" : : : "memory");
    if (ph_tape_on())
        ph_tape_fence();
}

#else
#error "pmemheap: x86-64 or aarch64 expected"
#endif

int64_t ph_flush(uint64_t address, uint64_t length, int32_t kind)
{
    void (*flush)(uint64_t) = flusher(kind);
    uint64_t line = address & ~(CACHE_LINE - 1);

    if (kind == PH_FLUSH_NONE || length == 0)
        return 0;
    if (flush == NULL)
        return -EINVAL;
    for (; line < address + length; line += CACHE_LINE)
        flush(line);
    if (ph_tape_on())
        ph_tape_flush(address, length);
    return 0;
}
