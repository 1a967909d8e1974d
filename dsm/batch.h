/*
 * What the page state machines want done, gathered into runs of pages. Order of execution: revoke,
 * send, map. That keeps the order within a page as long as no page is in the batch twice in
 * conflicting ways, which the engine sees to by flushing before.
 */
#ifndef DSM_BATCH_H
#define DSM_BATCH_H

#include "dsm/page_fsm.h"

#define DSM_BATCH_RUNS	64
#define DSM_BATCH_SENDS 256

struct dsm_run {
	uint64_t first, count;
	uint8_t type; /* DSM_ACT_MAP, DSM_ACT_PROTECT or DSM_ACT_UNMAP */
	uint8_t access, had;
};

struct dsm_send {
	struct dsm_msg msg;
	uint8_t to;
};

struct dsm_batch {
	unsigned revoke_count, map_count, send_count;
	struct dsm_run revoke[DSM_BATCH_RUNS], map[DSM_BATCH_RUNS];
	struct dsm_send send[DSM_BATCH_SENDS];
};

static inline bool dsm_batch_empty(const struct dsm_batch *b)
{
	return !b->revoke_count && !b->map_count && !b->send_count;
}

/* Joins the last run if it fits. False: the list is full. */
static inline bool dsm_run_add(struct dsm_run *list, unsigned *count, struct dsm_run run)
{
	struct dsm_run *last = *count ? &list[*count - 1] : NULL;

	if (last && last->first + last->count == run.first && last->type == run.type &&
	    last->access == run.access && last->had == run.had) {
		last->count += run.count;
		return true;
	}
	if (*count == DSM_BATCH_RUNS)
		return false;
	list[(*count)++] = run;
	return true;
}

#endif
