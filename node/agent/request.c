/* Which node answers a request: this one, a named one, the one that has the VM, or all together. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "node/agent/vm.h"

enum {
	HANDOVER_TRIES = 100,
	TWICE_TRIES = 10, /* two VMs of one name are seen on each try; one that moved is not */
};

/* Ends the call unless there is such a node. */
static const struct cluster_node *node_or_refuse(struct agent *a, struct chan_call *call,
						 const char *name)
{
	const struct cluster_node *n = cluster_find(a->cluster, name);

	if (!n)
		agent_reply_text(call, CONTROL_NOT_FOUND,
				 "there is no node '%s'; 'pangaea node ls' lists them", name);
	return n;
}

/* Takes over call and req. */
static void send_to(struct agent *a, const struct cluster_node *n, struct chan_call *call,
		    struct control_request *req)
{
	if (n == a->self)
		agent_local(a, call, req);
	else
		agent_relay(a, n, call, req);
}

/* ---- nodes ---- */

static void list_nodes(struct agent_gather *g)
{
	struct control_node nodes[CLUSTER_MAX_NODES];

	for (size_t i = 0; i < g->count; i++) {
		const struct agent_answer *n = &g->answers[i];

		if (!n->error && n->reply.node_count == 1) {
			nodes[i] = n->reply.nodes[0];
			nodes[i].rtt_ns = n->rtt_ns;
		} else {
			nodes[i] = (struct control_node){.state = "unreachable",
							 .reason = control_error_text(n->error)};
		}
		nodes[i].name = n->node->name;
		nodes[i].address = n->node->address;
	}
	agent_reply(g->call, &(struct control_reply){.nodes = nodes, .node_count = g->count});
}

static void list_checks(struct agent_gather *g)
{
	struct control_check *checks = calloc(CLUSTER_MAX_NODES * AGENT_CHECK_MAX, sizeof(*checks));
	struct control_reply reply = {.checks = checks};

	for (size_t i = 0; checks && i < g->count; i++) {
		const struct agent_answer *n = &g->answers[i];

		if (n->error)
			checks[reply.check_count++] =
				(struct control_check){n->node->name, "agent", "fail",
						       control_error_text(n->error),
						       "start pangaead there, and check its log"};
		for (size_t j = 0; !n->error && j < n->reply.check_count && j < AGENT_CHECK_MAX;
		     j++)
			checks[reply.check_count++] = n->reply.checks[j];
	}
	agent_reply(g->call, &reply);
	free(checks);
}

/* ---- VMs ---- */

static void list_vms(struct agent_gather *g)
{
	struct control_vm *vms;
	struct control_reply reply = {0};
	char missing[512] = "";
	size_t total = 0, used = 0;

	for (size_t i = 0; i < g->count; i++)
		total += g->answers[i].error ? 0 : g->answers[i].reply.vm_count;
	vms = calloc(total + 1, sizeof(*vms));
	for (size_t i = 0; vms && i < g->count; i++) {
		const struct agent_answer *n = &g->answers[i];

		if (n->error && used < sizeof(missing))
			used += (size_t)snprintf(missing + used, sizeof(missing) - used, "%s%s: %s",
						 used ? "\n" : "", n->node->name,
						 control_error_text(n->error));
		for (size_t j = 0; !n->error && j < n->reply.vm_count; j++)
			if (reply.vm_count < CONTROL_MAX_VMS)
				vms[reply.vm_count++] = n->reply.vms[j];
	}
	reply.vms = vms;
	reply.text = missing;
	agent_reply(g->call, &reply);
	free(vms);
}

/* Names of the nodes that did not answer, for "it may be there". */
static void unreached(const struct agent_gather *g, char *out, size_t cap)
{
	size_t used = 0;

	out[0] = 0;
	for (size_t i = 0; i < g->count && used < cap; i++)
		if (g->answers[i].error)
			used += (size_t)snprintf(out + used, cap - used, "%s%s", used ? ", " : "",
						 g->answers[i].node->name);
}

