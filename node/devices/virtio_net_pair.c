/* Frames between a queue pair and its link. */
#include <errno.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "node/devices/virtio_net_internal.h"

/* Frames of one turn, so that sending gets its turn too; and buffers that a frame may be spread on. */
enum { RX_BATCH = 128, RX_MERGE_MAX = 128 };

static void link_watch(struct net_pair *p, uint32_t add, uint32_t remove)
{
	if (p->gone || base_loop_modify(&p->link, (p->link.events | add) & ~remove) == 0)
		return;
	log_error("virtio-net %u: cannot watch its link", p->net->vd.dev.instance);
}

/* Writes the header fields that are ours. For a TAP the kernel wrote the rest. */
static void rx_header(struct net_pair *p, struct virtio_chain *c, uint16_t buffers)
{
	struct virtio_net_hdr_v1 h = {.num_buffers = buffers};
	size_t skip = p->net->tap ? offsetof(struct virtio_net_hdr_v1, num_buffers) : 0;

	virtio_iov_write(virtio_chain_in(c), c->in_count, skip, (uint8_t *)&h + skip,
			 sizeof(h) - skip);
}

/*
 * Reads a frame into the first buffer, and what does not fit into p->spill. The length with
 * header, 0 where there is none, or -errno.
 */
static ssize_t rx_read(struct net_pair *p, struct virtio_chain *c)
{
	struct iovec iov[VIRTIO_CHAIN_MAX + 1];
	size_t skip = p->net->tap ? 0 : NET_HDR_LEN;
	unsigned n = virtio_iov_slice(virtio_chain_in(c), c->in_count, skip, c->in_bytes, iov);
	ssize_t got;

	iov[n++] = (struct iovec){p->spill, sizeof(p->spill)};
	got = readv(p->link.fd, iov, n);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	/* The far end of a socket hung up. */
	return got == 0 ? -EPIPE : got + (ssize_t)skip;
}

/*
 * Spreads the rest of a frame on further buffers; how many, or -EAGAIN: there are too few now,
 * -ENOSPC: it takes too many, -EBADMSG. Then none is used.
 */
static int rx_spread(struct net_pair *p, const uint8_t *rest, size_t left)
{
	int count = 0, rc = 0;

	while (left) {
		struct virtio_chain *c = &p->more_chain;
		size_t n;

		rc = count < RX_MERGE_MAX ? virtio_queue_take(p->rx, c) : -ENOSPC;
		if (rc <= 0)
			break;
		n = virtio_iov_write(virtio_chain_in(c), c->in_count, 0, rest, left);
		virtio_queue_put(p->rx, c, n);
		rest += n;
		left -= n;
		count++;
	}
	if (!left)
		return count;
	virtio_queue_unput(p->rx, count);
	virtio_queue_untake(p->rx, count);
	return rc ? rc : -EAGAIN;
}

/* Hands a frame of `len` bytes with header, the first of them in `c`, to the guest. */
static int rx_deliver(struct net_pair *p, struct virtio_chain *c, size_t len)
{
	bool merge = virtio_has(&p->net->vd, VIRTIO_NET_F_MRG_RXBUF);
	size_t first = BASE_MIN(len, c->in_bytes);
	int more = 0;

	if (len - NET_HDR_LEN > NET_FRAME_MAX || len < NET_HDR_LEN + NET_FRAME_MIN)
		return -EMSGSIZE;
	if (len > first && !merge)
		return -ENOSPC;
	virtio_queue_put(p->rx, c, first);
	if (len > first)
		more = rx_spread(p, p->spill + (p->held ? first : 0), len - first);
	if (more < 0) {
		virtio_queue_unput(p->rx, 1);
		return more;
	}
	rx_header(p, c, more + 1);
	virtio_chain_dirty(p->rx, c, NET_HDR_LEN);
	return 0;
}

/*
 * Of `waiting` buffers there are too few for the frame: keeps it until the guest gives more, which a
 * guest that has given all it can does not. A lost one would cost a TCP stream half its window.
 */
static int rx_hold(struct net_pair *p, struct virtio_chain *c, size_t len, unsigned waiting)
{
	if (waiting >= p->rx->size)
		return -ENOSPC;
	if (!p->held) {
		memmove(p->spill + c->in_bytes, p->spill, len - c->in_bytes);
		virtio_iov_read(virtio_chain_in(c), c->in_count, 0, p->spill, c->in_bytes);
		p->held = len;
	}
	return 0;
}

/* No more reading until the guest tells of new buffers; `waiting` of them are too few. */
static void rx_starved(struct net_pair *p, unsigned waiting)
{
	link_watch(p, 0, EPOLLIN);
	if (virtio_queue_notify_beyond(p->rx, waiting))
		virtio_queue_kick(p->rx);
}

/* The frame that was held or the next one. As rx_read(). */
static ssize_t rx_next(struct net_pair *p, struct virtio_chain *c)
{
	if (!p->held)
		return rx_read(p, c);
	virtio_iov_write(virtio_chain_in(c), c->in_count, 0, p->spill,
			 BASE_MIN(p->held, c->in_bytes));
	return (ssize_t)p->held;
}

