/* The far end of a network device: what TAP and switch port differ in. */
#ifndef NET_LINK_H
#define NET_LINK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"

enum {
	NET_HDR_LEN = 12,	    /* struct virtio_net_hdr_v1 */
	NET_FRAME_MIN = 14,	    /* an Ethernet header */
	NET_FRAME_MAX = 65535 + 18, /* what GSO can make */
};

/* Which of the two it is; makes it non-blocking and sets a TAP's header length. -EINVAL. */
BASE_MUST_CHECK int net_link_adopt(int fd, bool *tap);
/* Tells a TAP what the guest takes (agreed features). -errno. */
BASE_MUST_CHECK int net_link_set_offload(int fd, uint64_t agreed);
/* Has a TAP's queue take part, or not. -errno. */
BASE_MUST_CHECK int net_link_attach(int fd, bool on);
/*
 * Sends one frame: `iov` begins with the virtio header, which goes to a TAP only. 0, -EAGAIN where
 * the link is full, another -errno where this frame cannot go.
 */
BASE_MUST_CHECK int net_link_send(int fd, bool tap, const struct iovec *iov, unsigned count);

#endif
