/* pangaea vm spread and vm consolidate: vCPUs and memory of a guest that spans nodes move. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"
#include "ctl/guest.h"

static void print_progress(const struct ctl *c, const struct control_reply *r)
{
	uint64_t total = ctl_item_value(r, "pages_total");
	char state[32];

	snprintf(state, sizeof(state), "%s", r->text);
	text_clean(state);
	fprintf(stderr, "%s%s: step %" PRIu64 " of %" PRIu64 ", %" PRIu64 " vCPUs moved",
		c->colour ? "\r\033[K" : "", state, ctl_item_value(r, "step"),
		ctl_item_value(r, "steps"), ctl_item_value(r, "vcpus_moved"));
	if (total)
		fprintf(stderr, ", %" PRIu64 "%% of %" PRIu64 " pages",
			BASE_MIN(100 * ctl_item_value(r, "pages_sent") / total, UINT64_C(100)),
			total);
	fputs(c->colour ? "" : "\n", stderr);
	fflush(stderr);
}

bool ctl_spread_item(void *arg, const struct control_reply *item)
{
	const struct ctl *c = arg;

	if (c->json)
		ctl_migrate_json(item, c->args[0]);
	else if (c->progress)
		print_progress(c, item);
	return true;
}

static void print_spread(const struct ctl *c, const struct control_reply *r)
{
	uint64_t joined = ctl_item_value(r, "slices_joined");

	printf("%s: %" PRIu64 " vCPUs moved in %.1f ms", c->args[0],
	       ctl_item_value(r, "vcpus_moved"), (double)ctl_item_value(r, "total_ns") / 1e6);
	if (joined)
		printf(", %" PRIu64 " slices joined, downtime %.1f ms", joined,
		       (double)ctl_item_value(r, "downtime_ns") / 1e6);
	putchar('\n');
}

static int spread(struct ctl *c, struct control_request *req)
{
	struct control_reply r;
	int code;

	if (!ctl_name(c, "VM", c->args[0], req->vm) ||
	    (c->node && !ctl_name(c, "node", c->node, req->node)))
		return CONTROL_USAGE;
	req->overcommit = c->overcommit;
	req->migrate.bandwidth = c->bandwidth;
	code = ctl_call(c, req, ctl_spread_item, c, &r);
	ctl_progress_clear(c);
	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code && c->json)
		ctl_migrate_json(&r, c->args[0]);
	else if (!code && !c->quiet && req->op == CONTROL_VM_SPREAD)
		print_spread(c, &r);
	else if (!code && !c->quiet)
		printf("%s: on node %s after %.1f ms, downtime %.1f ms, %" PRIu64 " pages moved\n",
		       c->args[0], c->target, (double)ctl_item_value(&r, "total_ns") / 1e6,
		       (double)ctl_item_value(&r, "downtime_ns") / 1e6,
		       ctl_item_value(&r, "pages_sent"));
	control_reply_fini(&r);
	return code;
}

int ctl_vm_spread(struct ctl *c)
{
	struct control_request req = {.op = CONTROL_VM_SPREAD};

	if (!c->places || strlen(c->places) >= sizeof(req.places))
		return ctl_fail(c, CONTROL_USAGE, "say how many where: --vcpus a=1,b=1");
	snprintf(req.places, sizeof(req.places), "%s", c->places);
	return spread(c, &req);
}

/* The node of its devices, where it can come together. */
static int lead_of(struct ctl *c, char lead[TEXT_NAME_MAX], bool *spans)
{
	char vm[TEXT_NAME_MAX];
	struct ctl_guest g = {0};
	struct control_reply r;
	int code = ctl_name(c, "VM", c->args[0], vm) ? 0 : CONTROL_USAGE;

	if (!code)
		code = ctl_guest_ask(c, vm, &r, &g);
	if (code)
		return code;
	*spans = g.count > 0;
	snprintf(lead, TEXT_NAME_MAX, "%s", g.vm->node);
	text_clean(lead);
	control_reply_fini(&r);
	return 0;
}

/* There first, and from there as any guest of one node. */
int ctl_vm_consolidate(struct ctl *c)
{
	struct control_request req = {.op = CONTROL_VM_CONSOLIDATE};
	const char *target = c->target;
	char from[TEXT_NAME_MAX] = "", lead[TEXT_NAME_MAX] = "";
	bool spans = true;
	int code;

	if (!c->target)
		return ctl_fail(c, CONTROL_USAGE, "say where to: --to NODE");
	if (!ctl_name(c, "node", c->target, req.migrate.target) ||
	    (c->from && !ctl_name(c, "node", c->from, from)))
		return CONTROL_USAGE;
	code = c->from ? 0 : lead_of(c, lead, &spans);
	if (code)
		return code;
	if (lead[0] && strcmp(lead, target) != 0) {
		memcpy(req.migrate.target, lead, sizeof(req.migrate.target));
		c->target = lead;
	}
	snprintf(req.places, sizeof(req.places), "%s", from);
	if (spans)
		code = spread(c, &req);
	if (code || c->target == target)
		return code;
	c->target = target;
	return ctl_vm_migrate(c);
}
