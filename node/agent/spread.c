/*
 * vm spread and vm consolidate, by the agent of a spanning guest's lead: asks its process where what is,
 * makes a list of steps, and has them done one after the other while it reports.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/span.h"

enum {
	REPORT_MS = 250,
	SETTLE_MS = 60000,
	END_ASKS = 10,
	STEP_MS = 3600000,
	VCPU_MAX = 64,
	PAGE = 4096
};

/* One request to the VM's process: MOVE_VCPU {vcpu, slice}, EMPTY {slice, slice}, or JOIN {slice}, which
 * takes more than that (join.c); its part's memory was at home with `from`. */
struct step {
	enum vmmctl_op op;
	uint16_t what, to, from;
};

/* What a node has, as it said when this was asked for. */
struct room {
	const char *node;
	uint64_t cpus, memory_bytes, available_bytes, vm_memory_bytes;
};

struct agent_spread {
	struct agent *agent;
	char name[TEXT_NAME_MAX];
	struct chan_call *call; /* NULL: nobody waits any more */
	bool consolidates, overcommit, back, over;
	bool asking;	   /* for the places */
	bool asking_join;  /* agent_join() has not called back */
	bool counting;	   /* the step is over when they are known */
	unsigned asked;	   /* how often its node was asked whether the slice has ended */
	int64_t settle_ns; /* until the last slice has seen that it is alone; 0: not yet */
	struct base_timer timer;
	int64_t start_ns;
	uint64_t rate;
	char want[VMSPEC_WHY_MAX]; /* spread: a=1,b=1; consolidate: the node to leave */
	struct step steps[VCPU_MAX];
	unsigned count, at;
	uint64_t stood_ns, pages; /* of the slices that have left */
	struct agent_places places;
	struct room rooms[CLUSTER_MAX_NODES];
	unsigned room_count;
	const char *joins[VMSPEC_MAX_PARTS]; /* the node on which this slice is to join, or NULL */
	unsigned joined;
	char why[AGENT_WHY_MAX];
};

/* ---- the end ---- */

static void spread_free(struct agent_spread *s)
{
	if (!s->over || s->asking || s->asking_join)
		return;
	base_loop_timer_cancel(&s->timer);
	free(s);
}

static void spread_end(struct agent_spread *s, enum control_code code, const char *why)
{
	const struct control_item items[] = {
		{"total_ns", "", (uint64_t)(base_clock_ns() - s->start_ns)},
		{"downtime_ns", "", s->stood_ns},
		{"pages_sent", "", s->pages},
		{"steps", "", s->count},
		{"vcpus_moved", "", s->consolidates ? s->places.moved_vcpus : s->count - s->joined},
		{"slices_joined", "", s->joined},
	};
	struct agent_vm *vm = agent_vm_find(s->agent, s->name);

	if (vm && vm->slice.spread == s && (!code || s->count || s->back))
		snprintf(vm->slice.note, sizeof(vm->slice.note), "%s%.400s",
			 !code		   ? ""
			 : s->consolidates ? "not consolidated: "
					   : "not spread: ",
			 code ? why : "");
	if (s->call && code)
		agent_reply_text(s->call, code, "%s: %s", s->name, why);
	else if (s->call)
		agent_reply(s->call, &(struct control_reply){.text = "done",
							     .items = items,
							     .item_count = BASE_ARRAY_LEN(items)});
	if (code)
		agent_event(s->agent, s->name, s->consolidates ? "consolidate" : "spread",
			    "failed: %s", why);
	else
		agent_event(s->agent, s->name, s->consolidates ? "consolidate" : "spread",
			    "done in %" PRIu64 " ms, stood %" PRIu64 " us, %" PRIu64 " pages",
			    items[0].value / 1000000, s->stood_ns / 1000, s->pages);
	if (vm && vm->slice.spread == s) {
		vm->slice.spread = NULL;
		/* The next request may come before the answer to the process's last event. */
		if (!code && s->consolidates)
			vm->slice.places = s->places;
	}
	base_loop_timer_cancel(&s->timer);
	s->over = true;
	spread_free(s);
}

