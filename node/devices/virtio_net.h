/*
 * The network device. Its other end is a TAP interface (with offloads, and several queue pairs where
 * the interface has them) or a port of a user-space switch (SOCK_SEQPACKET, one Ethernet frame a
 * message, no offloads). Each queue pair has a thread.
 *
 * Saved state: queues, MAC, MTU, pairs in use. The descriptors are those of the process that loads.
 */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include "node/vmm/device.h"

enum { VIRTIO_NET_PAIRS_MAX = 8 };

struct virtio_net_options {
	/* One descriptor for each pair: queues of one TAP, or one socket. Owned by the device from
	 * the moment that it was made. */
	int fds[VIRTIO_NET_PAIRS_MAX];
	unsigned pairs;
	uint8_t mac[6];
	uint16_t mtu; /* told to the guest; 0: nothing is told */
};

/* -EINVAL for a descriptor that is neither, or a TAP without IFF_VNET_HDR. */
BASE_MUST_CHECK int virtio_net_new(struct vmm_env *env, struct vmm_virtio_slot slot,
				   const struct virtio_net_options *opts, struct vmm_device **out);

/* Opens a TAP that exists, or makes one (CAP_NET_ADMIN). -errno of open(2) and TUNSETIFF. */
BASE_MUST_CHECK int virtio_net_open_tap(const char *name, unsigned pairs, int *fds);
/* Connects to a switch's socket. -errno of connect(2), -ENAMETOOLONG. */
BASE_MUST_CHECK int virtio_net_open_port(const char *path, int *fd);

/*
 * Asks the guest to announce its addresses (VIRTIO_NET_S_ANNOUNCE), as after a migration. Any
 * thread; nothing happens where the driver cannot.
 */
void virtio_net_announce(struct vmm_device *dev);

#endif
