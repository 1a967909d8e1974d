/*
 * Links between daemons. Each pair has one TCP connection, made by the daemon with the higher
 * number. After the handshake of crypt.h the maker says who it is (JOIN); from then on both send.
 */
#include <errno.h>
#include <pvm3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/tcp.h"
#include "pvm/pvmd/mpd.h"
#include "pvm/pvmd/mpd_addr.h"

/* A link that was accepted and has not said who it is. */
struct stranger {
	struct base_list link;
	struct mpd *pd;
	struct mpd_conn *conn;
	int64_t since_ns;
};

enum { STRANGER_MAX = 256 };

static void link_ctl(struct mpd *pd, struct mpd_host *h, struct base_rbuf *b)
{
	uint16_t what = base_rbuf_u16(b);
	int32_t tid;

	switch (what) {
	case MP_C_BEAT:
		h->busy = base_rbuf_u32(b) / 1000.0;
		h->tasks = base_rbuf_u32(b);
		h->fresh /= 2;
		break;
	case MP_C_SUSPECT:
		tid = (int32_t)base_rbuf_u32(b);
		if (!b->error && mpd_coordinator(pd) == pd->self && tid != pd->self &&
		    mpd_host_get(pd, tid)) {
			struct mpd_host *s = mpd_host_get(pd, tid);

			mpd_link_ctl(pd, s, MP_C_HALT, NULL, 0);
			mpd_host_delete(pd, s, "another host cannot reach it");
			mpd_table_publish(pd, NULL, NULL);
		}
		break;
	case MP_C_HALT: mpd_stop(pd, 0); break;
	case MP_C_MBOX: mpd_mbox_apply(pd, b); break;
	case MP_C_CHOKE:
		tid = (int32_t)base_rbuf_u32(b);
		mpd_route_choke(pd, tid, base_rbuf_u32(b) != 0);
		break;
	case MP_C_TASK_GONE: mpd_mbox_task_told(pd, (int32_t)base_rbuf_u32(b), h->id); break;
	case MP_C_TASK_ENDED: mpd_notify_task_ended(pd, (int32_t)base_rbuf_u32(b)); break;
	case MP_C_LOG: mpd_output_log(pd, b); break;
	case MP_C_TO_TASK:
		tid = (int32_t)base_rbuf_u32(b);
		what = base_rbuf_u16(b);
		if (!b->error && what == MP_C_NET_GONE && base_rbuf_left(b) >= 4) {
			struct base_rbuf rest = *b;

			mpd_direct_remote_gone(pd, tid, (int32_t)base_rbuf_u32(&rest));
		}
		if (!b->error && mpd_task_get(pd, tid))
			mpd_task_ctl(mpd_task_get(pd, tid), what, b->data + b->pos,
				     base_rbuf_left(b), -1);
		break;
	default: log_warn("host %s sent an unknown notice %u", h->name, what);
	}
}

static void link_frame(struct mpd_conn *c, const struct mp_frame *f, const uint8_t *payload)
{
	struct mpd_host *h = c->owner;
	struct mpd *pd = h->pd;
	struct base_rbuf b;

	if (f->type == MP_F_MSG) {
		mpd_route_piece(pd, NULL, h, payload, (size_t)f->len);
		return;
	}
	base_rbuf_init(&b, payload, (size_t)f->len);
	if (f->type == MP_F_REQ) {
		struct mpd_from from = {.host = h->id, .req = f->req};
		uint16_t op = base_rbuf_u16(&b);

		from.tid = (int32_t)base_rbuf_u32(&b);
		mpd_call_serve(pd, &from, op, &b);
	} else if (f->type == MP_F_REP) {
		mpd_call_answer(pd, h->id, f->req, &b);
	} else {
		link_ctl(pd, h, &b);
	}
}

static void link_closed(struct mpd_conn *c, int err)
{
	struct mpd_host *h = c->owner;

	h->link = NULL;
	mpd_host_lost(h->pd, h, err ? strerror(-err) : "its daemon ended");
}

