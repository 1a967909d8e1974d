#include "proto/xp_rdma.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "proto/xp.h"

#define RECV_SLOTS   (XP_RDMA_SLOTS + XP_RDMA_SPARE)
#define SEND_DEPTH   512
#define CHAIN_MAX    32 /* work requests handed over at once */
#define INLINE_MAX   64
#define SLOT_BYTES   4480 /* a message with its page, rounded up to cache lines */
#define GIDS_MAX     1024
#define SIGNAL_EVERY 16
/* 4.096 us << TIMEOUT until a lost packet is sent again. */
#define TIMEOUT 14
/* The vendor that rdma_rxe says. */
#define SOFT_VENDOR 0xffffff
#define RETRIES	    7

_Static_assert(SLOT_BYTES >= XP_RDMA_HEAD_MAX + WIRE_PAGE_LEN, "a slot holds every message");

struct qp {
	struct ibv_qp *qp;
	uint16_t generation;  /* completions of an older one are stale */
	uint8_t *send, *recv; /* XP_RDMA_SLOTS and RECV_SLOTS slots */
	uint8_t small[INLINE_MAX];
	struct xp_rdma_end peer;
	uint32_t psn;
	uint32_t posted, done; /* work requests */
	unsigned chain_len;
	struct ibv_send_wr chain[CHAIN_MAX];
	struct ibv_sge sge[CHAIN_MAX][2];
};

struct xp_rdma {
	struct ibv_context *ctx;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *send_cq, *recv_cq;
	struct ibv_mr *slots_mr, *region_mr;
	uint8_t *slots, *region;
	size_t slots_len, region_len;
	struct ibv_gid_entry gid;
	uint8_t mtu;
	bool armed, seen; /* seen: something came since, so an event is there or will be */
	uint16_t broken;  /* nodes to report */
	struct base_rng rng;
	struct qp qp[XP_NODE_MAX];
};

/* ---- finding the device ---- */

static bool gid_is(const union ibv_gid *gid, const struct sockaddr_storage *a)
{
	static const uint8_t v4[12] = {[10] = 0xff, [11] = 0xff};
	const struct sockaddr_in *in4 = (const struct sockaddr_in *)a;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)a;

	if (a->ss_family == AF_INET6)
		return !memcmp(gid->raw, &in6->sin6_addr, sizeof(gid->raw));
	return !memcmp(gid->raw, v4, sizeof(v4)) && !memcmp(gid->raw + 12, &in4->sin_addr, 4);
}

static bool gid_wanted(const struct ibv_gid_entry *g, const struct sockaddr_storage *own)
{
	/* Link-local ones are of no use beyond the link; without a wish take an IPv4 address. */
	return g->gid_type != IBV_GID_TYPE_IB &&
	       (own ? gid_is(&g->gid, own) : g->gid.raw[10] == 0xff && !g->gid.raw[0]);
}

/* RoCE v2 before v1. */
static bool find_gid(struct ibv_context *ctx, const struct sockaddr_storage *own,
		     struct ibv_gid_entry *out)
{
	struct ibv_gid_entry *all = calloc(GIDS_MAX, sizeof(*all));
	ssize_t n = all ? ibv_query_gid_table(ctx, all, GIDS_MAX, 0) : 0;
	bool found = false;

	for (ssize_t i = 0; i < n; i++) {
		if (!gid_wanted(&all[i], own) || (found && all[i].gid_type != IBV_GID_TYPE_ROCE_V2))
			continue;
		*out = all[i];
		found = true;
	}
	free(all);
	return found;
}

/* own NULL: any. */
static int open_device(const struct sockaddr_storage *own, struct ibv_context **out,
		       struct ibv_gid_entry *gid)
{
	int count = 0;
	struct ibv_device **list = ibv_get_device_list(&count);

	*out = NULL;
	for (int i = 0; i < count && list && !*out; i++) {
		struct ibv_context *ctx = ibv_open_device(list[i]);

		if (ctx && find_gid(ctx, own, gid))
			*out = ctx;
		else if (ctx)
			ibv_close_device(ctx);
	}
	if (list)
		ibv_free_device_list(list);
	return *out ? 0 : -ENODEV;
}

