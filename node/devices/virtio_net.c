#include "node/devices/virtio_net.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "base/log.h"
#include "node/devices/virtio_net_internal.h"

enum { NET_QUEUE_SIZE = 256, NET_CTRL_SIZE = 64, NET_CONFIG_LEN = 12, NET_MTU_MIN = 68 };

void net_use_pairs(struct net *n, unsigned pairs)
{
	for (unsigned i = 0; n->tap && n->pair_count > 1 && i < n->pair_count; i++) {
		int rc = net_link_attach(n->pairs[i].link.fd, i < pairs);

		if (rc)
			log_warn("virtio-net %u: TAP queue %u: %s", n->vd.dev.instance, i,
				 strerror(-rc));
	}
	atomic_store(&n->pairs_active, pairs);
}

static void net_kick(struct virtio_device *vd, struct virtio_queue *q)
{
	struct net *n = net_of(vd);

	if (q->index == 2 * n->pair_count)
		net_ctrl_kick(n, q);
	else
		net_pair_kick(&n->pairs[q->index / 2], q);
}

static void net_activate(struct virtio_device *vd)
{
	struct net *n = net_of(vd);

	net_use_pairs(n, atomic_load(&n->pairs_active));
	for (unsigned i = 0; n->tap && i < n->pair_count; i++) {
		int rc = net_link_set_offload(n->pairs[i].link.fd, vd->agreed);

		if (rc && rc != -EBADFD)
			log_warn("virtio-net %u: TAP offloads: %s", vd->dev.instance,
				 strerror(-rc));
	}
}

static int net_start(struct virtio_device *vd)
{
	struct net *n = net_of(vd);
	int rc = 0;

	for (unsigned i = 0; i < n->pair_count && !rc; i++) {
		char name[32];

		snprintf(name, sizeof(name), "net%u-%u", vd->dev.instance, i);
		rc = virtio_worker_start(&n->pairs[i].worker, name);
	}
	return rc;
}

static void net_reset(struct virtio_device *vd)
{
	struct net *n = net_of(vd);

	for (unsigned i = 0; i < n->pair_count; i++)
		net_pair_reset(&n->pairs[i]);
	net_use_pairs(n, 1);
}

static void net_save(struct virtio_device *vd, struct base_wbuf *out)
{
	struct net *n = net_of(vd);

	base_wbuf_bytes(out, vd->config, NET_CONFIG_LEN);
	base_wbuf_u16(out, atomic_load(&n->pairs_active));
}

static int net_load(struct virtio_device *vd, struct base_rbuf *in, uint32_t version)
{
	struct net *n = net_of(vd);
	struct virtio_net_config now, saved;
	uint16_t active;

	memcpy(&now, vd->config, NET_CONFIG_LEN);
	base_rbuf_bytes(in, &saved, NET_CONFIG_LEN);
	active = base_rbuf_u16(in);
	if (in->error)
		return in->error;
	if (saved.max_virtqueue_pairs != now.max_virtqueue_pairs || active == 0 ||
	    active > n->pair_count)
		return -EPROTO;
	/* The link is as it is here. */
	saved.status = now.status;
	memcpy(vd->config, &saved, NET_CONFIG_LEN);
	atomic_store(&n->pairs_active, active);
	return 0;
}

static void net_stats(struct virtio_device *vd,
		      void (*put)(void *arg, const char *name, uint64_t value), void *arg)
{
	struct net *n = net_of(vd);
	struct net_stats sum = {0};

	for (unsigned i = 0; i < n->pair_count; i++) {
		struct net_pair *p = &n->pairs[i];

		pthread_mutex_lock(&p->rx->lock);
		sum.rx_frames += p->stats.rx_frames;
		sum.rx_bytes += p->stats.rx_bytes;
		sum.rx_dropped += p->stats.rx_dropped;
		pthread_mutex_unlock(&p->rx->lock);
		pthread_mutex_lock(&p->tx->lock);
		sum.tx_frames += p->stats.tx_frames;
		sum.tx_bytes += p->stats.tx_bytes;
		sum.tx_dropped += p->stats.tx_dropped;
		pthread_mutex_unlock(&p->tx->lock);
	}
	put(arg, "rx_frames", sum.rx_frames);
	put(arg, "rx_bytes", sum.rx_bytes);
	put(arg, "rx_dropped", sum.rx_dropped);
	put(arg, "tx_frames", sum.tx_frames);
	put(arg, "tx_bytes", sum.tx_bytes);
	put(arg, "tx_dropped", sum.tx_dropped);
}

static void net_free(struct net *n, bool close_fds)
{
	for (unsigned i = 0; i < n->pair_count; i++)
		if (n->pairs[i].net)
			net_pair_fini(&n->pairs[i], close_fds);
	/* The control queue is on the first pair's loop: before that goes. */
	virtio_device_fini(&n->vd);
	for (unsigned i = 0; i < n->pair_count; i++)
		virtio_worker_fini(&n->pairs[i].worker);
	free(n->pairs);
	free(n);
}

