/*
 * Tasks that take over a part of the daemon's work: resource manager, hoster, tasker (pvm_reg_*).
 * They speak in messages with the tags SM_* of PVM 3.4, packed as XDR.
 */
#include <endian.h>
#include <errno.h>
#include <pvm3.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "pvm/pvmd/mpd.h"

enum {
	SM_FIRST = (int)0x80040001,
	SM_EXEC = SM_FIRST + 1,
	SM_EXECACK = SM_FIRST + 2,
	SM_ADD = SM_FIRST + 7,
	SM_ADDACK = SM_FIRST + 8,
	SM_TASKX = SM_FIRST + 10,
	SM_HOSTX = SM_FIRST + 11,
	SM_STHOSTACK = SM_FIRST + 15,
	SM_STTASK = SM_FIRST + 16,
	TASKX_TIMES = 4, /* of the processor; not measured */
};

static void xdr_int(struct base_wbuf *b, int32_t v)
{
	base_wbuf_u32(b, htobe32((uint32_t)v));
}

/* As pvm_pkstr: length with the final 0, then the bytes, padded to 4. */
static void xdr_str(struct base_wbuf *b, const char *s)
{
	size_t n = strlen(s) + 1;

	xdr_int(b, (int32_t)n);
	base_wbuf_bytes(b, s, n);
	base_wbuf_bytes(b, "\0\0\0", -n & 3);
}

void mpd_op_register(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct base_rbuf whole = *b;
	int32_t role = (int32_t)base_rbuf_u32(b);

	if (b->error || role < MP_ROLE_RM || role > MP_ROLE_TRACER) {
		mpd_call_reply(pd, from, PvmBadParam, NULL, -1);
		return;
	}
	if (role == MP_ROLE_RM && mpd_coordinator(pd) != pd->self && !from->host) {
		mpd_call_forward(pd, from, mpd_coordinator(pd), MP_OP_REGISTER, &whole);
		return;
	}
	if (role == MP_ROLE_HOSTER && mpd_coordinator(pd) != pd->self) {
		mpd_call_reply(pd, from, PvmHostrNMstr, NULL, -1);
		return;
	}
	if (pd->role_tid[role] && pd->role_tid[role] != from->tid) {
		mpd_call_reply(pd, from, PvmAlready, NULL, -1);
		return;
	}
	pd->role_tid[role] = from->tid;
	/* All daemons tell it to tasks that enrol. */
	if (role == MP_ROLE_RM)
		mpd_table_publish(pd, NULL, NULL);
	mpd_call_reply(pd, from, 0, NULL, -1);
}

/* Resource manager */

static void rm_tell(struct mpd *pd, int32_t tag, int32_t wid, const struct base_wbuf *b)
{
	int32_t rm = pd->role_tid[MP_ROLE_RM];

	if (rm && !b->error)
		mpd_route_message(pd, rm, mp_tid_of_daemon(pd->self), 0, tag, wid, b->data, b->len);
}

/* Up to two numbers, and zeros. */
static void rm_tell_ints(struct mpd *pd, int32_t tag, int32_t a, int32_t b, int zeros)
{
	struct base_wbuf w;

	base_wbuf_init(&w, 64);
	xdr_int(&w, a);
	xdr_int(&w, b);
	for (int i = 0; i < zeros; i++)
		xdr_int(&w, 0);
	rm_tell(pd, tag, 0, &w);
	base_wbuf_fini(&w);
}

void mpd_role_task_came(struct mpd *pd, int32_t tid)
{
	rm_tell_ints(pd, SM_EXECACK, 1, tid, 0);
}

void mpd_role_taskx(struct mpd *pd, int32_t tid)
{
	if (tid != pd->role_tid[MP_ROLE_RM])
		rm_tell_ints(pd, SM_TASKX, tid, 0, TASKX_TIMES);
}

