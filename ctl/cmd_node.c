/* pangaea node ls | info | doctor */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"

static void json_node(struct print_json *j, const struct control_node *n,
		      const struct control_reply *items)
{
	print_json_open(j, NULL, '{');
	print_json_text(j, "name", n->name);
	print_json_text(j, "address", n->address);
	print_json_text(j, "state", n->state);
	print_json_text(j, "reason", n->reason);
	print_json_text(j, "version", n->software);
	print_json_text(j, "kernel", n->kernel);
	print_json_text(j, "cpu", n->cpu);
	print_json_number(j, "cpus", n->cpus);
	print_json_number(j, "memory", n->memory_bytes);
	print_json_number(j, "available", n->available_bytes);
	print_json_number(j, "load_milli", n->load_milli);
	print_json_number(j, "vms", n->vms);
	print_json_number(j, "vm_vcpus", n->vm_vcpus);
	print_json_number(j, "vm_memory", n->vm_memory_bytes);
	print_json_number(j, "uptime_ns", n->uptime_ns);
	print_json_number(j, "agent_uptime_ns", n->agent_uptime_ns);
	print_json_number(j, "rtt_ns", n->rtt_ns);
	print_json_number(j, "pid", n->pid);
	for (size_t i = 0; items && i < items->item_count; i++) {
		const struct control_item *t = &items->items[i];

		if (t->text[0])
			print_json_text(j, t->name, t->text);
		else
			print_json_number(j, t->name, t->value);
	}
	print_json_close(j, '}');
}

static void row_node(struct print_table *t, const struct control_node *n)
{
	char cpus[24], load[24], memory[24], available[24], vms[24], rtt[24];
	bool up = !strcmp(n->state, "up");
	const char *cells[] = {n->name, n->address, n->state, cpus, load,
			       memory,	available,  vms,      rtt,  n->software};

	if (!up) {
		for (size_t i = 3; i < BASE_ARRAY_LEN(cells); i++)
			cells[i] = "-";
		print_table_row(t, cells);
		return;
	}
	snprintf(cpus, sizeof(cpus), "%" PRIu64, n->cpus);
	snprintf(load, sizeof(load), "%.2f", (double)n->load_milli / 1000);
	text_size_print(n->memory_bytes, memory, sizeof(memory));
	text_size_print(n->available_bytes, available, sizeof(available));
	snprintf(vms, sizeof(vms), "%" PRIu64, n->vms);
	snprintf(rtt, sizeof(rtt), n->rtt_ns ? "%.1f ms" : "-", (double)n->rtt_ns / 1e6);
	print_table_row(t, cells);
}

static void print_nodes(struct ctl *c, const struct control_reply *r)
{
	static const char *const headings[] = {"NODE",	  "ADDRESS", "STATE", ">CPUS", ">LOAD",
					       ">MEMORY", ">FREE",   ">VMS",  ">RTT",  "VERSION"};
	struct print_table t;

	print_table_init(&t, c->colour, headings, BASE_ARRAY_LEN(headings));
	for (size_t i = 0; i < r->node_count; i++)
		row_node(&t, &r->nodes[i]);
	print_table_end(&t, stdout);
	for (size_t i = 0; i < r->node_count; i++) {
		if (r->nodes[i].reason[0]) {
			fflush(stdout);
			fprintf(stderr, "pangaea: %s: %s\n", r->nodes[i].name, r->nodes[i].reason);
		}
	}
}

int ctl_node_ls(struct ctl *c)
{
	struct control_request req = {.op = CONTROL_NODE_LS};
	struct print_json j = {.f = stdout};
	struct control_reply r;
	int code = ctl_call(c, &req, NULL, NULL, &r);

	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code && c->json) {
		print_json_open(&j, NULL, '[');
		for (size_t i = 0; i < r.node_count; i++)
			json_node(&j, &r.nodes[i], NULL);
		print_json_close(&j, ']');
		putchar('\n');
	} else if (!code && c->quiet) {
		for (size_t i = 0; i < r.node_count; i++)
			puts(r.nodes[i].name);
	} else if (!code) {
		print_nodes(c, &r);
	}
	control_reply_fini(&r);
	return code;
}

static const struct control_item *item_of(const struct control_reply *r, const char *name)
{
	for (size_t i = 0; i < r->item_count; i++)
		if (!strcmp(r->items[i].name, name))
			return &r->items[i];
	return NULL;
}

