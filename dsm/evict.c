/*
 * Emptying peers in the background. A first look counts what there is to do; then each page is asked
 * for as if a thread here wanted to write it; further looks find what is still under way, until one
 * finds nothing. Peers that are being emptied ask for nothing, so there will be nothing again. What they
 * have been told to give up they may still hold, and whoever wants it waits for their word: so the last
 * look is over when all grants that were under way when it came by are in force.
 */
#include <errno.h>

#include "dsm/dsm_impl.h"

/* Requests under way, so that a fault's is never far back in the queue. */
enum { OPEN_MAX = 24 };

void dsm_evict_begin(struct dsm *d, uint16_t nodes, uint64_t pages_per_s)
{
	d->evict = (struct dsm_evict){.nodes = nodes, .only_counts = true};
	d->evict_rate = pages_per_s;
	d->evict_start_ns = d->now_ns;
}

static unsigned may_ask(const struct dsm *d)
{
	unsigned open = dsm_engine_open_requests(d->engine);
	uint64_t allowed;

	if (d->evict.only_counts)
		return OPEN_MAX;
	if (open >= OPEN_MAX)
		return 0;
	if (!d->evict_rate)
		return OPEN_MAX - open;
	allowed = (uint64_t)((unsigned __int128)(d->now_ns - d->evict_start_ns) * d->evict_rate /
			     1000000000u) +
		  1;
	return allowed > d->evict.asked
		       ? (unsigned)BASE_MIN(allowed - d->evict.asked, (uint64_t)(OPEN_MAX - open))
		       : 0;
}

static void look_is_over(struct dsm *d)
{
	struct dsm_evict *v = &d->evict;

	if (v->only_counts) {
		atomic_store(&d->evict_total, v->found);
		d->evict_start_ns = d->now_ns;
	}
	if (v->drains) {
		v->nodes = 0;
		atomic_store(&d->evicting, false);
	}
	v->drains = !v->found;
	v->seen = UINT16_MAX;
	v->only_counts = false;
	v->found = v->next = 0;
}

int dsm_evict_some(struct dsm *d, unsigned *work)
{
	uint64_t from = d->evict.next;
	unsigned max = may_ask(d);
	int err;

	if (!max && !d->evict.drains)
		return 0;
	err = dsm_engine_evict(d->engine, &d->evict, max, d->now_ns);
	atomic_store(&d->evict_asked, d->evict.asked);
	*work += d->evict.next != from;
	if (d->evict.next == dsm_engine_page_count(d->engine))
		look_is_over(d);
	return err ? err : dsm_engine_flush(d->engine);
}

int dsm_release(struct dsm *d)
{
	int err;

	if (!dsm_engine_has_all(d->engine))
		return 0;
	d->is_last = false;
	err = dsm_uffd_release(d->uffd);
	if (err)
		return err;
	atomic_store(&d->released, true);
	if (d->callbacks && d->callbacks->released)
		d->callbacks->released(d->ctx);
	return 0;
}
