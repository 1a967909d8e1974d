/* pangaea vm ls | info | stop | kill | pause | resume | reset | registers */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"
#include "ctl/guest.h"

/* Whose it is. */
static const char *vm_kind(const struct control_vm *v)
{
	return v->kind[0] ? v->kind : "pangaea";
}

static void json_vm_fields(struct print_json *j, const struct control_vm *v)
{
	print_json_text(j, "name", v->name);
	print_json_text(j, "node", v->node);
	print_json_text(j, "state", v->state);
	print_json_text(j, "reason", v->reason);
	print_json_text(j, "kernel", v->kernel);
	print_json_text(j, "kind", vm_kind(v));
	print_json_number(j, "vcpus", v->vcpus);
	print_json_number(j, "memory", v->memory_bytes);
	print_json_number(j, "uptime_ns", v->uptime_ns);
	print_json_number(j, "pid", v->pid);
	if (v->ended_ns)
		print_json_number(j, "ended_ns", v->ended_ns);
}

static void json_slices(struct print_json *j, const struct ctl_guest *g)
{
	print_json_open(j, "slices", '[');
	for (size_t i = 0; i < g->count; i++) {
		const struct control_vm *v = g->slice[i];

		if (!v || ctl_guest_left(g, i))
			continue;
		print_json_open(j, NULL, '{');
		print_json_number(j, "slice", i);
		print_json_text(j, "node", v->node);
		print_json_text(j, "state", v->state);
		print_json_text(j, "reason", v->reason);
		print_json_number(j, "vcpus", v->slice_vcpus);
		print_json_number(j, "memory", v->slice_memory_bytes);
		print_json_number(j, "pid", v->pid);
		print_json_close(j, '}');
	}
	print_json_close(j, ']');
}

/* ---- ls ---- */

static void json_guests(const struct ctl_guest *guests, size_t count)
{
	struct print_json j = {.f = stdout};

	print_json_open(&j, NULL, '[');
	for (size_t i = 0; i < count; i++) {
		print_json_open(&j, NULL, '{');
		json_vm_fields(&j, guests[i].vm);
		if (guests[i].count)
			json_slices(&j, &guests[i]);
		print_json_close(&j, '}');
	}
	print_json_close(&j, ']');
	putchar('\n');
}

static void print_guests(struct ctl *c, const struct ctl_guest *guests, size_t count)
{
	static const char *const headings[] = {"NAME",	  "NODE",    "STATE", ">VCPUS",
					       ">MEMORY", ">UPTIME", "KIND",  "REASON"};
	struct print_table t;

	print_table_init(&t, c->colour, headings, BASE_ARRAY_LEN(headings));
	for (size_t i = 0; i < count; i++) {
		const struct control_vm *v = guests[i].vm;
		char vcpus[24], memory[24], uptime[24], nodes[256];
		const char *cells[] = {v->name, nodes,	v->state,   vcpus,
				       memory,	uptime, vm_kind(v), v->reason};

		ctl_guest_nodes(&guests[i], nodes, sizeof(nodes));
		snprintf(vcpus, sizeof(vcpus), "%" PRIu64, v->vcpus);
		text_size_print(v->memory_bytes, memory, sizeof(memory));
		if (v->uptime_ns)
			text_duration_print(v->uptime_ns, uptime, sizeof(uptime));
		else
			snprintf(uptime, sizeof(uptime), "-");
		print_table_row(&t, cells);
	}
	print_table_end(&t, stdout);
}

static void show_guests(struct ctl *c, const struct control_reply *r)
{
	BASE_AUTO_FREE struct ctl_guest *guests = calloc(r->vm_count + 1, sizeof(*guests));
	size_t count = guests ? ctl_guests(r, guests) : 0;

	if (c->json)
		json_guests(guests, count);
	for (size_t i = 0; !c->json && c->quiet && i < count; i++)
		puts(guests[i].vm->name);
	if (!c->json && !c->quiet)
		print_guests(c, guests, count);
	fflush(stdout);
}

int ctl_vm_ls(struct ctl *c)
{
	struct control_request req = {.op = CONTROL_VM_LS};
	struct control_reply r;
	int code;

	if (c->node && !ctl_name(c, "node", c->node, req.node))
		return CONTROL_USAGE;
	code = ctl_call(c, &req, NULL, NULL, &r);
	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code) {
		show_guests(c, &r);
		if (r.text[0])
			fprintf(stderr, "pangaea: not all nodes answer: %s\n", r.text);
	}
	control_reply_fini(&r);
	return code;
}

