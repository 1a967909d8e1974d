/* pangaea node drain */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"
#include "ctl/guest.h"

enum { DRAIN_WHY_MAX = 512 };

struct drain_vm {
	char name[TEXT_NAME_MAX], target[TEXT_NAME_MAX];
	uint64_t memory_bytes, total_ns, downtime_ns;
	bool moved, spans;
	char why[DRAIN_WHY_MAX];
};

struct drain_node {
	char name[TEXT_NAME_MAX];
	int64_t left_bytes; /* that no VM has been promised */
	bool tried;
};

struct drain {
	struct ctl *c;
	const char *node;
	struct drain_vm *vms;
	struct drain_node *nodes;
	size_t vm_count, node_count, at;
};

static void copy_text(char *out, size_t cap, const char *text)
{
	snprintf(out, cap, "%s", text);
	text_clean(out);
}

static int drain_nodes(struct drain *d)
{
	struct control_request req = {.op = CONTROL_NODE_LS};
	struct control_reply r;
	bool known = false;
	int code = ctl_call(d->c, &req, NULL, NULL, &r);

	if (code)
		return code;
	code = ctl_check(d->c, &r);
	d->nodes = calloc(r.node_count + 1, sizeof(*d->nodes));
	for (size_t i = 0; !code && d->nodes && i < r.node_count; i++) {
		const struct control_node *n = &r.nodes[i];

		known |= !strcmp(n->name, d->node);
		if (!strcmp(n->name, d->node) || strcmp(n->state, "up") != 0)
			continue;
		copy_text(d->nodes[d->node_count].name, TEXT_NAME_MAX, n->name);
		d->nodes[d->node_count++].left_bytes =
			(int64_t)n->available_bytes - (int64_t)n->vm_memory_bytes;
	}
	control_reply_fini(&r);
	if (!code && !known)
		code = ctl_fail(d->c, CONTROL_NOT_FOUND,
				"there is no node '%s'; 'pangaea node ls' lists them", d->node);
	return code;
}

static int drain_vms(struct drain *d)
{
	struct control_request req = {.op = CONTROL_VM_LS};
	struct control_reply r;
	int code = ctl_name(d->c, "node", d->node, req.node) ? 0 : CONTROL_USAGE;

	if (!code)
		code = ctl_call(d->c, &req, NULL, NULL, &r);
	if (code)
		return code;
	code = ctl_check(d->c, &r);
	d->vms = calloc(r.vm_count + 1, sizeof(*d->vms));
	for (size_t i = 0; !code && d->vms && i < r.vm_count; i++) {
		/* Domains that are off are no one's work. */
		if (r.vms[i].kind[0] && strcmp(r.vms[i].state, "running") != 0)
			continue;
		copy_text(d->vms[d->vm_count].name, TEXT_NAME_MAX, r.vms[i].name);
		d->vms[d->vm_count].spans = r.vms[i].slices;
		d->vms[d->vm_count++].memory_bytes = r.vms[i].memory_bytes;
	}
	control_reply_fini(&r);
	return code;
}

/* The one with most memory left that has not refused this VM yet; NULL: none. */
static struct drain_node *drain_choose(struct drain *d)
{
	struct drain_node *best = NULL;

	for (size_t i = 0; i < d->node_count; i++) {
		struct drain_node *n = &d->nodes[i];

		if (!n->tried && (!best || n->left_bytes > best->left_bytes))
			best = n;
	}
	return best;
}

static bool drain_item(void *arg, const struct control_reply *item)
{
	const struct drain *d = arg;

	ctl_migrate_progress(d->c, d->vms[d->at].name, item);
	return true;
}

static void drain_why(struct drain_vm *vm, const char *node, const char *said)
{
	size_t used = strlen(vm->why);
	char text[DRAIN_WHY_MAX];

	copy_text(text, sizeof(text), said);
	snprintf(vm->why + used, sizeof(vm->why) - used, "%s%s: %s", used ? "; " : "", node, text);
}

static void drain_say(const struct drain *d, const struct drain_vm *vm, const char *to)
{
	if (d->c->progress && !d->c->json)
		fprintf(stderr, "%s%s -> %s (%zu of %zu)\n", d->c->colour ? "\r\033[K" : "",
			vm->name, to, d->at + 1, d->vm_count);
}

static bool spread_item(void *arg, const struct control_reply *item)
{
	struct drain *d = arg;
	struct ctl c = *d->c;
	char *name = d->vms[d->at].name;

	c.args = &name;
	return ctl_spread_item(&c, item);
}

/*
 * The part of a spanning guest that is here goes to its lead's node; *lead: that is this one, where
 * all of the guest has come together now.
 */
