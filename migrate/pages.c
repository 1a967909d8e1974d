#include "migrate/pages.h"

#include <immintrin.h>
#include <sys/mman.h>

#define PAGES_HASH mig_hash_plain
#include "migrate/pages_hash.h"

void *mig_table_new(uint64_t pages, size_t entry_bytes)
{
	void *p = mmap(NULL, pages * entry_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* Only quicker: a kernel without them refuses. */
	madvise(p, pages * entry_bytes, MADV_HUGEPAGE);
	return p;
}

void mig_table_free(void *table, uint64_t pages, size_t entry_bytes)
{
	if (table)
		munmap(table, pages * entry_bytes);
}

bool mig_page_is_zero(const uint8_t *page)
{
	const __m128i *p = (const __m128i *)page;

	/* Most pages that are not zero differ in the first line. */
	for (unsigned i = 0; i < MIG_PAGE_SIZE / sizeof(*p); i += 4) {
		__m128i v = _mm_or_si128(_mm_or_si128(p[i], p[i + 1]),
					 _mm_or_si128(p[i + 2], p[i + 3]));

		if (_mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_setzero_si128())) != 0xffff)
			return false;
	}
	return true;
}

uint64_t mig_page_hash(const uint8_t *page)
{
	uint64_t h = __builtin_cpu_supports("avx2") ? mig_hash_avx2(page) : mig_hash_plain(page);

	return h > MIG_HASH_ZERO_PAGE ? h : h + 2;
}

uint64_t mig_page_digest(uint64_t index, uint64_t hash)
{
	uint64_t both[2] = {index, hash};

	return hash ? XXH3_64bits(both, sizeof(both)) : 0;
}

uint64_t mig_block_hash(const void *data, size_t len)
{
	return XXH3_64bits(data, len);
}
