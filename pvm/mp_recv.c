/* Receiving: the queue of arrivals, matching, message handlers. */
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/clock.h"
#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_net.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_tev.h"

struct handler {
	struct base_list link;
	int id, src, tag, ctx;
	int (*func)(int mid);
};

static struct handler *handler_for(const struct mp_msg *m)
{
	base_list_foreach (h, &mp_rt.handlers, struct handler, link)
		if ((h->src == -1 || h->src == m->head.src) &&
		    (h->tag == -1 || h->tag == m->head.tag) && h->ctx == m->head.ctx)
			return h;
	return NULL;
}

static struct mp_item *item_new(struct mp_msg *m)
{
	struct mp_item *it;

	if (!base_list_empty(&mp_rt.spare)) {
		it = base_list_entry(mp_rt.spare.next, struct mp_item, link);
		base_list_del(&it->link);
	} else {
		it = malloc(sizeof(*it));
	}
	if (it)
		it->msg = m;
	return it;
}

void mp_rt_arrived(struct mp_msg *m)
{
	struct mp_item *it;

	if (mp_catch_message(m))
		return;
	it = item_new(m);
	if (!it) {
		pvmlogprintf("no memory: a message from t%x is lost\n", (unsigned)m->head.src);
		mp_msg_unref(m);
		return;
	}
	mp_rt.arrivals++;
	if (!base_list_empty(&mp_rt.handlers) && handler_for(m))
		base_list_add_tail(&mp_rt.todo, &it->link);
	else
		base_list_add_tail(&mp_rt.queue, &it->link);
}

/* Out of the queue for good. */
static void drop(struct mp_item *it)
{
	if (it->msg->mid)
		mp_mid_free(it->msg->mid);
	base_list_del(&it->link);
	mp_msg_unref(it->msg);
	mp_item_free(it);
}

static void handle(struct mp_msg *m, struct handler *h)
{
	int sbuf = mp_sbuf_mid(), rbuf = mp_rbuf_mid(), ctx = pvmmyctx, top = pvmtoplvl, mid;

	mp_rbuf_set(0);
	mp_sbuf_set(0);
	mid = mp_rbuf_deliver(m);
	if (mid < 0) {
		mp_msg_unref(m);
	} else {
		MP_TEV(TEV_MHF_INVOKE | TEV_EVENT_ENTRY, MP_TEV_INT(RST, h->src),
		       MP_TEV_INT(RMC, h->tag), MP_TEV_INT(RCX, h->ctx), MP_TEV_INT(MB, mid),
		       MP_TEV_INT(MNB, (int)BASE_MIN(m->len, (size_t)INT32_MAX)),
		       MP_TEV_INT(MC, m->head.tag), MP_TEV_INT(MCX, m->head.ctx),
		       MP_TEV_INT(SRC, m->head.src));
		/* Its own calls, in the context of the message. */
		pvmmyctx = m->head.ctx;
		pvmtoplvl = 1;
		h->func(mid);
		pvmtoplvl = top;
		if (mp_mid_get(mid) == m)
			mp_mid_free(mid);
	}
	pvmmyctx = ctx;
	mp_rbuf_set(rbuf);
	mp_sbuf_set(sbuf);
}

void mp_rt_run_handlers(void)
{
	if (mp_rt.in_handler || !mp_rt.todo.next)
		return;
	while (!base_list_empty(&mp_rt.todo)) {
		struct mp_item *it = base_list_entry(mp_rt.todo.next, struct mp_item, link);
		struct mp_msg *m = it->msg;
		struct handler *h = handler_for(m);

		base_list_del(&it->link);
		if (!h) {
			base_list_add_tail(&mp_rt.queue, &it->link);
			continue;
		}
		if (!mp_chan_filled(m)) {
			drop(it);
			continue;
		}
		mp_item_free(it);
		mp_rt.in_handler = true;
		handle(m, h);
		mp_rt.in_handler = false;
	}
}

/* The original has nine of its own before those of the program. */
enum { FIRST_HANDLER = 9 };

/* One of them takes all, or both the same. */
static bool overlap(int a, int b)
{
	return a == b || a == -1 || b == -1;
}

int mp_api_addmhf(int src, int tag, int ctx, int (*func)(int))
{
	struct handler *h;
	int rc = mp_rt_need();

	if (rc)
		return lpvmerr("pvm_addmhf", rc);
	base_list_foreach (o, &mp_rt.handlers, struct handler, link)
		if (overlap(o->src, src) && overlap(o->tag, tag) && o->ctx == ctx)
			return lpvmerr("pvm_addmhf", PvmExists);
	h = calloc(1, sizeof(*h));
	if (!h)
		return lpvmerr("pvm_addmhf", PvmNoMem);
	h->id = FIRST_HANDLER + mp_rt.next_mhf++;
	h->src = src;
	h->tag = tag;
	h->ctx = ctx;
	h->func = func;
	/* The more exact one is asked first. */
	if (src != -1 && tag != -1)
		base_list_add(&mp_rt.handlers, &h->link);
	else
		base_list_add_tail(&mp_rt.handlers, &h->link);
	return h->id;
}

