/*
 * Where the parts of a guest that spans nodes are: what each slice's process says, and on which nodes its
 * slices are, which the lead's agent knows.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/span.h"

enum { VCPU_MAX = 64, AGAIN_MS = 2000 };

static bool place_index(const char *name, const char *before, const char *after, unsigned max,
			unsigned *out)
{
	size_t n = strlen(before);
	char *end;

	if (strncmp(name, before, n) != 0)
		return false;
	*out = (unsigned)strtoul(name + n, &end, 10);
	return end != name + n && !strcmp(end, after) && *out < max;
}

void agent_places_take(struct agent_places *p, const struct vmmctl_reply *r)
{
	*p = (struct agent_places){.known = true};
	for (size_t i = 0; i < r->stat_count; i++) {
		const char *name = r->stats[i].name;
		uint64_t v = r->stats[i].value;
		unsigned at;

		if (place_index(name, "vcpu", ".slice", VCPU_MAX, &at) && v < VMSPEC_MAX_PARTS)
			p->vcpu[at] = (uint8_t)v;
		else if (place_index(name, "slice", ".gone", VMSPEC_MAX_PARTS, &at))
			p->gone |= v ? 1u << at : 0;
		else if (place_index(name, "part", ".home", VMSPEC_MAX_PARTS, &at))
			p->home[at] = (uint8_t)v;
		else if (!strcmp(name, "ordinary"))
			p->ordinary = v != 0;
		else if (!strcmp(name, "empty.vcpus"))
			p->moved_vcpus = v;
		else if (!strcmp(name, "empty.pages"))
			p->pages = v;
		else if (!strcmp(name, "empty.pages_total"))
			p->pages_total = v;
		else if (!strcmp(name, "empty.stood_ns"))
			p->stood_ns = v;
		else if (!strcmp(name, "join.stood_ns"))
			p->join_stood_ns = v;
	}
}

unsigned agent_places_vcpus(const struct agent_vm *vm, const struct agent_places *p, unsigned slice)
{
	unsigned n = 0;

	for (unsigned i = 0; i < vm->spec.vcpus && i < VCPU_MAX; i++)
		n += p->vcpu[i] == slice;
	return n;
}

struct vmspec_part agent_vm_part_now(const struct agent_vm *vm, unsigned slice)
{
	const struct agent_places *p = &vm->slice.places;
	struct vmspec_part part = vm->spec.parts[slice];

	if (!p->known)
		return part;
	part.vcpus = agent_places_vcpus(vm, p, slice);
	part.memory_bytes = 0;
	for (size_t i = 0; i < vm->spec.part_count; i++)
		if (p->home[i] == slice)
			part.memory_bytes += vm->spec.parts[i].memory_bytes;
	return part;
}

/* ---- the nodes of the others, at a follower ---- */

/* The VM may be gone when the answer comes. */
struct ask {
	struct agent *agent;
	char vm[TEXT_NAME_MAX];
	uint64_t group;
};

static void names_ask(struct agent_vm *vm);

static void names_timer(struct base_timer *t)
{
	struct agent_slice *s = base_container_of(t, struct agent_slice, names_timer);

	names_ask(base_container_of(s, struct agent_vm, slice));
}

static void names_again(struct agent_vm *vm)
{
	vm->slice.names_timer.fire = names_timer;
	base_loop_timer(vm->agent->loop, &vm->slice.names_timer,
			base_clock_ns() + AGAIN_MS * BASE_NS_PER_MS);
}

/* False: that is not this guest, or no cluster of ours. */
static bool names_take(struct agent_vm *vm, const struct control_reply *r)
{
	const struct vmspec *s = r->spec;

	if (r->code || !s || r->vm_count != 1 || r->vms[0].group != vm->slice.group ||
	    s->part_count != vm->spec.part_count)
		return false;
	for (size_t i = 0; i < s->part_count; i++)
		if (!cluster_find(vm->agent->cluster, s->parts[i].node))
			return false;
	for (size_t i = 1; i < s->part_count; i++)
		if (i != vm->slice.index)
			memcpy(vm->spec.parts[i].node, s->parts[i].node,
			       sizeof(vm->spec.parts[i].node));
	return true;
}

static void names_done(void *arg, int error, const void *body, size_t len)
{
	struct ask *q = arg;
	struct agent_vm *vm = agent_vm_find(q->agent, q->vm);
	struct control_reply r = {0};
	int rc;

	if (!error)
		error = control_reply_decode(body, len, &r);
	if (vm && vm->slice.group == q->group) {
		if (error) {
			names_again(vm);
		} else if (names_take(vm, &r)) {
			rc = agent_vm_spec_write(vm);
			if (rc)
				log_warn("%s: its specification is not written: %s", q->vm,
					 strerror(-rc));
		} else {
			log_warn("%s: node %s does not say which nodes it is on", q->vm,
				 vm->spec.parts[0].node);
		}
	}
	control_reply_fini(&r);
	free(q);
}

static const struct chan_out_ops names_ops = {.done = names_done};

static void names_ask(struct agent_vm *vm)
{
	const struct control_slice none = {0};
	struct ask *q = calloc(1, sizeof(*q));
	int rc = -ENOMEM;

	if (q) {
		*q = (struct ask){.agent = vm->agent, .group = vm->slice.group};
		memcpy(q->vm, vm->spec.name, sizeof(q->vm));
		rc = agent_span_ask(vm, 0, CONTROL_VM_INFO, &none, AGENT_PEER_MS, &names_ops, q);
	}
	if (!rc)
		return;
	free(q);
	names_again(vm);
}

/* A slice that has joined is perhaps not where the one before was; a new agent may have missed that. */
static void look_at_names(struct agent_vm *vm, const struct agent_places *before)
{
	const struct agent_places *p = &vm->slice.places;

	if (vm->slice.index && (before->known ? before->gone & ~p->gone : vm->found))
		names_ask(vm);
}

/* ---- asking ---- */

static void places_done(void *arg, const struct vmmctl_reply *r)
{
	struct agent_vm *vm = arg;
	const struct agent_places before = vm->slice.places;

	if (r->error) {
		log_debug("%s: no places: %s", vm->spec.name, r->text);
		return;
	}
	agent_places_take(&vm->slice.places, r);
	look_at_names(vm, &before);
}

void agent_places_ask(struct agent_vm *vm)
{
	const struct vmmctl_request req = {.op = VMMCTL_PLACES};
	int rc = vm->control
			 ? vmmctl_client_call(vm->control, &req, -1, AGENT_VMM_MS, places_done, vm)
			 : -ENOTCONN;

	if (rc)
		log_debug("%s: places: %s", vm->spec.name, strerror(-rc));
}
