/* The lead's agent: asks the other nodes for their slices, and starts all or none. */
#include "node/agent/span.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"

/* While the other nodes are being asked; of vm->slice.span. */
struct agent_span {
	struct agent_vm *vm;
	struct chan_call *call;
	struct control_slice slice; /* what all will be started with */
	unsigned open;		    /* answers still to come */
	enum control_code code;	    /* of the first refusal */
	char why[AGENT_WHY_MAX];
};

/* A question to the node of one part; the VM may be gone when the answer comes. */
struct ask {
	struct agent *agent;
	char vm[TEXT_NAME_MAX];
	uint64_t group;
	unsigned index;
};

static struct ask *ask_new(const struct agent_vm *vm, unsigned index)
{
	struct ask *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	*q = (struct ask){.agent = vm->agent, .group = vm->slice.group, .index = index};
	memcpy(q->vm, vm->spec.name, sizeof(q->vm));
	return q;
}

static struct agent_vm *ask_vm(const struct ask *q)
{
	struct agent_vm *vm = agent_vm_find(q->agent, q->vm);

	return vm && vm->slice.group == q->group ? vm : NULL;
}

/* Fills in the node. */
static int ask_node(struct agent *a, const char *node, struct control_request *req, int timeout_ms,
		    const struct chan_out_ops *ops, void *arg)
{
	const struct cluster_node *to = cluster_find(a->cluster, node);
	struct chan_link *link = to ? a->peers[to - a->cluster->nodes].link : NULL;
	struct chan_out *out;
	uint8_t *body;
	size_t len;
	int rc;

	if (!link)
		return -ECANCELED;
	memcpy(req->node, to->name, sizeof(req->node));
	rc = control_request_encode(req, &body, &len);
	if (rc)
		return rc;
	rc = chan_link_call(link, body, len, timeout_ms, false, ops, arg, &out);
	explicit_bzero(body, len);
	free(body);
	return rc;
}

int agent_span_ask(struct agent_vm *vm, unsigned index, enum control_op op,
		   const struct control_slice *slice, int timeout_ms,
		   const struct chan_out_ops *ops, void *arg)
{
	struct control_request req = {
		.op = op, .local = true, .slice = *slice, .overcommit = vm->slice.overcommit};
	int rc;

	if (op == CONTROL_SLICE_PREPARE)
		req.spec = &vm->spec;
	req.slice.index = index;
	memcpy(req.vm, vm->spec.name, sizeof(req.vm));
	rc = ask_node(vm->agent, vm->spec.parts[index].node, &req, timeout_ms, ops, arg);
	explicit_bzero(&req.slice.key, sizeof(req.slice.key));
	return rc;
}

static void stop_done(void *arg, int error, const void *body, size_t len)
{
	log_debug("a slice is to end: %s", error ? control_error_text(error) : "told");
}

static const struct chan_out_ops stop_ops = {.done = stop_done};

void agent_span_stop(struct agent *a, const char *node, const char *vm, unsigned index,
		     const struct control_slice *slice)
{
	struct control_request req = {.op = CONTROL_SLICE_STOP, .local = true, .slice = *slice};
	int rc;

	req.slice.index = index;
	snprintf(req.vm, sizeof(req.vm), "%s", vm);
	rc = ask_node(a, node, &req, AGENT_PEER_MS, &stop_ops, NULL);
	if (rc)
		log_debug("%s: node %s is not told to end its slice: %s", vm, node, strerror(-rc));
}

/* ---- ending what has begun ---- */

void agent_span_abort(struct agent_vm *vm, enum control_code code, const char *why)
{
	struct agent_span *span = vm->slice.span;

	if (agent_wait_run(vm, span->call))
		agent_reply_text(span->call, code, "%s: %s", vm->spec.name, why);
	vm->code = code;
	vm->state = VMMCTL_FAILED;
	snprintf(vm->reason, sizeof(vm->reason), "%s", why); /* may be of span */
	vm->slice.span = NULL;
	explicit_bzero(&span->slice, sizeof(span->slice));
	free(span);
	agent_vm_over(vm);
}

static void span_refused(struct agent_span *span, const char *node, enum control_code code,
			 const char *why)
{
	if (span->code)
		return;
	span->code = code;
	snprintf(span->why, sizeof(span->why), "node %s: %.400s", node, why);
	text_clean(span->why);
}

/* ---- starting ---- */