static void net_fini(struct virtio_device *vd)
{
	net_free(net_of(vd), true);
}

static const struct virtio_ops net_ops = {
	.device = VIRTIO_DEVICE_OPS("virtio-net", 1),
	.id = VIRTIO_ID_NET,
	.kick = net_kick,
	.start = net_start,
	.activate = net_activate,
	.reset = net_reset,
	.save = net_save,
	.load = net_load,
	.stats = net_stats,
	.fini = net_fini,
};

void virtio_net_announce(struct vmm_device *dev)
{
	struct virtio_device *vd = base_container_of(dev, struct virtio_device, dev);
	const uint16_t status = htole16(VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);

	if (virtio_has(vd, VIRTIO_NET_F_GUEST_ANNOUNCE))
		virtio_config_set(vd, offsetof(struct virtio_net_config, status), &status,
				  sizeof(status));
}

static void net_describe(struct net *n, const struct virtio_net_options *opts)
{
	static const unsigned always[] = {
		VIRTIO_NET_F_MAC,
		VIRTIO_NET_F_STATUS,
		VIRTIO_NET_F_MRG_RXBUF,
		VIRTIO_NET_F_CTRL_VQ,
		VIRTIO_NET_F_CTRL_RX,
		VIRTIO_NET_F_CTRL_MAC_ADDR,
		VIRTIO_NET_F_GUEST_ANNOUNCE,
	};
	static const unsigned of_tap[] = {
		VIRTIO_NET_F_CSUM,	 VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_TSO4,
		VIRTIO_NET_F_HOST_TSO6,	 VIRTIO_NET_F_HOST_ECN,	  VIRTIO_NET_F_GUEST_TSO4,
		VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN,
	};
	struct virtio_net_config c = {.status = htole16(VIRTIO_NET_S_LINK_UP),
				      .max_virtqueue_pairs = htole16(n->pair_count),
				      .mtu = htole16(opts->mtu)};

	memcpy(c.mac, opts->mac, sizeof(c.mac));
	memcpy(n->vd.config, &c, NET_CONFIG_LEN);
	n->vd.config_len = NET_CONFIG_LEN;
	for (unsigned i = 0; i < BASE_ARRAY_LEN(always); i++)
		n->vd.features |= VIRTIO_BIT(always[i]);
	for (unsigned i = 0; n->tap && i < BASE_ARRAY_LEN(of_tap); i++)
		n->vd.features |= VIRTIO_BIT(of_tap[i]);
	if (n->pair_count > 1)
		n->vd.features |= VIRTIO_BIT(VIRTIO_NET_F_MQ);
	if (opts->mtu)
		n->vd.features |= VIRTIO_BIT(VIRTIO_NET_F_MTU);
}

static int net_check(const struct virtio_net_options *opts, bool *tap)
{
	if (opts->pairs == 0 || opts->pairs > VIRTIO_NET_PAIRS_MAX ||
	    (opts->mtu && opts->mtu < NET_MTU_MIN) || (opts->mac[0] & 1))
		return -EINVAL;
	for (unsigned i = 0; i < opts->pairs; i++) {
		bool is_tap;
		int rc = net_link_adopt(opts->fds[i], &is_tap);

		if (rc)
			return rc;
		/* A switch port is one socket. */
		if (i > 0 && !is_tap)
			return -EINVAL;
		*tap = is_tap;
	}
	return 0;
}

int virtio_net_new(struct vmm_env *env, struct vmm_virtio_slot slot,
		   const struct virtio_net_options *opts, struct vmm_device **out)
{
	uint16_t queue_max[2 * VIRTIO_NET_PAIRS_MAX + 1];
	struct net *n;
	bool tap = false;
	int rc = net_check(opts, &tap);

	if (rc)
		return rc;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->tap = tap;
	n->pairs_active = 1;
	n->pairs = calloc(opts->pairs, sizeof(*n->pairs));
	rc = n->pairs ? 0 : -ENOMEM;
	for (unsigned i = 0; i < 2 * opts->pairs; i++)
		queue_max[i] = NET_QUEUE_SIZE;
	queue_max[2 * opts->pairs] = NET_CTRL_SIZE;
	if (!rc)
		rc = virtio_device_init(&n->vd, &net_ops, env, slot, queue_max,
					2 * opts->pairs + 1);
	if (rc) {
		free(n->pairs);
		free(n);
		return rc;
	}
	n->pair_count = opts->pairs;
	net_describe(n, opts);
	for (unsigned i = 0; i < n->pair_count && !rc; i++)
		rc = net_pair_init(n, i, opts->fds[i]);
	if (rc) {
		net_free(n, false);
		return rc;
	}
	*out = &n->vd.dev;
	return 0;
}
