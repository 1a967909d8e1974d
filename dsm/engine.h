/*
 * The coherence engine of one node: the table of pages and directory entries, the timers of the
 * hold times, prefetch, statistics, and the batching of what the page state machine wants done. It
 * knows neither userfaultfd nor sockets: both are behind dsm_engine_ops, so that the simulator runs
 * it as it is. One thread owns it; nothing blocks; no clock is read.
 */
#ifndef DSM_ENGINE_H
#define DSM_ENGINE_H

#include "base/rng.h"
#include "dsm/page_fsm.h"
#include "dsm/stats.h"

struct dsm_engine;

/* A run of pages whose home is one node. Runs are sorted and cover all pages. */
struct dsm_home {
	uint64_t first, count;
	uint8_t node;
};

#define DSM_HOME_MAX 64

struct dsm_engine_ops {
	/* `bytes` is NULL, or where the page's 4096 bytes are taken from (no thread writes it). */
	int (*send)(void *ctx, uint8_t to, const struct dsm_msg *msg, bool with_page);
	/* Calls for runs of pages. had: what the guest's view had before, for each page the same.
	 */
	int (*map)(void *ctx, uint64_t gfn, uint64_t count, uint8_t access, uint8_t had);
	int (*protect)(void *ctx, uint64_t gfn, uint64_t count);
	int (*unmap)(void *ctx, uint64_t gfn, uint64_t count);
	int (*store)(void *ctx, uint64_t gfn, const void *bytes);
	int (*zero)(void *ctx, uint64_t gfn);
};

struct dsm_engine_config {
	uint64_t page_count;
	uint8_t self;
	const struct dsm_home *homes;
	unsigned home_count;
	const struct dsm_engine_ops *ops;
	void *ctx;
	uint32_t hold_ns; /* 0: no hold time */
	uint8_t hold_level_max;
	uint32_t prefetch_max; /* pages ahead at most; 0: no prefetch */
	/* Untouched pages that come with one that a thread touches first: so many at home, twice as
	 * many where their home is elsewhere. A power of 2; 0: none. */
	uint32_t around;
	/* A page that is written after it was read, so often in a row, is fetched for writing when it is read
	 * next. 0: never; at most 3. */
	uint8_t rewrites;
	uint64_t seed;
};

/* -EINVAL: homes do not cover the pages, or numbers out of range. -ENOMEM. */
BASE_MUST_CHECK int dsm_engine_new(const struct dsm_engine_config *config, struct dsm_engine **out);
void dsm_engine_free(struct dsm_engine *e);

/* Any error of these is final: the guest must stop. -EPROTO: of a peer; others: of the ops. */

/* The pages hold their bytes here, at home, before anybody has asked. */
BASE_MUST_CHECK int dsm_engine_populate(struct dsm_engine *e, uint64_t gfn, uint64_t count);
BASE_MUST_CHECK int dsm_engine_fault(struct dsm_engine *e, uint64_t gfn, bool write,
				     int64_t now_ns);
/* `bytes`: the page that came along, or NULL. */
BASE_MUST_CHECK int dsm_engine_msg(struct dsm_engine *e, uint8_t from, const struct dsm_msg *msg,
				   const void *bytes, int64_t now_ns);
BASE_MUST_CHECK int dsm_engine_time(struct dsm_engine *e, int64_t now_ns);
BASE_MUST_CHECK int dsm_engine_prefetch(struct dsm_engine *e, uint64_t gfn, uint64_t count,
					int64_t now_ns);
BASE_MUST_CHECK int dsm_engine_drop(struct dsm_engine *e, uint64_t gfn, int64_t now_ns);
/* Executes what is batched. After any of the calls above, before the thread sleeps. */
BASE_MUST_CHECK int dsm_engine_flush(struct dsm_engine *e);
/* When dsm_engine_time() is due; INT64_MAX: nothing waits. */
int64_t dsm_engine_next_ns(const struct dsm_engine *e);

/*
 * Moves homes. All nodes are quiet: no request is open anywhere. Directory
 * entries that leave are given to `moved` in runs of equal entries and
 * forgotten here; those that come are put in with dsm_engine_dir_put(), before
 * or after. -EBUSY: not quiet; -EINVAL: as dsm_engine_new. Nothing was changed
 * on these.
 */
BASE_MUST_CHECK int dsm_engine_rehome(struct dsm_engine *e, const struct dsm_home *homes,
				      unsigned count,
				      int (*moved)(void *ctx, uint8_t to, uint64_t gfn,
						   uint64_t count, const struct dsm_dir *dir));
/* -EPROTO: not entries that a correct node can give away. */
BASE_MUST_CHECK int dsm_engine_dir_put(struct dsm_engine *e, uint64_t gfn, uint64_t count,
				       const struct dsm_dir *dir);

/* Emptying nodes; see engine_evict.c. */
struct dsm_evict {
	uint16_t nodes;	  /* bits; 0: nothing to do */
	bool only_counts; /* this look over the pages */
	bool drains;	  /* the last one, which finds whose grants are not in force yet */
	uint16_t seen;	  /* of that: the grants of page `next` that were under way all the time */
	uint64_t next;	  /* page to look at; page_count: the look is over */
	uint64_t found;	  /* in this look */
	uint64_t asked;	  /* pages that were asked for, in all looks */
};
/* Goes on with a look; asks for `max` pages at most. They are at home here, and not there any more when
 * a whole look finds none. Somebody may still wait for what those nodes are to say to that, until a look that
 * drains is over as well. */
BASE_MUST_CHECK int dsm_engine_evict(struct dsm_engine *e, struct dsm_evict *v, unsigned max,
				     int64_t now_ns);
/* Nobody has touched any page; homes stay. For when the engine has not seen what happened to them, as after
 * dsm_is_released(). -EBUSY: requests are under way. */
BASE_MUST_CHECK int dsm_engine_reset(struct dsm_engine *e);
/* Every page that somebody has touched is here, all are at home here, and nothing is under way. */
bool dsm_engine_has_all(const struct dsm_engine *e);
uint64_t dsm_engine_page_count(const struct dsm_engine *e);

/* What the guest's view has now: DSM_I, DSM_S or DSM_X. */
uint8_t dsm_engine_mapped(const struct dsm_engine *e, uint64_t gfn);
uint8_t dsm_engine_home(const struct dsm_engine *e, uint64_t gfn);
const struct dsm_page *dsm_engine_page(const struct dsm_engine *e, uint64_t gfn);
const struct dsm_dir *dsm_engine_dir(const struct dsm_engine *e, uint64_t gfn); /* home only */
/* Requests of this node that are under way. */
unsigned dsm_engine_open_requests(const struct dsm_engine *e);
struct dsm_stats *dsm_engine_stats(struct dsm_engine *e);
/* Checks the local invariants of every page: why one does not hold, or NULL. */
const char *dsm_engine_check(const struct dsm_engine *e, uint64_t *gfn);

#endif