static void start_done(void *arg, int error, const void *body, size_t len)
{
	struct ask *q = arg;
	struct agent_vm *vm = ask_vm(q);
	char why[AGENT_WHY_MAX];
	struct control_reply r = {0};

	if (!error)
		error = control_reply_decode(body, len, &r);
	if (vm)
		vm->slice.starting--;
	/* Once the guest runs its slices say themselves what becomes of them. */
	if (vm && error && vm->state != VMMCTL_STARTING)
		error = 0;
	if (vm && !error && !r.code)
		agent_vm_runs(vm);
	if (vm && (error || r.code)) {
		const char *text = error ? control_error_text(error) : r.text;
		size_t own = strlen(q->vm);

		/* It begins with the VM's name, and so will ours. */
		if (!strncmp(text, q->vm, own) && !strncmp(text + own, ": ", 2))
			text += own + 2;
		snprintf(why, sizeof(why), "node %s: %.400s", vm->spec.parts[q->index].node, text);
		agent_vm_fail(vm, why);
	}
	control_reply_fini(&r);
	free(q);
}

static const struct chan_out_ops start_ops = {.done = start_done};

static int start_others(struct agent_vm *vm, const struct control_slice *slice)
{
	int rc = 0;

	for (unsigned i = 1; i < vm->spec.part_count && !rc; i++) {
		if (vm->slice.places.gone & 1u << i)
			continue;
		struct ask *q = ask_new(vm, i);

		rc = q ? agent_span_ask(vm, i, CONTROL_SLICE_START, slice,
					agent_vm_start_ms(vm) + AGENT_PEER_MS, &start_ops, q)
		       : -ENOMEM;
		if (rc)
			free(q);
		else
			vm->slice.starting++;
	}
	return rc;
}

/* All nodes are ready. From here on what fails is a VM that fails. */
static void span_start(struct agent_vm *vm)
{
	struct agent_span *span = vm->slice.span;
	struct chan_call *call = span->call;
	int rc = agent_slice_launch(vm, &span->slice);

	if (rc) {
		agent_span_abort(vm, CONTROL_FAILED, strerror(-rc));
		return;
	}
	vm->slice.span = NULL;
	if (agent_wait_run(vm, call))
		agent_reply_text(call, CONTROL_FAILED, "out of memory");
	rc = start_others(vm, &span->slice);
	if (rc)
		agent_vm_fail(vm, control_error_text(rc));
	explicit_bzero(&span->slice, sizeof(span->slice));
	free(span);
}

/* ---- preparing ---- */

static void tell_warning(struct agent_span *span, const char *node, const char *text)
{
	char line[AGENT_WHY_MAX + TEXT_NAME_MAX + 24];

	if (!text[0])
		return;
	snprintf(line, sizeof(line), "warning: node %s: %s", node, text);
	text_clean(line);
	log_warn("%s: %s", span->vm->spec.name, line);
	if (agent_item(span->call, &(struct control_reply){.text = line}))
		log_debug("nobody follows the start of %s", span->vm->spec.name);
}

static void take_port(struct agent_span *span, unsigned index, const struct control_reply *r)
{
	const char *name = span->vm->spec.parts[index].node;
	const struct cluster_node *n = cluster_find(span->vm->agent->cluster, name);
	uint64_t port = 0;

	for (size_t i = 0; i < r->item_count; i++) {
		if (!strcmp(r->items[i].name, "port"))
			port = r->items[i].value;
		else if (!strcmp(r->items[i].name, "warning"))
			tell_warning(span, name, r->items[i].text);
	}
	if (!n || !port || port > UINT16_MAX)
		span_refused(span, name, CONTROL_FAILED, "its agent's answer has no port");
	else
		agent_slice_address(n, (uint16_t)port, span->slice.peers[index]);
}

static void prepare_answer(struct agent_span *span, unsigned index, int error, const void *body,
			   size_t len)
{
	const char *node = span->vm->spec.parts[index].node;
	struct control_reply r = {0};

	if (!error)
		error = control_reply_decode(body, len, &r);
	if (error)
		span_refused(span, node, control_code_of(error), control_error_text(error));
	else if (r.code)
		span_refused(span, node, r.code, r.text);
	else
		take_port(span, index, &r);
	control_reply_fini(&r);
}

static void prepared(struct agent_vm *vm)
{
	struct agent_span *span = vm->slice.span;

	if (--span->open)
		return;
	if (span->code)
		agent_span_abort(vm, span->code, span->why);
	else
		span_start(vm);
}

static void prepare_done(void *arg, int error, const void *body, size_t len)
{
	struct ask *q = arg;
	struct agent_vm *vm = ask_vm(q);

	if (vm && vm->slice.span) {
		prepare_answer(vm->slice.span, q->index, error, body, len);
		prepared(vm);
	}
	free(q);
}

static const struct chan_out_ops prepare_ops = {.done = prepare_done};

/* As if the others had left; they may join later. */
static void leave_alone(struct agent_vm *vm, struct control_slice *slice)
{
	vm->slice.places = (struct agent_places){
		.known = true, .gone = (uint16_t)((1u << vm->spec.part_count) - 2)};
	for (size_t i = 1; i < vm->spec.part_count; i++)
		snprintf(slice->peers[i], CONTROL_PEER_MAX, "-");
}

