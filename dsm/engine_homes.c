/* Homes of an engine: finding them, and moving them while all is quiet. */
#include <errno.h>
#include <string.h>

#include "dsm/engine_impl.h"

int dsm_engine_homes_check(const struct dsm_home *homes, unsigned count, uint64_t page_count)
{
	uint64_t next = 0;

	if (!count || count > DSM_HOME_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < count; i++) {
		const struct dsm_home *h = &homes[i];

		if (h->first != next || !h->count || h->node >= DSM_NODE_MAX ||
		    h->count > page_count - next)
			return -EINVAL;
		next += h->count;
	}
	return next == page_count ? 0 : -EINVAL;
}

static uint8_t home_in(const struct dsm_home *homes, unsigned count, uint64_t gfn)
{
	for (unsigned i = 0; i < count; i++)
		if (gfn - homes[i].first < homes[i].count)
			return homes[i].node;
	return DSM_NODE_NONE;
}

uint8_t dsm_engine_home(const struct dsm_engine *e, uint64_t gfn)
{
	const struct dsm_home *h = &e->homes[e->home_hint];

	if (gfn - h->first < h->count)
		return h->node;
	for (unsigned i = 0; i < e->cfg.home_count; i++) {
		h = &e->homes[i];
		if (gfn - h->first < h->count) {
			((struct dsm_engine *)e)->home_hint = i;
			return h->node;
		}
	}
	return DSM_NODE_NONE;
}

static bool same_entry(const struct dsm_dir *a, const struct dsm_dir *b)
{
	return a->touched == b->touched && a->version == b->version && a->owner == b->owner &&
	       a->copyset == b->copyset;
}

static bool quiet(const struct dsm_engine *e)
{
	if (e->open_requests || !dsm_batch_empty(&e->batch))
		return false;
	for (uint64_t g = 0; g < e->cfg.page_count; g++)
		if (e->dirs[g].pending || e->pages[g].defer_s || e->pages[g].defer_type)
			return false;
	return true;
}

/* One run of equal entries from *gfn on that go to one node; advances behind
 * it. */
static int move_run(struct dsm_engine *e, const struct dsm_home *homes, unsigned count,
		    uint64_t *gfn, dsm_moved_fn moved)
{
	uint64_t first = *gfn, end = first + 1;
	uint8_t to = home_in(homes, count, first);
	struct dsm_dir entry = e->dirs[first];

	if (to == e->cfg.self || !entry.touched || dsm_engine_home(e, first) != e->cfg.self) {
		*gfn = end;
		return 0;
	}
	while (end < e->cfg.page_count && home_in(homes, count, end) == to &&
	       dsm_engine_home(e, end) == e->cfg.self && same_entry(&e->dirs[end], &entry))
		end++;
	memset(&e->dirs[first], 0, (end - first) * sizeof(e->dirs[0]));
	*gfn = end;
	return moved(e->cfg.ctx, to, first, end - first, &entry);
}

int dsm_engine_rehome(struct dsm_engine *e, const struct dsm_home *homes, unsigned count,
		      dsm_moved_fn moved)
{
	int err = dsm_engine_homes_check(homes, count, e->cfg.page_count);

	if (err)
		return err;
	if (!quiet(e))
		return -EBUSY;
	for (uint64_t g = 0; g < e->cfg.page_count && !err;)
		err = move_run(e, homes, count, &g, moved);
	memcpy(e->homes, homes, count * sizeof(homes[0]));
	e->cfg.home_count = count;
	e->home_hint = 0;
	return err;
}

int dsm_engine_dir_put(struct dsm_engine *e, uint64_t gfn, uint64_t count,
		       const struct dsm_dir *dir)
{
	if (gfn >= e->cfg.page_count || count > e->cfg.page_count - gfn || !dir->touched ||
	    !dir->version || dir->owner >= DSM_NODE_MAX || !(dir->copyset & 1u << dir->owner))
		return -EPROTO;
	for (uint64_t g = gfn; g < gfn + count; g++)
		if (e->dirs[g].touched)
			return -EPROTO;
	for (uint64_t g = gfn; g < gfn + count; g++)
		e->dirs[g] = (struct dsm_dir){.version = dir->version,
					      .copyset = dir->copyset,
					      .owner = dir->owner,
					      .touched = true};
	return 0;
}
