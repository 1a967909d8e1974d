/* Counters of one engine. Written by its thread, read by any: each field alone is exact enough. */
#ifndef DSM_STATS_H
#define DSM_STATS_H

#include <stdint.h>

#define DSM_HIST_BUCKETS 64 /* 4 per power of two, from 1 us */
#define DSM_HOT_PAGES	 32

/* What a fault needed. */
enum dsm_fault_kind {
	DSM_FAULT_LOCAL,   /* no message */
	DSM_FAULT_READ,	   /* a copy from elsewhere */
	DSM_FAULT_WRITE,   /* the page from elsewhere */
	DSM_FAULT_UPGRADE, /* permission only */
	DSM_FAULT_KINDS
};

/* What sort of page a fault that needed a message fell on. */
enum dsm_page_class {
	DSM_PAGE_NEW,	    /* comes here for the first time */
	DSM_PAGE_UNTOUCHED, /* the same, and nobody had touched it */
	DSM_PAGE_BACK,	    /* was here, and was taken away a while ago */
	DSM_PAGE_CONTENDED, /* was taken away less than DSM_CONTENDED_MS ago */
	DSM_PAGE_CLASSES
};
#define DSM_CONTENDED_MS 100

struct dsm_class_stats {
	uint64_t faults, wait_ns;
};

struct dsm_histogram {
	uint64_t bucket[DSM_HIST_BUCKETS];
	uint64_t count, sum_ns, max_ns;
};

void dsm_histogram_add(struct dsm_histogram *h, int64_t ns);
/* Upper edge of the bucket where the share of the samples is reached; 0 when there are none. */
int64_t dsm_histogram_quantile(const struct dsm_histogram *h, double share);

struct dsm_peer_stats {
	uint64_t requests; /* of it, that we answered or passed on */
	uint64_t pages_out, pages_in, zero_out, invalidations;
};

struct dsm_hot_page {
	uint64_t gfn, count;
};

struct dsm_stats {
	uint64_t faults[DSM_FAULT_KINDS];
	struct dsm_histogram latency[DSM_FAULT_KINDS]; /* fault read to page mapped */
	struct dsm_class_stats page_class[DSM_PAGE_CLASSES];
	uint64_t without_data; /* grants that carried no bytes */
	uint64_t prefetch_issued, prefetch_denied, prefetch_used, prefetch_lost;
	uint64_t taken, take_denied;	 /* untouched pages beside one that a thread wanted */
	uint64_t rewrites;		 /* reads that asked for writing at once */
	uint64_t deferred;		 /* revocations that the hold time put off */
	uint64_t protects, unmaps, maps; /* calls, not pages */
	struct dsm_peer_stats peer[16];
	/* The pages that were taken from us most often (a space-saving sketch). */
	struct dsm_hot_page hot[DSM_HOT_PAGES];
};

void dsm_stats_hot(struct dsm_stats *s, uint64_t gfn);

#endif