/* ---- progress ---- */

static void report(struct agent_spread *s)
{
	const struct agent_places *p = &s->places;
	const struct control_item items[] = {
		{"step", "", s->at + 1},
		{"steps", "", s->count},
		{"vcpus_moved", "",
		 s->consolidates ? p->moved_vcpus : s->at - BASE_MIN(s->at, s->joined)},
		{"pages_total", "", p->pages_total},
		{"pages_sent", "", p->pages},
		{"total_ns", "", (uint64_t)(base_clock_ns() - s->start_ns)},
	};

	if (s->call &&
	    agent_item(s->call, &(struct control_reply){.text = s->back		  ? "going back"
								: s->consolidates ? "consolidating"
										  : "spreading",
							.items = items,
							.item_count = BASE_ARRAY_LEN(items)}))
		log_debug("%s: nobody reads the progress", s->name);
}

static void step_counted(struct agent_spread *s);

static void look_done(void *arg, const struct vmmctl_reply *r)
{
	struct agent_spread *s = arg;

	s->asking = false;
	if (s->over) {
		spread_free(s);
		return;
	}
	if (!r->error) {
		agent_places_take(&s->places, r);
		report(s);
	}
	if (s->counting)
		step_counted(s);
	else if (s->settle_ns && (s->places.ordinary || base_clock_ns() > s->settle_ns))
		spread_end(s, CONTROL_OK, "");
}

static void look(struct base_timer *t)
{
	struct agent_spread *s = base_container_of(t, struct agent_spread, timer);
	struct agent_vm *vm = agent_vm_find(s->agent, s->name);
	const struct vmmctl_request req = {.op = VMMCTL_PLACES};

	base_loop_timer(s->agent->loop, t,
			base_clock_ns() + (s->settle_ns ? 10 : REPORT_MS) * BASE_NS_PER_MS);
	if (s->asking || !vm || vm->slice.spread != s || !vm->control)
		return;
	s->asking = !vmmctl_client_call(vm->control, &req, -1, AGENT_VMM_MS, look_done, s);
}

/* ---- steps ---- */

static void step_do(struct agent_spread *s);

/* What has been moved goes back; a slice that has left stays gone. */
static void turn_back(struct agent_spread *s, const char *why)
{
	struct step done[VCPU_MAX];
	unsigned n = s->at;

	snprintf(s->why, sizeof(s->why), "%s", why);
	memcpy(done, s->steps, n * sizeof(done[0]));
	for (unsigned i = 0; i < n; i++) {
		s->steps[i] = (struct step){done[n - 1 - i].op, done[n - 1 - i].what,
					    done[n - 1 - i].from, done[n - 1 - i].to};
		if (s->steps[i].op == VMMCTL_JOIN)
			s->steps[i].op = VMMCTL_EMPTY;
	}
	s->back = true;
	s->count = n;
	s->at = 0;
	step_do(s);
}

static void step_failed(struct agent_spread *s, int error, const char *text)
{
	char why[AGENT_WHY_MAX];

	snprintf(why, sizeof(why), "%.300s%s", text && text[0] ? text : strerror(-error),
		 s->consolidates && s->at ? "; what has moved before stays there" : "");
	text_clean(why);
	if (s->back || s->consolidates || error == -ECONNRESET || error == -ECANCELED)
		spread_end(s, control_code_of(error), s->back ? s->why : why);
	else
		turn_back(s, why);
}

static void ask_ended(struct agent_spread *s);

static void ended_done(void *arg, int error, const void *body, size_t len)
{
	struct agent_spread *s = arg;
	struct control_reply r = {0};
	bool gone = error || control_reply_decode(body, len, &r) || r.code == CONTROL_NOT_FOUND;

	control_reply_fini(&r);
	s->asking = false;
	if (!gone && ++s->asked < END_ASKS) {
		ask_ended(s);
		return;
	}
	s->at++;
	step_do(s);
}

