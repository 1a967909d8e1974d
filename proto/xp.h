/*
 * Data-plane transports: reliable, ordered frames between the nodes of one group (one guest), each
 * frame a short body and perhaps one 4 KiB page.
 *
 * One thread owns a transport: it alone calls everything here, and all callbacks run inside
 * xp_poll() on it. Nothing blocks. Frames between two nodes arrive exactly once and in order, also
 * across a connection that broke and came back within the window; between different pairs there is
 * no order. When the window is over, or a peer breaks the rules, the link is down for good.
 */
#ifndef PROTO_XP_H
#define PROTO_XP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "proto/wire_frame.h"

#define XP_NODE_MAX 16
#define XP_KEY_LEN  32

struct xp;

/* As delivered: valid during the callback only. */
struct xp_frame {
	const void *body;
	const void *page; /* WIRE_PAGE_LEN bytes, or NULL */
	uint16_t body_len;
	uint8_t type;
	bool placed; /* the page lies in the region already, at the offset that the sender named */
};

struct xp_handler {
	/* Negative: the peer broke the user's protocol; its link goes down with that error. May
	 * send. */
	int (*frame)(void *ctx, uint8_t peer, const struct xp_frame *f);
	/* The link is ready: once, not again after a reconnect. */
	void (*up)(void *ctx, uint8_t peer);
	/* Once, final. err: 0 the peer stopped on purpose, -ETIMEDOUT the window is over,
	 * -EPROTO nonsense, -EACCES not authentic, -ENOBUFS it does not take what we send. */
	void (*down)(void *ctx, uint8_t peer, int err);
};

struct xp_config {
	const struct xp_handler *handler;
	void *ctx;
	uint8_t self;
	uint16_t peers;			  /* bit per node, without self */
	uint16_t room;			  /* nodes that xp_admit() may add later; bits */
	const char *address[XP_NODE_MAX]; /* tcp, verbs: see xp_address.h */
	int listen_fd;	/* tcp, verbs: a listening socket, taken over; -1: bind address[self] */
	uint64_t group; /* only nodes of the same group accept each other */
	uint8_t key[XP_KEY_LEN]; /* of the group; who has it is authentic */
	bool encrypt;		 /* all frames; both ends must agree */
	uint32_t window_ms;	 /* to come up, and to reconnect; 0: 3000 */
	uint32_t dead_ms;	 /* silence after which a connection counts as broken; 0: 1000 */
	/* verbs: where pages may be placed (the same layout on every node); is kept in memory whole.
	 * NULL: pages come with the frames, in buffers. */
	uint8_t *region;
	size_t region_len;
	void *network; /* inproc, sim: the object that joins the nodes */
};

enum xp_cap {
	XP_CAP_PLACES = 1,   /* pages arrive in place */
	XP_CAP_ENCRYPTS = 2, /* xp_config.encrypt is honoured; elsewhere it is -EOPNOTSUPP */
	XP_CAP_REMOTE = 4,   /* reaches other hosts */
};

struct xp_out {
	uint8_t type;
	uint8_t body_len;
	const void *body;
	/* Copied before the call returns, except by a transport that places when it lies in our
	 * region: then its bytes must not change until the peer has handled the frame. */
	const void *page;
	uint64_t page_offset; /* where it belongs in the peer's region */
};

struct xp_counters {
	uint64_t frames_out, frames_in, bytes_out, bytes_in, reconnects, replayed, duplicates;
};

/* All slots are required. */
struct xp_ops {
	const char *name;
	uint32_t caps;
	int (*open)(const struct xp_config *config, struct xp **out);
	int (*send)(struct xp *xp, uint8_t peer, const struct xp_out *out);
	void (*flush)(struct xp *xp);
	unsigned (*poll)(struct xp *xp, int64_t now_ns);
	int (*fd)(const struct xp *xp);
	int64_t (*next_ns)(const struct xp *xp);
	void (*counters)(const struct xp *xp, uint8_t peer, struct xp_counters *out);
	void (*break_link)(struct xp *xp, uint8_t peer);
	int (*admit)(struct xp *xp, uint8_t node, const char *address, uint64_t group);
	void (*drop)(struct xp *xp, uint8_t peer);
	void (*stop)(struct xp *xp);
	void (*fini)(struct xp *xp);
};

/* The first member of every transport's object. */
struct xp {
	const struct xp_ops *ops;
};

extern const struct xp_ops xp_tcp;
extern const struct xp_ops xp_verbs;
extern const struct xp_ops xp_inproc;

/* By name, or NULL. */
const struct xp_ops *xp_find(const char *name);

/* Starts connecting; returns at once. config and its strings are copied. -EINVAL, -EOPNOTSUPP,
 * -ENODEV (verbs without a device), -EADDRINUSE, -ENOMEM. */
BASE_MUST_CHECK int xp_open(const struct xp_ops *ops, const struct xp_config *config,
			    struct xp **out);
/* Queues; goes out with xp_flush() at the latest. While a link that was up reconnects, frames wait.
 * -ENOTCONN: the link is not up yet, or down; -ENOBUFS, -ENOMEM: too much is queued. */
BASE_MUST_CHECK int xp_send(struct xp *xp, uint8_t peer, const struct xp_out *out);
void xp_flush(struct xp *xp);
/* Handles what is ready. Returns the number of frames delivered. */
unsigned xp_poll(struct xp *xp, int64_t now_ns);
/* Readable when xp_poll() has work. */
int xp_fd(const struct xp *xp);
/* When xp_poll() must be called at the latest; INT64_MAX: no need. */
int64_t xp_next_ns(const struct xp *xp);
void xp_counters(const struct xp *xp, uint8_t peer, struct xp_counters *out);
/* For tests: breaks the connection as the network would; the link reconnects. */
void xp_break_link(struct xp *xp, uint8_t peer);
/*
 * A node that is no peer yet, or whose link is down, becomes one: a new link to it comes up within the
 * window, or goes down, as at the start. group: the link's own, so that whoever had this number before is
 * not mistaken for it. address: where a node with a lower number than ours listens. -EBUSY: its link is
 * not down; -EINVAL, -ENOMEM.
 */
BASE_MUST_CHECK int xp_admit(struct xp *xp, uint8_t node, const char *address, uint64_t group);
/* Ends the link without a callback; with a goodbye where that need not be waited for. */
void xp_drop(struct xp *xp, uint8_t peer);
/* Says goodbye and closes everything; no callback comes after it. verbs: waits up to 300 ms for what
 * was sent to leave. */
void xp_stop(struct xp *xp);
/* Stops if need be and frees. NULL is fine. */
void xp_fini(struct xp *xp);

/* The transport's device serves only the credentials that opened it (soft-RoCE): the process must not
 * change its user, its capabilities or its Landlock domain while it is open. */
bool xp_keeps_user(const struct xp *xp);

/* verbs: the first address of this host that has an RDMA device, without a port. -ENODEV. */
BASE_MUST_CHECK int xp_verbs_address(char *out, size_t cap);

/* inproc: joins transports of one process. Outlives them all. */
BASE_MUST_CHECK int xp_inproc_network_new(void **out);
void xp_inproc_network_free(void *network);

/* A decorator that breaks connections of `inner` at random, one poll in `one_in`, seeded. Owns inner
 * after success. -ENOMEM. */
BASE_MUST_CHECK int xp_faulty_new(struct xp *inner, uint64_t seed, unsigned one_in,
				  struct xp **out);

#endif
