/* The inside of a slice's DSM; for dsm.c and service.c only. */
#ifndef DSM_DSM_IMPL_H
#define DSM_DSM_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "dsm/dsm.h"
#include "dsm/msg.h"

struct post;

struct dsm {
	/* The service thread's, once it runs. */
	struct dsm_engine *engine;
	struct dsm_uffd *uffd;
	struct xp *xp;
	uint16_t up;
	int64_t now_ns;
	int step_error; /* of a callback of the transport */
	bool failing;
	bool is_last;	  /* all peers have left: to be released */
	bool awaiting;	  /* an answer of a peer */
	bool serving;	  /* peers ask, and no thread here has faulted for a while */
	int64_t fault_ns; /* the last local fault */
	unsigned rounds;
	int64_t idle_ns;	  /* since when there is nothing to do */
	int64_t spin_now_ns;	  /* how long to poll then: spin_ns or a few times that */
	int64_t crowded_until_ns; /* others want the processor */
	int64_t crowded_for_ns;	  /* next time */
	unsigned cheap_yields;	  /* since then */
	uint16_t dir_ends;	  /* peers that have sent all directory entries of a move */
	bool rehome_waits;	  /* until all is quiet */
	bool dir_sent;		  /* and so have we */
	uint16_t leaving;	  /* peers that are to go, or may */
	uint16_t admitted;	  /* peers that are to come, or have just; see join.c */
	struct dsm_evict evict;
	uint64_t evict_rate; /* pages/s, 0: no limit */
	int64_t evict_start_ns;

	/* Constant. */
	const struct dsm_callbacks *callbacks;
	void *ctx;
	uint8_t self;
	int64_t spin_ns;
	pthread_t thread;
	bool started;
	int wake_fd;

	/* Any thread. */
	_Atomic(bool) stopping, posted, asleep, want_quiet, evicting, released;
	_Atomic(uint64_t) evict_total, evict_asked;
	_Atomic(uint16_t) peers; /* that are there, or still to come */
	/* Pages that the views have lost; NULL: nobody wants to know. What it points to lives on, since
	 * the service thread may have seen it: lost_bits. */
	_Atomic(_Atomic(uint64_t) *) lost;
	_Atomic(uint64_t) *lost_bits;

	/* Under the lock. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool all_up, quiet;
	int error;
	struct post *posts;
	unsigned post_head, post_tail;
	const struct dsm_home *new_homes; /* of a dsm_rehome() that waits */
	unsigned new_home_count;
	bool rehome_done, share_done;
	int rehome_error;
};

extern const struct dsm_engine_ops dsm_service_ops;
extern const struct xp_handler dsm_service_handler;

void *dsm_service_main(void *arg);
/* The guest stops: nothing is answered any more. node: whom it concerns, DSM_NODE_NONE: ourselves. */
void dsm_fail(struct dsm *d, int err, uint8_t node, const char *why);
/* The service thread's side of dsm_rehome(): a post, and a peer's frame. */
BASE_MUST_CHECK int dsm_rehome_begin(struct dsm *d);
BASE_MUST_CHECK int dsm_rehome_frame(struct dsm *d, uint8_t peer, const struct xp_frame *f);
/* Executes what other threads asked for. */
int dsm_posts_handle(struct dsm *d, int64_t now_ns);

/* join.c */
void dsm_admit_begin(struct dsm *d, uint8_t peer, const char *address, uint64_t group);
void dsm_keep_begin(struct dsm *d, uint8_t peer);
void dsm_drop_begin(struct dsm *d, uint8_t peer);
BASE_MUST_CHECK int dsm_share_begin(struct dsm *d);
void dsm_peer_gone(struct dsm *d, uint8_t peer);
void dsm_admitted_up(struct dsm *d, uint8_t peer);
void dsm_admitted_down(struct dsm *d, uint8_t peer, int err);

/* track.c: before the views lose the pages. */
void dsm_track_lost(struct dsm *d, uint64_t gfn, uint64_t count);

/* evict.c */
void dsm_evict_begin(struct dsm *d, uint16_t nodes, uint64_t pages_per_s);
/* The last slice: its memory need not be shared any more. */
BASE_MUST_CHECK int dsm_release(struct dsm *d);
BASE_MUST_CHECK int dsm_evict_some(struct dsm *d, unsigned *work);

#endif
