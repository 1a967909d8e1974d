/* virtio_net.c: device and life; virtio_net_pair.c: frames; virtio_net_ctrl.c: the control queue. */
#ifndef VIRTIO_NET_INTERNAL_H
#define VIRTIO_NET_INTERNAL_H

#include "node/devices/net_link.h"
#include "node/devices/virtio.h"
#include "node/devices/virtio_net.h"
#include "node/devices/virtio_worker.h"

struct net;

struct net_stats {
	uint64_t rx_frames, rx_bytes, rx_dropped;
	uint64_t tx_frames, tx_bytes, tx_dropped;
};

/*
 * Thread: the worker's alone, but for `stats`, whose rx half the rx queue's lock guards and whose tx
 * half the tx queue's, and `held`, which the rx queue's lock guards.
 */
struct net_pair {
	struct net *net;
	struct virtio_queue *rx, *tx;
	struct virtio_worker worker;
	struct base_watch link; /* no EPOLLIN while the guest has no buffers for us */
	bool gone;		/* the far end has hung up */
	struct net_stats stats;
	struct virtio_chain rx_chain, more_chain, tx_chain;
	/* What is longer than a buffer of a frame that is being read; the whole frame, header first,
	 * while `held`: its length, as long as the guest has too few buffers for it. */
	size_t held;
	uint8_t spill[NET_HDR_LEN + NET_FRAME_MAX + 1];
};

struct net {
	struct virtio_device vd;
	bool tap;
	unsigned pair_count;
	atomic_uint pairs_active;
	struct net_pair *pairs;
	struct virtio_chain ctrl_chain;
};

static inline struct net *net_of(struct virtio_device *vd)
{
	return base_container_of(vd, struct net, vd);
}

BASE_MUST_CHECK int net_pair_init(struct net *n, unsigned index, int fd);
/* Ends the thread. The descriptor is closed with `close_fd`. */
void net_pair_fini(struct net_pair *p, bool close_fd);
void net_pair_kick(struct net_pair *p, struct virtio_queue *q);
/* Forgets a frame that waits: the next driver may have agreed on other frames. */
void net_pair_reset(struct net_pair *p);

/* Under the control queue's lock. */
void net_ctrl_kick(struct net *n, struct virtio_queue *q);
/* Uses `pairs` pairs. The queues of the others stay as they are. */
void net_use_pairs(struct net *n, unsigned pairs);

#endif
