/* base/crc32c.h -- checksums: CRC-32C (Castagnoli). Read by cffi too, as os/os.h is.
 *
 * `seed` is the CRC of what came before, 0 at the start: crc(a + b) == crc(b, seed = crc(a)). */
#pragma once
#include <stdint.h>

int32_t ph_crc32c_has_hardware(void);
uint32_t ph_crc32c(uint32_t seed, const void *data, uint64_t length);
/* ph_crc32c_but -- the same of bytes of which four, from `at` on, count as zero: where it is kept. */
uint32_t ph_crc32c_but(const uint8_t *data, uint64_t length, uint64_t at);

/* ph_all_sealed -- whether `count` slots of `width` bytes are zero, or have that checksum at `at`. */
int32_t ph_all_sealed(const uint8_t *slots, uint64_t count, uint64_t width, uint64_t at);
uint32_t ph_crc32c_table(uint32_t seed, const void *data, uint64_t length);
/* ph_crc32c_hardware -- Pre: ph_crc32c_has_hardware(). */
uint32_t ph_crc32c_hardware(uint32_t seed, const void *data, uint64_t length);
