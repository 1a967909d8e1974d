/* The inside of the source: source.c (rounds), handover.c, sender.c (data channels) and serve.c (post-copy). */
#ifndef MIG_SOURCE_H
#define MIG_SOURCE_H

#include <pthread.h>

#include "migrate/chan.h"
#include "migrate/pages.h"

enum { META_ENTRIES = MIG_META_MAX / sizeof(struct mig_page_entry) };

struct worker {
	struct mig_source *s;
	struct mig_chan chan;
	pthread_t thread;
	unsigned index;
	uint64_t frames;
	unsigned done;	 /* work_number that it has seen */
	uint64_t digest; /* over this channel's pages */
	/* The chunk being built. */
	struct mig_page_entry entries[META_ENTRIES];
	struct iovec iov[MIG_CHUNK_PAGES];
	unsigned entry_count, data_count;
	int iov_count;	 /* neighbours are one piece */
	uint8_t *blocks; /* MIG_CHUNK_PAGES pages: bytes of disks, in the order of the chunk */
	uint64_t pages_sent, pages_zero, pages_unchanged; /* of this round */
};

struct mig_source {
	struct mig_params p;
	struct mig_memory memory;
	const struct mig_source_ops *ops;
	void *guest;
	const void *config;
	size_t config_len;
	int fds[1 + MIG_CHANNELS_MAX];
	uint64_t page_count;
	uint64_t first_block; /* page_count: no disk moves along */
	size_t words;

	struct mig_src_fsm fsm; /* run()'s thread */
	struct mig_chan control;
	struct worker *workers;
	unsigned started;
	bool logging;
	uint64_t can;		/* MIG_CAN_*: the destination's word */
	unsigned chunk_pages;	/* of data in a frame, at most */
	uint64_t *sent_hash;	/* by page; each belongs to the worker of its channel */
	struct mig_touch touch; /* of it, where rounds begin */

	/* Post-copy; serve.c. */
	_Atomic uint64_t *missing; /* bit by page: not sent since the switch; NULL: pre-copy */
	atomic_uint_fast64_t hint[MIG_CHANNELS_MAX]; /* 1 + the group that is wanted now; 0: none */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t cond;
	int64_t push_ns;      /* it does not begin before */
	bool pushing;	      /* the work is all that is missing */
	const uint64_t *work; /* bitmap of the round under way */
	unsigned work_number; /* counts up: a new round */
	unsigned busy;
	bool force; /* send pages even when their hash is the one sent last */
	bool quit, cancelled;
	int error; /* the first that a worker met */
	struct mig_progress progress;
	int64_t budget_start_ns;
	uint64_t budget_bytes;
};

/* ---- source.c ---- */

void mig_source_fail(struct mig_source *s, const char *fmt, ...) BASE_PRINTF(2, 3);
/* A control frame; an ABORT becomes -ECONNABORTED with its text kept. */
BASE_MUST_CHECK int mig_source_recv(struct mig_source *s, struct mig_head *h);
BASE_MUST_CHECK int mig_source_event(struct mig_source *s, enum mig_event ev);
uint64_t mig_source_bytes(struct mig_source *s);
/*
 * Sends the pages of the bitmap on all channels; the bitmap must stay until it returns. force: also those
 * that have not changed since. In pre-copy it returns when the destination has them in place, if it can tell.
 */
BASE_MUST_CHECK int mig_source_send_pages(struct mig_source *s, const uint64_t *bitmap, bool force);

/* ---- handover.c ---- */

/* In `bitmap`, of s->words: what is still to be sent; it is overwritten. 0: the guest runs at the other side. */
BASE_MUST_CHECK int mig_handover_run(struct mig_source *s, uint64_t *bitmap);

/* ---- serve.c ---- */

/* Pages of the bitmap will come after the switch: tells the destination of those that are new. */
BASE_MUST_CHECK int mig_serve_announce(struct mig_source *s, const uint64_t *bitmap);
/* All announced pages are nothing at the destination now. */
BASE_MUST_CHECK int mig_serve_sync(struct mig_source *s);
/* Pages of the bitmap that were not announced. */
uint64_t mig_serve_fresh(const struct mig_source *s, const uint64_t *bitmap);
/* Right behind COMMIT: what the guest is likely to touch first, before it asks for it page by page. */
BASE_MUST_CHECK int mig_serve_hot(struct mig_source *s);
/* As mig_source_recv(), but gives out pages that are asked for meanwhile. */
BASE_MUST_CHECK int mig_serve_recv(struct mig_source *s, struct mig_head *h);
/* From RUNNING, or a new link, to COMPLETE; 0 or -ENOLINK. */
BASE_MUST_CHECK int mig_serve_run(struct mig_source *s);

/* ---- sender.c ---- */

/* One thread for each data channel; each waits for work_number to change. -EAGAIN. */
BASE_MUST_CHECK int mig_source_start_workers(struct mig_source *s);
/* lost: breaks their connections first, so that none stays in a send. */
void mig_source_stop_workers(struct mig_source *s, bool lost);

#endif
