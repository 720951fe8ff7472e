/* base/crc32c.c -- CRC-32C, by the processor's instruction or by a table.
 *
 * Reflected polynomial 0x82f63b78, start and end inverted, as in iSCSI (RFC 3720, B.4).
 */
#include "base/crc32c.h"

#include <string.h>

#define POLYNOMIAL 0x82f63b78u

struct table {
    uint32_t entry[256];
};

static uint32_t shift_byte(uint32_t crc)
{
    for (int bit = 0; bit < 8; bit++)
        crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
    return crc;
}

/* Built before anything can call in, so that threads only ever read it. */
static struct table table;

__attribute__((constructor)) static void build_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++)
        table.entry[byte] = shift_byte(byte);
}

uint32_t ph_crc32c_table(uint32_t seed, const void *data, uint64_t length)
{
    const uint8_t *at = data;
    uint32_t crc = ~seed;

    while (length--)
        crc = crc >> 8 ^ table.entry[(crc ^ *at++) & 0xff];
    return ~crc;
}

#if defined(__x86_64__)

#include <nmmintrin.h>

#define HARDWARE __attribute__((target("sse4.2")))
#define CRC_8(crc, value) ((uint32_t)_mm_crc32_u64((crc), (value)))
#define CRC_1(crc, value) _mm_crc32_u8((crc), (value))

static int detect(void)
{
    return __builtin_cpu_supports("sse4.2") != 0;
}

#elif defined(__aarch64__)

#include <sys/auxv.h>

#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1ul << 7)
#endif

#define HARDWARE __attribute__((target("+crc")))
#define CRC_8(crc, value) __builtin_aarch64_crc32cx((crc), (value))
#define CRC_1(crc, value) __builtin_aarch64_crc32cb((crc), (value))

static int detect(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
}

#endif

HARDWARE uint32_t ph_crc32c_hardware(uint32_t seed, const void *data, uint64_t length)
{
    const uint8_t *at = data;
    uint32_t crc = ~seed;

    for (; length >= 8; length -= 8, at += 8) {
        uint64_t word;

        memcpy(&word, at, 8);
        crc = CRC_8(crc, word);
    }
    for (; length; length--)
        crc = CRC_1(crc, *at++);
    return ~crc;
}

int32_t ph_crc32c_has_hardware(void)
{
    return detect();
}

uint32_t ph_crc32c(uint32_t seed, const void *data, uint64_t length)
{
    static int hardware = -1; /* every thread would write the same answer */

    if (__atomic_load_n(&hardware, __ATOMIC_RELAXED) < 0)
        __atomic_store_n(&hardware, detect(), __ATOMIC_RELAXED);
    return hardware ? ph_crc32c_hardware(seed, data, length) : ph_crc32c_table(seed, data, length);
}

uint32_t ph_crc32c_but(const uint8_t *data, uint64_t length, uint64_t at)
{
    static const uint32_t zero;
    uint32_t crc = ph_crc32c(0, data, at);
    crc = ph_crc32c(crc, &zero, sizeof zero);
    return ph_crc32c(crc, data + at + sizeof zero, length - at - sizeof zero);
}

static int is_zero(const uint8_t *bytes, uint64_t length)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

int32_t ph_all_sealed(const uint8_t *slots, uint64_t count, uint64_t width, uint64_t at)
{
    for (const uint8_t *slot = slots; count; count--, slot += width) {
        uint32_t seal;

        memcpy(&seal, slot + at, sizeof seal);
        if (!is_zero(slot, width) && seal != ph_crc32c_but(slot, width, at))
            return 0;
    }
    return 1;
}
