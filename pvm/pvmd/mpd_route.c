/*
 * Messages on their way. A piece goes to a task of this host or on the link to its host. Back
 * pressure: a task whose piece went to a queue above MPD_CONN_HIGH is not read until that queue is
 * below MPD_CONN_LOW; a slow task tells the other daemons (CHOKE), which hold their senders. Links
 * themselves are always read, so heartbeats and calls pass.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "pvm/pvmd/mpd.h"

/* A sender that waits for one receiver or one link; on the list of what it waits for. */
struct block {
	struct base_list link;
	int32_t tid;
	uint64_t serial;
};

/* A task elsewhere that is slow, and who waits for it here. */
struct choked {
	struct base_list link;
	int32_t tid;
	struct base_list blocked;
};

static void block_sender(struct mpd_task *from, struct base_list *blocked)
{
	struct block *k;

	if (!from || !from->conn)
		return;
	base_list_foreach (o, blocked, struct block, link)
		if (o->tid == from->tid && o->serial == from->serial)
			return;
	k = calloc(1, sizeof(*k));
	if (!k)
		return;
	k->tid = from->tid;
	k->serial = from->serial;
	base_list_add_tail(blocked, &k->link);
	from->block_count++;
	mpd_conn_pause(from->conn, true);
}

void mpd_route_unblock(struct mpd *pd, struct base_list *blocked)
{
	base_list_foreach_safe (k, blocked, struct block, link) {
		struct mpd_task *t = mpd_task_get(pd, k->tid);

		base_list_del(&k->link);
		if (t && t->serial == k->serial && --t->block_count == 0 && t->conn)
			mpd_conn_pause(t->conn, false);
		free(k);
	}
}

static struct choked *choked_find(struct mpd *pd, int32_t tid)
{
	base_list_foreach (c, &pd->choked, struct choked, link)
		if (c->tid == tid)
			return c;
	return NULL;
}

void mpd_route_choke(struct mpd *pd, int32_t tid, bool on)
{
	struct choked *c = choked_find(pd, tid);

	if (on && !c) {
		c = calloc(1, sizeof(*c));
		if (!c)
			return;
		c->tid = tid;
		base_list_init(&c->blocked);
		base_list_add_tail(&pd->choked, &c->link);
	} else if (!on && c) {
		base_list_del(&c->link);
		mpd_route_unblock(pd, &c->blocked);
		free(c);
	}
}

void mpd_route_choke_host_gone(struct mpd *pd, int host)
{
	base_list_foreach_safe (c, &pd->choked, struct choked, link)
		if (mp_tid_host(c->tid) == host)
			mpd_route_choke(pd, c->tid, false);
}

static void route_local(struct mpd *pd, struct mpd_task *from, struct mpd_host *via,
			struct mpd_task *to, const uint8_t *payload, size_t len)
{
	struct mp_frame f = {.type = MP_F_MSG, .len = len};
	uint8_t hdr[MP_FRAME_HDR];
	size_t queued;

	mp_frame_put(hdr, &f);
	mpd_task_send(to, hdr, sizeof(hdr), payload, len);
	queued = to->conn ? to->conn->out_bytes : to->early.len;
	if (queued <= MPD_CONN_HIGH)
		return;
	if (from && from != to)
		block_sender(from, &to->blocked);
	if (via) {
		uint32_t v[2] = {(uint32_t)to->tid, 1};

		mpd_link_ctl(pd, via, MP_C_CHOKE, v, sizeof(v));
		to->choking = true;
	}
}

