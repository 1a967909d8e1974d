/*
 * Sending: to oneself, by shared memory on this host, by a connection to another one,
 * else through the daemon.
 */
#include <stdlib.h>
#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_net.h"
#include "pvm/mp_pack.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_tev.h"

extern struct Pvmtracer pvmtrc;

enum { IOV_MAX_PIECE = 64 };

/* Tags from here on are the system's. */
static bool tag_ok(int tag)
{
	return tag >= 0 || mp_rt.resv_tids;
}

static bool dst_ok(int tid)
{
	return mp_tid_is_task(tid) || (mp_rt.resv_tids && tid != 0 && tid != -1);
}

static int send_self(const struct mp_msg *m, const struct mp_msghdr *h)
{
	struct mp_msg *copy = mp_msg_new(h->enc);

	if (!copy)
		return PvmNoMem;
	if (mp_msg_append_msg(copy, m)) {
		mp_msg_unref(copy);
		return PvmNoMem;
	}
	copy->head = (struct mp_head){.enc = h->enc,
				      .tag = h->tag,
				      .ctx = h->ctx,
				      .src = pvmmytid,
				      .dst = pvmmytid,
				      .wid = h->wid,
				      .crc = h->crc};
	mp_rt_arrived(copy);
	mp_rt_run_handlers();
	return 0;
}

static int send_daemon(int dst, const struct mp_msg *m, const struct mp_msghdr *h)
{
	struct mp_route r = {.dst = dst, .src = pvmmytid, .flags = MP_PIECE_FIRST};
	size_t off = 0;

	do {
		struct iovec iov[1 + IOV_MAX_PIECE];
		uint8_t hdr[MP_PIECE_HDR_MAX];
		int n = mp_msg_iov(m, off, MP_PIECE_MAX, iov + 1, IOV_MAX_PIECE), rc;
		size_t part = 0;

		for (int i = 1; i <= n; i++)
			part += iov[i].iov_len;
		if (off + part == m->len)
			r.flags |= MP_PIECE_LAST;
		iov[0] = (struct iovec){hdr, mp_piece_put(hdr, &r, h, part)};
		rc = mp_rt_write(iov, n + 1, -1);
		if (rc)
			return rc;
		off += part;
		r.flags = 0;
	} while (off < m->len);
	return 0;
}

int mp_rt_send_in(int ctx, int dst, const struct mp_msg *m, int tag)
{
	struct mp_msghdr h = {.ctx = ctx,
			      .tag = tag,
			      .enc = mp_msg_wire_enc(m),
			      .wid = m->head.wid,
			      .crc = m->head.crc,
			      .total = m->len};
	int rc;

	if (dst == pvmmytid)
		return send_self(m, &h);
	rc = mp_chan_send(dst, m, &h);
	rc = rc ? rc : mp_net_send(dst, m, &h);
	if (rc)
		return rc < 0 ? rc : 0;
	return send_daemon(dst, m, &h);
}

int mp_rt_send(int dst, const struct mp_msg *m, int tag)
{
	return mp_rt_send_in(pvmmyctx, dst, m, tag);
}

/* An event of the program's own goes where its trace goes. */
static int send_event(struct mp_msg *m)
{
	struct mp_msg *copy;
	int rc;

	if (!m)
		return PvmNoBuf;
	if (mp_tev_state != MP_TEV_ON || m->head.enc != MP_ENC_TRACE)
		return 0;
	/* The end goes to a copy: the buffer may be sent again. */
	copy = mp_msg_new(MP_ENC_XDR);
	if (!copy)
		return PvmNoMem;
	rc = mp_msg_append_msg(copy, m);
	if (!rc)
		rc = mp_trace_end(copy);
	if (!rc)
		rc = mp_rt_send_in(pvmtrc.trcctx, pvmtrc.trctid, copy, pvmtrc.trctag);
	mp_msg_unref(copy);
	return rc;
}

int mp_api_send(int tid, int tag)
{
	struct mp_msg *m;
	int rc = mp_rt_need();

	if (!rc && tid == PVM_TRACE_TID && tag == PVM_TRACE_CODE) {
		rc = send_event(mp_sbuf());
		return rc < 0 ? lpvmerr("pvm_send", rc) : 0;
	}
	if (!rc && (!dst_ok(tid) || !tag_ok(tag)))
		rc = PvmBadParam;
	m = mp_sbuf();
	if (!rc && !m)
		rc = PvmNoBuf;
	if (!rc)
		rc = mp_rt_send(tid, m, tag);
	return rc < 0 ? lpvmerr("pvm_send", rc) : 0;
}

static int compare(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return x < y ? -1 : x > y;
}

static bool ascending(const int *tids, int count)
{
	for (int i = 1; i < count; i++)
		if (tids[i - 1] >= tids[i])
			return false;
	return true;
}

/* Once to each, never to oneself. */
int mp_api_mcast(int *tids, int count, int tag)
{
	BASE_AUTO_FREE int *sorted = NULL;
	struct mp_msg *m;
	int rc = mp_rt_need();

	if (!rc && (count < 0 || (!tids && count) || !tag_ok(tag)))
		rc = PvmBadParam;
	for (int i = 0; !rc && i < count; i++)
		if (!mp_tid_is_task(tids[i]))
			rc = PvmBadParam;
	m = mp_sbuf();
	if (!rc && !m)
		rc = PvmNoBuf;
	if (!rc && !ascending(tids, count)) {
		sorted = malloc((size_t)count * sizeof(*sorted));
		if (!sorted)
			rc = PvmNoMem;
	}
	if (sorted) {
		memcpy(sorted, tids, (size_t)count * sizeof(*sorted));
		qsort(sorted, (size_t)count, sizeof(*sorted), compare);
		tids = sorted;
	}
	for (int i = 0; !rc && i < count; i++)
		if (tids[i] != pvmmytid && (i == 0 || tids[i] != tids[i - 1]))
			rc = mp_rt_send(tids[i], m, tag);
	return rc < 0 ? lpvmerr("pvm_mcast", rc) : 0;
}