/* One frame: 1, 0 when there is no more to do now, -errno when the link has gone. */
static int rx_one(struct net_pair *p)
{
	struct virtio_chain *c = &p->rx_chain;
	int waiting = virtio_queue_pending(p->rx), rc;
	ssize_t len;

	rc = waiting > 0 ? virtio_queue_take(p->rx, c) : waiting;
	if (rc == 0) {
		rx_starved(p, 0);
		return 0;
	}
	if (rc < 0 || c->in_bytes < NET_HDR_LEN || c->out_count) {
		virtio_device_fail(&p->net->vd, "malformed receive queue");
		return 0;
	}
	len = rx_next(p, c);
	if (len <= 0) {
		virtio_queue_untake(p->rx, 1);
		return len;
	}
	rc = rx_deliver(p, c, len);
	if (rc) {
		virtio_queue_untake(p->rx, 1);
		if (rc == -EAGAIN)
			rc = rx_hold(p, c, len, waiting);
		if (rc == 0) {
			rx_starved(p, waiting);
			return 0;
		}
		p->held = 0;
		p->stats.rx_dropped++;
		if (rc == -EBADMSG)
			virtio_device_fail(&p->net->vd, "malformed receive queue");
		return rc != -EBADMSG;
	}
	p->held = 0;
	p->stats.rx_frames++;
	p->stats.rx_bytes += len - NET_HDR_LEN;
	return 1;
}

static int rx_batch(struct net_pair *p)
{
	int rc = 1;

	virtio_queue_notify_off(p->rx);
	for (unsigned i = 0; i < RX_BATCH && rc > 0; i++)
		rc = rx_one(p);
	virtio_queue_publish(p->rx);
	return rc;
}

/* No locks held: config space has its own. */
static void link_gone(struct net_pair *p)
{
	const uint16_t down = 0;

	p->gone = true;
	base_loop_remove(&p->link);
	log_warn("virtio-net %u: its link has gone", p->net->vd.dev.instance);
	virtio_config_set(&p->net->vd, offsetof(struct virtio_net_config, status), &down,
			  sizeof(down));
}

static void link_ready(struct base_watch *w, uint32_t events)
{
	struct net_pair *p = base_container_of(w, struct net_pair, link);
	int rc = 0;

	if (events & EPOLLOUT) {
		link_watch(p, 0, EPOLLOUT);
		virtio_queue_kick(p->tx);
	}
	if (events & EPOLLIN) {
		pthread_mutex_lock(&p->rx->lock);
		if (p->rx->running && virtio_device_runs(&p->net->vd))
			rc = rx_batch(p);
		else
			link_watch(p, 0, EPOLLIN);
		pthread_mutex_unlock(&p->rx->lock);
	}
	/* What is still to be read comes first. */
	if (rc < 0 || ((events & (EPOLLHUP | EPOLLERR)) && !(events & EPOLLIN)))
		link_gone(p);
}

static bool tx_one(struct virtio_device *vd, struct virtio_queue *q, struct virtio_chain *c)
{
	struct net_pair *p = &net_of(vd)->pairs[q->index / 2];
	int rc = -EMSGSIZE;

	if (c->out_bytes >= NET_HDR_LEN + NET_FRAME_MIN &&
	    c->out_bytes <= NET_HDR_LEN + NET_FRAME_MAX)
		rc = net_link_send(p->link.fd, p->net->tap, c->iov, c->out_count);
	if (rc == -EAGAIN && !p->gone) {
		link_watch(p, EPOLLOUT, 0);
		return false;
	}
	if (rc) {
		p->stats.tx_dropped++;
	} else {
		p->stats.tx_frames++;
		p->stats.tx_bytes += c->out_bytes - NET_HDR_LEN;
	}
	virtio_queue_put(q, c, 0);
	return true;
}

void net_pair_kick(struct net_pair *p, struct virtio_queue *q)
{
	int rc = 1;

	if (q == p->tx) {
		virtio_queue_serve(q, &p->tx_chain, tx_one);
		return;
	}
	/* The link need not have anything new to say when a frame of it waits here. */
	if (p->held) {
		rc = rx_one(p);
		virtio_queue_publish(p->rx);
	}
	if (rc > 0)
		link_watch(p, EPOLLIN, 0);
}

void net_pair_reset(struct net_pair *p)
{
	pthread_mutex_lock(&p->rx->lock);
	p->held = 0;
	pthread_mutex_unlock(&p->rx->lock);
}

int net_pair_init(struct net *n, unsigned index, int fd)
{
	struct net_pair *p = &n->pairs[index];
	int rc;

	p->net = n;
	rc = virtio_worker_init(&p->worker);
	if (rc)
		return rc;
	p->rx = &n->vd.queues[2 * index];
	p->tx = &n->vd.queues[2 * index + 1];
	rc = virtio_queue_serve_on(p->rx, p->worker.loop);
	if (!rc)
		rc = virtio_queue_serve_on(p->tx, p->worker.loop);
	if (!rc && index == 0)
		rc = virtio_queue_serve_on(&n->vd.queues[2 * n->pair_count], p->worker.loop);
	if (rc)
		return rc;
	p->link = (struct base_watch){.fd = fd, .ready = link_ready};
	return base_loop_add(p->worker.loop, &p->link);
}

void net_pair_fini(struct net_pair *p, bool close_fd)
{
	virtio_worker_stop(&p->worker);
	if (p->rx) {
		base_loop_remove(&p->rx->kick);
		base_loop_remove(&p->tx->kick);
	}
	base_loop_remove(&p->link);
	if (close_fd)
		close(p->link.fd);
}
