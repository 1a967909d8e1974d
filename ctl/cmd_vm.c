/* pangaea vm ls | info | stop | kill | pause | resume | reset | stats | registers */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "ctl/ctl.h"

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
}

/* A request about the VM of the first argument. */
static bool vm_request(const struct ctl *c, enum control_op op, struct control_request *req)
{
	*req = (struct control_request){.op = op};
	if (c->node && !ctl_name(c, "node", c->node, req->node))
		return false;
	return ctl_name(c, "VM", c->args[0], req->vm);
}

/* ---- ls ---- */

static void json_vms(const struct control_reply *r)
{
	struct print_json j = {.f = stdout};

	print_json_open(&j, NULL, '[');
	for (size_t i = 0; i < r->vm_count; i++) {
		print_json_open(&j, NULL, '{');
		json_vm_fields(&j, &r->vms[i]);
		print_json_close(&j, '}');
	}
	print_json_close(&j, ']');
	putchar('\n');
}

static void print_vms(struct ctl *c, const struct control_reply *r)
{
	static const char *const headings[] = {"NAME",	  "NODE",    "STATE", ">VCPUS",
					       ">MEMORY", ">UPTIME", "KIND",  "REASON"};
	struct print_table t;

	print_table_init(&t, c->colour, headings, BASE_ARRAY_LEN(headings));
	for (size_t i = 0; i < r->vm_count; i++) {
		const struct control_vm *v = &r->vms[i];
		char vcpus[24], memory[24], uptime[24];
		const char *cells[] = {v->name, v->node, v->state,   vcpus,
				       memory,	uptime,	 vm_kind(v), v->reason};

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
		if (c->json)
			json_vms(&r);
		for (size_t i = 0; !c->json && c->quiet && i < r.vm_count; i++)
			puts(r.vms[i].name);
		if (!c->json && !c->quiet)
			print_vms(c, &r);
		fflush(stdout);
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

static void json_info(const struct control_reply *r)
{
	struct print_json j = {.f = stdout};

	print_json_open(&j, NULL, '{');
	json_vm_fields(&j, &r->vms[0]);
	if (r->spec)
		json_spec(&j, r->spec);
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
}

static void print_info(const struct control_reply *r)
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
	printf("vcpus     %" PRIu64 "\nmemory    %s\nuptime    %s\nkernel    %s\n", v->vcpus,
	       text_size_print(v->memory_bytes, memory, sizeof(memory)),
	       text_duration_print(v->uptime_ns, uptime, sizeof(uptime)), v->kernel);
	if (r->spec)
		print_spec(r->spec);
	for (size_t i = 0; i < r->item_count; i++)
		printf("device    %s %s\n", r->items[i].name, r->items[i].text);
}

int ctl_vm_info(struct ctl *c)
{
	struct control_request req;
	struct control_reply r;
	int code;

	if (!vm_request(c, CONTROL_VM_INFO, &req))
		return CONTROL_USAGE;
	code = ctl_call(c, &req, NULL, NULL, &r);
	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code && r.vm_count != 1)
		code = ctl_fail(c, CONTROL_FAILED, "the agent's answer has no VM");
	if (!code && c->json)
		json_info(&r);
	else if (!code)
		print_info(&r);
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

	if (!vm_request(c, op, &req))
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

	if (!vm_request(c, CONTROL_VM_REGISTERS, &req))
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

/* ---- stats ---- */

static uint64_t value_before(const struct control_reply *before, const char *name)
{
	for (size_t i = 0; before && i < before->item_count; i++)
		if (!strcmp(before->items[i].name, name))
			return before->items[i].value;
	return 0;
}

static void json_stats(const struct control_reply *r)
{
	struct print_json j = {.f = stdout};

	print_json_open(&j, NULL, '{');
	for (size_t i = 0; i < r->item_count; i++)
		print_json_number(&j, r->items[i].name, r->items[i].value);
	print_json_close(&j, '}');
	putchar('\n');
	fflush(stdout);
}

/* With an earlier reply, how much each has grown in a second. */
static void print_stats(const struct ctl *c, const struct control_reply *r,
			const struct control_reply *before, int64_t ns)
{
	static const char *const headings[] = {"COUNTER", ">VALUE", ">PER SECOND"};
	struct print_table t;

	print_table_init(&t, c->colour, headings, before ? 3 : 2);
	for (size_t i = 0; i < r->item_count; i++) {
		uint64_t old = value_before(before, r->items[i].name), now = r->items[i].value;
		char value[24], rate[32];
		const char *cells[] = {r->items[i].name, value, rate};

		snprintf(value, sizeof(value), "%" PRIu64, now);
		snprintf(rate, sizeof(rate), "%.0f",
			 now >= old && ns > 0 ? (double)(now - old) * 1e9 / (double)ns : 0.0);
		print_table_row(&t, cells);
	}
	if (c->colour && c->watch)
		fputs("\033[H\033[2J", stdout);
	print_table_end(&t, stdout);
	fflush(stdout);
}

static int stats_once(struct ctl *c, const struct control_request *req, struct control_reply *r)
{
	int code = ctl_call(c, req, NULL, NULL, r);

	if (code)
		return code;
	code = ctl_check(c, r);
	if (code)
		control_reply_fini(r);
	return code;
}

int ctl_vm_stats(struct ctl *c)
{
	struct control_reply now, before = {0};
	struct timespec pause = base_clock_timespec((int64_t)c->interval_ms * BASE_NS_PER_MS);
	struct control_request req;
	int64_t then = 0, at;
	int code;

	if (!vm_request(c, CONTROL_VM_STATS, &req))
		return CONTROL_USAGE;
	do {
		code = stats_once(c, &req, &now);
		if (code)
			break;
		at = base_clock_ns();
		if (c->json)
			json_stats(&now);
		else
			print_stats(c, &now, before.backing ? &before : NULL, at - then);
		control_reply_fini(&before);
		before = now;
		then = at;
	} while (c->watch && !nanosleep(&pause, NULL));
	control_reply_fini(&before);
	return code;
}