/* ---- info ---- */

static void json_spec(struct print_json *j, const struct vmspec *s)
{
	char text[VMSPEC_PATH_MAX + 64];

	print_json_text(j, "initrd", s->initrd);
	print_json_text(j, "cmdline", s->cmdline);
	print_json_number(j, "gdb_port", s->gdb_port);
	if (vmspec_spans(s)) {
		print_json_bool(j, "encrypt", s->encrypt);
		print_json_text(j, "transport", s->transport[0] ? s->transport : "tcp");
	}
	print_json_open(j, "disks", '[');
	for (size_t i = 0; i < s->disk_count; i++) {
		vmspec_disk_print(&s->disks[i], text, sizeof(text));
		print_json_text(j, NULL, text);
	}
	print_json_close(j, ']');
	print_json_open(j, "nics", '[');
	for (size_t i = 0; i < s->nic_count; i++) {
		vmspec_nic_print(&s->nics[i], text, sizeof(text));
		print_json_text(j, NULL, text);
	}
	print_json_close(j, ']');
}

static void json_info(const struct control_reply *r, const struct ctl_guest *g)
{
	struct print_json j = {.f = stdout};

	print_json_open(&j, NULL, '{');
	json_vm_fields(&j, &r->vms[0]);
	if (r->spec)
		json_spec(&j, r->spec);
	if (g->count)
		json_slices(&j, g);
	print_json_open(&j, "devices", '[');
	for (size_t i = 0; i < r->item_count; i++) {
		print_json_open(&j, NULL, '{');
		print_json_text(&j, "kind", r->items[i].name);
		print_json_text(&j, "name", r->items[i].text);
		print_json_close(&j, '}');
	}
	print_json_close(&j, ']');
	print_json_close(&j, '}');
	putchar('\n');
}

static void print_spec(const struct vmspec *s)
{
	char text[VMSPEC_PATH_MAX + 64];

	if (s->initrd[0])
		printf("initrd    %s\n", s->initrd);
	if (s->cmdline[0])
		printf("cmdline   %s\n", s->cmdline);
	for (size_t i = 0; i < s->disk_count; i++) {
		vmspec_disk_print(&s->disks[i], text, sizeof(text));
		printf("disk      %s\n", text);
	}
	for (size_t i = 0; i < s->nic_count; i++) {
		vmspec_nic_print(&s->nics[i], text, sizeof(text));
		printf("nic       %s\n", text);
	}
	if (s->gdb_port)
		printf("gdb       port %u\n", s->gdb_port);
	if (vmspec_spans(s))
		printf("links     %s, %s\n", s->transport[0] ? s->transport : "tcp",
		       s->encrypt ? "encrypted" : "in the clear");
}

static void print_slices(const struct ctl_guest *g, const struct vmspec *s)
{
	for (size_t i = 0; i < g->count; i++) {
		const struct control_vm *v = g->slice[i];
		char memory[32];

		if (ctl_guest_left(g, i))
			printf("slice %zu   has left node %s\n", i,
			       s && i < s->part_count ? s->parts[i].node : "?");
		else if (v)
			printf("slice %zu   node %s%s, %" PRIu64 " vCPUs, %s, %s%s%s, pid %" PRIu64
			       "\n",
			       i, v->node, i ? "" : " (lead)", v->slice_vcpus,
			       text_size_print(v->slice_memory_bytes, memory, sizeof(memory)),
			       v->state, v->reason[0] ? ": " : "", v->reason, v->pid);
		else
			printf("slice %zu   node %s: nothing is known\n", i,
			       s && i < s->part_count ? s->parts[i].node : "?");
	}
}

