/* pangaea vm checkpoint | restore */
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"

static bool take_path(const struct ctl *c, const char *file, char out[VMSPEC_PATH_MAX])
{
	if (!file[0] || strlen(file) >= VMSPEC_PATH_MAX) {
		ctl_fail(c, CONTROL_USAGE, "the file's name is empty or too long");
		return false;
	}
	memcpy(out, file, strlen(file) + 1);
	return ctl_make_absolute(c, "file", out, VMSPEC_PATH_MAX);
}

static void print_written(const struct ctl *c, const struct control_request *req,
			  const struct control_reply *r)
{
	struct print_json j = {.f = stdout};
	char size[32];

	if (c->json) {
		print_json_open(&j, NULL, '{');
		print_json_text(&j, "vm", req->vm);
		print_json_text(&j, "file", req->path);
		for (size_t i = 0; i < r->item_count; i++)
			print_json_number(&j, r->items[i].name, r->items[i].value);
		print_json_close(&j, '}');
		putchar('\n');
	} else if (!c->quiet && r->item_count) {
		printf("%s: %s in %s on its node\n", req->vm,
		       text_size_print(r->items[0].value, size, sizeof(size)), req->path);
	}
}

int ctl_vm_checkpoint(struct ctl *c)
{
	struct control_request req = {.op = CONTROL_VM_CHECKPOINT, .live = c->live};
	struct control_reply r;
	int code;

	if ((c->node && !ctl_name(c, "node", c->node, req.node)) ||
	    !ctl_name(c, "VM", c->args[0], req.vm) || !take_path(c, c->args[1], req.path))
		return CONTROL_USAGE;
	code = ctl_call(c, &req, NULL, NULL, &r);
	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code)
		print_written(c, &req, &r);
	control_reply_fini(&r);
	return code;
}

/* --vcpus and --memory: other nodes than those of the file, which is then on the first of them. */
static bool take_places(struct ctl *c, struct control_request *req)
{
	struct vmspec *s = c->spec;
	char why[VMSPEC_WHY_MAX];

	if (!s->part_count)
		return true;
	memcpy(s->name, "restored", sizeof("restored"));
	memcpy(s->restore, req->path, sizeof(s->restore));
	if (!vmspec_check(s, why)) {
		ctl_fail(c, CONTROL_USAGE, "%s", why);
		return false;
	}
	req->spec = s;
	if (!req->node[0])
		memcpy(req->node, s->parts[0].node, sizeof(req->node));
	return true;
}

int ctl_vm_restore(struct ctl *c)
{
	struct control_request req = {.op = CONTROL_VM_RESTORE, .overcommit = c->overcommit};
	struct control_reply r;
	int code;

	if ((c->node && !ctl_name(c, "node", c->node, req.node)) ||
	    !take_path(c, c->args[0], req.path) || !take_places(c, &req))
		return CONTROL_USAGE;
	code = ctl_call(c, &req, ctl_run_item, c, &r);
	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code && r.vm_count == 1)
		ctl_print_started(c, &r.vms[0]);
	control_reply_fini(&r);
	return code;
}