static void prepare_all(struct agent_vm *vm)
{
	struct agent_span *span = vm->slice.span;

	/* Held open until all are asked: a failed one must not finish it early. */
	span->open = 1;
	for (unsigned i = 1; i < vm->spec.part_count; i++) {
		struct ask *q = ask_new(vm, i);
		int rc = q ? agent_span_ask(vm, i, CONTROL_SLICE_PREPARE, &span->slice,
					    SPAN_PREPARE_MS, &prepare_ops, q)
			   : -ENOMEM;

		if (!rc) {
			span->open++;
			continue;
		}
		free(q);
		span_refused(span, vm->spec.parts[i].node, control_code_of(rc),
			     control_error_text(rc));
	}
	prepared(vm);
}

/* ---- the request ---- */

/* The lead's port, and what tells this guest from all others. */
static int slice_new(struct agent_vm *vm, struct control_slice *slice)
{
	uint16_t port = 0;
	int rc = agent_slice_listen(vm, &port);

	slice->peer_count = (uint32_t)vm->spec.part_count;
	if (!rc &&
	    (getrandom(slice->key, sizeof(slice->key), 0) != (ssize_t)sizeof(slice->key) ||
	     getrandom(&slice->group, sizeof(slice->group), 0) != (ssize_t)sizeof(slice->group)))
		rc = -EIO;
	if (rc)
		return rc;
	slice->group |= 1; /* 0 is none */
	agent_slice_address(vm->agent->self, port, slice->peers[0]);
	vm->slice.group = slice->group;
	return 0;
}

int agent_span_alone(struct agent_vm *vm, struct control_slice *slice)
{
	int rc;

	*slice = (struct control_slice){0};
	rc = slice_new(vm, slice);
	if (!rc)
		leave_alone(vm, slice);
	return rc;
}

static int span_new(struct agent *a, struct chan_call *call, const struct control_request *req,
		    struct agent_vm **out)
{
	struct agent_span *span = calloc(1, sizeof(*span));
	struct agent_vm *vm = span ? agent_vm_new(a, req->spec) : NULL;
	int rc;

	if (!vm) {
		free(span);
		return -ENOMEM;
	}
	span->vm = vm;
	span->call = call;
	vm->slice.overcommit = req->overcommit;
	rc = slice_new(vm, &span->slice);
	if (rc) {
		free(span);
		agent_vm_free(vm);
		return rc;
	}
	vm->slice.span = span;
	*out = vm;
	return 0;
}

/* All memory of a checkpoint passes through the lead's, and stays there until others use it. */
static bool has_room(struct agent *a, const struct vmspec *s, char why[AGENT_WHY_MAX])
{
	char have[32], want[32];
	struct agent_host h;

	agent_host_read(&h);
	if (s->memory_bytes <= h.available_bytes)
		return true;
	snprintf(
		why, AGENT_WHY_MAX,
		"node %s has %s of memory free; to restore a guest that spans nodes its lead needs "
		"room for all of it, %s (--overcommit leaves it at that)",
		a->self->name, text_size_print(h.available_bytes, have, sizeof(have)),
		text_size_print(s->memory_bytes, want, sizeof(want)));
	return false;
}

void agent_span_run(struct agent *a, struct chan_call *call, struct control_request *req)
{
	char why[AGENT_WHY_MAX], warning[AGENT_WHY_MAX], text[128];
	struct vmspec *s = req->spec;
	struct agent_vm *vm;
	int rc;

	if (strcmp(s->parts[0].node, a->self->name) != 0) {
		agent_reply_text(call, CONTROL_USAGE, "%s starts from node %s", s->name,
				 s->parts[0].node);
	} else if (!agent_doctor_span(a, !strcmp(s->transport, "verbs"), why, warning)) {
		agent_reply_text(call, CONTROL_FAILED, "%s: node %s: %s", s->name, a->self->name,
				 why);
	} else if (s->restore[0] && !req->overcommit && !has_room(a, s, why)) {
		agent_reply_text(call, CONTROL_NO_ROOM, "%s: %s", s->name, why);
	} else if (req->together &&
		   !agent_vm_has_room(a, s->vcpus, s->memory_bytes, req->overcommit, why)) {
		agent_reply_text(call, CONTROL_NO_ROOM, "%s: %s", s->name, why);
	} else {
		snprintf(text, sizeof(text), "starting on %zu nodes",
			 req->together ? (size_t)1 : s->part_count);
		if (agent_item(call, &(struct control_reply){.text = text}))
			log_debug("nobody follows the start of %s", s->name);
		rc = span_new(a, call, req, &vm);
		if (rc) {
			agent_reply_text(call, CONTROL_FAILED, "%s: node %s: %s", s->name,
					 a->self->name, strerror(-rc));
		} else {
			tell_warning(vm->slice.span, a->self->name, warning);
			if (req->together) {
				leave_alone(vm, &vm->slice.span->slice);
				span_start(vm);
			} else {
				prepare_all(vm);
			}
		}
	}
	control_request_fini(req);
}
