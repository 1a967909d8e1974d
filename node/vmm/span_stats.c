/* The counters of this slice's memory, by name: `dsm.` and what DESIGN calls them. */
#include <stdarg.h>
#include <stdio.h>

#include "node/vmm/span_internal.h"

enum { HOT_SHOWN = DSM_HOT_PAGES };

struct out {
	void (*put)(void *arg, const char *name, uint64_t value);
	void *arg;
};

static void put(const struct out *o, uint64_t value, const char *fmt, ...) BASE_PRINTF(3, 4);

static void put(const struct out *o, uint64_t value, const char *fmt, ...)
{
	char name[64];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(name, sizeof(name), fmt, ap);
	va_end(ap);
	o->put(o->arg, name, value);
}

static void put_faults(const struct out *o, const struct dsm_stats *d)
{
	static const char *const kinds[DSM_FAULT_KINDS] = {"local", "read", "write", "upgrade"};
	static const char *const classes[DSM_PAGE_CLASSES] = {"new", "untouched", "back",
							      "contended"};

	for (int k = 0; k < DSM_FAULT_KINDS; k++) {
		const struct dsm_histogram *h = &d->latency[k];

		put(o, d->faults[k], "dsm.faults.%s", kinds[k]);
		put(o, (uint64_t)dsm_histogram_quantile(h, 0.5), "dsm.latency.%s.p50_ns", kinds[k]);
		put(o, (uint64_t)dsm_histogram_quantile(h, 0.99), "dsm.latency.%s.p99_ns",
		    kinds[k]);
		put(o, h->max_ns, "dsm.latency.%s.max_ns", kinds[k]);
	}
	for (int c = 0; c < DSM_PAGE_CLASSES; c++) {
		put(o, d->page_class[c].faults, "dsm.class.%s.faults", classes[c]);
		put(o, d->page_class[c].wait_ns / 1000, "dsm.class.%s.wait_us", classes[c]);
	}
	put(o, d->without_data, "dsm.without_data");
	put(o, d->deferred, "dsm.deferred");
	put(o, d->taken, "dsm.taken");
	put(o, d->rewrites, "dsm.rewrites");
	put(o, d->take_denied, "dsm.take_denied");
	put(o, d->prefetch_issued, "dsm.prefetch.issued");
	put(o, d->prefetch_used, "dsm.prefetch.used");
	put(o, d->prefetch_lost, "dsm.prefetch.lost");
	put(o, d->prefetch_denied, "dsm.prefetch.denied");
}

static void put_peer(const struct out *o, unsigned peer, const struct dsm_peer_stats *p,
		     const struct xp_counters *x)
{
	put(o, p->requests, "dsm.peer.%u.requests", peer);
	put(o, p->pages_in, "dsm.peer.%u.pages_in", peer);
	put(o, p->pages_out, "dsm.peer.%u.pages_out", peer);
	put(o, p->zero_out, "dsm.peer.%u.zero_out", peer);
	put(o, p->invalidations, "dsm.peer.%u.invalidations", peer);
	put(o, x->bytes_in, "dsm.peer.%u.bytes_in", peer);
	put(o, x->bytes_out, "dsm.peer.%u.bytes_out", peer);
	put(o, x->reconnects, "dsm.peer.%u.reconnects", peer);
}

/* The pages that were taken from here most often. */
static void put_hot(const struct out *o, const struct dsm_stats *d)
{
	bool shown[DSM_HOT_PAGES] = {0};

	for (unsigned n = 0; n < HOT_SHOWN; n++) {
		int best = -1;

		for (int i = 0; i < DSM_HOT_PAGES; i++)
			if (!shown[i] && d->hot[i].count &&
			    (best < 0 || d->hot[i].count > d->hot[best].count))
				best = i;
		if (best < 0)
			return;
		shown[best] = true;
		put(o, d->hot[best].gfn, "dsm.hot.%u.gfn", n);
		put(o, d->hot[best].count, "dsm.hot.%u.count", n);
	}
}

void vmm_span_stats(struct vmm_span *s, void (*fn)(void *arg, const char *name, uint64_t value),
		    void *arg)
{
	struct out o = {fn, arg};
	struct xp_counters x[DSM_NODE_MAX];
	struct dsm_stats d;
	uint64_t flushes, tables;

	if (!s->dsm)
		return;
	dsm_stats_get(s->dsm, &d, x);
	put(&o, s->self, "dsm.slice");
	for (unsigned i = 0; i < vmm_span_first_vcpu(&s->slices, s->slices.count); i++)
		put(&o, span_where(s, i), "vcpu%u.slice", i);
	put(&o, s->clock_steps, "dsm.clock_steps");
	vmm_shadow_stats(s->shadow, &flushes, &tables);
	put(&o, flushes, "dsm.table_flushes");
	put(&o, tables, "dsm.tables_lost");
	put_faults(&o, &d);
	for (unsigned i = 0; i < s->slices.count; i++)
		if (i != s->self)
			put_peer(&o, i, &d.peer[i], &x[i]);
	put_hot(&o, &d);
}