void mpd_route_piece(struct mpd *pd, struct mpd_task *from, struct mpd_host *via,
		     const uint8_t *payload, size_t len)
{
	const uint8_t *body;
	struct mp_msghdr h;
	struct mp_route r;
	size_t body_len;
	int host;

	if (mp_piece_get(payload, len, &r, &h, &body, &body_len))
		return;
	host = mp_tid_host(r.dst);
	if (from && r.src != from->tid) {
		log_warn("t%x sent a message in the name of t%x: dropped", (unsigned)from->tid,
			 (unsigned)r.src);
		return;
	}
	if (host == pd->self && (r.dst & MP_TID_DAEMON)) {
		if (r.flags == (MP_PIECE_FIRST | MP_PIECE_LAST))
			mpd_role_message(pd, r.src, &h, body, body_len);
		else
			log_warn("t%x sent a message that is too long for a daemon: dropped",
				 (unsigned)r.src);
	} else if (host == pd->self) {
		struct mpd_task *to = mpd_task_get(pd, r.dst);

		if (to)
			route_local(pd, from, via, to, payload, len);
		else
			log_debug("message to t%x, which is not there", (unsigned)r.dst);
	} else if (!via) {
		struct mpd_host *hp = mpd_host_get(pd, host);
		struct mp_frame f = {.type = MP_F_MSG, .len = len};
		uint8_t hdr[MP_FRAME_HDR];
		struct choked *c;

		if (!hp)
			return;
		mp_frame_put(hdr, &f);
		mpd_link_piece(pd, hp, hdr, sizeof(hdr), payload, len);
		c = choked_find(pd, r.dst);
		if (c)
			block_sender(from, &c->blocked);
		if (hp->link ? hp->link->out_bytes > MPD_CONN_HIGH : hp->early.len > MPD_CONN_HIGH)
			block_sender(from, &hp->blocked);
	}
}

void mpd_route_message(struct mpd *pd, int32_t dst, int32_t src, int32_t ctx, int32_t tag,
		       int32_t wid, const void *body, size_t len)
{
	struct mp_msghdr h = {.ctx = ctx, .tag = tag, .enc = MPD_ENC_XDR, .wid = wid, .total = len};
	struct mp_route r = {.dst = dst, .src = src, .flags = MP_PIECE_FIRST};
	uint8_t hdr[MP_PIECE_HDR_MAX];
	size_t off = 0;

	do {
		size_t part = BASE_MIN(len - off, (size_t)MP_PIECE_MAX), n;
		BASE_AUTO_FREE uint8_t *p = NULL;

		if (off + part == len)
			r.flags |= MP_PIECE_LAST;
		n = mp_piece_put(hdr, &r, &h, part) - MP_FRAME_HDR;
		p = malloc(n + part);
		if (!p) {
			log_error("no memory for a message to t%x", (unsigned)dst);
			return;
		}
		memcpy(p, hdr + MP_FRAME_HDR, n);
		if (part)
			memcpy(p + n, (const uint8_t *)body + off, part);
		mpd_route_piece(pd, NULL, NULL, p, n + part);
		off += part;
		r.flags = 0;
	} while (off < len);
}

void mpd_route_ctl(struct mpd *pd, int32_t tid, enum mp_ctl what, const void *p, size_t len)
{
	struct mpd_task *t = mpd_task_get(pd, tid);
	struct base_wbuf b;
	struct mpd_host *h;

	if (t) {
		mpd_task_ctl(t, what, p, len, -1);
		return;
	}
	h = mpd_host_get(pd, mp_tid_host(tid));
	if (!h || h->id == pd->self)
		return;
	base_wbuf_init(&b, MP_FRAME_MAX);
	base_wbuf_u32(&b, (uint32_t)tid);
	base_wbuf_u16(&b, (uint16_t)what);
	base_wbuf_bytes(&b, p, len);
	mpd_link_ctl(pd, h, MP_C_TO_TASK, b.data, b.len);
	base_wbuf_fini(&b);
}

/* The task ends: whoever waits for it goes on, and remote daemons forget that it was slow. */
void mpd_route_forget(struct mpd *pd, struct mpd_task *t)
{
	mpd_route_unblock(pd, &t->blocked);
	if (t->choking) {
		uint32_t v[2] = {(uint32_t)t->tid, 0};

		mpd_link_all(pd, MP_C_CHOKE, v, sizeof(v));
		t->choking = false;
	}
}
