/* What a reader of all memory has to read again; see dsm.h. */
#include <errno.h>
#include <stdlib.h>

#include "dsm/dsm_impl.h"

static uint64_t words(const struct dsm *d)
{
	return (dsm_engine_page_count(d->engine) + 63) / 64;
}

int dsm_track_start(struct dsm *d)
{
	if (atomic_load(&d->lost))
		return -EBUSY;
	if (!d->lost_bits)
		d->lost_bits = calloc(words(d), sizeof(*d->lost_bits));
	if (!d->lost_bits)
		return -ENOMEM;
	for (uint64_t i = 0; i < words(d); i++)
		atomic_store_explicit(&d->lost_bits[i], 0, memory_order_relaxed);
	atomic_store(&d->lost, d->lost_bits);
	return 0;
}

void dsm_track_take(struct dsm *d, uint64_t *bits)
{
	for (uint64_t i = 0; i < words(d); i++)
		bits[i] |= atomic_exchange(&d->lost_bits[i], 0);
}

void dsm_track_stop(struct dsm *d)
{
	atomic_store(&d->lost, NULL);
}

void dsm_track_lost(struct dsm *d, uint64_t gfn, uint64_t count)
{
	_Atomic(uint64_t) *bits = atomic_load_explicit(&d->lost, memory_order_acquire);

	for (uint64_t g = gfn; bits && g < gfn + count; g++)
		atomic_fetch_or(&bits[g / 64], UINT64_C(1) << (g % 64));
}