void mpd_role_hostx(struct mpd *pd, int host)
{
	/* All daemons notice; that of the resource manager tells. */
	if (mp_tid_host(pd->role_tid[MP_ROLE_RM]) == pd->self)
		rm_tell_ints(pd, SM_HOSTX, host << MP_TID_HOST_SHIFT, 0, 0);
}

void mpd_role_gone(struct mpd *pd, int32_t tid, int host)
{
	int32_t rm = pd->role_tid[MP_ROLE_RM];

	if (rm && (tid ? rm == tid : mp_tid_host(rm) == host))
		pd->role_tid[MP_ROLE_RM] = 0;
}

/* An order of the resource manager, until it is done. */
struct order {
	int32_t rm, tag, wid;
};

static struct order *order_new(int32_t rm, int32_t tag, int32_t wid)
{
	struct order *o = malloc(sizeof(*o));

	if (o)
		*o = (struct order){rm, tag, wid};
	return o;
}

static void order_end(struct mpd *pd, struct order *o, const struct base_wbuf *b)
{
	if (o->rm == pd->role_tid[MP_ROLE_RM])
		rm_tell(pd, o->tag, o->wid, b);
	free(o);
}

static int32_t xdr_take(struct base_rbuf *b)
{
	return (int32_t)be32toh(base_rbuf_u32(b));
}

/* A string with its final 0, as one of ours. */
static void xdr_pass_str(struct base_rbuf *b, struct base_wbuf *out)
{
	uint32_t n = (uint32_t)xdr_take(b);
	const char *p = n && n <= base_rbuf_left(b) ? base_rbuf_take(b, n) : NULL;

	if (!p || p[n - 1]) {
		b->error = b->error ? b->error : -EBADMSG;
		return;
	}
	base_rbuf_take(b, BASE_MIN((size_t)(-n & 3), base_rbuf_left(b)));
	base_wbuf_blob(out, p, n - 1);
}

static int32_t xdr_pass_int(struct base_rbuf *b, struct base_wbuf *out)
{
	int32_t v = xdr_take(b);

	base_wbuf_u32(out, (uint32_t)v);
	return v;
}

static void xdr_pass_strs(struct base_rbuf *b, struct base_wbuf *out)
{
	int32_t n = xdr_pass_int(b, out);

	if (n < 0)
		b->error = -EBADMSG;
	for (int32_t i = 0; i < n && !b->error; i++)
		xdr_pass_str(b, out);
}

/* The tids of a group that started together. */
static void tell_siblings(struct mpd *pd, const struct base_wbuf *body)
{
	struct base_rbuf b;
	struct base_wbuf out;
	uint32_t n, good = 0;

	base_rbuf_init(&b, body->data, body->len);
	n = base_rbuf_u32(&b);
	base_wbuf_init(&out, MP_FRAME_MAX);
	for (uint32_t i = 0; i < n; i++)
		good += (int32_t)base_rbuf_u32(&b) > 0;
	base_wbuf_u32(&out, good);
	for (int turn = 0; turn < 2; turn++) {
		base_rbuf_init(&b, body->data, body->len);
		base_rbuf_u32(&b);
		for (uint32_t i = 0; i < n && !out.error; i++) {
			int32_t tid = (int32_t)base_rbuf_u32(&b);

			if (tid > 0 && turn == 0)
				base_wbuf_u32(&out, (uint32_t)tid);
			else if (tid > 0)
				mpd_route_ctl(pd, tid, MP_C_SIBLINGS, out.data, out.len);
		}
	}
	base_wbuf_fini(&out);
}

