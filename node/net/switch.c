#include "node/net/switch.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/net/fdb.h"

enum {
	FRAMES_PER_TURN = 64, /* from one socket before the others get their turn */
	SOCKET_BUFFER = 4 << 20,
	/* Places in the forwarding database: ports from 0, peers after them. */
	PEER_PLACE = NODE_SWITCH_PORTS_MAX,
};

struct node_switch_port {
	struct base_watch watch;
	struct node_switch *sw;
	int index;
	uint32_t network;
	bool locked;
	uint8_t mac[6];
	void (*closed)(void *arg);
	void *arg;
	struct node_switch_stats stats;
};

struct node_switch_peer {
	struct node_switch *sw;
	int index;
	struct sockaddr_in addr;
	struct node_sealer sealer;
	struct node_opener opener;
	struct node_switch_stats stats;
};

struct node_switch {
	struct base_loop *loop;
	struct base_watch udp;
	struct node_seal_keys own;
	struct node_switch_port *ports[NODE_SWITCH_PORTS_MAX];
	struct node_switch_peer *peers[NODE_SWITCH_PEERS_MAX];
	uint64_t rx_stranger; /* datagrams that no peer's key opened */
	struct node_fdb fdb;
	uint8_t frame[NODE_SWITCH_FRAME_MAX + 1];
	uint8_t datagram[NODE_SWITCH_FRAME_MAX + NODE_SEAL_OVERHEAD + 1];
};

