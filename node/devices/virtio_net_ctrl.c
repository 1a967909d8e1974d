/* The control queue: MAC, receive modes, queue pairs, announcements (VIRTIO 1.2, 5.1.6.5). */
#include <endian.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "node/devices/virtio_net_internal.h"

static uint8_t set_mac(struct net *n, const struct virtio_chain *c)
{
	uint8_t mac[6];

	if (c->out_bytes != sizeof(struct virtio_net_ctrl_hdr) + sizeof(mac))
		return VIRTIO_NET_ERR;
	virtio_iov_read(c->iov, c->out_count, sizeof(struct virtio_net_ctrl_hdr), mac, sizeof(mac));
	pthread_mutex_lock(&n->vd.config_lock);
	memcpy(n->vd.config, mac, sizeof(mac));
	pthread_mutex_unlock(&n->vd.config_lock);
	return VIRTIO_NET_OK;
}

static uint8_t set_pairs(struct net *n, const struct virtio_chain *c)
{
	uint16_t pairs;

	if (c->out_bytes != sizeof(struct virtio_net_ctrl_hdr) + sizeof(pairs))
		return VIRTIO_NET_ERR;
	virtio_iov_read(c->iov, c->out_count, sizeof(struct virtio_net_ctrl_hdr), &pairs,
			sizeof(pairs));
	pairs = le16toh(pairs);
	if (!virtio_has(&n->vd, VIRTIO_NET_F_MQ) || pairs == 0 || pairs > n->pair_count)
		return VIRTIO_NET_ERR;
	net_use_pairs(n, pairs);
	return VIRTIO_NET_OK;
}

static uint8_t acknowledge_announce(struct net *n)
{
	uint16_t status;

	pthread_mutex_lock(&n->vd.config_lock);
	memcpy(&status, n->vd.config + offsetof(struct virtio_net_config, status), sizeof(status));
	status &= ~htole16(VIRTIO_NET_S_ANNOUNCE);
	memcpy(n->vd.config + offsetof(struct virtio_net_config, status), &status, sizeof(status));
	pthread_mutex_unlock(&n->vd.config_lock);
	return VIRTIO_NET_OK;
}

static uint8_t command(struct net *n, const struct virtio_chain *c)
{
	struct virtio_net_ctrl_hdr h;

	if (c->out_bytes < sizeof(h))
		return VIRTIO_NET_ERR;
	virtio_iov_read(c->iov, c->out_count, 0, &h, sizeof(h));
	switch (h.class) {
	/* Every frame of the link is delivered, whatever mode is set. */
	case VIRTIO_NET_CTRL_RX:
		return h.cmd <= VIRTIO_NET_CTRL_RX_NOBCAST ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
	case VIRTIO_NET_CTRL_MAC:
		if (h.cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET)
			return VIRTIO_NET_OK;
		return h.cmd == VIRTIO_NET_CTRL_MAC_ADDR_SET ? set_mac(n, c) : VIRTIO_NET_ERR;
	case VIRTIO_NET_CTRL_MQ:
		return h.cmd == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET ? set_pairs(n, c) : VIRTIO_NET_ERR;
	case VIRTIO_NET_CTRL_ANNOUNCE:
		return h.cmd == VIRTIO_NET_CTRL_ANNOUNCE_ACK ? acknowledge_announce(n)
							     : VIRTIO_NET_ERR;
	default: return VIRTIO_NET_ERR;
	}
}

static bool ctrl_one(struct virtio_device *vd, struct virtio_queue *q, struct virtio_chain *c)
{
	virtio_net_ctrl_ack ack;

	if (c->in_bytes < sizeof(ack)) {
		virtio_device_fail(vd, "control command without room for its status");
		return false;
	}
	ack = command(net_of(vd), c);
	virtio_iov_write(virtio_chain_in(c), c->in_count, 0, &ack, sizeof(ack));
	virtio_queue_put(q, c, sizeof(ack));
	return true;
}

void net_ctrl_kick(struct net *n, struct virtio_queue *q)
{
	virtio_queue_serve(q, &n->ctrl_chain, ctrl_one);
}