static void exec_done(struct mpd *pd, void *arg, int rc, const struct base_wbuf *body)
{
	struct base_rbuf b;
	struct base_wbuf out;
	uint32_t n = 0;

	base_rbuf_init(&b, body ? body->data : NULL, body ? body->len : 0);
	if (rc >= 0 && body) {
		n = base_rbuf_u32(&b);
		tell_siblings(pd, body);
	}
	base_wbuf_init(&out, MP_FRAME_MAX);
	xdr_int(&out, n ? (int32_t)n : 1);
	if (!n)
		xdr_int(&out, rc < 0 ? rc : PvmDSysErr);
	for (uint32_t i = 0; i < n; i++)
		xdr_int(&out, (int32_t)base_rbuf_u32(&b));
	order_end(pd, arg, &out);
	base_wbuf_fini(&out);
}

/* Starts tasks here. What follows the environment is of no use. */
static void rm_exec(struct mpd *pd, struct order *o, struct base_rbuf *b)
{
	struct base_wbuf args, argv, sinks, env;
	struct mpd_from from = {.tid = xdr_take(b), .reply = exec_done, .arg = o};
	struct base_rbuf in;

	base_wbuf_init(&args, MP_FRAME_MAX);
	base_wbuf_init(&argv, MP_FRAME_MAX);
	base_wbuf_init(&sinks, 64);
	base_wbuf_init(&env, MP_FRAME_MAX);
	xdr_pass_str(b, &args);
	base_wbuf_str(&args, "");
	xdr_pass_int(b, &args);
	xdr_pass_int(b, &args);
	xdr_pass_strs(b, &argv);
	for (int i = 0; i < 6; i++)
		xdr_pass_int(b, &sinks);
	xdr_pass_strs(b, &env);
	base_wbuf_bytes(&args, argv.data, argv.len);
	base_wbuf_bytes(&args, env.data, env.len);
	base_wbuf_bytes(&args, sinks.data, sinks.len);
	base_wbuf_u32(&args, 0);
	base_wbuf_u32(&args, 0);
	base_wbuf_str(&args, "");
	if (b->error || args.error || argv.error || env.error || sinks.error) {
		exec_done(pd, o, PvmBadMsg, NULL);
	} else {
		base_rbuf_init(&in, args.data, args.len);
		mpd_op_exec(pd, &from, &in);
	}
	base_wbuf_fini(&args);
	base_wbuf_fini(&argv);
	base_wbuf_fini(&sinks);
	base_wbuf_fini(&env);
}

static void add_done(struct mpd *pd, void *arg, int rc, const struct base_wbuf *body)
{
	struct base_rbuf b;
	struct base_wbuf out;
	uint32_t n;

	base_rbuf_init(&b, body ? body->data : NULL, body ? body->len : 0);
	n = rc >= 0 && body ? base_rbuf_u32(&b) : 0;
	base_wbuf_init(&out, MP_FRAME_MAX);
	xdr_int(&out, (int32_t)n);
	xdr_int(&out, 1);
	for (uint32_t i = 0; i < n; i++) {
		int32_t tid = (int32_t)base_rbuf_u32(&b);
		const struct mpd_host *h = tid > 0 ? mpd_host_get(pd, mp_tid_host(tid)) : NULL;

		xdr_int(&out, tid);
		xdr_str(&out, h ? h->name : "");
		xdr_str(&out, h ? h->arch : "");
		xdr_int(&out, h ? h->speed : 0);
		xdr_int(&out, h ? h->dsig : 0);
	}
	order_end(pd, arg, &out);
	base_wbuf_fini(&out);
}

static void rm_add(struct mpd *pd, struct order *o, struct base_rbuf *b)
{
	struct mpd_from from = {.tid = o->rm, .reply = add_done, .arg = o};
	struct base_wbuf args;
	struct base_rbuf in;

	base_wbuf_init(&args, MP_FRAME_MAX);
	xdr_pass_strs(b, &args);
	if (b->error || args.error) {
		add_done(pd, o, PvmBadMsg, NULL);
	} else {
		base_rbuf_init(&in, args.data, args.len);
		mpd_op_addhosts(pd, &from, &in);
	}
	base_wbuf_fini(&args);
}