static void port_send(struct node_switch_port *p, const uint8_t *frame, size_t len)
{
	if (send(p->watch.fd, frame, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len) {
		p->stats.tx_frames++;
		p->stats.tx_bytes += len;
	} else {
		/* A socket whose other side has gone is reported by its EPOLLHUP. */
		p->stats.tx_full++;
	}
}

static void peer_send(struct node_switch_peer *p, uint32_t network, const uint8_t *frame,
		      size_t len)
{
	uint8_t *out = p->sw->datagram;
	size_t n = node_seal(&p->sealer, network, frame, len, out);

	if (sendto(p->sw->udp.fd, out, n, MSG_DONTWAIT, (const struct sockaddr *)&p->addr,
		   sizeof(p->addr)) == (ssize_t)n) {
		p->stats.tx_frames++;
		p->stats.tx_bytes += len;
	} else {
		p->stats.tx_full++;
	}
}

static void switch_flood(struct node_switch *sw, uint32_t network, int from, const uint8_t *frame,
			 size_t len)
{
	for (int i = 0; i < NODE_SWITCH_PORTS_MAX; i++)
		if (sw->ports[i] && i != from && sw->ports[i]->network == network)
			port_send(sw->ports[i], frame, len);
	if (from >= PEER_PLACE)
		return;
	for (int i = 0; i < NODE_SWITCH_PEERS_MAX; i++)
		if (sw->peers[i])
			peer_send(sw->peers[i], network, frame, len);
}

static void switch_forward(struct node_switch *sw, uint32_t network, int from, const uint8_t *frame,
			   size_t len)
{
	int64_t now = base_clock_ns();
	int to;

	node_fdb_learn(&sw->fdb, network, frame + 6, from, now);
	to = node_fdb_find(&sw->fdb, network, frame, now);
	if (to < 0)
		switch_flood(sw, network, from, frame, len);
	else if (to == from)
		return;
	else if (to < PEER_PLACE)
		port_send(sw->ports[to], frame, len);
	else if (from < PEER_PLACE)
		peer_send(sw->peers[to - PEER_PLACE], network, frame, len);
}

static void port_closed(struct node_switch_port *p)
{
	void (*closed)(void *) = p->closed;
	void *arg = p->arg;

	p->closed = NULL;
	base_loop_remove(&p->watch);
	if (closed)
		closed(arg);
	node_switch_port_remove(p);
}

/* 1: there may be more; 0: nothing now; -1: the other side has gone. */
static int port_receive(struct node_switch_port *p)
{
	struct node_switch *sw = p->sw;
	ssize_t n = recv(p->watch.fd, sw->frame, sizeof(sw->frame), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -1;
	if (n < NODE_SWITCH_FRAME_MIN || n > NODE_SWITCH_FRAME_MAX) {
		p->stats.rx_bad++;
	} else if (p->locked && memcmp(sw->frame + 6, p->mac, 6)) {
		p->stats.rx_forged++;
	} else {
		p->stats.rx_frames++;
		p->stats.rx_bytes += n;
		switch_forward(sw, p->network, p->index, sw->frame, n);
	}
	return 1;
}

/* Frames sent before a hang-up are forwarded first: recv() reports the end only after them. */
static void port_ready(struct base_watch *w, uint32_t events)
{
	struct node_switch_port *p = base_container_of(w, struct node_switch_port, watch);
	int more = 1;

	for (int i = 0; i < FRAMES_PER_TURN && more > 0; i++)
		more = port_receive(p);
	if (more < 0)
		port_closed(p);
}

static void peer_receive(struct node_switch_peer *p, uint32_t network, size_t len)
{
	struct node_switch *sw = p->sw;

	if (len < NODE_SWITCH_FRAME_MIN) {
		p->stats.rx_bad++;
		return;
	}
	p->stats.rx_frames++;
	p->stats.rx_bytes += len;
	switch_forward(sw, network, PEER_PLACE + p->index, sw->frame, len);
}

static bool same_address(const struct sockaddr_in *a, const struct sockaddr_in *b)
{
	return a->sin_addr.s_addr == b->sin_addr.s_addr && a->sin_port == b->sin_port;
}

static void udp_datagram(struct node_switch *sw, const struct sockaddr_in *from, size_t len)
{
	for (int i = 0; i < NODE_SWITCH_PEERS_MAX; i++) {
		struct node_switch_peer *p = sw->peers[i];
		uint32_t network;
		ssize_t n;

		if (!p || !same_address(&p->addr, from))
			continue;
		n = node_open(&p->opener, sw->datagram, len, &network, sw->frame,
			      NODE_SWITCH_FRAME_MAX);
		if (n < 0)
			p->stats.rx_forged++;
		else
			peer_receive(p, network, n);
		return;
	}
	sw->rx_stranger++;
}

static void udp_ready(struct base_watch *w, uint32_t events)
{
	struct node_switch *sw = base_container_of(w, struct node_switch, udp);

	for (int i = 0; i < FRAMES_PER_TURN; i++) {
		struct sockaddr_in from;
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(w->fd, sw->datagram, sizeof(sw->datagram), MSG_DONTWAIT,
				     (struct sockaddr *)&from, &from_len);

		/* An error here is one that an earlier datagram met on its way; the next may pass.
		 */
		if (n < 0)
			return;
		if (from_len == sizeof(from) && from.sin_family == AF_INET)
			udp_datagram(sw, &from, n);
	}
}

static void enlarge_buffers(int fd)
{
	int size = SOCKET_BUFFER;

	/* FORCE needs a privilege; without it the kernel caps the size, which costs only losses. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

int node_switch_new(struct base_loop *loop, int udp_fd, const struct node_seal_keys *own,
		    struct node_switch **out)
{
	struct node_switch *sw = calloc(1, sizeof(*sw));
	int pmtu = IP_PMTUDISC_DONT, rc;

	if (!sw)
		return -ENOMEM;
	sw->loop = loop;
	sw->own = *own;
	sw->udp = (struct base_watch){.fd = udp_fd, .events = EPOLLIN, .ready = udp_ready};
	if (udp_fd >= 0) {
		enlarge_buffers(udp_fd);
		/* Guests with a larger MTU than the path's: let IP fragment. */
		setsockopt(udp_fd, IPPROTO_IP, IP_MTU_DISCOVER, &pmtu, sizeof(pmtu));
		rc = base_loop_add(loop, &sw->udp);
		if (rc) {
			free(sw);
			return rc;
		}
	}
	*out = sw;
	return 0;
}

void node_switch_free(struct node_switch *sw)
{
	if (!sw)
		return;
	for (int i = 0; i < NODE_SWITCH_PORTS_MAX; i++)
		if (sw->ports[i])
			node_switch_port_remove(sw->ports[i]);
	for (int i = 0; i < NODE_SWITCH_PEERS_MAX; i++)
		if (sw->peers[i])
			node_switch_peer_remove(sw->peers[i]);
	if (sw->udp.fd >= 0) {
		base_loop_remove(&sw->udp);
		close(sw->udp.fd);
	}
	free(sw);
}

static int free_slot(void *const *slots, int count)
{
	for (int i = 0; i < count; i++)
		if (!slots[i])
			return i;
	return -ENOSPC;
}

int node_switch_port_add(struct node_switch *sw, int fd, uint32_t network, const uint8_t mac[6],
			 void (*closed)(void *arg), void *arg, struct node_switch_port **out)
{
	int index = free_slot((void *const *)sw->ports, NODE_SWITCH_PORTS_MAX), rc;
	struct node_switch_port *p;

	if (index < 0)
		return index;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->sw = sw;
	p->index = index;
	p->network = network;
	p->closed = closed;
	p->arg = arg;
	p->locked = mac != NULL;
	if (mac)
		memcpy(p->mac, mac, 6);
	p->watch = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = port_ready};
	enlarge_buffers(fd);
	rc = base_loop_add(sw->loop, &p->watch);
	if (rc) {
		free(p);
		return rc;
	}
	sw->ports[index] = p;
	*out = p;
	return 0;
}

