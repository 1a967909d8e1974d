/*
 * Trace events that daemons report: a task has come (newtask), was spawned (spntask), has ended
 * (endtask). They go where the task's own events go (pvm/mp_tev.h says how they look), whatever its
 * mask; the first message to a sink names all kinds of data. A task that nobody traces goes to the
 * first tracer of the mailbox class PVMTRACERCLASS:
 *	tid, context and tag of events, context and tag of output, mask, buffer size, options
 */
#include <endian.h>
#include <pvm3.h>
#include <pvmtev.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "pvm/pvmd/mpd.h"

extern struct Pvmtevinfo pvmtevinfo[];
extern struct Pvmtevdid pvmtevdidlist[];

enum { SINKS_MAX = 64, KNOWS_DATA = 1, KNOWS_NEWTASK = 2, KNOWS_SPNTASK = 4, KNOWS_ENDTASK = 8 };

/* What was already told to whom. */
struct mpd_tracer {
	struct base_list link;
	struct mpd_sink to;
	unsigned knows;
	bool described; /* the message in the making */
};

static void put_int(struct base_wbuf *b, int32_t v)
{
	base_wbuf_u32(b, htobe32((uint32_t)v));
}

static void put_text(struct base_wbuf *b, const char *s)
{
	static const uint8_t zero[4];
	size_t len = strlen(s) + 1;

	put_int(b, (int32_t)len);
	base_wbuf_bytes(b, s, len);
	base_wbuf_bytes(b, zero, (4 - len % 4) % 4);
}

static void send_off(struct mpd *pd, const struct mpd_tracer *t, struct base_wbuf *b)
{
	if (!b->error)
		mpd_route_message(pd, t->to.tid, MP_TID_DAEMON, t->to.ctx, t->to.tag, 0, b->data,
				  b->len);
	base_wbuf_fini(b);
}

static void name_data(struct mpd *pd, const struct mpd_tracer *t)
{
	struct base_wbuf b;

	base_wbuf_init(&b, MP_FRAME_MAX);
	put_int(&b, TEV_MARK_DATA_ID);
	for (int i = TEV_DID_FIRST; i <= TEV_DID_MAX; i++) {
		put_int(&b, i);
		put_text(&b, pvmtevdidlist[i].did);
		put_text(&b, pvmtevdidlist[i].desc);
	}
	put_int(&b, TEV_MARK_DATA_ID_END);
	send_off(pd, t, &b);
}

static bool same_sink(const struct mpd_sink *a, const struct mpd_sink *b)
{
	return a->tid == b->tid && a->ctx == b->ctx && a->tag == b->tag;
}

static struct mpd_tracer *tracer_get(struct mpd *pd, const struct mpd_sink *to)
{
	struct mpd_tracer *t;
	int n = 0;

	base_list_foreach (o, &pd->tracers, struct mpd_tracer, link) {
		if (same_sink(&o->to, to))
			return o;
		n++;
	}
	if (n == SINKS_MAX) {
		/* It will hear some things twice. */
		t = base_list_entry(pd->tracers.next, struct mpd_tracer, link);
		base_list_del(&t->link);
	} else {
		t = malloc(sizeof(*t));
	}
	if (!t)
		return NULL;
	*t = (struct mpd_tracer){.to = *to};
	base_list_add_tail(&pd->tracers, &t->link);
	return t;
}

static void put_item(const struct mpd_tracer *t, struct base_wbuf *b, int did, int type)
{
	if (!t->described)
		return;
	put_int(b, did);
	put_int(b, type);
}

static void put_number(const struct mpd_tracer *t, struct base_wbuf *b, int did, int32_t v)
{
	put_item(t, b, did, TEV_DATA_INT);
	put_int(b, v);
}

static struct mpd_tracer *event_begin(struct mpd *pd, const struct mpd_task *task, int event,
				      unsigned bit, struct base_wbuf *b)
{
	struct mpd_tracer *t = tracer_get(pd, &task->told);
	struct timeval now;

	if (!t)
		return NULL;
	if (!(t->knows & KNOWS_DATA))
		name_data(pd, t);
	t->described = !(t->knows & bit);
	t->knows |= KNOWS_DATA | bit;
	gettimeofday(&now, NULL);
	base_wbuf_init(b, MP_FRAME_MAX);
	put_int(b, t->described ? TEV_MARK_EVENT_DESC : TEV_MARK_EVENT_RECORD);
	put_int(b, event);
	if (t->described)
		put_text(b, pvmtevinfo[event].name);
	put_number(t, b, TEV_DID_TS, (int32_t)now.tv_sec);
	put_number(t, b, TEV_DID_TU, (int32_t)now.tv_usec);
	put_number(t, b, TEV_DID_TID, task->tid);
	return t;
}