/* A task that it started has ended, or it could not start it. */
static void tasker_taskx(struct mpd *pd, int32_t src, struct base_rbuf *b)
{
	struct mpd_task *t = mpd_task_get(pd, xdr_take(b));
	int status = xdr_take(b);
	struct rusage usage = {0};

	usage.ru_utime.tv_sec = xdr_take(b);
	usage.ru_utime.tv_usec = xdr_take(b);
	usage.ru_stime.tv_sec = xdr_take(b);
	usage.ru_stime.tv_usec = xdr_take(b);
	/* Its own end it does not tell: what it has written is being read. */
	if (!b->error && t && t->tasker == src && t->tid != src)
		mpd_task_ended(t, status, &usage);
}

/* What taskers that have ended were to start and has not come: nobody else would tell its end. */
static void taskers_end(void *arg)
{
	struct mpd *pd = arg;
	struct mpd_task *lost;

	do {
		lost = NULL;
		base_list_foreach (t, &pd->tasks, struct mpd_task, link)
			if (t->tasker && !t->conn && !mpd_task_get(pd, t->tasker))
				lost = t;
		if (lost)
			mpd_task_gone(lost);
	} while (lost);
}

void mpd_tasker_gone(struct mpd *pd)
{
	/* Later, since this changes the list of tasks. */
	if (base_loop_post(pd->loop, taskers_end, pd))
		log_error("no memory: tasks that a tasker was to start stay listed");
}

void mpd_role_message(struct mpd *pd, int32_t src, const struct mp_msghdr *h, const uint8_t *body,
		      size_t len)
{
	struct order *o;
	struct base_rbuf b;

	if (src && src == pd->role_tid[MP_ROLE_HOSTER] && h->tag == SM_STHOSTACK) {
		mpd_hoster_answer(pd, body, len);
		return;
	}
	if (src && src == pd->role_tid[MP_ROLE_TASKER] && h->tag == SM_TASKX) {
		base_rbuf_init(&b, body, len);
		tasker_taskx(pd, src, &b);
		return;
	}
	if (!src || src != pd->role_tid[MP_ROLE_RM] || (h->tag != SM_EXEC && h->tag != SM_ADD)) {
		log_warn("t%x sent this daemon a message that it has no use for: dropped",
			 (unsigned)src);
		return;
	}
	o = order_new(src, h->tag + 1, h->wid);
	if (!o)
		return;
	base_rbuf_init(&b, body, len);
	if (h->tag == SM_EXEC)
		rm_exec(pd, o, &b);
	else
		rm_add(pd, o, &b);
}

/* Tasker */

int mpd_role_start_task(struct mpd *pd, struct mpd_task *t, const char *path, uint32_t argc,
			char **argv, uint32_t envc, char **env)
{
	struct base_wbuf b;
	char cookie[32];

	snprintf(cookie, sizeof(cookie), MP_ENV_EPID "=%u", t->cookie);
	base_wbuf_init(&b, MP_FRAME_MAX);
	xdr_int(&b, t->tid);
	xdr_int(&b, t->flags);
	xdr_str(&b, path);
	xdr_int(&b, (int32_t)argc + 1);
	xdr_str(&b, path);
	for (uint32_t i = 0; i < argc; i++)
		xdr_str(&b, argv[i]);
	xdr_int(&b, (int32_t)envc + 1);
	for (uint32_t i = 0; i < envc; i++)
		xdr_str(&b, env[i]);
	xdr_str(&b, cookie);
	if (b.error) {
		base_wbuf_fini(&b);
		mpd_task_gone(t);
		return PvmNoMem;
	}
	t->tasker = pd->role_tid[MP_ROLE_TASKER];
	mpd_route_message(pd, pd->role_tid[MP_ROLE_TASKER], mp_tid_of_daemon(pd->self), 0,
			  SM_STTASK, 0, b.data, b.len);
	base_wbuf_fini(&b);
	mpd_trace_task_came(pd, t, true);
	return t->tid;
}
