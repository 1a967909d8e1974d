/*
 * pvmgs, the group server: a task that libpvm3's group calls start and find in the mailbox. It
 * answers one request after the other (pvm/gs/gs_proto.h) and stays until the machine is halted.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "pvm/gs/groups.h"
#include "pvm/gs/gs_proto.h"
#include "pvm/include/pvm3.h"

static struct gs_groups groups;

struct request {
	int tid, op, arg;
	char group[GS_NAME_MAX];
};

static void begin_reply(int result)
{
	if (pvm_initsend(PvmDataDefault) < 0)
		return;
	pvm_pkint(&result, 1, 1);
}

static void reply(int tid, int result)
{
	begin_reply(result);
	pvm_send(tid, GS_REPLY);
}

static void pack_members(const struct gs_group *g, int generation_known)
{
	int head[3] = {g->generation, g->is_static, g->slots};

	pvm_pkint(head, 3, 1);
	if (g->generation != generation_known)
		pvm_pkint(g->tids, g->slots, 1);
}

/* Everybody who waited there. */
static void release(struct gs_group *g, struct gs_waiting *w, int result)
{
	begin_reply(result);
	if (w == &g->freeze && result >= 0)
		pack_members(g, -1);
	if (w->n)
		pvm_mcast(w->tids, w->n, GS_REPLY);
	gs_waiting_clear(w);
}

static void release_full(struct gs_group *g)
{
	if (gs_waiting_full(g, &g->barrier))
		release(g, &g->barrier, PvmOk);
	if (gs_waiting_full(g, &g->freeze)) {
		gs_group_freeze(&groups, g);
		release(g, &g->freeze, g->members);
	}
}

/* A static group that somebody has left is of no use for barriers any more. */
static void leave(struct gs_group *g, int tid)
{
	if (gs_group_leave(&groups, g, tid) < 0)
		return;
	if (g->broken)
		release(g, &g->barrier, PvmNoGroup);
	release_full(g);
	gs_group_reap(&groups, g);
}

static void wait_for_all(struct gs_group *g, struct gs_waiting *w, const struct request *r)
{
	int rc = gs_group_wait(g, w, r->tid, r->arg);

	if (rc < 0)
		reply(r->tid, rc);
	else
		release_full(g);
}

static int instance_tid(const struct gs_group *g, int inst)
{
	return inst >= 0 && inst < g->slots && g->tids[inst] ? g->tids[inst] : PvmNoInst;
}

static void dump(const struct request *r)
{
	char line[GS_NAME_MAX + 256];
	int n = 0;

	for (struct gs_group *g = groups.first; g; g = g->next)
		n++;
	begin_reply(PvmOk);
	pvm_pkint(&n, 1, 1);
	for (struct gs_group *g = groups.first; g; g = g->next) {
		snprintf(line, sizeof(line), "%s: %d members%s, %d at a barrier", g->name,
			 g->members, g->is_static ? ", static" : "", g->barrier.n);
		pvm_pkstr(line);
	}
	pvm_send(r->tid, GS_REPLY);
}

static void join(const struct request *r)
{
	int rc = gs_group_join(&groups, r->group, r->tid), tid = r->tid;

	if (rc >= 0)
		pvm_notify(PvmTaskExit, GS_EXIT, 1, &tid);
	reply(r->tid, rc);
}

static void members(const struct gs_group *g, const struct request *r)
{
	begin_reply(PvmOk);
	pack_members(g, r->arg);
	pvm_send(r->tid, GS_REPLY);
}

static void serve(const struct request *r)
{
	struct gs_group *g = gs_groups_find(&groups, r->group);

	if (r->op == GS_JOIN)
		return join(r);
	if (r->op == GS_DUMP)
		return dump(r);
	if (!g || (g->broken && r->op == GS_BARRIER))
		return reply(r->tid, PvmNoGroup);
	switch (r->op) {
	case GS_LEAVE:
		if (gs_group_inst(g, r->tid) < 0)
			return reply(r->tid, PvmNotInGroup);
		leave(g, r->tid);
		return reply(r->tid, PvmOk);
	case GS_INST: return reply(r->tid, gs_group_inst(g, r->arg));
	case GS_TID: return reply(r->tid, instance_tid(g, r->arg));
	case GS_SIZE: return reply(r->tid, g->members);
	case GS_BARRIER: return wait_for_all(g, &g->barrier, r);
	case GS_MEMBERS: return members(g, r);
	case GS_FREEZE:
		if (g->is_static)
			return reply(r->tid, PvmDupGroup);
		return wait_for_all(g, &g->freeze, r);
	default: return reply(r->tid, PvmBadParam);
	}
}

static void member_ended(void)
{
	int tid = 0;

	if (pvm_upkint(&tid, 1, 1))
		return;
	for (struct gs_group *g = groups.first, *next; g; g = next) {
		next = g->next;
		leave(g, tid);
	}
}

/* A request whose name does not fit was not made by our library. */
static void take(int mid)
{
	static struct request r;
	int len = 0;

	if (pvm_bufinfo(mid, &len, &r.op, &r.tid))
		return;
	if (r.op == GS_EXIT)
		return member_ended();
	if (r.op < GS_JOIN || r.op > GS_OP_LAST)
		return;
	if (len > (int)sizeof(r.group) || pvm_upkstr(r.group) || pvm_upkint(&r.arg, 1, 1))
		return reply(r.tid, PvmBadMsg);
	r.group[sizeof(r.group) - 1] = 0;
	serve(&r);
}

/* One server per machine: whoever is in the mailbox already stays. */
static int announce(int tid)
{
	int mid, rc;

	mid = pvm_initsend(PvmDataDefault);
	if (mid < 0)
		return mid;
	pvm_pkint(&tid, 1, 1);
	pvm_setopt(PvmAutoErr, 0);
	rc = pvm_putinfo((char *)(uintptr_t)GS_CLASS, mid, PvmMboxDefault);
	pvm_setopt(PvmAutoErr, 1);
	return rc;
}

int main(void)
{
	int tid = pvm_mytid();

	if (tid < 0)
		return 1;
	if (announce(tid) < 0) {
		pvm_exit();
		return 0;
	}
	pvm_setopt(PvmAutoErr, 0);
	pvm_setcontext(GS_CTX);
	for (;;) {
		int mid = pvm_recv(-1, -1);

		if (mid < 0)
			break;
		take(mid);
	}
	gs_groups_fini(&groups);
	return 1;
}
