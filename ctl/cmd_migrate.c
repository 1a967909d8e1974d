/* pangaea vm migrate */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"

/* The numbers that the agent sends, by name. */
uint64_t ctl_item_value(const struct control_reply *r, const char *name)
{
	for (size_t i = 0; i < r->item_count; i++)
		if (!strcmp(r->items[i].name, name))
			return r->items[i].value;
	return 0;
}

void ctl_progress_clear(const struct ctl *c)
{
	if (c->progress && c->colour && !c->json)
		fputs("\r\033[K", stderr);
}

void ctl_migrate_json(const struct control_reply *r, const char *vm)
{
	struct print_json j = {.f = stdout};

	print_json_open(&j, NULL, '{');
	print_json_text(&j, "vm", vm);
	print_json_text(&j, "state", r->text);
	for (size_t i = 0; i < r->item_count; i++)
		print_json_number(&j, r->items[i].name, r->items[i].value);
	print_json_close(&j, '}');
	putchar('\n');
	fflush(stdout);
}

/* How far: of all pages before the first round's end, of what the guest keeps writing after it. */
static unsigned percent_done(const struct control_reply *r)
{
	uint64_t total = ctl_item_value(r, "pages_total"), left = ctl_item_value(r, "pages_left");
	uint64_t moved = ctl_item_value(r, "pages_sent") + ctl_item_value(r, "pages_zero") +
			 ctl_item_value(r, "pages_unchanged");

	if (!total)
		return 0;
	if (ctl_item_value(r, "round") <= 1)
		return (unsigned)(100 * BASE_MIN(moved, left) / BASE_MAX(left, UINT64_C(1)));
	return (unsigned)(100 - 100 * BASE_MIN(left, total) / total);
}

static void print_progress(const struct ctl *c, const struct control_reply *r)
{
	char rate[32], dirty[32], sent[32], state[32];

	snprintf(state, sizeof(state), "%s", r->text);
	text_clean(state);
	fprintf(stderr, "%s%s: %3u%%, round %" PRIu64 ", %s sent, %s/s, guest writes %s/s%s",
		c->colour ? "\r\033[K" : "", state, percent_done(r), ctl_item_value(r, "round"),
		text_size_print(ctl_item_value(r, "bytes_sent"), sent, sizeof(sent)),
		text_size_print(ctl_item_value(r, "rate"), rate, sizeof(rate)),
		text_size_print(ctl_item_value(r, "dirty_rate"), dirty, sizeof(dirty)),
		c->colour ? "" : "\n");
	fflush(stderr);
}

void ctl_migrate_progress(const struct ctl *c, const char *vm, const struct control_reply *item)
{
	if (c->json)
		ctl_migrate_json(item, vm);
	else if (c->progress)
		print_progress(c, item);
}

static bool migrate_item(void *arg, const struct control_reply *item)
{
	const struct ctl *c = arg;

	ctl_migrate_progress(c, c->args[0], item);
	return true;
}

static void print_summary(const struct ctl *c, const struct control_reply *r)
{
	char sent[32];

	printf("%s: on node %s after %.1f ms, downtime %.1f ms\n"
	       "  %" PRIu64 " rounds, %s sent: %" PRIu64 " pages with data, %" PRIu64
	       " zero, %" PRIu64 " unchanged, %" PRIu64 " repeated\n",
	       c->args[0], c->target, (double)ctl_item_value(r, "total_ns") / 1e6,
	       (double)ctl_item_value(r, "downtime_ns") / 1e6, ctl_item_value(r, "round"),
	       text_size_print(ctl_item_value(r, "bytes_sent"), sent, sizeof(sent)),
	       ctl_item_value(r, "pages_sent"), ctl_item_value(r, "pages_zero"),
	       ctl_item_value(r, "pages_unchanged"), ctl_item_value(r, "pages_resent"));
}

static int migrate_order(struct ctl *c, enum control_op op)
{
	struct control_request req = {.op = op};
	struct control_reply r;
	int code;

	if (!ctl_name(c, "VM", c->args[0], req.vm) ||
	    (c->node && !ctl_name(c, "node", c->node, req.node)))
		return CONTROL_USAGE;
	code = ctl_call(c, &req, NULL, NULL, &r);
	if (code)
		return code;
	code = ctl_check(c, &r);
	control_reply_fini(&r);
	return code;
}

void ctl_migrate_options(const struct ctl *c, struct control_migrate *m)
{
	m->max_downtime_ms = c->max_downtime_ms;
	m->bandwidth = c->bandwidth;
	m->channels = c->channels;
	m->encrypt = c->encrypt;
	m->with_disk = c->with_disk;
	m->force = c->force;
	m->mode = c->mode;
	m->postcopy_rounds = c->postcopy_after;
}

int ctl_vm_migrate(struct ctl *c)
{
	struct control_request req = {.op = CONTROL_VM_MIGRATE};
	struct control_reply r;
	int code;

	if (c->cancel)
		return migrate_order(c, CONTROL_VM_MIGRATE_CANCEL);
	if (c->resume)
		return migrate_order(c, CONTROL_VM_MIGRATE_RESUME);
	if (!c->target)
		return ctl_fail(c, CONTROL_USAGE, "say where to: --to NODE");
	if (!ctl_name(c, "VM", c->args[0], req.vm) ||
	    !ctl_name(c, "node", c->target, req.migrate.target) ||
	    (c->node && !ctl_name(c, "node", c->node, req.node)))
		return CONTROL_USAGE;
	if (c->force && !c->with_disk)
		return ctl_fail(c, CONTROL_USAGE,
				"--force is about disks: it goes with --with-disk");
	ctl_migrate_options(c, &req.migrate);
	code = ctl_call(c, &req, migrate_item, c, &r);
	ctl_progress_clear(c);
	if (code)
		return code;
	code = ctl_check(c, &r);
	if (!code && c->json)
		ctl_migrate_json(&r, c->args[0]);
	else if (!code && !c->quiet)
		print_summary(c, &r);
	control_reply_fini(&r);
	return code;
}