int mp_api_delmhf(int id)
{
	if (mp_rt.handlers.next)
		base_list_foreach (h, &mp_rt.handlers, struct handler, link)
			if (h->id == id) {
				base_list_del(&h->link);
				free(h);
				return PvmOk;
			}
	return lpvmerr("pvm_delmhf", id < 0 ? PvmBadParam : PvmNotFound);
}

/* Matching */

static int give_number(struct mp_msg *m)
{
	if (m->mid)
		return m->mid;
	mp_msg_ref(m);
	if (mp_mid_add(m)) {
		mp_msg_unref(m);
		return PvmNoMem;
	}
	m->mode = MP_MODE_READ;
	return m->mid;
}

static struct mp_item *find_usual(int tid, int tag)
{
	/* It is on its way to the buffer of pvm_precv, so nothing else can be. */
	if (mp_landing.msg) {
		base_list_foreach (it, &mp_rt.queue, struct mp_item, link)
			if (it->msg == mp_landing.msg)
				return it;
		return NULL;
	}
	base_list_foreach (it, &mp_rt.queue, struct mp_item, link) {
		const struct mp_head *h = &it->msg->head;

		if ((tid == -1 || h->src == tid) && (tag == -1 || h->tag == tag) &&
		    h->ctx == pvmmyctx)
			return it;
	}
	return NULL;
}

/* pvm_recvf: the best by the program's own measure. */
static struct mp_item *find_custom(int tid, int tag, int *error)
{
	struct mp_item *best = NULL;
	int best_rank = 0;

	base_list_foreach_safe (it, &mp_rt.queue, struct mp_item, link) {
		int mid, rank;

		if (it->msg->head.ctx != pvmmyctx)
			continue;
		mid = give_number(it->msg);
		if (mid > 0 && !mp_chan_filled(it->msg)) {
			drop(it);
			continue;
		}
		rank = mid < 0 ? mid : mp_rt.match(mid, tid, tag);
		if (rank < 0) {
			*error = rank;
			return NULL;
		}
		if (rank > best_rank) {
			best = it;
			best_rank = rank;
		}
		if (rank == 1)
			return it;
	}
	return best;
}

static struct mp_item *find(int tid, int tag, int *error)
{
	return mp_rt.match ? find_custom(tid, tag, error) : find_usual(tid, tag);
}

/* Out of the queue and into the active receive buffer; its mid. */
static int deliver(struct mp_item *it)
{
	struct mp_msg *m = it->msg;
	int mid;

	base_list_del(&it->link);
	mp_item_free(it);
	/* The number that a probe gave stays, and the queue's reference takes the table's place. */
	if (m->mid) {
		mp_mid_take(m->mid);
		mp_msg_unref(m);
	}
	mid = mp_rbuf_deliver(m);
	if (mid < 0)
		mp_msg_unref(m);
	return mid;
}

/* whole: not before all of its body is there. deadline as in mp_rt_pump(); *out NULL when none came in time. */
static int await(int tid, int tag, int64_t deadline_ns, bool whole, struct mp_item **out)
{
	bool late = false;

	for (;;) {
		int error = 0, rc;

		*out = find(tid, tag, &error);
		if (*out && whole && !mp_chan_filled((*out)->msg)) {
			drop(*out);
			continue;
		}
		if (*out || error)
			return error;
		if (late)
			return 0;
		rc = mp_rt_pump(deadline_ns);
		if (rc)
			return rc;
		late = deadline_ns >= 0 && (deadline_ns == 0 || base_clock_ns() >= deadline_ns);
	}
}

static struct mp_item *find_wid(int src, int tag, int wid)
{
	base_list_foreach (it, &mp_rt.queue, struct mp_item, link) {
		const struct mp_head *h = &it->msg->head;

		if (h->src == src && h->tag == tag && h->wid == wid && mp_chan_filled(it->msg))
			return it;
	}
	return NULL;
}

int mp_rt_await_wid(int src, int tag, int wid, int64_t deadline_ns, struct mp_msg **out)
{
	struct mp_item *it;

	while (!(it = find_wid(src, tag, wid)) && base_clock_ns() < deadline_ns) {
		int rc = mp_rt_pump(deadline_ns);

		if (rc)
			return rc;
	}
	*out = it ? it->msg : NULL;
	if (it) {
		base_list_del(&it->link);
		mp_item_free(it);
		mp_msg_rewind(*out);
		(*out)->mode = MP_MODE_READ;
	}
	return 0;
}

