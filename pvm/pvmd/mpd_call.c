#include <errno.h>
#include <pvm3.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "pvm/pvmd/mpd.h"

enum { OP_TASK = 1, OP_HOST = 2 };

static const struct op {
	mpd_op_fn *fn;
	int who;
} ops[MP_OP_LAST + 1] = {
	[MP_OP_EXIT] = {mpd_op_exit, OP_TASK},
	[MP_OP_CONFIG] = {mpd_op_config, OP_TASK},
	[MP_OP_TASKS] = {mpd_op_tasks, OP_TASK | OP_HOST},
	[MP_OP_SPAWN] = {mpd_op_spawn, OP_TASK},
	[MP_OP_SIGNAL] = {mpd_op_signal, OP_TASK | OP_HOST},
	[MP_OP_NOTIFY] = {mpd_op_notify, OP_TASK | OP_HOST},
	[MP_OP_ADDHOSTS] = {mpd_op_addhosts, OP_TASK | OP_HOST},
	[MP_OP_DELHOSTS] = {mpd_op_delhosts, OP_TASK | OP_HOST},
	[MP_OP_PSTAT] = {mpd_op_pstat, OP_TASK | OP_HOST},
	[MP_OP_MSTAT] = {mpd_op_mstat, OP_TASK},
	[MP_OP_TICKLE] = {mpd_op_tickle, OP_TASK},
	[MP_OP_HALT] = {mpd_op_halt, OP_TASK},
	[MP_OP_MBOX_PUT] = {mpd_op_mbox_put, OP_TASK | OP_HOST},
	[MP_OP_MBOX_GET] = {mpd_op_mbox_get, OP_TASK | OP_HOST},
	[MP_OP_MBOX_DEL] = {mpd_op_mbox_del, OP_TASK | OP_HOST},
	[MP_OP_MBOX_INFO] = {mpd_op_mbox_info, OP_TASK | OP_HOST},
	[MP_OP_CONTEXT] = {mpd_op_context, OP_TASK},
	[MP_OP_HOSTSYNC] = {mpd_op_hostsync, OP_TASK | OP_HOST},
	[MP_OP_SETOPT] = {mpd_op_setopt, OP_TASK},
	[MP_OP_REGISTER] = {mpd_op_register, OP_TASK | OP_HOST},
	[MP_OP_CONNECT] = {mpd_task_connect, OP_TASK},
	[MP_OP_STARTED] = {mpd_op_started, OP_TASK},
	[MP_OP_MBOX_RESET] = {mpd_op_mbox_reset, OP_TASK | OP_HOST},
	[MP_OP_EXEC] = {mpd_op_exec, OP_HOST},
	[MP_OP_HOSTS] = {mpd_op_hosts, OP_HOST},
	[MP_OP_DIRECT] = {mpd_op_direct, OP_HOST},
};

void mpd_call_serve(struct mpd *pd, const struct mpd_from *from, uint16_t op, struct base_rbuf *b)
{
	const struct op *o = op <= MP_OP_LAST ? &ops[op] : NULL;

	if (b->error || !o || !o->fn || !(o->who & (from->host ? OP_HOST : OP_TASK))) {
		mpd_call_reply(pd, from, PvmBadParam, NULL, -1);
		return;
	}
	o->fn(pd, from, b);
}

void mpd_call_reply(struct mpd *pd, const struct mpd_from *from, int rc,
		    const struct base_wbuf *body, int fd)
{
	struct base_wbuf b;

	if (from->reply) {
		from->reply(pd, from->arg, rc, body);
		return;
	}
	base_wbuf_init(&b, MP_FRAME_MAX);
	base_wbuf_u32(&b, (uint32_t)rc);
	if (body) {
		base_wbuf_bytes(&b, body->data, body->len);
		if (body->error)
			b.error = body->error;
	}
	if (b.error) {
		base_wbuf_fini(&b);
		base_wbuf_init(&b, MP_FRAME_MAX);
		base_wbuf_u32(&b, (uint32_t)PvmNoMem);
	}
	if (from->host) {
		struct mpd_host *h = pd->hosts[from->host];

		if (h && h->link)
			mpd_conn_frame(h->link, MP_F_REP, from->req, &b, -1);
	} else {
		struct mpd_task *t = mpd_task_get(pd, from->tid);

		if (t && t->serial == from->serial && t->conn &&
		    !(from->quick && mpd_quick_answer(t, from->req, &b))) {
			mpd_conn_frame(t->conn, MP_F_REP, from->req, &b, fd);
			mpd_task_wake(t);
		}
	}
	base_wbuf_fini(&b);
}

