/* The inside of the destination: shared by dest.c (receiving, hand-over) and fill.c (post-copy). */
#ifndef MIG_DEST_H
#define MIG_DEST_H

#include <pthread.h>

#include "migrate/chan.h"
#include "migrate/pages.h"

enum { MIG_WAITS_MAX = 64, MIG_EARLY_MS = 20 };

struct receiver {
	struct mig_dest *d;
	struct mig_chan chan;
	pthread_t thread;
	unsigned index;
	atomic_uint_fast64_t frames; /* taken in; others see that it goes on */
	uint64_t digest;	     /* over this channel's pages */
	uint64_t bad;		     /* of them, those whose bytes did not match */
	unsigned flushes;	     /* guarded by the lock */
	uint8_t *bounce;	     /* MIG_CHUNK_PAGES pages, for post-copy and disks */
};

/* How long pages that the guest touched were waited for. */
struct mig_waits {
	struct {
		uint64_t index;
		int64_t since_ns;
	} open[MIG_WAITS_MAX];
	unsigned open_count;
	uint64_t count, answered;
	int64_t first_ns, early_ns, sum_ns, max_ns; /* early: in the first MIG_EARLY_MS */
};

struct mig_dest {
	struct mig_params p;
	struct mig_memory memory;
	const struct mig_dest_ops *ops;
	void *guest;
	int fds[1 + MIG_CHANNELS_MAX];
	uint64_t page_count;

	struct mig_dst_fsm fsm; /* run()'s thread */
	struct mig_chan control;
	struct receiver *receivers;
	unsigned started;
	uint64_t *hash;		/* by page, of the bytes that are here; 0: never received */
	uint8_t *bad;		/* by page */
	struct mig_touch touch; /* of the hashes, where pages come */

	/* Post-copy; fill.c. */
	_Atomic uint64_t *missing; /* bit by page; NULL: none yet */
	uint64_t *asked;	   /* the filler's: these were requested */
	atomic_uint_fast64_t left; /* bits in missing */
	atomic_bool filling;	   /* pages go to ops->fill */
	atomic_bool loading;	   /* run()'s thread loads the machine, and may wait for pages */
	atomic_bool fill_started;
	int fault_fd;
	struct receiver filler; /* its thread: faults, and the control connection */
	bool filler_started;
	struct mig_waits waits; /* the filler's */
	atomic_bool filler_quit;
	pthread_mutex_t tx_lock; /* guards sending on control */

	pthread_mutex_t lock; /* guards what follows */
	unsigned mail;	      /* bits of frames that the filler has taken in */
	pthread_cond_t cond;
	bool cancelled, committed;
	int error;
	char why[MIG_TEXT_MAX];
};

/* ---- dest.c ---- */

/* The first reason stays. */
void mig_dest_fail(struct mig_dest *d, const char *fmt, ...) BASE_PRINTF(2, 3);
/* On the control connection; any thread. */
BASE_MUST_CHECK int mig_dest_send(struct mig_dest *d, uint8_t type, const void *meta, uint32_t len);
BASE_MUST_CHECK int mig_dest_event(struct mig_dest *d, enum mig_event ev);
/* Makes r->bounce. */
BASE_MUST_CHECK int mig_dest_bounce(struct receiver *r);
void mig_dest_set_page(struct receiver *r, uint64_t index, uint64_t hash, bool bad);
struct mig_page_entry mig_dest_entry(const struct receiver *r, uint32_t i);
BASE_MUST_CHECK int mig_dest_wait_flushed(struct mig_dest *d, uint64_t want);
BASE_MUST_CHECK int mig_dest_start_receivers(struct mig_dest *d);
void mig_dest_stop_receivers(struct mig_dest *d);

/* ---- fill.c ---- */

bool mig_fill_possible(const struct mig_dest *d);
/* MISSING: these pages are nothing now. */
BASE_MUST_CHECK int mig_fill_missing(struct mig_dest *d, const struct mig_head *h);
/* A page frame of post-copy, on any connection. */
BASE_MUST_CHECK int mig_fill_pages(struct receiver *r, const struct mig_head *h);
/* Before the machine is loaded: pages can be waited for, and the filler reads the control connection. */
BASE_MUST_CHECK int mig_fill_start(struct mig_dest *d);
/* From READY to the last page; as mig_dest_run(). */
BASE_MUST_CHECK int mig_fill_run(struct mig_dest *d);
/* Nobody waits for pages any more. */
void mig_fill_release(struct mig_dest *d);
void mig_fill_stop(struct mig_dest *d);

#endif
