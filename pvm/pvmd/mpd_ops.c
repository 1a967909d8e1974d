/* Calls about tasks and the machine that need no file of their own. */
#include <errno.h>
#include <pvm3.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/log.h"
#include "pvm/pvmd/mpd.h"

/* Flags of struct pvmtaskinfo. */
enum { TASK_FORKED = 2, TASK_CONNECTED = 4 };

static uint32_t tasks_put(struct mpd *pd, int32_t where, struct base_wbuf *b)
{
	uint32_t n = 0;

	base_list_foreach (t, &pd->tasks, struct mpd_task, link) {
		if ((where & MP_TID_LOCAL) && where != t->tid)
			continue;
		base_wbuf_u32(b, (uint32_t)t->tid);
		base_wbuf_u32(b, (uint32_t)t->ptid);
		base_wbuf_u32(b, (uint32_t)pd->self << MP_TID_HOST_SHIFT);
		base_wbuf_u32(b, (t->conn ? TASK_CONNECTED : 0u) | (t->child ? TASK_FORKED : 0u));
		base_wbuf_u32(b, (uint32_t)t->pid);
		base_wbuf_str(b, t->name);
		n++;
	}
	return n;
}

struct gather {
	struct mpd_from from;
	int left;
	uint32_t count;
	struct base_wbuf rows;
};

static void gather_answer(struct mpd *pd, struct gather *g)
{
	struct base_wbuf out;

	if (--g->left > 0)
		return;
	base_wbuf_init(&out, MP_FRAME_MAX);
	base_wbuf_u32(&out, g->count);
	base_wbuf_bytes(&out, g->rows.data, g->rows.len);
	mpd_call_reply(pd, &g->from, 0, &out, -1);
	base_wbuf_fini(&out);
	base_wbuf_fini(&g->rows);
	free(g);
}

static void gather_part(struct mpd *pd, void *arg, int rc, struct base_rbuf *body)
{
	struct gather *g = arg;

	/* A host that died meanwhile has no tasks. */
	if (rc >= 0) {
		uint32_t n = base_rbuf_u32(body);

		if (!body->error) {
			g->count += n;
			base_wbuf_bytes(&g->rows, body->data + body->pos, base_rbuf_left(body));
		}
	}
	gather_answer(pd, g);
}

void mpd_op_tasks(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	int32_t where = (int32_t)base_rbuf_u32(b), host = mp_tid_host(where);
	struct gather *g;

	if (b->error || (where && !mpd_host_get(pd, host))) {
		mpd_call_reply(pd, from, PvmNoHost, NULL, -1);
		return;
	}
	g = calloc(1, sizeof(*g));
	if (!g) {
		mpd_call_reply(pd, from, PvmNoMem, NULL, -1);
		return;
	}
	g->from = *from;
	g->left = 1;
	base_wbuf_init(&g->rows, MP_FRAME_MAX - 64);
	if (!where || host == pd->self)
		g->count = tasks_put(pd, where, &g->rows);
	for (int i = 1; i <= pd->host_last && !from->host; i++)
		if (i != pd->self && mpd_host_get(pd, i) && (!where || host == i)) {
			int32_t w = where ? where : i << MP_TID_HOST_SHIFT;

			g->left++;
			mpd_call_host(pd, i, MP_OP_TASKS, from->tid, &w, sizeof(w), gather_part, g);
		}
	gather_answer(pd, g);
}

void mpd_op_signal(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct base_rbuf whole = *b;
	int32_t tid = (int32_t)base_rbuf_u32(b), sig = (int32_t)base_rbuf_u32(b);
	int host = mp_tid_host(tid);
	struct mpd_task *t;

	if (b->error || sig < 0 || sig > SIGRTMAX) {
		mpd_call_reply(pd, from, PvmBadParam, NULL, -1);
		return;
	}
	if (host != pd->self && mpd_host_get(pd, host) && !from->host) {
		mpd_call_forward(pd, from, host, MP_OP_SIGNAL, &whole);
		return;
	}
	t = mpd_task_get(pd, tid);
	if (t && t->pid > 0 && !t->reaped && kill(t->pid, sig) && errno != ESRCH)
		log_warn("signal %d to t%x: %s", sig, (unsigned)tid, strerror(errno));
	/* As in the original, a task that is not there is no error. */
	mpd_call_reply(pd, from, 0, NULL, -1);
}

void mpd_op_pstat(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct base_rbuf whole = *b;
	int32_t tid = (int32_t)base_rbuf_u32(b);
	int host = mp_tid_host(tid);

	if (!from->host && host != pd->self && mpd_host_get(pd, host)) {
		mpd_call_forward(pd, from, host, MP_OP_PSTAT, &whole);
		return;
	}
	mpd_call_reply(pd, from, mpd_task_get(pd, tid) ? 0 : PvmNoTask, NULL, -1);
}