static const struct chan_out_ops ended_ops = {.done = ended_done};

/* Its node answers when the process has ended: the guest may want to migrate there next. */
static void ask_ended(struct agent_spread *s)
{
	struct agent_vm *vm = agent_vm_find(s->agent, s->name);
	struct control_slice slice = {.group = vm ? vm->slice.group : 0};

	s->asking = vm && !agent_span_ask(vm, s->steps[s->at].what, CONTROL_SLICE_STOP, &slice,
					  AGENT_PEER_MS, &ended_ops, s);
	if (s->asking)
		return;
	s->at++;
	step_do(s);
}

/* What the slice that has left has cost; then the next one. */
static void step_counted(struct agent_spread *s)
{
	s->counting = false;
	if (s->steps[s->at].op == VMMCTL_JOIN) {
		struct agent_vm *vm = agent_vm_find(s->agent, s->name);

		if (vm && vm->slice.spread == s)
			vm->slice.places = s->places; /* who has a slice now */
		s->stood_ns = BASE_MAX(s->stood_ns, s->places.join_stood_ns);
		s->at++;
		step_do(s);
		return;
	}
	s->stood_ns = BASE_MAX(s->stood_ns, s->places.stood_ns);
	s->pages += s->places.pages;
	s->asked = 0;
	ask_ended(s);
}

/* A look that is under way began after the slice has left: answers come in order. */
static void step_counts(struct agent_spread *s)
{
	s->counting = true;
	if (!s->asking)
		look(&s->timer);
	if (!s->asking)
		step_counted(s);
}

static void step_done(void *arg, const struct vmmctl_reply *r)
{
	struct agent_spread *s = arg;

	if (r->error) {
		step_failed(s, r->error, r->text);
	} else if (s->steps[s->at].op == VMMCTL_EMPTY) {
		step_counts(s);
	} else {
		s->at++;
		step_do(s);
	}
}

static void joined(void *arg, const char *why)
{
	struct agent_spread *s = arg;

	s->asking_join = false;
	if (s->over)
		spread_free(s);
	else if (why[0])
		step_failed(s, -EIO, why);
	else
		step_counts(s);
}

static void step_join(struct agent_spread *s, struct agent_vm *vm)
{
	unsigned slice = s->steps[s->at].what;
	const struct agent_join_request req = {.slice = slice,
					       .node = s->joins[slice],
					       .places = &s->places,
					       .overcommit = s->overcommit};
	int rc = agent_join(vm, &req, joined, s);

	s->asking_join = !rc;
	if (rc)
		step_failed(s, rc, control_error_text(rc));
}

static bool is_alone(const struct agent_spread *s, const struct agent_vm *vm)
{
	uint16_t others = (uint16_t)((1u << vm->spec.part_count) - 2);

	return s->consolidates && (s->places.gone & others) == others;
}

static void step_do(struct agent_spread *s)
{
	struct agent_vm *vm = agent_vm_find(s->agent, s->name);
	const struct step *t = &s->steps[s->at];
	struct vmmctl_request req;
	int rc = -ECANCELED;

	if (s->at == s->count && vm && is_alone(s, vm) && !s->places.ordinary) {
		s->settle_ns = base_clock_ns() + SETTLE_MS * BASE_NS_PER_MS;
		look(&s->timer);
		return;
	}
	if (s->at == s->count) {
		spread_end(s, s->back ? CONTROL_FAILED : CONTROL_OK, s->why);
		return;
	}
	if (t->op == VMMCTL_JOIN && vm && vm->slice.spread == s) {
		step_join(s, vm);
		return;
	}
	req = (struct vmmctl_request){.op = t->op, .cols = t->what, .rows = t->to, .rate = s->rate};
	if (vm && vm->slice.spread == s && vm->control)
		rc = vmmctl_client_call(vm->control, &req, -1, STEP_MS, step_done, s);
	if (rc)
		step_failed(s, rc, "its process takes no requests");
}

