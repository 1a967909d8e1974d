/* pangaea vm run */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"

/* A path as the node sees it: relative ones are meant from here. */
bool ctl_make_absolute(const struct ctl *c, const char *what, char *path, size_t cap)
{
	char cwd[VMSPEC_PATH_MAX], full[2 * VMSPEC_PATH_MAX];

	if (!path[0] || path[0] == '/')
		return true;
	if (!getcwd(cwd, sizeof(cwd))) {
		ctl_fail(c, CONTROL_FAILED, "the current folder: %s", strerror(errno));
		return false;
	}
	snprintf(full, sizeof(full), "%s/%s", cwd, path);
	if (strlen(full) >= cap) {
		ctl_fail(c, CONTROL_USAGE, "%s: the path is too long", what);
		return false;
	}
	memcpy(path, full, strlen(full) + 1);
	return true;
}

static bool make_all_absolute(const struct ctl *c, struct vmspec *s)
{
	if (!ctl_make_absolute(c, "kernel", s->kernel, sizeof(s->kernel)) ||
	    !ctl_make_absolute(c, "initrd", s->initrd, sizeof(s->initrd)) ||
	    !ctl_make_absolute(c, "restore", s->restore, sizeof(s->restore)))
		return false;
	for (size_t i = 0; i < s->disk_count; i++)
		if (!ctl_make_absolute(c, "disk", s->disks[i].path, sizeof(s->disks[i].path)))
			return false;
	for (size_t i = 0; i < s->nic_count; i++)
		if (s->nics[i].kind == VMSPEC_NIC_PORT &&
		    !ctl_make_absolute(c, "nic", s->nics[i].target, sizeof(s->nics[i].target)))
			return false;
	return true;
}

bool ctl_run_item(void *arg, const struct control_reply *item)
{
	const struct ctl *c = arg;

	/* A warning is not only progress. */
	if (item->text[0] && (c->progress || (!c->quiet && !strncmp(item->text, "warning: ", 9)))) {
		char text[1024];

		snprintf(text, sizeof(text), "%s", item->text);
		text_clean(text);
		fprintf(stderr, "%s\n", text);
	}
	return true;
}

void ctl_print_started(const struct ctl *c, const struct control_vm *v)
{
	struct print_json j = {.f = stdout};

	if (c->json) {
		print_json_open(&j, NULL, '{');
		print_json_text(&j, "name", v->name);
		print_json_text(&j, "node", v->node);
		if (vmspec_spans(c->spec)) {
			print_json_open(&j, "nodes", '[');
			for (size_t i = 0; i < c->spec->part_count; i++)
				print_json_text(&j, NULL, c->spec->parts[i].node);
			print_json_close(&j, ']');
		}
		print_json_text(&j, "state", v->state);
		print_json_number(&j, "pid", v->pid);
		print_json_close(&j, '}');
		putchar('\n');
	} else if (!c->quiet) {
		printf("%s: %s on node%s %s", v->name, v->state, vmspec_spans(c->spec) ? "s" : "",
		       v->node);
		for (size_t i = 1; vmspec_spans(c->spec) && i < c->spec->part_count; i++)
			printf(", %s", c->spec->parts[i].node);
		putchar('\n');
	}
	fflush(stdout);
}

static int send_run(struct ctl *c)
{
	struct control_request req = {.op = CONTROL_VM_RUN,
				      .spec = c->spec,
				      .overcommit = c->overcommit,
				      .together = c->together};
	struct control_reply r;
	int code = ctl_call(c, &req, ctl_run_item, c, &r);

	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code && r.vm_count == 1)
		ctl_print_started(c, &r.vms[0]);
	control_reply_fini(&r);
	return code;
}

int ctl_vm_run(struct ctl *c)
{
	struct vmspec *s = c->spec;
	char why[VMSPEC_WHY_MAX];
	int code;

	if (c->arg_count && !ctl_name(c, "VM", c->args[0], s->name))
		return CONTROL_USAGE;
	if (c->node && !ctl_name(c, "node", c->node, s->node))
		return CONTROL_USAGE;
	if (!s->name[0])
		return ctl_fail(c, CONTROL_USAGE, "the name of the VM is missing");
	if (!s->vcpus)
		s->vcpus = 1;
	if (!make_all_absolute(c, s))
		return CONTROL_USAGE;
	if (!vmspec_check(s, why))
		return ctl_fail(c, CONTROL_USAGE, "%s", why);
	code = send_run(c);
	if (!code && c->attach)
		code = ctl_console_attach(c, s->name);
	return code;
}
