#include "dsm/stats.h"

#include "base/cleanup.h"

static unsigned bucket_of(int64_t ns)
{
	uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;

	if (us < 4)
		return (unsigned)us;
	unsigned log = 63 - (unsigned)__builtin_clzll(us);
	unsigned b = log * 4 + (unsigned)(us >> (log - 2) & 3) - 4;

	return BASE_MIN(b, DSM_HIST_BUCKETS - 1u);
}

static int64_t bucket_end_ns(unsigned b)
{
	if (b < 4)
		return (int64_t)(b + 1) * 1000;
	unsigned log = (b + 4) / 4;

	return (int64_t)((4 + (uint64_t)(b % 4) + 1) << (log - 2)) * 1000;
}

void dsm_histogram_add(struct dsm_histogram *h, int64_t ns)
{
	h->bucket[bucket_of(ns)]++;
	h->count++;
	h->sum_ns += ns > 0 ? (uint64_t)ns : 0;
	h->max_ns = BASE_MAX(h->max_ns, ns > 0 ? (uint64_t)ns : 0);
}

int64_t dsm_histogram_quantile(const struct dsm_histogram *h, double share)
{
	uint64_t seen = 0, want = (uint64_t)((double)h->count * share);

	if (!h->count)
		return 0;
	for (unsigned b = 0; b < DSM_HIST_BUCKETS; b++) {
		seen += h->bucket[b];
		if (seen > want || seen == h->count)
			return bucket_end_ns(b);
	}
	return bucket_end_ns(DSM_HIST_BUCKETS - 1);
}

void dsm_stats_hot(struct dsm_stats *s, uint64_t gfn)
{
	struct dsm_hot_page *least = &s->hot[0];

	for (unsigned i = 0; i < DSM_HOT_PAGES; i++) {
		if (s->hot[i].count && s->hot[i].gfn == gfn) {
			s->hot[i].count++;
			return;
		}
		if (s->hot[i].count < least->count)
			least = &s->hot[i];
	}
	least->gfn = gfn;
	least->count++;
}