static void event_end(struct mpd *pd, struct mpd_tracer *t, struct base_wbuf *b)
{
	put_int(b, t->described ? TEV_MARK_EVENT_DESC_END : TEV_MARK_EVENT_RECORD_END);
	send_off(pd, t, b);
}

static bool traced(const struct mpd_task *t)
{
	return t->trace.to.tid > 0 && t->trace.to.tid != t->tid;
}

/* The parent as the task itself will see it. */
static int32_t parent_shown(const struct mpd_task *t, bool spawned)
{
	if (!spawned)
		return -1;
	return t->flags & PvmNoSpawnParent ? PvmParentNotSet : t->ptid;
}

void mpd_trace_task_came(struct mpd *pd, struct mpd_task *task, bool spawned)
{
	struct mpd_tracer *t;
	struct base_wbuf b;

	if (!traced(task))
		return;
	task->told = task->trace.to;
	t = event_begin(pd, task, TEV_NEWTASK, KNOWS_NEWTASK, &b);
	if (!t)
		return;
	put_number(t, &b, TEV_DID_PT, parent_shown(task, spawned));
	put_number(t, &b, TEV_DID_TF, spawned ? task->flags : -1);
	put_item(t, &b, TEV_DID_TN, TEV_DATA_STRING);
	put_text(&b, spawned ? task->name : "-");
	event_end(pd, t, &b);
	if (!spawned)
		return;
	t = event_begin(pd, task, TEV_SPNTASK, KNOWS_SPNTASK, &b);
	if (!t)
		return;
	put_number(t, &b, TEV_DID_PT, parent_shown(task, spawned));
	event_end(pd, t, &b);
}

void mpd_trace_task_gone(struct mpd *pd, struct mpd_task *task)
{
	struct mpd_tracer *t;
	struct base_wbuf b;

	base_list_foreach_safe (o, &pd->tracers, struct mpd_tracer, link)
		if (o->to.tid == task->tid) {
			base_list_del(&o->link);
			free(o);
		}
	if (!task->told.tid)
		return;
	t = event_begin(pd, task, TEV_ENDTASK, KNOWS_ENDTASK, &b);
	if (!t)
		return;
	put_number(t, &b, TEV_DID_TST, task->status);
	put_number(t, &b, TEV_DID_TUS, (int32_t)task->usage.ru_utime.tv_sec);
	put_number(t, &b, TEV_DID_TUU, (int32_t)task->usage.ru_utime.tv_usec);
	put_number(t, &b, TEV_DID_TSS, (int32_t)task->usage.ru_stime.tv_sec);
	put_number(t, &b, TEV_DID_TSU, (int32_t)task->usage.ru_stime.tv_usec);
	event_end(pd, t, &b);
}

void mpd_trace_fini(struct mpd *pd)
{
	base_list_foreach_safe (t, &pd->tracers, struct mpd_tracer, link) {
		base_list_del(&t->link);
		free(t);
	}
}

static int32_t take_int(struct base_rbuf *b)
{
	return (int32_t)be32toh(base_rbuf_u32(b));
}

/* The mask of a task whose parent gave it none is all @; then its tracer's counts. */
void mpd_trace_adopt(struct mpd *pd, struct mpd_task *t)
{
	struct mpd_sink trace, out;
	Pvmtmask mask = "";
	struct base_rbuf b;
	const char *text;
	uint32_t len;
	char *copy;

	if (t->trace.to.tid || !mpd_mbox_first(pd, PVMTRACERCLASS, &b))
		return;
	trace.tid = out.tid = take_int(&b);
	trace.ctx = take_int(&b);
	trace.tag = take_int(&b);
	out.ctx = take_int(&b);
	out.tag = take_int(&b);
	len = (uint32_t)take_int(&b);
	if (len == 0 || len > sizeof(mask))
		return;
	text = base_rbuf_take(&b, (len + 3) & ~3u);
	if (!text || text[len - 1])
		return;
	memcpy(mask, text, len);
	t->trace.buffer = take_int(&b);
	t->trace.options = take_int(&b);
	copy = b.error ? NULL : strdup(mask);
	if (!copy)
		return;
	free(t->trace_mask);
	t->trace_mask = copy;
	t->trace.to = trace;
	if (!t->out.tid)
		t->out = out;
}