static struct mpd_call *call_new(struct mpd *pd, int host, mpd_done_fn done, void *arg)
{
	struct mpd_call *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->id = ++pd->next_call;
	c->host = host;
	c->done = done;
	c->arg = arg;
	base_list_add_tail(&pd->calls, &c->link);
	return c;
}

void mpd_call_host(struct mpd *pd, int host, uint16_t op, int32_t tid, const void *args, size_t len,
		   mpd_done_fn done, void *arg)
{
	struct mpd_host *h = pd->hosts[host];
	struct base_rbuf none;
	struct base_wbuf b;
	struct mpd_call *c;

	base_rbuf_init(&none, NULL, 0);
	if (!h) {
		done(pd, arg, PvmNoHost, &none);
		return;
	}
	c = call_new(pd, host, done, arg);
	if (!c) {
		done(pd, arg, PvmNoMem, &none);
		return;
	}
	base_wbuf_init(&b, MP_FRAME_MAX);
	base_wbuf_u16(&b, op);
	base_wbuf_u32(&b, (uint32_t)tid);
	base_wbuf_bytes(&b, args, len);
	mpd_link_send(pd, h, MP_F_REQ, c->id, &b);
	base_wbuf_fini(&b);
}

static void forward_done(struct mpd *pd, void *arg, int rc, struct base_rbuf *body)
{
	struct mpd_from *from = arg;
	struct base_wbuf b;

	base_wbuf_init(&b, MP_FRAME_MAX);
	base_wbuf_bytes(&b, body->data ? body->data + body->pos : NULL, base_rbuf_left(body));
	mpd_call_reply(pd, from, rc, &b, -1);
	base_wbuf_fini(&b);
	free(from);
}

void mpd_call_forward(struct mpd *pd, const struct mpd_from *from, int host, uint16_t op,
		      const struct base_rbuf *b)
{
	struct mpd_from *copy = malloc(sizeof(*copy));

	if (!copy) {
		mpd_call_reply(pd, from, PvmNoMem, NULL, -1);
		return;
	}
	*copy = *from;
	mpd_call_host(pd, host, op, from->tid, b->data + b->pos, base_rbuf_left(b), forward_done,
		      copy);
}

void mpd_call_answer(struct mpd *pd, int host, uint32_t id, struct base_rbuf *b)
{
	base_list_foreach_safe (c, &pd->calls, struct mpd_call, link) {
		int rc;

		if (c->id != id || c->host != host)
			continue;
		base_list_del(&c->link);
		rc = (int32_t)base_rbuf_u32(b);
		c->done(pd, c->arg, b->error ? PvmDSysErr : rc, b);
		free(c);
		return;
	}
	log_debug("answer %u from host %d to no call", id, host);
}

void mpd_call_host_gone(struct mpd *pd, int host)
{
	struct base_list todo;
	struct base_rbuf none;

	/* `done` may start new calls, so those of the dead host are taken out first. */
	base_list_init(&todo);
	base_list_foreach_safe (c, &pd->calls, struct mpd_call, link)
		if (c->host == host) {
			base_list_del(&c->link);
			base_list_add_tail(&todo, &c->link);
		}
	base_rbuf_init(&none, NULL, 0);
	base_list_foreach_safe (c, &todo, struct mpd_call, link) {
		base_list_del(&c->link);
		c->done(pd, c->arg, PvmHostFail, &none);
		free(c);
	}
}
