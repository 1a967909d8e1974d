#include "ctl/guest.h"

#include <string.h>

static struct ctl_guest *guest_of(const struct control_vm *v, struct ctl_guest *all, size_t *count)
{
	for (size_t i = 0; v->slices && i < *count; i++)
		if (all[i].count && all[i].vm->group == v->group &&
		    !strcmp(all[i].vm->name, v->name))
			return &all[i];
	all[*count] = (struct ctl_guest){.vm = v};
	return &all[(*count)++];
}

/* Of those of one name, or one slice's, one after the other: the one that is there, or was last. */
static bool newer(const struct control_vm *a, const struct control_vm *b)
{
	if (!a->ended_ns || !b->ended_ns)
		return !a->ended_ns && b->ended_ns;
	return a->ended_ns < b->ended_ns;
}

size_t ctl_guests(const struct control_reply *r, struct ctl_guest *out)
{
	size_t count = 0;

	for (size_t i = 0; i < r->vm_count; i++) {
		const struct control_vm *v = &r->vms[i];
		struct ctl_guest *g = guest_of(v, out, &count);

		if (!v->slices || v->slices > VMSPEC_MAX_PARTS || v->slice >= v->slices)
			continue;
		g->count = v->slices;
		if (!g->slice[v->slice] || newer(v, g->slice[v->slice]))
			g->slice[v->slice] = v;
		/* The lead speaks for all. */
		if (!v->slice)
			g->vm = g->slice[0];
	}
	return count;
}

bool ctl_guest_left(const struct ctl_guest *g, size_t slice)
{
	return g->vm->slices_gone >> slice & 1;
}

void ctl_guest_nodes(const struct ctl_guest *g, char *out, size_t cap)
{
	size_t used = 0;

	if (!g->count)
		snprintf(out, cap, "%s", g->vm->node);
	for (size_t i = 0; i < g->count && used < cap; i++)
		if (!ctl_guest_left(g, i))
			used += (size_t)snprintf(out + used, cap - used, "%s%s", i ? "+" : "",
						 g->slice[i] ? g->slice[i]->node : "?");
}

int ctl_guest_ask(struct ctl *c, const char *vm, struct control_reply *r, struct ctl_guest *g)
{
	struct control_request req = {.op = CONTROL_VM_LS};
	struct ctl_guest *all;
	size_t count = 0;
	int code;

	memcpy(req.vm, vm, strlen(vm) + 1);
	code = ctl_call(c, &req, NULL, NULL, r);
	if (code)
		return code;
	code = ctl_check(c, r);
	all = code ? NULL : calloc(r->vm_count + 1, sizeof(*all));
	if (all)
		count = ctl_guests(r, all);
	for (size_t i = 0; i < count; i++)
		if (!i || newer(all[i].vm, g->vm))
			*g = all[i];
	if (!count && !code)
		code = ctl_fail(c, CONTROL_NOT_FOUND, "%s has just ended", vm);
	free(all);
	if (code) {
		control_reply_fini(r);
		*r = (struct control_reply){0};
	}
	return code;
}