static void link_drained(struct mpd_conn *c)
{
	struct mpd_host *h = c->owner;

	mpd_route_unblock(h->pd, &h->blocked);
}

static void link_ready(struct mpd_host *h)
{
	h->joined = true;
	h->suspect = false;
	if (h->early.len)
		mpd_conn_send(h->link, h->early.data, h->early.len, NULL, 0, -1);
	base_wbuf_fini(&h->early);
	if (h->link && h->link->out_bytes < MPD_CONN_LOW)
		mpd_route_unblock(h->pd, &h->blocked);
}

/* We made the connection: our name, then everything that waited. */
static void link_secured(struct mpd_conn *c)
{
	struct mpd_host *h = c->owner;
	struct mpd *pd = h->pd;
	struct base_wbuf b;

	base_tcp_keep_unpaced(c->watch.fd);
	base_wbuf_init(&b, MP_FRAME_MAX);
	base_wbuf_u16(&b, MP_OP_JOIN);
	base_wbuf_u32(&b, MPD_VERSION);
	base_wbuf_u32(&b, (uint32_t)pd->self);
	base_wbuf_u32(&b, (uint32_t)h->id);
	mpd_host_put(pd->hosts[pd->self], &b);
	mpd_conn_frame(c, MP_F_REQ, 0, &b, -1);
	base_wbuf_fini(&b);
	if (!c->dead)
		link_ready(h);
}

static const struct mpd_conn_ops link_ops = {.frame = link_frame,
					     .closed = link_closed,
					     .drained = link_drained,
					     .secured = link_secured};

void mpd_link_connect(struct mpd *pd, struct mpd_host *h)
{
	int fd = mpd_addr_connect(h->ip, h->port), rc;

	h->since_ns = base_clock_ns();
	if (fd < 0) {
		log_warn("link to %s (%s port %u): %s", h->name, h->ip, h->port, strerror(-fd));
		return;
	}
	rc = mpd_conn_new(&h->link, pd->loop, fd, &link_ops, h, pd->key, true);
	if (rc) {
		h->link = NULL;
		log_error("link to %s: %s", h->name, strerror(-rc));
	}
}

static void stranger_free(struct stranger *s)
{
	base_list_del(&s->link);
	s->pd->stranger_count--;
	free(s);
}

static void stranger_closed(struct mpd_conn *c, int err)
{
	log_debug("a stranger left: %s", err ? strerror(-err) : "end");
	stranger_free(c->owner);
}

static int stranger_join(struct stranger *s, struct base_rbuf *b)
{
	struct mpd *pd = s->pd;
	uint32_t version = base_rbuf_u32(b), id = base_rbuf_u32(b), me = base_rbuf_u32(b);
	struct mpd_host v = {0}, *h;

	mpd_host_take(&v, b);
	if (b->error || version != MPD_VERSION || id < 1 || id > MP_HOST_MAX)
		return -EPROTO;
	if ((int)me != pd->self || (int)id == pd->self)
		return -EHOSTUNREACH;
	h = pd->hosts[id];
	if (h && h->link)
		return -EEXIST;
	if (!h)
		h = mpd_host_new(pd, (int)id, v.name);
	if (!h)
		return -ENOMEM;
	if (!h->member) {
		memcpy(h->arch, v.arch, sizeof(h->arch));
		memcpy(h->ip, v.ip, sizeof(h->ip));
		h->port = v.port;
		h->speed = v.speed;
		h->dsig = v.dsig;
		h->cores = v.cores;
	}
	h->link = s->conn;
	s->conn->owner = h;
	s->conn->ops = &link_ops;
	link_ready(h);
	stranger_free(s);
	if (!h->member)
		mpd_start_joined(pd, (int)id);
	return 0;
}