void mpd_op_mstat(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	char name[MPD_NAME_MAX];
	const struct mpd_host *h;

	base_rbuf_str(b, name, sizeof(name));
	h = b->error ? NULL : mpd_host_find(pd, name);
	mpd_call_reply(pd, from, !h ? PvmNoHost : h->suspect ? PvmHostFail : 0, NULL, -1);
}

void mpd_op_tickle(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	enum { SET_DEBUG = 6 };
	uint32_t n = base_rbuf_u32(b), what = n ? base_rbuf_u32(b) : 0;
	struct base_wbuf out;

	if (n > 1 && what == SET_DEBUG) {
		pd->config.debug = base_rbuf_u32(b);
		base_log_set_level(pd->config.debug ? BASE_LOG_DEBUG : BASE_LOG_INFO);
	}
	base_wbuf_init(&out, 64);
	base_wbuf_u32(&out, 0);
	mpd_call_reply(pd, from, b->error ? PvmBadParam : 0, &out, -1);
	base_wbuf_fini(&out);
}

void mpd_op_halt(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	(void)b;
	mpd_log(pd, "t%x halts the virtual machine", (unsigned)from->tid);
	mpd_link_all(pd, MP_C_HALT, NULL, 0);
	mpd_stop(pd, 0);
}

/* Numbers of contexts: the host in the upper bits keeps them unique without asking anyone. */
/* The highest numbers are the system's contexts. */
enum { CONTEXTS = MP_TID_LOCAL - 64 };

static int context_new(struct mpd *pd)
{
	if (!pd->contexts)
		pd->contexts = calloc(CONTEXTS + 1, sizeof(*pd->contexts));
	if (!pd->contexts)
		return PvmNoMem;
	for (int tries = 0; tries < CONTEXTS; tries++) {
		pd->next_context = pd->next_context % CONTEXTS + 1;
		if (!pd->contexts[pd->next_context]) {
			pd->contexts[pd->next_context] = true;
			return pd->self << MP_TID_HOST_SHIFT | pd->next_context;
		}
	}
	return PvmOutOfRes;
}

/* Those of other hosts are not known here. */
static int context_free(struct mpd *pd, int32_t ctx)
{
	int32_t local = ctx & MP_TID_LOCAL;

	if (mp_tid_host(ctx) != pd->self)
		return mp_tid_host(ctx) ? 0 : PvmNotFound;
	if (!pd->contexts || local > CONTEXTS || !pd->contexts[local])
		return PvmNotFound;
	pd->contexts[local] = false;
	return 0;
}

void mpd_op_context(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	int32_t ctx = (int32_t)base_rbuf_u32(b);

	mpd_call_reply(pd, from, ctx ? context_free(pd, ctx) : context_new(pd), NULL, -1);
}

void mpd_op_hostsync(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct base_rbuf whole = *b;
	int32_t tid = (int32_t)base_rbuf_u32(b);
	int host = mp_tid_host(tid);
	struct base_wbuf out;
	struct timeval tv;

	if (!from->host && host != pd->self && mpd_host_get(pd, host)) {
		mpd_call_forward(pd, from, host, MP_OP_HOSTSYNC, &whole);
		return;
	}
	if (host != pd->self) {
		mpd_call_reply(pd, from, PvmNoHost, NULL, -1);
		return;
	}
	gettimeofday(&tv, NULL);
	base_wbuf_init(&out, 64);
	base_wbuf_u64(&out, (uint64_t)tv.tv_sec);
	base_wbuf_u64(&out, (uint64_t)tv.tv_usec);
	mpd_call_reply(pd, from, 0, &out, -1);
	base_wbuf_fini(&out);
}

void mpd_op_setopt(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	int32_t what = (int32_t)base_rbuf_u32(b), v = (int32_t)base_rbuf_u32(b);
	struct mpd_task *t = mpd_task_get(pd, from->tid);

	if (!t || b->error)
		return;
	switch (what) {
	case PvmSelfOutputTid: t->out.tid = v; break;
	case PvmSelfOutputContext: t->out.ctx = v; break;
	case PvmSelfOutputCode: t->out.tag = v; break;
	case PvmSelfTraceTid: t->trace.to.tid = v; break;
	case PvmSelfTraceContext: t->trace.to.ctx = v; break;
	case PvmSelfTraceCode: t->trace.to.tag = v; break;
	case PvmSelfTraceBuffer: t->trace.buffer = v; break;
	case PvmSelfTraceOptions: t->trace.options = v; break;
	default: mpd_call_reply(pd, from, PvmBadParam, NULL, -1); return;
	}
	mpd_output_retarget(pd, t->tid, &t->out);
	mpd_call_reply(pd, from, 0, NULL, -1);
}