/* How it ended, where some node still knows; NULL: nobody does. */
static const struct control_vm *ended(const struct agent_gather *g)
{
	const struct control_vm *last = NULL;

	for (size_t i = 0; i < g->count; i++) {
		const struct agent_answer *n = &g->answers[i];

		for (size_t j = 0; !n->error && j < n->reply.vm_count; j++) {
			const struct control_vm *v = &n->reply.vms[j];

			/* Of the slices of one guest the lead's record; else the youngest. */
			if (v->ended_ns &&
			    (!last || (v->slices && !v->slice) ||
			     (!(last->slices && !last->slice) && v->ended_ns < last->ended_ns)))
				last = v;
		}
	}
	return last;
}

static void refuse_unknown_vm(struct agent_gather *g)
{
	const struct control_vm *gone = ended(g);
	const struct cluster_node *n = gone ? cluster_find(g->agent->cluster, gone->node) : NULL;
	char away[256], ago[32];

	unreached(g, away, sizeof(away));
	/* Its node can say more of it than how it ended. */
	if (n && (g->req.op == CONTROL_VM_CONSOLE ||
		  (!strcmp(gone->state, "failed") && g->req.op == CONTROL_VM_INFO))) {
		send_to(g->agent, n, g->call, &g->req);
		g->req.spec = NULL;
		return;
	}
	if (gone)
		agent_reply_text(g->call, CONTROL_NOT_FOUND,
				 "there is no VM '%s' any more: it %s %s ago on node %s: %s",
				 g->req.vm, !strcmp(gone->state, "failed") ? "failed" : "ended",
				 text_duration_print(gone->ended_ns, ago, sizeof(ago)), gone->node,
				 gone->reason);
	else if (away[0])
		agent_reply_text(g->call, CONTROL_NOT_FOUND,
				 "no reachable node has a VM '%s'; not reached: %s", g->req.vm,
				 away);
	else
		agent_reply_text(g->call, CONTROL_NOT_FOUND,
				 "there is no VM '%s'; 'pangaea vm ls' lists them", g->req.vm);
}

/* A slice answers for its guest where its lead cannot. */
static bool slice_can(enum control_op op)
{
	return op == CONTROL_VM_KILL || op == CONTROL_VM_INFO || op == CONTROL_VM_STATS;
}

static void send_to_slice(struct agent_gather *g, const struct cluster_node *slice)
{
	if (!slice) {
		refuse_unknown_vm(g);
	} else if (slice_can(g->req.op)) {
		send_to(g->agent, slice, g->call, &g->req);
		g->req.spec = NULL;
	} else {
		agent_reply_text(g->call, CONTROL_UNREACHABLE,
				 "the node of the lead of '%s' is not reached; node %s has a "
				 "follower, which only 'kill', 'info' and 'stats' can use",
				 g->req.vm, slice->name);
	}
}

/* A VM is seen on both nodes while it moves; this is the side where it does not run. */
static bool is_half_moved(const struct control_vm *vm)
{
	return !strcmp(vm->state, "migrating");
}

static void send_to_owner(struct agent_gather *g)
{
	const struct cluster_node *owner = NULL, *slice = NULL, *half = NULL;
	bool between = false;

	for (size_t i = 0; i < g->count; i++) {
		const struct agent_answer *n = &g->answers[i];

		if (n->error || !n->reply.vm_count || n->reply.vms[0].ended_ns)
			continue;
		if (n->reply.vms[0].slice) {
			slice = n->node;
			continue;
		}
		if (is_half_moved(&n->reply.vms[0])) {
			if (n->reply.vms[0].kind[0])
				half = n->node;
			else
				between = true;
			continue;
		}
		/* One answered before it moved away, the other when it had moved in. */
		if (owner && g->tries < TWICE_TRIES) {
			agent_gather_again(g);
			return;
		}
		if (owner) {
			agent_reply_text(g->call, CONTROL_USAGE,
					 "'%s' is on %s and on %s: choose by --node", g->req.vm,
					 owner->name, n->node->name);
			return;
		}
		owner = n->node;
	}
	if (!owner)
		owner = half;
	/* One answered before it ran there, the other when it ran here no more. */
	if (!owner && between && !slice) {
		if (g->tries < HANDOVER_TRIES)
			agent_gather_again(g);
		else
			agent_reply_text(g->call, CONTROL_BUSY,
					 "%s is between two nodes; try again in a moment",
					 g->req.vm);
		return;
	}
	if (!owner) {
		send_to_slice(g, slice);
		return;
	}
	send_to(g->agent, owner, g->call, &g->req);
	g->req.spec = NULL;
}

