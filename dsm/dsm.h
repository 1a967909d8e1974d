/*
 * Distributed shared memory of one slice: what node/ uses. It ties together the engine, userfaultfd
 * and a transport, on one service thread that resolves faults on the thread that receives the page.
 *
 *   dsm_new       memory file, guest views, homes, transport     the views fault from now on
 *   dsm_populate  pages that the loader has written (through dsm_alias)
 *   dsm_start     connects and serves
 *   dsm_wait_up   all peers are there; only now may guest code or devices touch the views
 *   dsm_stop, dsm_free
 *
 * Any thread may touch the guest's views, in user mode or from the kernel (KVM, vhost); it sleeps
 * until its page is here. It must not hold a lock that the callbacks need.
 *
 * Page numbers (gfn) count in the order of the memory file, without the holes of the address space.
 * The pages of each home are runs in that order. All slices use the same layout.
 *
 * Failure: when a peer is lost for longer than window_ms, breaks the protocol, or a system call
 * fails, `failed` is called once, on the service thread; every slice hears of it within window_ms
 * + 2 s. From then on no fault is answered: threads that wait for pages stay asleep until dsm_free()
 * or until they are killed, so the caller stops its vCPUs first and then frees.
 */
#ifndef DSM_DSM_H
#define DSM_DSM_H

#include "dsm/engine.h"
#include "dsm/uffd.h"
#include "proto/xp.h"

struct dsm;

struct dsm_callbacks {
	/* Service thread; must not block. peer: whom it concerns, DSM_NODE_NONE: ourselves. err: as
	 * xp_handler.down, or of the system call. */
	void (*failed)(void *ctx, int err, uint8_t peer, const char *why);
	/* A dsm_message() of a peer; service thread, must not block. NULL: messages are refused. */
	void (*message)(void *ctx, uint8_t peer, const void *data, size_t len);
	/* dsm_is_released(); service thread. May be NULL. */
	void (*released)(void *ctx);
	/* The views have lost these pages, and no other slice has written them yet; `bytes`: what they
	 * hold. Service thread; must not block. May be NULL. */
	void (*lost)(void *ctx, uint64_t gfn, uint64_t count, const uint8_t *bytes);
	/* Of a peer between dsm_admit() and dsm_keep(): 0: its link is there; else there is none (any
	 * more), and why. Service thread; must not block. May be NULL. */
	void (*link)(void *ctx, uint8_t peer, int err);
};

struct dsm_config {
	int memory_fd;
	uint64_t len; /* bytes of the memory file */
	const struct dsm_view *views;
	unsigned view_count;
	enum dsm_install install;

	const struct dsm_home *homes; /* copied */
	unsigned home_count;

	/* self, peers, room, addresses, listen_fd, group, key, encrypt, window_ms, dead_ms, network are the
	 * caller's to set; the rest is filled in. */
	const struct xp_ops *transport;
	struct xp_config xp;
	unsigned break_one_in; /* tests: the transport breaks connections at random */

	uint32_t hold_us;      /* minimum hold time, 0: 10 */
	uint32_t prefetch_max; /* pages ahead, 0: 256, UINT32_MAX: no prefetch */
	uint32_t around;       /* untouched pages that come with one (engine.h), 0: 16 */
	uint8_t rewrites;      /* engine.h; 0: 2, UINT8_MAX: never */
	uint32_t spin_us;      /* the service thread polls so long before it sleeps, 0: 50 */

	const struct dsm_callbacks *callbacks;
	void *ctx;
};

/* As dsm_uffd_new, dsm_engine_new, xp_open (which takes listen_fd over on success only). */
BASE_MUST_CHECK int dsm_new(const struct dsm_config *config, struct dsm **out);
/* Before dsm_start. -EINVAL: not all of it is at home here. */
BASE_MUST_CHECK int dsm_populate(struct dsm *d, uint64_t gfn, uint64_t count);
/* The private alias of the memory file: for the loader, before dsm_start. */
uint8_t *dsm_alias(struct dsm *d);
BASE_MUST_CHECK int dsm_start(struct dsm *d);
/* 0: all peers are up; -ETIMEDOUT; or the error of `failed`. */
BASE_MUST_CHECK int dsm_wait_up(struct dsm *d, unsigned timeout_ms);
/* Says goodbye and joins the service thread: no callback comes after it. Faults stay unanswered. */
void dsm_stop(struct dsm *d);
/* Stops if need be; the views go back to ordinary memory. NULL is fine. */
void dsm_free(struct dsm *d);

/* From here on: any thread, after dsm_start. */

#define DSM_MESSAGE_MAX 240
/* Ordered with the page traffic to the same peer. -EMSGSIZE; -EAGAIN: too many wait; -ENOTCONN:
 * failed or stopped. */
