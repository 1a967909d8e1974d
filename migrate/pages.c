#include "migrate/pages.h"

#include <errno.h>
#include <immintrin.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGES_HASH mig_hash_plain
#include "migrate/pages_hash.h"

static size_t table_pieces(uint64_t pages, size_t entry_bytes)
{
	return (pages * entry_bytes + MIG_TABLE_PIECE - 1) / MIG_TABLE_PIECE;
}

void *mig_table_new(uint64_t pages, size_t entry_bytes)
{
	size_t bytes = table_pieces(pages, entry_bytes) * MIG_TABLE_PIECE, lead;
	uint8_t *p = mmap(NULL, bytes + MIG_TABLE_PIECE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* A huge page begins at a multiple of its size; what is left over goes back. */
	lead = -(uintptr_t)p % MIG_TABLE_PIECE;
	if (lead)
		munmap(p, lead);
	munmap(p + lead + bytes, MIG_TABLE_PIECE - lead);
	/* Only quicker: a kernel without them refuses. */
	madvise(p + lead, bytes, MADV_HUGEPAGE);
	return p + lead;
}

void mig_table_free(void *table, uint64_t pages, size_t entry_bytes)
{
	if (table)
		munmap(table, table_pieces(pages, entry_bytes) * MIG_TABLE_PIECE);
}

int mig_touch_init(struct mig_touch *t, void *table, uint64_t pages, size_t entry_bytes)
{
	t->table = table;
	t->entry_bytes = entry_bytes;
	t->made = calloc(table_pieces(pages, entry_bytes), sizeof(*t->made));
	if (!t->made)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	return 0;
}

void mig_touch_fini(struct mig_touch *t)
{
	if (t->made)
		pthread_mutex_destroy(&t->lock);
	free(t->made);
}

void mig_touch_make(struct mig_touch *t, size_t piece)
{
	pthread_mutex_lock(&t->lock);
	/* A write that changes nothing. To read first would bring the page of zeros, and two faults. */
	if (!atomic_load(&t->made[piece]))
		__atomic_fetch_or(t->table + piece * MIG_TABLE_PIECE, 0, __ATOMIC_RELAXED);
	atomic_store(&t->made[piece], true);
	pthread_mutex_unlock(&t->lock);
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

static uint64_t hash_best(const uint8_t *page)
{
	if (__builtin_cpu_supports("avx512f"))
		return mig_hash_avx512(page);
	return __builtin_cpu_supports("avx2") ? mig_hash_avx2(page) : mig_hash_plain(page);
}

uint64_t mig_page_hash(const uint8_t *page)
{
	uint64_t h = hash_best(page);

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