/* ---- placing a new VM ---- */

/* More is better: memory left over, less what the CPUs have to do already. */
static double place_score(const struct control_node *n, const struct vmspec *s)
{
	double total = (double)n->memory_bytes + 1, cpus = (double)n->cpus + 0.001;
	double left = (double)n->available_bytes - (double)n->vm_memory_bytes;

	return (left - (double)s->memory_bytes) / total -
	       0.5 * ((double)n->load_milli / 1000 + (double)n->vm_vcpus) / cpus;
}

static const struct cluster_node *place(struct agent_gather *g, char why[AGENT_WHY_MAX])
{
	const struct cluster_node *best = NULL;
	double best_score = 0;
	size_t used = 0;

	for (size_t i = 0; i < g->count; i++) {
		const struct agent_answer *n = &g->answers[i];
		char one[AGENT_WHY_MAX];
		double score;

		if (n->error || n->reply.node_count != 1) {
			snprintf(one, sizeof(one), "%s: %s", n->node->name,
				 control_error_text(n->error));
		} else if (agent_vm_fits(&n->reply.nodes[0], g->req.spec->vcpus,
					 g->req.spec->memory_bytes, g->req.overcommit, one)) {
			score = place_score(&n->reply.nodes[0], g->req.spec);
			if (!best || score > best_score) {
				best = n->node;
				best_score = score;
			}
			continue;
		}
		if (used < AGENT_WHY_MAX)
			used += (size_t)snprintf(why + used, AGENT_WHY_MAX - used, "%s%s",
						 used ? "; " : "", one);
	}
	return best;
}

/* Is there room for every part? false: the call has ended. */
static bool parts_fit(struct agent_gather *g)
{
	const struct vmspec *s = g->req.spec;
	char why[AGENT_WHY_MAX];

	for (size_t i = 0; i < s->part_count; i++) {
		const struct cluster_node *to = node_or_refuse(g->agent, g->call, s->parts[i].node);
		const struct agent_answer *n;

		if (!to)
			return false;
		n = &g->answers[to - g->agent->cluster->nodes];
		if (n->error || n->reply.node_count != 1) {
			agent_reply_text(g->call, control_code_of(n->error), "%s: node %s: %s",
					 s->name, to->name, control_error_text(n->error));
			return false;
		}
		if (!agent_vm_fits(&n->reply.nodes[0], s->parts[i].vcpus, s->parts[i].memory_bytes,
				   g->req.overcommit, why)) {
			agent_reply_text(g->call, CONTROL_NO_ROOM, "%s", why);
			return false;
		}
	}
	return true;
}

static void run_placed(struct agent_gather *g)
{
	const char *name = g->req.spec->name;
	const struct cluster_node *to = NULL;
	char why[AGENT_WHY_MAX] = "";

	for (size_t i = 0; i < g->count; i++) {
		const struct agent_answer *n = &g->answers[i];

		for (size_t j = 0; !n->error && j < n->reply.vm_count; j++) {
			if (strcmp(n->reply.vms[j].name, name) != 0)
				continue;
			agent_reply_text(g->call, CONTROL_EXISTS,
					 "there is a VM '%s' already, on node %s", name,
					 n->node->name);
			return;
		}
	}
	if (vmspec_spans(g->req.spec) && !parts_fit(g))
		return;
	if (g->req.node[0]) {
		to = cluster_find(g->agent->cluster, g->req.node);
	} else {
		to = place(g, why);
		if (!to) {
			agent_reply_text(g->call, CONTROL_NO_ROOM, "no node has room: %s", why);
			return;
		}
	}
	send_to(g->agent, to, g->call, &g->req);
	g->req.spec = NULL;
}

