/*
 * What the RDMA transport needs of libibverbs: a device, its memory, and one reliable connection (a
 * queue pair) to each node. Knows no frames and no sequence numbers. One thread.
 *
 * A message is up to XP_RDMA_HEAD_MAX bytes and perhaps a page, which goes either with it or by an
 * RDMA write straight into the peer's region, before it.
 */
#ifndef PROTO_XP_RDMA_H
#define PROTO_XP_RDMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/cleanup.h"

#define XP_RDMA_SLOTS	 128 /* messages that may be under way to a node */
#define XP_RDMA_SPARE	 32  /* receive buffers beyond that, for the transport's own messages */
#define XP_RDMA_HEAD_MAX 320
#define XP_RDMA_GID_LEN	 16

struct xp_rdma;

/* Of one end of a connection; each end needs the other's. */
struct xp_rdma_end {
	uint32_t qpn, psn;
	uint8_t gid[XP_RDMA_GID_LEN];
	uint8_t mtu; /* as enum ibv_mtu */
	uint32_t region_key;
	uint64_t region_at, region_len; /* 0: pages come with the messages */
};

enum xp_rdma_event_type { XP_RDMA_MESSAGE = 1, XP_RDMA_BROKEN };

struct xp_rdma_event {
	enum xp_rdma_event_type type;
	uint8_t node;
	uint16_t slot; /* of a message: until xp_rdma_give_back() */
	uint32_t len;
	const uint8_t *data;
};

/*
 * The device whose port has the address `own` (RoCE: the address is in its GID table). The region
 * is registered, and so kept in memory, whole; where that fails it is left out with a line in the
 * log. region NULL: none. -ENODEV: no such device; -EACCES, -ENOMEM.
 */
BASE_MUST_CHECK int xp_rdma_open(const struct sockaddr_storage *own, uint8_t *region,
				 size_t region_len, uint16_t peers, struct xp_rdma **out);
void xp_rdma_free(struct xp_rdma *r);
/* The device is soft-RoCE: its kernel module takes each message by a system call, and only from the
 * credentials that opened it. */
bool xp_rdma_is_soft(const struct xp_rdma *r);
/* The region is registered. */
bool xp_rdma_places(const struct xp_rdma *r);
/* The first address at which xp_rdma_open() would find a device, without a port. -ENODEV. */
BASE_MUST_CHECK int xp_rdma_address(char *out, size_t cap);

/* A new connection, not yet connected; one a node. -errno of libibverbs. */
BASE_MUST_CHECK int xp_rdma_new(struct xp_rdma *r, uint8_t node, struct xp_rdma_end *own);
/* -EPROTO: the peer's end makes no sense. Receiving works from here on, sending as well. */
BASE_MUST_CHECK int xp_rdma_connect(struct xp_rdma *r, uint8_t node,
				    const struct xp_rdma_end *peer);
/* What the device still does for it comes to an end; late messages are not reported. */
void xp_rdma_close(struct xp_rdma *r, uint8_t node);

/* Where a message (number n of those under way, modulo XP_RDMA_SLOTS) is written. */
uint8_t *xp_rdma_head(struct xp_rdma *r, uint8_t node, unsigned n);

struct xp_rdma_out {
	unsigned n; /* XP_RDMA_SLOTS: a message of at most 64 bytes that takes no slot */
	uint32_t head_len;
	const uint8_t *page; /* NULL: none. In the region it is not copied and must stay as it is */
	bool place;
	uint64_t at; /* in the peer's region; the caller has checked it */
};

/* Gathers; -EAGAIN: too many are under way. */
BASE_MUST_CHECK int xp_rdma_push(struct xp_rdma *r, uint8_t node, const struct xp_rdma_out *o);
/* Hands what was gathered to the device. */
BASE_MUST_CHECK int xp_rdma_post(struct xp_rdma *r, uint8_t node);
/* Work that the peer's device has not confirmed yet; 0 when the connection is broken. */
unsigned xp_rdma_unconfirmed(struct xp_rdma *r, uint8_t node);

/* What has happened, without blocking; at most max events. */
unsigned xp_rdma_poll(struct xp_rdma *r, struct xp_rdma_event *out, unsigned max);
void xp_rdma_give_back(struct xp_rdma *r, uint8_t node, uint16_t slot);
/* Readable when there are events, once xp_rdma_arm() was called and xp_rdma_poll() found none. */
int xp_rdma_fd(const struct xp_rdma *r);
void xp_rdma_arm(struct xp_rdma *r);

#endif