/* A tid or tag that cannot come is waited for as any other, as the original does. */
static int receive(const char *name, int tid, int tag, int64_t deadline_ns)
{
	struct mp_item *it;
	int rc = mp_rt_need();

	if (!rc && deadline_ns == 0)
		rc = mp_rt_pump(0);
	if (!rc)
		rc = await(tid, tag, deadline_ns, true, &it);
	if (!rc && it)
		rc = deliver(it);
	return rc < 0 ? lpvmerr(name, rc) : rc;
}

int mp_api_recv(int tid, int tag)
{
	return receive("pvm_recv", tid, tag, -1);
}

int mp_api_nrecv(int tid, int tag)
{
	return receive("pvm_nrecv", tid, tag, 0);
}

int mp_api_trecv(int tid, int tag, struct timeval *t)
{
	int64_t deadline = -1;

	if (t) {
		if (t->tv_sec < 0 || t->tv_usec < 0)
			return lpvmerr("pvm_trecv", PvmBadParam);
		deadline = base_clock_ns() +
			   BASE_MIN((int64_t)t->tv_sec, INT64_C(1000000000)) * BASE_NS_PER_SEC +
			   (int64_t)t->tv_usec * BASE_NS_PER_US;
	}
	return receive("pvm_trecv", tid, tag, deadline);
}

int mp_api_probe(int tid, int tag)
{
	struct mp_item *it;
	int rc = mp_rt_need();

	if (!rc)
		rc = mp_rt_pump(0);
	if (!rc)
		rc = await(tid, tag, 0, true, &it);
	if (!rc && it)
		rc = give_number(it->msg);
	return rc < 0 ? lpvmerr("pvm_probe", rc) : rc;
}

static int usual_match(int mid, int tid, int tag)
{
	const struct mp_msg *m = mp_mid_get(mid);

	return m && (tid == -1 || m->head.src == tid) && (tag == -1 || m->head.tag == tag);
}

int (*mp_api_recvf(int (*func)(int, int, int)))(int, int, int)
{
	int (*old)(int, int, int) = mp_rt.match ? mp_rt.match : usual_match;

	mp_rt.match = !func || func == usual_match ? NULL : func;
	return old;
}

/* Bytes of one item of pvm_psend and pvm_precv; 0: no such type. */
static size_t type_size(int type)
{
	static const uint8_t size[] = {
		[PVM_STR] = 1,	 [PVM_BYTE] = 1,   [PVM_SHORT] = 2,  [PVM_INT] = 4,
		[PVM_FLOAT] = 4, [PVM_CPLX] = 8,   [PVM_DOUBLE] = 8, [PVM_DCPLX] = 16,
		[PVM_LONG] = 8,	 [PVM_USHORT] = 2, [PVM_UINT] = 4,   [PVM_ULONG] = 8};

	return type >= 0 && type < (int)sizeof(size) ? size[type] : 0;
}

/* Copies while the sender still does. */
static int precv_take(int tid, int tag, void *buf, size_t cap, struct mp_item **out)
{
	for (;;) {
		int rc;

		mp_landing = (struct mp_landing){true, tid, tag, buf, cap, NULL};
		rc = await(tid, tag, -1, false, out);
		mp_landing = (struct mp_landing){.on = false};
		if (rc || mp_chan_copy_out((*out)->msg, buf, BASE_MIN(cap, (*out)->msg->len)))
			return rc;
		drop(*out);
	}
}

int mp_api_precv(int tid, int tag, void *buf, int len, int type, int *rtid, int *rtag, int *rlen)
{
	struct mp_item *it;
	size_t size = type_size(type);
	int rc = mp_rt_need();

	if (!rc && (!size || len < 0 || (!buf && len)))
		rc = !size ? PvmNotImpl : PvmBadParam;
	if (!rc)
		rc = precv_take(tid, tag, buf, size * (size_t)len, &it);
	if (rc)
		return lpvmerr("pvm_precv", rc);
	if (rtid)
		*rtid = it->msg->head.src;
	if (rtag)
		*rtag = it->msg->head.tag;
	if (rlen)
		*rlen = (int)BASE_MIN(it->msg->len, (size_t)INT32_MAX);
	drop(it);
	return PvmOk;
}

int mp_api_psend(int tid, int tag, void *buf, int len, int type)
{
	size_t size = type_size(type);
	struct mp_msg *m;
	int rc = mp_rt_need(), mid, old;

	if (!rc && (!size || len < 0 || (!buf && len)))
		rc = !size ? PvmNotImpl : PvmBadParam;
	m = rc ? NULL : mp_msg_new(MP_ENC_INPLACE);
	if (!rc && (!m || mp_msg_append_place(m, buf, size * (size_t)len) || mp_mid_add(m))) {
		mp_msg_unref(m);
		rc = PvmNoMem;
	}
	if (rc)
		return lpvmerr("pvm_psend", rc);
	mid = m->mid;
	old = mp_sbuf_mid();
	mp_sbuf_set(mid);
	rc = mp_api_send(tid, tag);
	mp_sbuf_set(old);
	mp_mid_free(mid);
	return rc;
}