/* A guest of one part is an ordinary guest of that node; one of several starts from its first. */
static bool settle_parts(struct control_request *req, char why[AGENT_WHY_MAX])
{
	struct vmspec *s = req->spec;

	if (s->part_count && s->node[0] && strcmp(s->node, s->parts[0].node) != 0) {
		snprintf(why, AGENT_WHY_MAX, "node '%s' and '%s' contradict each other%s", s->node,
			 s->parts[0].node,
			 vmspec_spans(s) ? ": the first part is the lead's, where the devices are"
					 : "");
		return false;
	}
	if (s->part_count)
		memcpy(s->node, s->parts[0].node, sizeof(s->node));
	if (s->part_count == 1)
		s->part_count = 0;
	if (s->node[0])
		memcpy(req->node, s->node, sizeof(req->node));
	return true;
}

void agent_request_run(struct agent *a, struct chan_call *call, struct control_request *req)
{
	char why[AGENT_WHY_MAX];

	if (!settle_parts(req, why)) {
		control_request_fini(req);
		agent_reply_text(call, CONTROL_USAGE, "%s", why);
		return;
	}
	if (req->node[0] && !node_or_refuse(a, call, req->node)) {
		control_request_fini(req);
		return;
	}
	agent_gather(a, call, req, CONTROL_NODE_INFO, run_placed);
}

static void request_vm(struct agent *a, struct chan_call *call, struct control_request *req)
{
	const struct cluster_node *n;

	if (!req->vm[0]) {
		agent_reply_text(call, CONTROL_USAGE, "the name of the VM is missing");
	} else if (req->node[0]) {
		n = node_or_refuse(a, call, req->node);
		if (n)
			send_to(a, n, call, req);
	} else {
		agent_gather(a, call, req, CONTROL_VM_LS, send_to_owner);
	}
}

static void request_node(struct agent *a, struct chan_call *call, struct control_request *req)
{
	const struct cluster_node *n = a->self;

	if (req->node[0])
		n = node_or_refuse(a, call, req->node);
	if (n)
		send_to(a, n, call, req);
}

static void route(struct agent *a, struct chan_call *call, struct control_request *req)
{
	bool one = req->node[0];

	switch (req->op) {
	case CONTROL_NODE_LS: agent_gather(a, call, req, CONTROL_NODE_INFO, list_nodes); break;
	case CONTROL_NODE_INFO: request_node(a, call, req); break;
	case CONTROL_NODE_DOCTOR:
		if (one)
			request_node(a, call, req);
		else
			agent_gather(a, call, req, CONTROL_NODE_DOCTOR, list_checks);
		break;
	case CONTROL_VM_RUN: agent_request_run(a, call, req); break;
	case CONTROL_VM_RESTORE: request_node(a, call, req); break;
	case CONTROL_VM_LS:
		if (one)
			request_node(a, call, req);
		else
			agent_gather(a, call, req, CONTROL_VM_LS, list_vms);
		break;
	case CONTROL_EVENTS:
		if (one)
			request_node(a, call, req);
		else
			agent_events(a, call, req);
		break;
	default: request_vm(a, call, req); break;
	}
}

void agent_request(void *ctx, struct chan_call *call, const void *body, size_t len)
{
	struct agent *a = ctx;
	struct control_request req;
	char why[AGENT_WHY_MAX];

	if (control_request_decode(body, len, &req, why)) {
		log_warn("request of %s refused: %s", chan_call_user(call), why);
		agent_reply_text(call, CONTROL_USAGE, "%s", why);
		return;
	}
	log_debug("request %d of %s, vm '%s', node '%s'", req.op, chan_call_user(call), req.vm,
		  req.node);
	if (req.local)
		agent_local(a, call, &req);
	else
		route(a, call, &req);
}
