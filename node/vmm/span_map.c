/* Who owns the guest's memory: in even parts for the heat map, and whether a page is here. */
#include "node/vmm/span_internal.h"

/* Of a part that has more pages, evenly spaced ones are looked at. */
enum { SAMPLES_MAX = 1024 };

static void count_owners(struct vmm_span *s, uint64_t from, uint64_t to,
			 unsigned counts[DSM_NODE_MAX], unsigned *looked)
{
	uint64_t step = (to - from + SAMPLES_MAX - 1) / SAMPLES_MAX;

	for (uint64_t gfn = from; gfn < to; gfn += step) {
		uint8_t owner = DSM_NODE_NONE;

		dsm_owners(s->dsm, gfn, 1, &owner);
		if (owner < DSM_NODE_MAX)
			counts[owner]++;
		(*looked)++;
	}
}

void vmm_span_pagemap(struct vmm_span *s, unsigned parts, uint8_t *out)
{
	uint64_t pages = vmm_mem_size(s->config.mem) / DSM_PAGE_SIZE;

	for (unsigned i = 0; i < parts; i++) {
		unsigned counts[DSM_NODE_MAX] = {0}, looked = 0, best = 0;

		/* pages < 2^33 and parts < 2^16: no overflow. */
		if (s->dsm)
			count_owners(s, pages * i / parts, pages * (i + 1) / parts, counts,
				     &looked);
		for (unsigned n = 1; n < DSM_NODE_MAX; n++)
			if (counts[n] > counts[best])
				best = n;
		out[2 * i] = counts[best] ? (uint8_t)best : UINT8_MAX;
		out[2 * i + 1] = looked ? (uint8_t)(counts[best] * 255 / looked) : 0;
	}
}

bool vmm_span_has(struct vmm_span *s, uint64_t gfn)
{
	return !s->dsm || dsm_has(s->dsm, gfn);
}