void node_switch_port_remove(struct node_switch_port *p)
{
	node_fdb_forget(&p->sw->fdb, p->index);
	p->sw->ports[p->index] = NULL;
	base_loop_remove(&p->watch);
	close(p->watch.fd);
	free(p);
}

void node_switch_port_stats(const struct node_switch_port *p, struct node_switch_stats *out)
{
	*out = p->stats;
}

int node_switch_peer_add(struct node_switch *sw, const struct sockaddr_in *addr,
			 const uint8_t public_key[NODE_SEAL_KEY_LEN], struct node_switch_peer **out)
{
	int index = free_slot((void *const *)sw->peers, NODE_SWITCH_PEERS_MAX), rc;
	struct node_switch_peer *p;

	if (index < 0)
		return index;
	if (sw->udp.fd < 0)
		return -ENOTCONN;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->sw = sw;
	p->index = index;
	p->addr = *addr;
	rc = node_sealer_init(&p->sealer, &sw->own, public_key);
	if (!rc)
		rc = node_opener_init(&p->opener, &sw->own, public_key);
	if (rc) {
		free(p);
		return rc;
	}
	sw->peers[index] = p;
	*out = p;
	return 0;
}

void node_switch_peer_remove(struct node_switch_peer *p)
{
	node_fdb_forget(&p->sw->fdb, PEER_PLACE + p->index);
	p->sw->peers[p->index] = NULL;
	free(p);
}

void node_switch_peer_stats(const struct node_switch_peer *p, struct node_switch_stats *out)
{
	*out = p->stats;
}

/* RFC 903: "request reverse", sender and target hardware address both `mac`. */
void node_switch_port_announce(struct node_switch_port *p, const uint8_t mac[6])
{
	static const uint8_t rarp[] = {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};
	uint8_t frame[60] = {0};

	memset(frame, 0xff, 6);
	memcpy(frame + 6, mac, 6);
	memcpy(frame + 12, rarp, sizeof(rarp));
	memcpy(frame + 22, mac, 6);
	memcpy(frame + 32, mac, 6);
	switch_forward(p->sw, p->network, p->index, frame, sizeof(frame));
}