static void step_add(struct agent_spread *s, enum vmmctl_op op, unsigned what, unsigned from,
		     unsigned to)
{
	if (s->count < VCPU_MAX)
		s->steps[s->count++] =
			(struct step){op, (uint16_t)what, (uint16_t)to, (uint16_t)from};
}

/* ---- plans ---- */

static bool room_for(const struct agent_spread *s, const char *node, unsigned vcpus, uint64_t bytes,
		     char why[AGENT_WHY_MAX])
{
	for (unsigned i = 0; i < s->room_count; i++) {
		const struct room *r = &s->rooms[i];
		const struct control_node n = {.name = node,
					       .cpus = r->cpus,
					       .memory_bytes = r->memory_bytes,
					       .available_bytes = r->available_bytes,
					       .vm_memory_bytes = r->vm_memory_bytes};

		if (!strcmp(r->node, node))
			return agent_vm_fits(&n, vcpus, bytes, s->overcommit, why);
	}
	snprintf(why, AGENT_WHY_MAX, "node %s does not answer", node);
	return false;
}

static enum control_code plan_consolidate(struct agent_spread *s, struct agent_vm *vm,
					  char why[AGENT_WHY_MAX])
{
	const struct agent_places *p = &s->places;
	unsigned vcpus = agent_places_vcpus(vm, p, 0);
	uint64_t bytes = 0;

	for (unsigned i = 1; i < vm->spec.part_count; i++) {
		if (p->gone & 1u << i || (s->want[0] && strcmp(s->want, vm->spec.parts[i].node)))
			continue;
		for (size_t j = 0; j < vm->spec.part_count; j++)
			bytes += p->home[j] == i ? vm->spec.parts[j].memory_bytes : 0;
		vcpus += agent_places_vcpus(vm, p, i);
		step_add(s, VMMCTL_EMPTY, i, i, 0);
	}
	if (!s->count || room_for(s, vm->spec.parts[0].node, vcpus, bytes, why))
		return CONTROL_OK;
	return CONTROL_NO_ROOM;
}

/*
 * The slice that is on this node, or that can join there: in the place of one that has left, of that node
 * for choice. part_count: there is none.
 */
static unsigned slice_for(struct agent_spread *s, const struct agent_vm *vm, const char *node,
			  bool may_join)
{
	const struct cluster_node *known = cluster_find(s->agent->cluster, node);
	unsigned count = (unsigned)vm->spec.part_count, place = count;

	for (unsigned i = 0; i < count; i++) {
		bool gone = s->places.gone & 1u << i, its = !strcmp(vm->spec.parts[i].node, node);

		if ((its && !gone) || (s->joins[i] && !strcmp(s->joins[i], node)))
			return i;
		if (gone && !s->joins[i] && (its || place == count))
			place = i;
	}
	if (place == count || !known || !may_join)
		return count;
	s->joins[place] = known->name;
	return place;
}

/* "a=1,b=0": the slice of the node and the number; advances behind it. */
static bool wanted_one(struct agent_spread *s, const struct agent_vm *vm, char **at,
		       unsigned *slice, unsigned *vcpus, char why[AGENT_WHY_MAX])
{
	char *one = strsep(at, ","), *count = strchr(one, '=');
	uint64_t n;

	if (count)
		*count++ = 0;
	if (!count || !text_number_parse(count, 0, VCPU_MAX, &n)) {
		snprintf(why, AGENT_WHY_MAX, "'%.40s': expected NODE=VCPUS, such as a=1,b=1", one);
		return false;
	}
	*vcpus = (unsigned)n;
	*slice = slice_for(s, vm, one, n > 0);
	if (*slice < vm->spec.part_count || !n)
		return true;
	if (cluster_find(s->agent->cluster, one))
		snprintf(
			why, AGENT_WHY_MAX,
			"it has no slice on node %.60s, and none can join: none of its %zu has left",
			one, vm->spec.part_count);
	else
		snprintf(why, AGENT_WHY_MAX,
			 "it has no slice on node %.60s, and the cluster has no such node", one);
	return false;
}