static void print_info(const struct control_reply *r, const struct ctl_guest *g)
{
	const struct control_vm *v = &r->vms[0];
	char memory[32], uptime[32];

	printf("name      %s\nnode      %s\nkind      %s\nstate     %s%s%s\n", v->name, v->node,
	       vm_kind(v), v->state, v->reason[0] ? ": " : "", v->reason);
	if (v->kind[0]) {
		printf("vcpus     %" PRIu64 "\nmemory    %s\n", v->vcpus,
		       text_size_print(v->memory_bytes, memory, sizeof(memory)));
		for (size_t i = 0; i < r->item_count; i++)
			printf("%-9s %s\n", r->items[i].name, r->items[i].text);
		return;
	}
	printf("pid       %" PRIu64 "\n", v->pid);
	if (v->ended_ns)
		printf("ended     %s ago\n",
		       text_duration_print(v->ended_ns, uptime, sizeof(uptime)));
	printf("vcpus     %" PRIu64 "\nmemory    %s\nuptime    %s\nkernel    %s\n", v->vcpus,
	       text_size_print(v->memory_bytes, memory, sizeof(memory)),
	       text_duration_print(v->uptime_ns, uptime, sizeof(uptime)), v->kernel);
	if (r->spec)
		print_spec(r->spec);
	print_slices(g, r->spec);
	for (size_t i = 0; i < r->item_count; i++)
		printf("device    %s %s\n", r->items[i].name, r->items[i].text);
}

int ctl_vm_info(struct ctl *c)
{
	struct control_reply r, all = {0};
	struct ctl_guest guest = {0};
	struct control_request req;
	int code;

	if (!ctl_vm_request(c, CONTROL_VM_INFO, &req))
		return CONTROL_USAGE;
	code = ctl_call(c, &req, NULL, NULL, &r);
	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code && r.vm_count != 1)
		code = ctl_fail(c, CONTROL_FAILED, "the agent's answer has no VM");
	if (!code && r.vms[0].slices)
		code = ctl_guest_ask(c, req.vm, &all, &guest);
	if (!code && c->json)
		json_info(&r, &guest);
	else if (!code)
		print_info(&r, &guest);
	control_reply_fini(&all);
	control_reply_fini(&r);
	return code;
}

/* ---- what only does something ---- */

static int vm_do(struct ctl *c, enum control_op op, const char *done)
{
	struct print_json j = {.f = stdout};
	struct control_request req;
	struct control_reply r;
	int code;

	if (!ctl_vm_request(c, op, &req))
		return CONTROL_USAGE;
	if (op == CONTROL_VM_STOP)
		req.timeout_ms = c->timeout_ms ? c->timeout_ms : 30000;
	if (c->progress && op == CONTROL_VM_STOP)
		fprintf(stderr, "%s: asked to power off, waiting up to %" PRIu64 " s\n", req.vm,
			req.timeout_ms / 1000);
	code = ctl_call(c, &req, NULL, NULL, &r);
	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code && c->json) {
		print_json_open(&j, NULL, '{');
		print_json_text(&j, "name", req.vm);
		print_json_text(&j, "done", done);
		print_json_close(&j, '}');
		putchar('\n');
	} else if (!code && !c->quiet) {
		printf("%s: %s\n", req.vm, done);
	}
	control_reply_fini(&r);
	return code;
}

int ctl_vm_start(struct ctl *c)
{
	return vm_do(c, CONTROL_VM_START, "started");
}

int ctl_vm_stop(struct ctl *c)
{
	return vm_do(c, CONTROL_VM_STOP, "stopped");
}

int ctl_vm_kill(struct ctl *c)
{
	return vm_do(c, CONTROL_VM_KILL, "killed");
}

int ctl_vm_pause(struct ctl *c)
{
	return vm_do(c, CONTROL_VM_PAUSE, "paused");
}

int ctl_vm_resume(struct ctl *c)
{
	return vm_do(c, CONTROL_VM_RESUME, "running");
}

int ctl_vm_reset(struct ctl *c)
{
	return vm_do(c, CONTROL_VM_RESET, "reset");
}

int ctl_vm_registers(struct ctl *c)
{
	struct print_json j = {.f = stdout};
	struct control_request req;
	struct control_reply r;
	int code;

	if (!ctl_vm_request(c, CONTROL_VM_REGISTERS, &req))
		return CONTROL_USAGE;
	code = ctl_call(c, &req, NULL, NULL, &r);
	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code && c->json) {
		print_json_open(&j, NULL, '{');
		print_json_text(&j, "name", req.vm);
		print_json_text(&j, "registers", r.text);
		print_json_close(&j, '}');
		putchar('\n');
	} else if (!code) {
		for (const char *p = r.text; *p; p++)
			putchar(*p == '\n' || (unsigned char)*p >= ' ' ? *p : '?');
	}
	control_reply_fini(&r);
	return code;
}
