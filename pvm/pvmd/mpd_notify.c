/*
 * pvm_notify. An entry lives with the daemon of the watcher: on the list of the target where that
 * is a task of this host, else on mpd.watchers. The daemon of a remote target only knows that this
 * daemon wants to hear of its end.
 */
#include <endian.h>
#include <pvm3.h>
#include <stdlib.h>

#include "pvm/pvmd/mpd.h"

static void deliver(struct mpd *pd, const struct mpd_watcher *w)
{
	uint32_t body = htobe32((uint32_t)w->target);

	mpd_route_message(pd, w->watcher, MP_TID_DAEMON, w->ctx, w->tag, 0, &body, sizeof(body));
}

static void fire(struct mpd *pd, struct mpd_watcher *w)
{
	base_list_del(&w->link);
	if (mp_tid_is_daemon(w->watcher)) {
		struct mpd_host *h = mpd_host_get(pd, mp_tid_host(w->watcher));

		if (h)
			mpd_link_ctl(pd, h, MP_C_TASK_ENDED, &w->target, sizeof(w->target));
	} else {
		deliver(pd, w);
	}
	free(w);
}

static int watch(struct base_list *list, int32_t watcher, int32_t target, int32_t tag, int32_t ctx)
{
	struct mpd_watcher *w = calloc(1, sizeof(*w));

	if (!w)
		return PvmNoMem;
	w->watcher = watcher;
	w->target = target;
	w->tag = tag;
	w->ctx = ctx;
	base_list_add_tail(list, &w->link);
	return 0;
}

void mpd_notify_task_ended(struct mpd *pd, int32_t tid)
{
	base_list_foreach_safe (w, &pd->watchers, struct mpd_watcher, link)
		if (w->target == tid)
			fire(pd, w);
}

void mpd_notify_task_gone(struct mpd *pd, struct mpd_task *t)
{
	base_list_foreach_safe (w, &t->watchers, struct mpd_watcher, link)
		fire(pd, w);
	mpd_role_taskx(pd, t->tid);
}

void mpd_notify_host_gone(struct mpd *pd, int host)
{
	mpd_role_hostx(pd, host);
	base_list_foreach_safe (w, &pd->watchers, struct mpd_watcher, link)
		if (mp_tid_host(w->target) == host)
			fire(pd, w);
}

void mpd_notify_host_added(struct mpd *pd, const int32_t *tids, uint32_t n)
{
	struct base_wbuf b;

	base_wbuf_init(&b, MP_FRAME_MAX);
	for (uint32_t i = 0; i <= n; i++)
		base_wbuf_u32(&b, htobe32(i ? (uint32_t)tids[i - 1] : n));
	base_list_foreach_safe (w, &pd->host_add, struct mpd_watcher, link) {
		mpd_route_message(pd, w->watcher, MP_TID_DAEMON, w->ctx, w->tag, 0, b.data, b.len);
		if (w->target > 0 && --w->target == 0) {
			base_list_del(&w->link);
			free(w);
		}
	}
	base_wbuf_fini(&b);
}

static void forget(struct base_list *list, int32_t watcher)
{
	base_list_foreach_safe (w, list, struct mpd_watcher, link)
		if (w->watcher == watcher) {
			base_list_del(&w->link);
			free(w);
		}
}

void mpd_notify_forget(struct mpd *pd, int32_t watcher)
{
	forget(&pd->watchers, watcher);
	forget(&pd->host_add, watcher);
	base_list_foreach (t, &pd->tasks, struct mpd_task, link)
		forget(&t->watchers, watcher);
}

static void remote_done(struct mpd *pd, void *arg, int rc, struct base_rbuf *body)
{
	int32_t *tid = arg;

	(void)body;
	if (rc < 0)
		mpd_notify_task_ended(pd, *tid);
	free(tid);
}

static int notify_exit(struct mpd *pd, int32_t watcher, int32_t target, int32_t tag, int32_t ctx)
{
	struct mpd_task *t = mpd_task_get(pd, target);
	int host = mp_tid_host(target), rc;
	int32_t *copy;

	if (t)
		return watch(&t->watchers, watcher, target, tag, ctx);
	rc = watch(&pd->watchers, watcher, target, tag, ctx);
	if (rc)
		return rc;
	if (host == pd->self || !mpd_host_get(pd, host)) {
		mpd_notify_task_ended(pd, target);
		return 0;
	}
	copy = malloc(sizeof(*copy));
	if (!copy)
		return PvmNoMem;
	*copy = target;
	mpd_call_host(pd, host, MP_OP_NOTIFY, mp_tid_of_daemon(pd->self), &target, sizeof(target),
		      remote_done, copy);
	return 0;
}

static void cancel(struct mpd *pd, int32_t watcher, int32_t target, int32_t tag)
{
	struct mpd_task *t = mpd_task_get(pd, target);
	struct base_list *list = t ? &t->watchers : &pd->watchers;

	base_list_foreach_safe (w, list, struct mpd_watcher, link)
		if (w->watcher == watcher && w->target == target && w->tag == tag) {
			fire(pd, w);
			return;
		}
}

static int notify_add(struct mpd *pd, int32_t watcher, int32_t count, int32_t tag, int32_t ctx)
{
	forget(&pd->host_add, watcher);
	return count ? watch(&pd->host_add, watcher, count, tag, ctx) : 0;
}

/* Of a peer: it wants to hear of the end of one task here. */
static void notify_peer(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	int32_t target = (int32_t)base_rbuf_u32(b), me = mp_tid_of_daemon(from->host);
	struct mpd_task *t = mpd_task_get(pd, target);
	int rc = b->error ? PvmBadParam : t ? 0 : PvmNoTask;

	if (t) {
		bool known = false;

		base_list_foreach (w, &t->watchers, struct mpd_watcher, link)
			known = known || w->watcher == me;
		if (!known)
			rc = watch(&t->watchers, me, target, 0, 0);
	}
	mpd_call_reply(pd, from, rc, NULL, -1);
}

void mpd_op_notify(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	int32_t what, tag, ctx, count;
	int kind, rc = 0;
	uint32_t n;

	if (from->host) {
		notify_peer(pd, from, b);
		return;
	}
	what = (int32_t)base_rbuf_u32(b);
	tag = (int32_t)base_rbuf_u32(b);
	ctx = (int32_t)base_rbuf_u32(b);
	count = (int32_t)base_rbuf_u32(b);
	n = base_rbuf_u32(b);
	kind = what & ~PvmNotifyCancel;
	if (b->error || n > base_rbuf_left(b) / 4)
		rc = PvmBadParam;
	if (!rc && kind == PvmHostAdd)
		rc = notify_add(pd, from->tid, what & PvmNotifyCancel ? 0 : count, tag, ctx);
	for (uint32_t i = 0; !rc && i < n && kind != PvmHostAdd; i++) {
		int32_t tid = (int32_t)base_rbuf_u32(b);

		if (kind == PvmHostDelete)
			tid &= MP_TID_HOST;
		if (what & PvmNotifyCancel)
			cancel(pd, from->tid, tid, tag);
		else if (kind == PvmTaskExit)
			rc = notify_exit(pd, from->tid, tid, tag, ctx);
		else
			rc = watch(&pd->watchers, from->tid, tid, tag, ctx);
		if (kind == PvmHostDelete && !mpd_host_get(pd, mp_tid_host(tid)))
			mpd_notify_task_ended(pd, tid);
	}
	mpd_call_reply(pd, from, rc, NULL, -1);
}