static bool wanted_vcpus(struct agent_spread *s, const struct agent_vm *vm,
			 unsigned want[VMSPEC_MAX_PARTS], char why[AGENT_WHY_MAX])
{
	char text[sizeof(s->want)], *at = text;
	unsigned sum = 0, slice, vcpus;

	memcpy(text, s->want, sizeof(text));
	while (at) {
		if (!wanted_one(s, vm, &at, &slice, &vcpus, why))
			return false;
		if (vcpus)
			want[slice] = vcpus;
		sum += vcpus;
	}
	if (sum == vm->spec.vcpus)
		return true;
	snprintf(why, AGENT_WHY_MAX, "it has %u vCPUs, and %u are placed", vm->spec.vcpus, sum);
	return false;
}

/* Those with the highest numbers leave where there are too many. */
static enum control_code plan_spread(struct agent_spread *s, struct agent_vm *vm,
				     char why[AGENT_WHY_MAX])
{
	unsigned want[VMSPEC_MAX_PARTS] = {0}, have[VMSPEC_MAX_PARTS];

	if (!wanted_vcpus(s, vm, want, why))
		return CONTROL_USAGE;
	for (unsigned i = 0; i < vm->spec.part_count; i++) {
		have[i] = agent_places_vcpus(vm, &s->places, i);
		if (want[i] > have[i] &&
		    !room_for(s, s->joins[i] ? s->joins[i] : vm->spec.parts[i].node, want[i],
			      s->joins[i] ? vm->spec.parts[i].memory_bytes : 0, why))
			return CONTROL_NO_ROOM;
		if (!s->joins[i])
			continue;
		s->joined++;
		step_add(s, VMMCTL_JOIN, i, s->places.home[i], i);
	}
	for (unsigned v = vm->spec.vcpus; v-- > 0;) {
		unsigned from = s->places.vcpu[v], to = 0;

		while (to < vm->spec.part_count && have[to] >= want[to])
			to++;
		if (have[from] <= want[from] || to == vm->spec.part_count)
			continue;
		have[from]--;
		have[to]++;
		step_add(s, VMMCTL_MOVE_VCPU, v, from, to);
	}
	return CONTROL_OK;
}

static void first_look(void *arg, const struct vmmctl_reply *r)
{
	struct agent_spread *s = arg;
	struct agent_vm *vm = agent_vm_find(s->agent, s->name);
	char why[AGENT_WHY_MAX] = "";
	enum control_code code;

	s->asking = false;
	if (r->error || !vm || vm->slice.spread != s) {
		spread_end(s, CONTROL_FAILED, r->text && r->text[0] ? r->text : "it has ended");
		return;
	}
	agent_places_take(&s->places, r);
	code = s->consolidates ? plan_consolidate(s, vm, why) : plan_spread(s, vm, why);
	if (code) {
		spread_end(s, code, why);
		return;
	}
	s->timer.fire = look;
	base_loop_timer(s->agent->loop, &s->timer, base_clock_ns());
	step_do(s);
}

/* ---- the request ---- */

/* Who asked has gone; it goes on. */
static void cancelled(void *arg)
{
	struct agent_spread *s = arg;

	chan_call_reply(s->call, NULL, 0);
	s->call = NULL;
}

static const struct chan_call_ops call_ops = {.cancel = cancelled};

