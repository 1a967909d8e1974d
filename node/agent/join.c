/*
 * The lead's agent has a slice join a guest that runs, in the place of one that has left (span.h):
 *
 *   lead's agent                      the node                         the lead's process
 *     SLICE_PREPARE ---------------->   checks, keeps the room, a port
 *     VMMCTL_LINKS ---------------------------------------------------->  key, addresses
 *     SLICE_START(what is where) --->   starts its slice
 *     VMMCTL_JOIN ----------------------------------------------------->  it is a member, or not
 *
 * Until it is a member whatever fails leaves the guest as it is, and the slice is stopped.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "node/agent/span.h"

enum { JOIN_MS = 60000 };

struct agent_join {
	struct agent *agent;
	char vm[TEXT_NAME_MAX];
	uint64_t group;
	unsigned slice;
	uint16_t gone; /* slices; bits */
	char node[TEXT_NAME_MAX], node_before[TEXT_NAME_MAX];
	struct control_slice start;
	unsigned open; /* of START and JOIN */
	bool joined;
	char why[AGENT_WHY_MAX]; /* the first reason against it */
	void (*done)(void *arg, const char *why);
	void *arg;
};

/* Its lead, unless that has ended. */
static struct agent_vm *join_vm(const struct agent_join *j)
{
	struct agent_vm *vm = agent_vm_find(j->agent, j->vm);

	return vm && vm->slice.group == j->group ? vm : NULL;
}

static void blame(struct agent_join *j, const char *why)
{
	if (j->why[0])
		return;
	snprintf(j->why, sizeof(j->why), "node %s: %.400s", j->node, why);
	text_clean(j->why);
}

/* ---- the end ---- */

/* Left alone it would end by itself, but only when its time is over. */
static void stop_slice(const struct agent_join *j)
{
	struct control_slice stop = {.group = j->group};

	snprintf(stop.reason, sizeof(stop.reason), "it did not join the guest: %.300s", j->why);
	agent_span_stop(j->agent, j->node, j->vm, j->slice, &stop);
}

static void undo(struct agent_join *j, struct agent_vm *vm)
{
	int rc;

	if (!strcmp(vm->spec.parts[j->slice].node, j->node_before))
		return;
	memcpy(vm->spec.parts[j->slice].node, j->node_before, sizeof(j->node_before));
	rc = agent_vm_spec_write(vm);
	if (rc)
		log_warn("%s: its specification is not written: %s", j->vm, strerror(-rc));
}

static void over(struct agent_join *j)
{
	struct agent_vm *vm = join_vm(j);

	if (!vm && !j->joined)
		blame(j, "the guest has ended");
	if (!j->joined)
		stop_slice(j);
	if (vm && !j->joined)
		undo(j, vm);
	j->done(j->arg, j->joined ? "" : j->why);
	explicit_bzero(&j->start, sizeof(j->start));
	free(j);
}

static void give_up(struct agent_join *j, const char *why)
{
	blame(j, why);
	over(j);
}

/* ---- the slice starts, and joins ---- */

static void one_less(struct agent_join *j)
{
	if (--j->open == 0)
		over(j);
}

static void cancel_done(void *arg, const struct vmmctl_reply *r)
{
	if (r->error)
		log_debug("nobody waited for the slice: %s",
			  r->text ? r->text : strerror(-r->error));
}

/* The lead's process need not wait for a slice of which its node says that it does not run. */
static void cancel(const struct agent_join *j)
{
	const struct vmmctl_request req = {.op = VMMCTL_JOIN_CANCEL, .cols = (uint16_t)j->slice};
	struct agent_vm *vm = join_vm(j);
	int rc = vm && vm->control ? vmmctl_client_call(vm->control, &req, -1, AGENT_VMM_MS,
							cancel_done, NULL)
				   : -ENOTCONN;

	if (rc)
		log_debug("%s: its process waits on: %s", j->vm, strerror(-rc));
}

static void start_done(void *arg, int error, const void *body, size_t len)
{
	struct agent_join *j = arg;
	struct control_reply r = {0};
	const char *text = "";
	size_t own = strlen(j->vm);

	if (!error)
		error = control_reply_decode(body, len, &r);
	/* An agent that is gone says nothing of its slice: whether it joins the lead's process will say. */
	if (error)
		log_debug("%s: node %s: %s", j->vm, j->node, control_error_text(error));
	else
		text = r.text;
	/* It begins with the VM's name, and so will ours. */
	if (!strncmp(text, j->vm, own) && !strncmp(text + own, ": ", 2))
		text += own + 2;
	if (!error && r.code) {
		blame(j, text);
		if (j->open == 2)
			cancel(j);
	}
	control_reply_fini(&r);
	one_less(j);
}

static const struct chan_out_ops start_ops = {.done = start_done};

static void join_done(void *arg, const struct vmmctl_reply *r)
{
	struct agent_join *j = arg;

	j->joined = !r->error;
	if (r->error) {
		/* A process that ends may have no time to say so. */
		if (r->error == -ECONNRESET)
			blame(j, "the guest has ended");
		blame(j, r->text && r->text[0] ? r->text : strerror(-r->error));
		stop_slice(j); /* or its agent would not answer yet */
	}
	one_less(j);
}

