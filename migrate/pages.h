/* What both sides must agree on about pages: hashes, the digest, and which channel carries a page. */
#ifndef MIG_PAGES_H
#define MIG_PAGES_H

#include <endian.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "migrate/migrate.h"

/* Little-endian on the wire. With ZERO, `hash` is the number of pages in the run. */
struct mig_page_entry {
	uint64_t index; /* and MIG_ENTRY_ZERO */
	uint64_t hash;
};

_Static_assert(sizeof(struct mig_page_entry) == 16, "wire format");

#define MIG_ENTRY_ZERO (UINT64_C(1) << 63)

enum {
	/* Neighbouring pages that one channel carries; a page always takes the same one, so that its
	 * versions arrive in order. */
	MIG_GROUP_PAGES = 512,
	MIG_HASH_ZERO_PAGE = 1, /* instead of the hash of 4096 zeros */
};

static inline unsigned mig_page_channel(uint64_t index, unsigned channels)
{
	return index / MIG_GROUP_PAGES % channels;
}

/* NULL: a block of a disk. */
static inline uint8_t *mig_page_host(const struct mig_memory *m, uint64_t index)
{
	for (unsigned i = 0; i < m->region_count; i++) {
		if (index < m->regions[i].page_count)
			return m->regions[i].host ? m->regions[i].host + index * MIG_PAGE_SIZE
						  : NULL;
		index -= m->regions[i].page_count;
	}
	return NULL;
}

/* The first page of a disk; mig_memory_pages() without any. Disks come last. */
static inline uint64_t mig_first_block(const struct mig_memory *m)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < m->region_count && m->regions[i].host; i++)
		n += m->regions[i].page_count;
	return n;
}

static inline uint64_t mig_memory_pages(const struct mig_memory *m)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < m->region_count; i++)
		n += m->regions[i].page_count;
	return n;
}

/*
 * A zeroed table with an entry for each page, or NULL. In huge pages where they are to be had: a fault
 * for each 4 KiB of it was a tenth of a sender's time where faults are slow.
 */
void *mig_table_new(uint64_t pages, size_t entry_bytes);
void mig_table_free(void *table, uint64_t pages, size_t entry_bytes);

/*
 * Several threads that come to a huge page of a table at once would each clear one, and all but one for
 * nothing: whoever comes first has it made while the others wait.
 */
struct mig_touch {
	uint8_t *table;
	size_t entry_bytes;
	atomic_bool *made; /* by MIG_TABLE_PIECE */
	pthread_mutex_t lock;
};

enum { MIG_TABLE_PIECE = 2 << 20 };

BASE_MUST_CHECK int mig_touch_init(struct mig_touch *t, void *table, uint64_t pages,
				   size_t entry_bytes);
void mig_touch_fini(struct mig_touch *t);
void mig_touch_make(struct mig_touch *t, size_t piece);

/* Before a thread's first look at the entry of a page. */
static inline void mig_touch(struct mig_touch *t, uint64_t index)
{
	size_t piece = index * t->entry_bytes / MIG_TABLE_PIECE;

	if (!atomic_load_explicit(&t->made[piece], memory_order_acquire))
		mig_touch_make(t, piece);
}

bool mig_page_is_zero(const uint8_t *page);
/* Of mig_page_hash(): whichever the processor can do. */
uint64_t mig_hash_plain(const uint8_t *page);
uint64_t mig_hash_avx2(const uint8_t *page);
uint64_t mig_hash_avx512(const uint8_t *page);
/* XXH3-64 of the page; never 0 (not sent yet) nor MIG_HASH_ZERO_PAGE. */
uint64_t mig_page_hash(const uint8_t *page);
/*
 * What a page adds to the digest of all memory: the XOR over all pages, so that it can be kept up to
 * date page by page and in any order. 0 for a page that was never sent.
 */
uint64_t mig_page_digest(uint64_t index, uint64_t hash);
uint64_t mig_block_hash(const void *data, size_t len);

#endif