static int drain_slice(struct drain *d, struct drain_vm *vm, bool *lead)
{
	struct control_request req = {.op = CONTROL_VM_CONSOLIDATE};
	struct ctl_guest g = {0};
	struct control_reply r;
	int code = ctl_guest_ask(d->c, vm->name, &r, &g);

	if (code)
		return code;
	copy_text(req.migrate.target, sizeof(req.migrate.target), g.vm->node);
	control_reply_fini(&r);
	memcpy(req.vm, vm->name, sizeof(req.vm));
	req.migrate.bandwidth = d->c->bandwidth;
	req.overcommit = d->c->overcommit;
	*lead = !strcmp(req.migrate.target, d->node);
	if (!*lead)
		snprintf(req.places, sizeof(req.places), "%s", d->node);
	drain_say(d, vm, req.migrate.target);
	code = ctl_call(d->c, &req, spread_item, d, &r);
	ctl_progress_clear(d->c);
	if (code)
		return code;
	vm->moved = !r.code && !*lead;
	*lead &= !r.code;
	vm->total_ns = ctl_item_value(&r, "total_ns");
	vm->downtime_ns = ctl_item_value(&r, "downtime_ns");
	if (vm->moved)
		memcpy(vm->target, req.migrate.target, sizeof(vm->target));
	if (r.code)
		drain_why(vm, req.migrate.target, r.text);
	control_reply_fini(&r);
	return 0;
}

static int drain_try(struct drain *d, struct drain_vm *vm, struct drain_node *to)
{
	struct control_request req = {.op = CONTROL_VM_MIGRATE};
	struct control_reply r;
	int code;

	memcpy(req.vm, vm->name, sizeof(req.vm));
	memcpy(req.migrate.target, to->name, sizeof(req.migrate.target));
	ctl_migrate_options(d->c, &req.migrate);
	if (!ctl_name(d->c, "node", d->node, req.node))
		return CONTROL_USAGE;
	drain_say(d, vm, to->name);
	code = ctl_call(d->c, &req, drain_item, d, &r);
	ctl_progress_clear(d->c);
	if (code)
		return code;
	vm->moved = !r.code;
	if (vm->moved) {
		memcpy(vm->target, to->name, sizeof(vm->target));
		vm->total_ns += ctl_item_value(&r, "total_ns");
		vm->downtime_ns += ctl_item_value(&r, "downtime_ns");
		to->left_bytes -= (int64_t)vm->memory_bytes;
	} else {
		drain_why(vm, to->name, r.text);
	}
	control_reply_fini(&r);
	return 0;
}

static int drain_one(struct drain *d, struct drain_vm *vm)
{
	struct drain_node *to;
	bool here = true;
	int code = 0;

	for (size_t i = 0; i < d->node_count; i++)
		d->nodes[i].tried = false;
	if (vm->spans)
		code = drain_slice(d, vm, &here);
	if (!here)
		return code;
	while (!code && !vm->moved && (to = drain_choose(d))) {
		to->tried = true;
		code = drain_try(d, vm, to);
	}
	if (!d->node_count)
		snprintf(vm->why, sizeof(vm->why), "no other node is up");
	return code;
}

static void drain_json(const struct drain *d, size_t stayed)
{
	struct print_json j = {.f = stdout};

	print_json_open(&j, NULL, '{');
	print_json_text(&j, "node", d->node);
	print_json_number(&j, "stayed", stayed);
	print_json_open(&j, "vms", '[');
	for (size_t i = 0; i < d->vm_count; i++) {
		const struct drain_vm *v = &d->vms[i];

		print_json_open(&j, NULL, '{');
		print_json_text(&j, "vm", v->name);
		print_json_text(&j, "to", v->target);
		print_json_text(&j, "error", v->moved ? "" : v->why);
		print_json_number(&j, "total_ns", v->total_ns);
		print_json_number(&j, "downtime_ns", v->downtime_ns);
		print_json_close(&j, '}');
	}
	print_json_close(&j, ']');
	print_json_close(&j, '}');
	putchar('\n');
}

static int drain_summary(const struct drain *d)
{
	size_t stayed = 0;

	for (size_t i = 0; i < d->vm_count; i++)
		stayed += !d->vms[i].moved;
	if (d->c->json)
		drain_json(d, stayed);
	for (size_t i = 0; !d->c->json && !d->c->quiet && i < d->vm_count; i++) {
		const struct drain_vm *v = &d->vms[i];

		if (v->moved)
			printf("%s: on node %s after %.1f ms, downtime %.1f ms\n", v->name,
			       v->target, (double)v->total_ns / 1e6, (double)v->downtime_ns / 1e6);
		else
			printf("%s: stays: %s\n", v->name, v->why);
	}
	if (!d->c->json && !d->c->quiet)
		printf("%s: %zu of %zu VMs moved\n", d->node, d->vm_count - stayed, d->vm_count);
	fflush(stdout);
	return stayed ? CONTROL_FAILED : 0;
}

int ctl_node_drain(struct ctl *c)
{
	struct drain d = {.c = c, .node = c->args[0]};
	char name[TEXT_NAME_MAX];
	int code = ctl_name(c, "node", d.node, name) ? drain_nodes(&d) : CONTROL_USAGE;

	if (!code)
		code = drain_vms(&d);
	if (!code && (!d.nodes || !d.vms))
		code = ctl_fail(c, CONTROL_FAILED, "out of memory");
	for (; !code && d.at < d.vm_count; d.at++)
		code = drain_one(&d, &d.vms[d.at]);
	if (!code)
		code = drain_summary(&d);
	free(d.nodes);
	free(d.vms);
	return code;
}