int xp_rdma_address(char *out, size_t cap)
{
	struct ibv_context *ctx;
	struct ibv_gid_entry gid;
	int err = open_device(NULL, &ctx, &gid);

	if (err)
		return err;
	ibv_close_device(ctx);
	return inet_ntop(AF_INET, gid.gid.raw + 12, out, (socklen_t)cap) ? 0 : -EINVAL;
}

/* ---- making ---- */

static int set_up_queues(struct xp_rdma *r, int peers)
{
	struct ibv_port_attr port;

	if (ibv_query_port(r->ctx, (uint8_t)r->gid.port_num, &port))
		return -ENODEV;
	r->mtu = (uint8_t)port.active_mtu;
	r->pd = ibv_alloc_pd(r->ctx);
	r->channel = ibv_create_comp_channel(r->ctx);
	if (!r->pd || !r->channel)
		return -ENOMEM;
	r->send_cq = ibv_create_cq(r->ctx, peers * SEND_DEPTH, NULL, NULL, 0);
	r->recv_cq = ibv_create_cq(r->ctx, peers * RECV_SLOTS, NULL, r->channel, 0);
	if (!r->send_cq || !r->recv_cq)
		return -ENOMEM;
	int flags = fcntl(r->channel->fd, F_GETFL);

	return fcntl(r->channel->fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

static int set_up_slots(struct xp_rdma *r, uint16_t peers)
{
	uint8_t *p;

	r->slots_len =
		(size_t)__builtin_popcount(peers) * (XP_RDMA_SLOTS + RECV_SLOTS) * SLOT_BYTES;
	p = mmap(NULL, r->slots_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	r->slots = p;
	r->slots_mr = ibv_reg_mr(r->pd, p, r->slots_len, IBV_ACCESS_LOCAL_WRITE);
	if (!r->slots_mr) {
		log_error("RDMA: %zu bytes cannot be locked in memory (ulimit -l): %s",
			  r->slots_len, strerror(errno));
		return -ENOMEM;
	}
	for (unsigned n = 0; n < XP_NODE_MAX; n++) {
		if (!(peers & 1u << n))
			continue;
		r->qp[n].send = p;
		r->qp[n].recv = p + XP_RDMA_SLOTS * SLOT_BYTES;
		p += (XP_RDMA_SLOTS + RECV_SLOTS) * SLOT_BYTES;
	}
	return 0;
}

static void set_up_region(struct xp_rdma *r, uint8_t *region, size_t len)
{
	if (!region)
		return;
	r->region_mr =
		ibv_reg_mr(r->pd, region, len, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	if (!r->region_mr) {
		log_warn("RDMA: the guest's %zu MiB cannot be locked in memory (%s; ulimit -l): "
			 "pages are copied instead of written in place",
			 len >> 20, strerror(errno));
		return;
	}
	r->region = region;
	r->region_len = len;
}

int xp_rdma_open(const struct sockaddr_storage *own, uint8_t *region, size_t region_len,
		 uint16_t peers, struct xp_rdma **out)
{
	struct xp_rdma *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	base_rng_seed(&r->rng, (uint64_t)base_clock_ns() ^ (uintptr_t)r);
	int err = open_device(own, &r->ctx, &r->gid);

	if (!err)
		err = set_up_queues(r, BASE_MAX(__builtin_popcount(peers), 1));
	if (!err && peers)
		err = set_up_slots(r, peers);
	if (err) {
		xp_rdma_free(r);
		return err;
	}
	set_up_region(r, region, region_len);
	*out = r;
	return 0;
}

bool xp_rdma_is_soft(const struct xp_rdma *r)
{
	struct ibv_device_attr a;

	return ibv_query_device(r->ctx, &a) == 0 && a.vendor_id == SOFT_VENDOR;
}

bool xp_rdma_places(const struct xp_rdma *r)
{
	return r->region;
}

void xp_rdma_free(struct xp_rdma *r)
{
	if (!r)
		return;
	for (uint8_t n = 0; n < XP_NODE_MAX; n++)
		xp_rdma_close(r, n);
	if (r->region_mr)
		ibv_dereg_mr(r->region_mr);
	if (r->slots_mr)
		ibv_dereg_mr(r->slots_mr);
	if (r->slots)
		munmap(r->slots, r->slots_len);
	if (r->recv_cq)
		ibv_destroy_cq(r->recv_cq);
	if (r->send_cq)
		ibv_destroy_cq(r->send_cq);
	if (r->channel)
		ibv_destroy_comp_channel(r->channel);
	if (r->pd)
		ibv_dealloc_pd(r->pd);
	if (r->ctx)
		ibv_close_device(r->ctx);
	free(r);
}

/* ---- connections ---- */

/* A work request's number: generation, node, and what is left for its kind. */
static uint64_t wr_id(const struct qp *q, uint8_t node, uint32_t rest)
{
	return (uint64_t)q->generation << 48 | (uint64_t)node << 32 | rest;
}

static struct qp *qp_of(struct xp_rdma *r, uint64_t id)
{
	struct qp *q = &r->qp[id >> 32 & 0xf];

	return q->qp && q->generation == id >> 48 ? q : NULL;
}

static int post_receive(struct xp_rdma *r, uint8_t node, uint16_t slot)
{
	struct qp *q = &r->qp[node];
	struct ibv_sge sge = {.addr = (uintptr_t)(q->recv + slot * SLOT_BYTES),
			      .length = SLOT_BYTES,
			      .lkey = r->slots_mr->lkey};
	struct ibv_recv_wr *bad,
		wr = {.wr_id = wr_id(q, node, slot), .sg_list = &sge, .num_sge = 1};

	return -ibv_post_recv(q->qp, &wr, &bad);
}

static int qp_init(struct xp_rdma *r, struct ibv_qp *qp)
{
	struct ibv_qp_attr a = {.qp_state = IBV_QPS_INIT,
				.port_num = (uint8_t)r->gid.port_num,
				.qp_access_flags = IBV_ACCESS_REMOTE_WRITE};

	return -ibv_modify_qp(qp, &a,
			      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

int xp_rdma_new(struct xp_rdma *r, uint8_t node, struct xp_rdma_end *own)
{
	struct qp *q = &r->qp[node];
	struct ibv_qp_init_attr init = {.send_cq = r->send_cq,
					.recv_cq = r->recv_cq,
					.qp_type = IBV_QPT_RC,
					.cap = {.max_send_wr = SEND_DEPTH,
						.max_recv_wr = RECV_SLOTS,
						.max_send_sge = 2,
						.max_recv_sge = 1,
						.max_inline_data = INLINE_MAX}};

	assert(q->send && !q->qp);
	errno = EOPNOTSUPP;
	q->qp = ibv_create_qp(r->pd, &init);
	if (!q->qp)
		return -errno;
	q->generation++;
	q->posted = q->done = 0;
	q->chain_len = 0;
	q->psn = (uint32_t)base_rng_next(&r->rng) & 0xffffff;
	int err = qp_init(r, q->qp);

	for (uint16_t i = 0; i < RECV_SLOTS && !err; i++)
		err = post_receive(r, node, i);
	if (err) {
		xp_rdma_close(r, node);
		return err;
	}
	*own = (struct xp_rdma_end){.qpn = q->qp->qp_num,
				    .psn = q->psn,
				    .mtu = r->mtu,
				    .region_key = r->region_mr ? r->region_mr->rkey : 0,
				    .region_at = (uintptr_t)r->region,
				    .region_len = r->region_len};
	memcpy(own->gid, r->gid.gid.raw, sizeof(own->gid));
	return 0;
}

static int to_receive(struct xp_rdma *r, struct qp *q, const struct xp_rdma_end *peer)
{
	struct ibv_qp_attr a = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = (enum ibv_mtu)BASE_MIN(r->mtu, peer->mtu),
		.dest_qp_num = peer->qpn,
		.rq_psn = peer->psn,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 1,
		.ah_attr = {.is_global = 1,
			    .port_num = (uint8_t)r->gid.port_num,
			    .grh = {.sgid_index = (uint8_t)r->gid.gid_index, .hop_limit = 64}}};

	memcpy(a.ah_attr.grh.dgid.raw, peer->gid, sizeof(peer->gid));
	return -ibv_modify_qp(q->qp, &a,
			      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
				      IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
				      IBV_QP_MIN_RNR_TIMER);
}

static int to_send(struct qp *q)
{
	struct ibv_qp_attr a = {.qp_state = IBV_QPS_RTS,
				.timeout = TIMEOUT,
				.retry_cnt = RETRIES,
				.rnr_retry = 7, /* for ever: a slow reader is not a dead one */
				.sq_psn = q->psn,
				.max_rd_atomic = 1};

	return -ibv_modify_qp(q->qp, &a,
			      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				      IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

int xp_rdma_connect(struct xp_rdma *r, uint8_t node, const struct xp_rdma_end *peer)
{
	struct qp *q = &r->qp[node];

	if (peer->mtu < IBV_MTU_256 || peer->mtu > IBV_MTU_4096 || peer->qpn > 0xffffff ||
	    peer->psn > 0xffffff)
		return -EPROTO;
	q->peer = *peer;
	int err = to_receive(r, q, peer);

	return err ? err : to_send(q);
}

void xp_rdma_close(struct xp_rdma *r, uint8_t node)
{
	struct qp *q = &r->qp[node];

	if (q->qp && ibv_destroy_qp(q->qp))
		log_error("RDMA: a connection cannot be closed: %s", strerror(errno));
	q->qp = NULL;
	r->broken &= (uint16_t) ~(1u << node);
}

/* ---- sending ---- */

static void poll_sent(struct xp_rdma *r)
{
	struct ibv_wc wc[32];
	int n;

	while ((n = ibv_poll_cq(r->send_cq, BASE_ARRAY_LEN(wc), wc)) > 0) {
		for (int i = 0; i < n; i++) {
			struct qp *q = qp_of(r, wc[i].wr_id);

			if (!q)
				continue;
			if (wc[i].status == IBV_WC_SUCCESS)
				q->done = (uint32_t)wc[i].wr_id;
			else
				r->broken |= (uint16_t)(1u << (wc[i].wr_id >> 32 & 0xf));
		}
	}
}

uint8_t *xp_rdma_head(struct xp_rdma *r, uint8_t node, unsigned n)
{
	return n == XP_RDMA_SLOTS ? r->qp[node].small
				  : r->qp[node].send + n % XP_RDMA_SLOTS * SLOT_BYTES;
}

static struct ibv_send_wr *chain_add(struct qp *q, uint8_t node)
{
	unsigned i = q->chain_len++;
	struct ibv_send_wr *w = &q->chain[i];

	*w = (struct ibv_send_wr){
		.wr_id = wr_id(q, node, ++q->posted), .sg_list = q->sge[i], .opcode = IBV_WR_SEND};
	if (q->posted % SIGNAL_EVERY == 0)
		w->send_flags |= IBV_SEND_SIGNALED;
	if (i)
		q->chain[i - 1].next = w;
	return w;
}

static void sge_add(struct ibv_send_wr *w, const void *at, uint32_t len, const struct ibv_mr *mr)
{
	w->sg_list[w->num_sge++] =
		(struct ibv_sge){.addr = (uintptr_t)at, .length = len, .lkey = mr->lkey};
}

static void add_page(struct xp_rdma *r, struct ibv_send_wr *w, uint8_t *head, const uint8_t *page)
{
	if (r->region && page >= r->region && page < r->region + r->region_len) {
		sge_add(w, page, WIRE_PAGE_LEN, r->region_mr);
		return;
	}
	memcpy(head + XP_RDMA_HEAD_MAX, page, WIRE_PAGE_LEN);
	sge_add(w, head + XP_RDMA_HEAD_MAX, WIRE_PAGE_LEN, r->slots_mr);
}

int xp_rdma_push(struct xp_rdma *r, uint8_t node, const struct xp_rdma_out *o)
{
	struct qp *q = &r->qp[node];
	uint8_t *head = xp_rdma_head(r, node, o->n);

	if (q->chain_len + 2 > CHAIN_MAX) {
		int err = xp_rdma_post(r, node);

		if (err)
			return err;
	}
	if (q->posted - q->done > SEND_DEPTH / 4)
		poll_sent(r);
	if (q->posted - q->done + 2 > SEND_DEPTH)
		return -EAGAIN;
	if (o->page && o->place) {
		struct ibv_send_wr *w = chain_add(q, node);

		w->opcode = IBV_WR_RDMA_WRITE;
		w->wr.rdma.remote_addr = q->peer.region_at + o->at;
		w->wr.rdma.rkey = q->peer.region_key;
		add_page(r, w, head, o->page);
	}
	struct ibv_send_wr *w = chain_add(q, node);

	sge_add(w, head, o->head_len, r->slots_mr);
	if (o->page && !o->place)
		add_page(r, w, head, o->page);
	else if (o->head_len <= INLINE_MAX)
		w->send_flags |= IBV_SEND_INLINE;
	return 0;
}

int xp_rdma_post(struct xp_rdma *r, uint8_t node)
{
	struct qp *q = &r->qp[node];
	struct ibv_send_wr *bad;

	if (!q->chain_len)
		return 0;
	/* So that the end of all that is under way shows. */
	q->chain[q->chain_len - 1].send_flags |= IBV_SEND_SIGNALED;
	q->chain_len = 0;
	return -ibv_post_send(q->qp, q->chain, &bad);
}

unsigned xp_rdma_unconfirmed(struct xp_rdma *r, uint8_t node)
{
	const struct qp *q = &r->qp[node];

	poll_sent(r);
	return r->broken & 1u << node ? 0 : q->posted - q->done;
}

/* ---- receiving ---- */

static unsigned report_broken(struct xp_rdma *r, struct xp_rdma_event *out, unsigned max)
{
	unsigned count = 0;

	for (uint8_t n = 0; n < XP_NODE_MAX && count < max; n++) {
		if (!(r->broken & 1u << n))
			continue;
		r->broken &= (uint16_t) ~(1u << n);
		out[count++] = (struct xp_rdma_event){.type = XP_RDMA_BROKEN, .node = n};
	}
	return count;
}

unsigned xp_rdma_poll(struct xp_rdma *r, struct xp_rdma_event *out, unsigned max)
{
	struct ibv_wc wc[32];
	unsigned count = 0;
	int n = ibv_poll_cq(r->recv_cq, (int)BASE_MIN(max, (unsigned)BASE_ARRAY_LEN(wc)), wc);

	r->seen |= n > 0;
	for (int i = 0; i < n; i++) {
		uint8_t node = wc[i].wr_id >> 32 & 0xf;
		uint16_t slot = (uint16_t)wc[i].wr_id;
		struct qp *q = qp_of(r, wc[i].wr_id);

		if (!q)
			continue;
		if (wc[i].status != IBV_WC_SUCCESS) {
			r->broken |= (uint16_t)(1u << node);
			continue;
		}
		out[count++] = (struct xp_rdma_event){.type = XP_RDMA_MESSAGE,
						      .node = node,
						      .slot = slot,
						      .len = wc[i].byte_len,
						      .data = q->recv + slot * SLOT_BYTES};
	}
	/* What came before the break is delivered first. */
	return count || !r->broken ? count : report_broken(r, out, max);
}

void xp_rdma_give_back(struct xp_rdma *r, uint8_t node, uint16_t slot)
{
	if (r->qp[node].qp && post_receive(r, node, slot))
		r->broken |= (uint16_t)(1u << node);
}

int xp_rdma_fd(const struct xp_rdma *r)
{
	return r->channel->fd;
}

void xp_rdma_arm(struct xp_rdma *r)
{
	struct ibv_cq *cq;
	void *ctx;
	unsigned events = 0;

	if (r->armed && !r->seen)
		return;
	while (!ibv_get_cq_event(r->channel, &cq, &ctx)) {
		events++;
		r->armed = r->seen = false;
	}
	if (events)
		ibv_ack_cq_events(r->recv_cq, events);
	poll_sent(r);
	if (!r->armed)
		r->armed = !ibv_req_notify_cq(r->recv_cq, 0);
}
