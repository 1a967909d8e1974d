/* The inside of the engine; for engine*.c only. */
#ifndef DSM_ENGINE_IMPL_H
#define DSM_ENGINE_IMPL_H

#include "dsm/batch.h"
#include "dsm/engine.h"
#include "dsm/prefetch.h"

/* What the engine itself knows of a page, besides its state machine. */
struct slot {
	int64_t fault_ns; /* when the oldest waiter came */
	uint8_t mapped;	  /* enum dsm_state of the guest's view, batched changes included */
	uint8_t kind;	  /* enum dsm_fault_kind of the waiter */
	bool waiting : 1;
	bool marker : 1; /* of a prefetch window: stays unmapped until it is touched */
	bool in_map : 1; /* the batch maps it */
	bool in_revoke : 1;
	bool only_read : 1; /* the copy came for a thread that read, and none has written since */
	uint8_t page_class : 2; /* enum dsm_page_class of the waiter */
	uint8_t rewrites : 2; /* how often in a row that was followed by a write; see read_to_write() */
};

struct timer {
	int64_t at_ns;
	uint64_t gfn;
};

struct dsm_engine {
	struct dsm_engine_config cfg;
	struct dsm_home homes[DSM_HOME_MAX];
	unsigned home_hint;
	struct dsm_page *pages;
	struct dsm_dir *dirs;
	struct slot *slots;
	struct timer *timers; /* a heap, the earliest first */
	size_t timer_count, timer_cap;
	struct base_rng rng;
	struct dsm_prefetch ahead;
	struct dsm_stats stats;
	struct dsm_batch batch;
	struct dsm_out out;
	unsigned open_requests;
	int64_t now_ns;
};

/* engine.c: an input of this node's for one page. */
BASE_MUST_CHECK int dsm_engine_local(struct dsm_engine *e, uint64_t gfn, uint8_t type);

typedef int (*dsm_moved_fn)(void *ctx, uint8_t to, uint64_t gfn, uint64_t count,
			    const struct dsm_dir *dir);

/* 0 or -EINVAL: the runs do not cover the pages in order. */
BASE_MUST_CHECK int dsm_engine_homes_check(const struct dsm_home *homes, unsigned count,
					   uint64_t page_count);

#endif