static void start(struct agent_join *j, struct agent_vm *vm)
{
	struct vmmctl_request req = {
		.op = VMMCTL_JOIN, .cols = (uint16_t)j->slice, .rate = j->start.links_group};
	int rc = agent_vm_spec_write(vm);

	snprintf(req.text, sizeof(req.text), "%s", j->start.peers[j->slice]);
	if (!rc)
		rc = agent_span_ask(vm, j->slice, CONTROL_SLICE_START, &j->start,
				    JOIN_MS + AGENT_PEER_MS, &start_ops, j);
	if (rc) {
		give_up(j, control_error_text(rc));
		return;
	}
	j->open = 2;
	rc = vm->control ? vmmctl_client_call(vm->control, &req, -1, JOIN_MS, join_done, j)
			 : -ENOTCONN;
	if (rc)
		join_done(j, &(struct vmmctl_reply){.error = rc});
}

/* ---- what it must know ---- */

/* The addresses are one a line. */
static bool take_addresses(struct agent_join *j, struct agent_vm *vm, const char *text)
{
	for (unsigned i = 0; i < vm->spec.part_count; i++) {
		size_t len = strcspn(text, "\n");

		if (!len || len >= CONTROL_PEER_MAX)
			return false;
		if (i != j->slice)
			snprintf(j->start.peers[i], CONTROL_PEER_MAX, "%.*s",
				 j->gone & 1u << i ? 1 : (int)len, j->gone & 1u << i ? "-" : text);
		text += len + (text[len] == '\n');
	}
	return true;
}

static void links_done(void *arg, const struct vmmctl_reply *r)
{
	struct agent_join *j = arg;
	struct agent_vm *vm = join_vm(j);

	if (r->error || !vm) {
		give_up(j, r->error && r->text && r->text[0] ? r->text
							     : "its process does not answer");
		return;
	}
	if (r->data_len != sizeof(j->start.key) || !r->text || !take_addresses(j, vm, r->text)) {
		give_up(j, "its process does not say where its slices are");
		return;
	}
	memcpy(j->start.key, r->data, sizeof(j->start.key));
	start(j, vm);
}

static void take_port(struct agent_join *j, struct agent_vm *vm, const struct control_reply *r)
{
	const struct vmmctl_request req = {.op = VMMCTL_LINKS};
	const char *name = vm->spec.parts[j->slice].node;
	const struct cluster_node *n = cluster_find(j->agent->cluster, name);
	uint64_t port = 0;
	int rc;

	for (size_t i = 0; i < r->item_count; i++) {
		if (!strcmp(r->items[i].name, "port"))
			port = r->items[i].value;
		else if (!strcmp(r->items[i].name, "warning") && r->items[i].text[0])
			log_warn("%s: node %s: %s", j->vm, name, r->items[i].text);
	}
	if (!n || !port || port > UINT16_MAX) {
		give_up(j, "its agent's answer has no port");
		return;
	}
	agent_slice_address(n, (uint16_t)port, j->start.peers[j->slice]);
	rc = vm->control ? vmmctl_client_call(vm->control, &req, -1, AGENT_VMM_MS, links_done, j)
			 : -ENOTCONN;
	if (rc)
		give_up(j, "the lead's process takes no requests");
}

static void prepare_done(void *arg, int error, const void *body, size_t len)
{
	struct agent_join *j = arg;
	struct agent_vm *vm = join_vm(j);
	struct control_reply r = {0};

	if (!error)
		error = control_reply_decode(body, len, &r);
	if (error)
		give_up(j, control_error_text(error));
	else if (r.code)
		give_up(j, r.text);
	else if (!vm)
		give_up(j, "it has ended");
	else
		take_port(j, vm, &r);
	control_reply_fini(&r);
}

static const struct chan_out_ops prepare_ops = {.done = prepare_done};

/* ---- asking ---- */

static int fill(struct agent_join *j, const struct agent_vm *vm, const struct agent_places *p)
{
	struct control_slice *s = &j->start;

	if (getrandom(&s->links_group, sizeof(s->links_group), 0) != sizeof(s->links_group))
		return -EIO;
	s->links_group |= 1; /* 0 is none */
	s->group = vm->slice.group;
	j->gone = p->gone;
	s->peer_count = (uint32_t)vm->spec.part_count;
	s->home_count = (uint32_t)vm->spec.part_count;
	s->place_count = vm->spec.vcpus;
	memcpy(s->homes, p->home, sizeof(s->homes));
	memcpy(s->places, p->vcpu, sizeof(s->places));
	return 0;
}

int agent_join(struct agent_vm *vm, const struct agent_join_request *req,
	       void (*done)(void *arg, const char *why), void *arg)
{
	struct agent_join *j = calloc(1, sizeof(*j));
	char *node = vm->spec.parts[req->slice].node;
	int rc = -ENOMEM;

	if (!j)
		return rc;
	*j = (struct agent_join){.agent = vm->agent,
				 .group = vm->slice.group,
				 .slice = req->slice,
				 .done = done,
				 .arg = arg};
	memcpy(j->vm, vm->spec.name, sizeof(j->vm));
	memcpy(j->node_before, node, sizeof(j->node_before));
	snprintf(node, TEXT_NAME_MAX, "%s", req->node);
	memcpy(j->node, node, sizeof(j->node));
	vm->slice.overcommit = req->overcommit;
	rc = fill(j, vm, req->places);
	if (!rc)
		rc = agent_span_ask(vm, j->slice, CONTROL_SLICE_PREPARE, &j->start, SPAN_PREPARE_MS,
				    &prepare_ops, j);
	if (!rc)
		return 0;
	memcpy(node, j->node_before, sizeof(j->node_before));
	free(j);
	return rc;
}