static bool refuse(struct agent_vm *vm, struct chan_call *call, const struct control_request *req)
{
	const char *name = vm->spec.name, *to = req->migrate.target;
	bool consolidates = req->op == CONTROL_VM_CONSOLIDATE;

	if (!vmspec_spans(&vm->spec) && !consolidates)
		agent_reply_text(
			call, CONTROL_USAGE,
			"%s does not span nodes: it was started on one, or has migrated as a "
			"whole; one that is started with shares ('--vcpus a=1,b=1', perhaps "
			"--together) can be spread",
			name);
	else if (!vmspec_spans(&vm->spec))
		agent_reply_text(call, CONTROL_USAGE,
				 "%s does not span nodes; 'pangaea vm migrate' moves it", name);
	else if (vm->state != VMMCTL_RUNNING)
		agent_reply_text(call, CONTROL_BUSY, "%s is %s; only a running VM is moved", name,
				 vmmctl_state_name(vm->state));
	else if (vm->slice.spread)
		agent_reply_text(call, CONTROL_BUSY, "%s is being moved already", name);
	else if (consolidates && strcmp(to, vm->spec.parts[0].node) != 0)
		agent_reply_text(
			call, CONTROL_USAGE,
			"%s has its devices on node %s and can be consolidated only there: "
			"'pangaea vm consolidate %s --to %s'",
			name, vm->spec.parts[0].node, name, vm->spec.parts[0].node);
	else if (consolidates && !strcmp(req->places, vm->spec.parts[0].node))
		agent_reply_text(call, CONTROL_USAGE, "%s has its devices on node %s", name,
				 req->places);
	else
		return false;
	return true;
}

static void take_rooms(struct agent_spread *s, const struct agent_gather *g)
{
	for (size_t k = 0; k < g->count; k++) {
		const struct agent_answer *n = &g->answers[k];
		const struct control_node *r = n->error ? NULL : n->reply.nodes;

		if (r && n->reply.node_count == 1)
			s->rooms[s->room_count++] =
				(struct room){n->node->name, r->cpus, r->memory_bytes,
					      r->available_bytes, r->vm_memory_bytes};
	}
}

static void rooms_known(struct agent_gather *g)
{
	const struct control_request *req = &g->req;
	struct agent_vm *vm = agent_vm_find(g->agent, req->vm);
	struct chan_call *call = g->call;
	const struct vmmctl_request places = {.op = VMMCTL_PLACES};
	struct agent_spread *s;
	int rc = -ENOMEM;

	if (!vm) {
		agent_reply_text(call, CONTROL_NOT_FOUND, "%s has just ended", req->vm);
		return;
	}
	if (refuse(vm, call, req))
		return;
	s = calloc(1, sizeof(*s));
	if (s) {
		*s = (struct agent_spread){.agent = vm->agent,
					   .call = call,
					   .consolidates = req->op == CONTROL_VM_CONSOLIDATE,
					   .overcommit = req->overcommit,
					   .start_ns = base_clock_ns(),
					   .rate = (req->migrate.bandwidth + PAGE - 1) / PAGE};
		memcpy(s->name, vm->spec.name, sizeof(s->name));
		snprintf(s->want, sizeof(s->want), "%s", req->places);
		take_rooms(s, g);
		rc = vm->control ? vmmctl_client_call(vm->control, &places, -1, AGENT_VMM_MS,
						      first_look, s)
				 : -ENOTCONN;
	}
	if (rc) {
		free(s);
		agent_reply_text(call, control_code_of(rc), "%s: %s", vm->spec.name, strerror(-rc));
		return;
	}
	s->asking = true;
	vm->slice.spread = s;
	chan_call_stream(call, &call_ops, s);
}

void agent_spread(struct agent_vm *vm, struct chan_call *call, const struct control_request *req)
{
	struct control_request copy = *req;

	/* What each node has left is for it to say. */
	if (!refuse(vm, call, req))
		agent_gather(vm->agent, call, &copy, CONTROL_NODE_INFO, rooms_known);
}
