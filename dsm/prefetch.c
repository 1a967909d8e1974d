#include "dsm/prefetch.h"

#include "base/clock.h"
#include "base/cleanup.h"

#define RUN_MIN	     3 /* faults in order before anything is fetched */
#define WINDOW_FIRST 8
#define OFF_FIRST_NS (100 * BASE_NS_PER_MS)
#define OFF_MAX_NS   (10 * BASE_NS_PER_SEC)

void dsm_prefetch_init(struct dsm_prefetch *p, uint32_t window_max)
{
	*p = (struct dsm_prefetch){.window_max = window_max, .off_for_ns = OFF_FIRST_NS};
}

static struct dsm_stream *find(struct dsm_prefetch *p, uint64_t gfn)
{
	struct dsm_stream *oldest = &p->stream[0];

	for (unsigned i = 0; i < DSM_STREAMS; i++) {
		struct dsm_stream *s = &p->stream[i];

		/* A fault between the expected page and the end: the reader overtook us. */
		if (s->live && gfn >= s->next && gfn < BASE_MAX(s->next + 1, s->end + 1))
			return s;
		if (s->used_at < oldest->used_at)
			oldest = s;
	}
	*oldest = (struct dsm_stream){.next = gfn, .end = gfn, .live = true};
	return oldest;
}

static struct dsm_range ahead(struct dsm_prefetch *p, struct dsm_stream *s, uint64_t gfn,
			      uint64_t page_count)
{
	s->window = s->window ? BASE_MIN(s->window * 2, p->window_max)
			      : BASE_MIN((uint32_t)WINDOW_FIRST, p->window_max);
	uint64_t first = BASE_MAX(gfn + 1, s->end);
	uint64_t last = BASE_MIN(gfn + 1 + s->window, page_count);

	if (first >= last)
		return (struct dsm_range){0};
	struct dsm_range r = {.first = first, .count = last - first};

	/* Early in the new part, so that the next window is on its way in time. */
	r.marker = first + r.count / 4;
	s->next = r.marker;
	s->end = last;
	return r;
}

struct dsm_range dsm_prefetch_touch(struct dsm_prefetch *p, uint64_t gfn, uint64_t page_count,
				    int64_t now_ns)
{
	if (!p->window_max || now_ns < p->off_until_ns)
		return (struct dsm_range){0};
	struct dsm_stream *s = find(p, gfn);
	bool marker = s->window && gfn == s->next;

	s->used_at = ++p->tick;
	s->next = gfn + 1;
	if (s->end < gfn + 1)
		s->end = gfn + 1;
	if (marker) {
		p->good++;
		p->off_for_ns = OFF_FIRST_NS;
		if (p->bad)
			p->bad--;
	}
	if (++s->run < RUN_MIN)
		return (struct dsm_range){0};
	return ahead(p, s, gfn, page_count);
}

void dsm_prefetch_bad(struct dsm_prefetch *p, uint32_t weight, int64_t now_ns)
{
	p->bad += weight;
	if (p->bad < 64)
		return;
	p->bad = 0;
	p->off_until_ns = now_ns + p->off_for_ns;
	p->off_for_ns = BASE_MIN(p->off_for_ns * 2, OFF_MAX_NS);
	for (unsigned i = 0; i < DSM_STREAMS; i++)
		p->stream[i].live = false;
}
