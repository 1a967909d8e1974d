/* Emptying nodes: what they have of the pages that are at home here comes here. */
#include "dsm/engine_impl.h"

/* So many are looked at before others have their turn. */
enum { LOOK_AT_ONCE = 8192 };

static bool is_there(const struct dsm_engine *e, uint64_t gfn, uint16_t nodes)
{
	const struct dsm_dir *d = &e->dirs[gfn];

	return d->touched && (d->copyset & nodes) && dsm_engine_home(e, gfn) == e->cfg.self;
}

/* Whatever was granted before this look began is in force. */
static void drain(struct dsm_engine *e, struct dsm_evict *v)
{
	uint64_t end = BASE_MIN(v->next + LOOK_AT_ONCE, e->cfg.page_count);

	while (v->next < end) {
		v->seen &= e->dirs[v->next].pending;
		if (v->seen)
			return;
		v->next++;
		v->seen = UINT16_MAX;
	}
}

int dsm_engine_evict(struct dsm_engine *e, struct dsm_evict *v, unsigned max, int64_t now_ns)
{
	uint64_t end = BASE_MIN(v->next + LOOK_AT_ONCE, e->cfg.page_count);
	int err = 0;

	e->now_ns = now_ns;
	if (v->drains) {
		drain(e, v);
		return 0;
	}
	for (; v->next < end && !err && max; v->next++) {
		if (!is_there(e, v->next, v->nodes))
			continue;
		v->found++;
		if (v->only_counts || e->pages[v->next].want)
			continue;
		max--;
		v->asked++;
		err = dsm_engine_local(e, v->next, DSM_IN_WRITE);
	}
	return err;
}

bool dsm_engine_has_all(const struct dsm_engine *e)
{
	if (e->open_requests || !dsm_batch_empty(&e->batch))
		return false;
	for (uint64_t g = 0; g < e->cfg.page_count; g++)
		if (dsm_engine_home(e, g) != e->cfg.self ||
		    (e->dirs[g].touched && e->pages[g].state == DSM_I))
			return false;
	return true;
}