static void stranger_frame(struct mpd_conn *c, const struct mp_frame *f, const uint8_t *payload)
{
	struct stranger *s = c->owner;
	struct base_rbuf b;
	int rc = -EPROTO;

	base_rbuf_init(&b, payload, (size_t)f->len);
	if (f->type == MP_F_REQ && base_rbuf_u16(&b) == MP_OP_JOIN)
		rc = stranger_join(s, &b);
	if (!rc)
		return;
	log_warn("a daemon was refused: %s", strerror(-rc));
	mpd_conn_close(c);
	stranger_free(s);
}

static const struct mpd_conn_ops stranger_ops = {.frame = stranger_frame,
						 .closed = stranger_closed};

void mpd_link_tidy(struct mpd *pd, int64_t now_ns)
{
	int64_t limit = (int64_t)pd->config.host_timeout_ms * BASE_NS_PER_MS;

	base_list_foreach_safe (s, &pd->strangers, struct stranger, link)
		if (now_ns - s->since_ns > limit) {
			mpd_conn_close(s->conn);
			stranger_free(s);
		}
}

static void link_accept(struct base_watch *w, uint32_t events)
{
	struct mpd *pd = base_container_of(w, struct mpd, listen_host);
	int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct stranger *s;

	(void)events;
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE)
			mpd_fds_shed(pd, w->fd);
		return;
	}
	s = pd->stranger_count < STRANGER_MAX ? calloc(1, sizeof(*s)) : NULL;
	if (!s) {
		close(fd);
		return;
	}
	base_tcp_no_delay(fd);
	base_tcp_keep_unpaced(fd);
	s->pd = pd;
	s->since_ns = base_clock_ns();
	if (mpd_conn_new(&s->conn, pd->loop, fd, &stranger_ops, s, pd->key, false)) {
		free(s);
		return;
	}
	base_list_add_tail(&pd->strangers, &s->link);
	pd->stranger_count++;
}

int mpd_link_listen(struct mpd *pd)
{
	struct mpd_host *me = pd->hosts[pd->self];
	int fd = mpd_addr_listen(me->ip, &me->port);

	if (fd < 0)
		return fd;
	pd->listen_host = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = link_accept};
	return base_loop_add(pd->loop, &pd->listen_host);
}

void mpd_link_send(struct mpd *pd, struct mpd_host *h, enum mp_frame_type type, uint32_t req,
		   const struct base_wbuf *b)
{
	(void)pd;
	if (h->link && h->joined) {
		mpd_conn_frame(h->link, type, req, b, -1);
	} else if (!b->error) {
		struct mp_frame f = {.type = type, .req = req, .len = b->len};
		uint8_t hdr[MP_FRAME_HDR];

		mp_frame_put(hdr, &f);
		base_wbuf_bytes(&h->early, hdr, sizeof(hdr));
		base_wbuf_bytes(&h->early, b->data, b->len);
	}
}

void mpd_link_piece(struct mpd *pd, struct mpd_host *h, const void *hdr, size_t hdr_len,
		    const void *body, size_t len)
{
	(void)pd;
	if (h->link && h->joined) {
		mpd_conn_send(h->link, hdr, hdr_len, body, len, -1);
		return;
	}
	base_wbuf_bytes(&h->early, hdr, hdr_len);
	base_wbuf_bytes(&h->early, body, len);
}

void mpd_link_ctl(struct mpd *pd, struct mpd_host *h, enum mp_ctl what, const void *p, size_t len)
{
	struct base_wbuf b;

	base_wbuf_init(&b, MP_FRAME_MAX);
	base_wbuf_u16(&b, (uint16_t)what);
	base_wbuf_bytes(&b, p, len);
	mpd_link_send(pd, h, MP_F_CTL, 0, &b);
	base_wbuf_fini(&b);
}

void mpd_link_all(struct mpd *pd, enum mp_ctl what, const void *p, size_t len)
{
	for (int i = 1; i <= pd->host_last; i++) {
		struct mpd_host *h = mpd_host_get(pd, i);

		if (h && i != pd->self)
			mpd_link_ctl(pd, h, what, p, len);
	}
}
