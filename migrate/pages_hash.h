/*
 * The hash of a page, compiled for several instruction sets: pages.c and pages_avx2.c define
 * PAGES_HASH and include this. The value is the same on each.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t PAGES_HASH(const uint8_t *page)
{
	return XXH3_64bits(page, MIG_PAGE_SIZE);
}
