/*
 * Detects sequential reading and says what to fetch ahead. Each window of fetched pages keeps one
 * page that is not mapped when it arrives (the marker): the reader's touch of it shows that the
 * window is used, and asks for the next. Windows that are taken away before that, or denied, count
 * against prefetching, which then switches itself off for a while. Pure.
 */
#ifndef DSM_PREFETCH_H
#define DSM_PREFETCH_H

#include <stdbool.h>
#include <stdint.h>

#define DSM_STREAMS 8

struct dsm_stream {
	uint64_t next;	 /* the page that the next fault of the stream will be on */
	uint64_t end;	 /* fetched up to here */
	uint32_t window; /* pages; 0: not fetching yet */
	uint32_t run;	 /* faults in order */
	uint64_t used_at;
	bool live;
};

struct dsm_prefetch {
	uint32_t window_max;
	uint64_t tick;
	uint32_t bad, good;   /* recent windows */
	int64_t off_until_ns; /* switched off */
	int64_t off_for_ns;
	struct dsm_stream stream[DSM_STREAMS];
};

struct dsm_range {
	uint64_t first, count, marker;
};

void dsm_prefetch_init(struct dsm_prefetch *p, uint32_t window_max);
/* A read fault or the touch of a marker. count 0: nothing to fetch. */
struct dsm_range dsm_prefetch_touch(struct dsm_prefetch *p, uint64_t gfn, uint64_t page_count,
				    int64_t now_ns);
/* A page that was fetched ahead was denied, or taken away unused. */
void dsm_prefetch_bad(struct dsm_prefetch *p, uint32_t weight, int64_t now_ns);

#endif