BASE_MUST_CHECK int dsm_message(struct dsm *d, uint8_t peer, const void *data, size_t len);
/* A hint; best effort. */
void dsm_prefetch_hint(struct dsm *d, uint64_t gfn, uint64_t count);
/* A copy. The counters of one field are consistent, those of several nearly. */
void dsm_stats_get(struct dsm *d, struct dsm_stats *out, struct xp_counters per_peer[DSM_NODE_MAX]);
/* owner[i]: who owns page gfn+i as its home here knows, DSM_NODE_NONE: nobody yet, or the home is
 * elsewhere. For the heat map. Races with the traffic are harmless. */
void dsm_owners(struct dsm *d, uint64_t gfn, uint64_t count, uint8_t *owner);
/* The memory file of this slice holds what the guest sees in the page. It may lose it at any moment. */
bool dsm_has(struct dsm *d, uint64_t gfn);
/* Waits until no request of this slice is under way (its vCPUs and devices must be paused, or there
 * will be new ones). -ETIMEDOUT. */
BASE_MUST_CHECK int dsm_quiesce(struct dsm *d, unsigned timeout_ms);
/*
 * Moves page homes. The guest is paused on every slice and every slice has had dsm_quiesce(); then
 * each calls this with the same map, and none resumes before all have returned. Pages stay where
 * they are: only the directory moves. -EINVAL; -ETIMEDOUT: a slice is not quiet or did not take
 * part, and the guest cannot go on; or the error of `failed`.
 */
BASE_MUST_CHECK int dsm_rehome(struct dsm *d, const struct dsm_home *homes, unsigned count,
			       unsigned timeout_ms);
/*
 * A slice that is to leave the guest: its homes have been moved elsewhere and it asks for no pages any
 * more. Then each other slice takes from `nodes` (bits), in the background, all that they have of the
 * pages at home with it; at most so many a second, 0: no limit. -EINVAL, -EBUSY, -ENOTCONN.
 */
BASE_MUST_CHECK int dsm_evict(struct dsm *d, uint16_t nodes, uint64_t pages_per_s);
/* True while it is under way. total: 0 until it is known. */
bool dsm_evict_progress(struct dsm *d, uint64_t *asked, uint64_t *total);
/* The end of the link to this peer is no failure from now on, and messages to it are dropped. -EINVAL,
 * -ENOTCONN, -EAGAIN. */
BASE_MUST_CHECK int dsm_forget(struct dsm *d, uint8_t peer);
/*
 * All others have left and memory is ordinary from now on: whoever touches it waits for nobody. That
 * comes by itself soon after the last has left, or soon after the start without peers.
 */
bool dsm_is_released(const struct dsm *d);
/*
 * A slice joins: the others call dsm_admit() for a number that nobody has (any more), with the address
 * where it listens and a group that no link to that number had before; it is made with their homes as they
 * are, its links' group, and them as peers. When `link` has said 0 it is a peer as any other, but for its
 * end, which is no failure until dsm_keep(); after that it is, also where `link` has told of it before.
 * dsm_drop() ends its link, also after dsm_keep() as long as it has no page and is no home. -EINVAL: no such
 * peer; -ENAMETOOLONG, -ENOTCONN, -EAGAIN.
 */
BASE_MUST_CHECK int dsm_admit(struct dsm *d, uint8_t peer, const char *address, uint64_t group);
BASE_MUST_CHECK int dsm_keep(struct dsm *d, uint8_t peer);
BASE_MUST_CHECK int dsm_drop(struct dsm *d, uint8_t peer);
/*
 * Before that, where all others have left: memory faults again, or goes on to. Nobody may touch the
 * views until it returns. They become ordinary again when dsm_drop() leaves this slice alone, or the link
 * never comes. 0 also where memory is shared; -ETIMEDOUT or the error of `failed`: the guest cannot go on.
 */
BASE_MUST_CHECK int dsm_share(struct dsm *d, unsigned timeout_ms);
/*
 * Which pages others may have written. From dsm_track_start() on there is a bit for each page, in 64-bit
 * words, that is set when the guest's views here lose the page, which they do before another slice can
 * write it. So what one thread read through a view since it last took the bits is what the memory holds,
 * but for pages whose bits it then takes, and for what was written on this slice. -ENOMEM; at -EBUSY
 * somebody else tracks. One thread; `take` sets bits and clears ours.
 */
BASE_MUST_CHECK int dsm_track_start(struct dsm *d);
void dsm_track_take(struct dsm *d, uint64_t *bits);
void dsm_track_stop(struct dsm *d);
enum dsm_install dsm_install_used(const struct dsm *d);
/* As xp_keeps_user(). */
bool dsm_keeps_user(const struct dsm *d);

#endif