static void print_libvirt(const struct control_reply *r)
{
	const struct control_item *virt = item_of(r, "libvirt"), *n = item_of(r, "libvirt_domains");
	const struct control_item *cpu = item_of(r, "libvirt_cpu");

	if (!virt || !n || !cpu)
		return;
	if (virt->value)
		printf("libvirt   %s; %" PRIu64 " domains; CPU model %s\n", virt->text, n->value,
		       cpu->text[0] ? cpu->text : "unknown");
	else
		printf("libvirt   none: %s\n", virt->text);
}

static void print_node(const struct control_node *n)
{
	char a[32], b[32], d[32];

	printf("name      %s\naddress   %s\nstate     %s\nversion   %s\nkernel    %s\ncpu       %s\n",
	       n->name, n->address, n->state, n->software, n->kernel, n->cpu);
	printf("cpus      %" PRIu64 ", load %.2f\n", n->cpus, (double)n->load_milli / 1000);
	printf("memory    %s, %s available\n", text_size_print(n->memory_bytes, a, sizeof(a)),
	       text_size_print(n->available_bytes, b, sizeof(b)));
	printf("vms       %" PRIu64 " with %" PRIu64 " vCPUs and %s of memory\n", n->vms,
	       n->vm_vcpus, text_size_print(n->vm_memory_bytes, a, sizeof(a)));
	printf("up        %s, agent %s (pid %" PRIu64 ")\n",
	       text_duration_print(n->uptime_ns, b, sizeof(b)),
	       text_duration_print(n->agent_uptime_ns, d, sizeof(d)), n->pid);
}

int ctl_node_info(struct ctl *c)
{
	struct control_request req = {.op = CONTROL_NODE_INFO};
	struct print_json j = {.f = stdout};
	struct control_reply r;
	int code;

	if (c->arg_count && !ctl_name(c, "node", c->args[0], req.node))
		return CONTROL_USAGE;
	code = ctl_call(c, &req, NULL, NULL, &r);
	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code && r.node_count != 1)
		code = ctl_fail(c, CONTROL_FAILED, "the agent's answer has no node");
	if (!code && c->json) {
		json_node(&j, &r.nodes[0], &r);
		putchar('\n');
	} else if (!code) {
		print_node(&r.nodes[0]);
		print_libvirt(&r);
	}
	control_reply_fini(&r);
	return code;
}

/* ---- doctor ---- */

static void json_checks(const struct control_reply *r)
{
	struct print_json j = {.f = stdout};

	print_json_open(&j, NULL, '[');
	for (size_t i = 0; i < r->check_count; i++) {
		const struct control_check *k = &r->checks[i];

		print_json_open(&j, NULL, '{');
		print_json_text(&j, "node", k->node);
		print_json_text(&j, "check", k->name);
		print_json_text(&j, "level", k->level);
		print_json_text(&j, "text", k->text);
		print_json_text(&j, "mend", k->mend);
		print_json_close(&j, '}');
	}
	print_json_close(&j, ']');
	putchar('\n');
}

static void print_checks(const struct ctl *c, const struct control_reply *r)
{
	const char *node = "";

	for (size_t i = 0; i < r->check_count; i++) {
		const struct control_check *k = &r->checks[i];

		if (strcmp(node, k->node) != 0)
			printf("%s%snode %s%s\n", i ? "\n" : "", print_colour(c->colour, "heading"),
			       k->node, print_plain(c->colour));
		node = k->node;
		printf("  %s%-4s%s  %-15s %s\n", print_colour(c->colour, k->level), k->level,
		       print_plain(c->colour), k->name, k->text);
		if (k->mend[0])
			printf("        %-15s -> %s\n", "", k->mend);
	}
}

/* Fails when any check does, so that scripts see it. */
int ctl_node_doctor(struct ctl *c)
{
	struct control_request req = {.op = CONTROL_NODE_DOCTOR};
	struct control_reply r;
	int code;

	if (c->arg_count && !ctl_name(c, "node", c->args[0], req.node))
		return CONTROL_USAGE;
	code = ctl_call(c, &req, NULL, NULL, &r);
	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code) {
		if (c->json)
			json_checks(&r);
		else
			print_checks(c, &r);
		for (size_t i = 0; i < r.check_count; i++)
			if (!strcmp(r.checks[i].level, "fail"))
				code = CONTROL_FAILED;
	}
	control_reply_fini(&r);
	return code;
}
