/* places.h -- the answers of Places that are no errno. */
#pragma once
#include "lifeline.h"

/* libpmem2's numbers, as pmemheap/pmem2/codes.py has them. */
enum pmem2_code {
    PMEM2_E_NOSUPP = -100001,
    PMEM2_E_MAPPING_EXISTS = -100007,
    PMEM2_E_GRANULARITY_NOT_SUPPORTED = -100009,
    PMEM2_E_OFFSET_OUT_OF_RANGE = -100010,
    PMEM2_E_ADDRESS_UNALIGNED = -100022,
    PMEM2_E_LENGTH_OUT_OF_RANGE = -100030,
    PMEM2_E_VM_RESERVATION_NOT_EMPTY = -100033,
};

#define PH_PLACES_CLOSED (-5005) /* the reservation is closed; next to enum ph_code */
