/* pangaea vm stats */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "ctl/guest.h"
#include "ctl/stats.h"

enum { LOOKS_KEPT = 10, ROUNDS = 5 };

static uint64_t value_before(const struct control_reply *before, const char *name)
{
	for (size_t i = 0; before && i < before->item_count; i++)
		if (!strcmp(before->items[i].name, name))
			return before->items[i].value;
	return 0;
}

/* ---- a guest on one node ---- */

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

static bool of_slice(const struct control_reply *r)
{
	for (size_t i = 0; i < r->item_count; i++)
		if (!strcmp(r->items[i].name, "dsm.slice"))
			return true;
	return false;
}

/* ---- a guest over several nodes ---- */

/* A slice that does not answer is left out, and has been reported. */
static int sample_slices(struct ctl *c, const char *vm, struct stats_sample *s)
{
	struct control_reply records;
	struct ctl_guest g;
	int code = ctl_guest_ask(c, vm, &records, &g);

	if (code)
		return code;
	*s = (struct stats_sample){.count = g.count, .at_ns = base_clock_ns()};
	for (size_t i = 0; i < g.count; i++) {
		struct control_request req = {.op = CONTROL_VM_STATS};

		if (!g.slice[i] || g.slice[i]->ended_ns || ctl_guest_left(&g, i))
			continue;
		snprintf(s->node[i], sizeof(s->node[i]), "%.63s", g.slice[i]->node);
		memcpy(req.vm, vm, strlen(vm) + 1);
		if (text_name_valid(s->node[i])) {
			memcpy(req.node, s->node[i], sizeof(req.node));
			s->there[i] = !stats_once(c, &req, &s->reply[i]);
		}
	}
	control_reply_fini(&records);
	return 0;
}

static void sample_fini(struct stats_sample *s)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->there[i])
			control_reply_fini(&s->reply[i]);
	s->count = 0;
}

/* ---- the guest's memory ---- */

struct memory {
	struct ctl *c;
	const char *vm;
	const struct stats_sample *slices;
	size_t last; /* the slice that had the page before */
	bool failed; /* and that has been said: no more is asked for */
};

static ssize_t memory_ask(struct memory *m, size_t slice, uint64_t address, unsigned pages,
			  uint8_t *out)
{
	struct control_request req = {
		.op = CONTROL_VM_PEEK, .address = address, .cols = (uint16_t)pages};
	struct control_reply r;
	ssize_t len;

	snprintf(req.vm, sizeof(req.vm), "%s", m->vm);
	memcpy(req.node, m->slices->node[slice], sizeof(req.node));
	if (ctl_call(m->c, &req, NULL, NULL, &r)) {
		m->failed = true;
		return -EIO;
	}
	len = r.code == CONTROL_OK && r.data_len <= (size_t)pages * KERNEL_PAGE
		      ? (ssize_t)r.data_len
		      : -EIO;
	if (len > 0)
		memcpy(out, r.data, (size_t)len);
	control_reply_fini(&r);
	return len;
}

/*
 * Whichever slice has it, so that no page moves for this. One that is passed to and fro may be with the other
 * each time, so all are asked several times.
 */
static ssize_t memory_read(void *ctx, uint64_t address, unsigned pages, uint8_t *out)
{
	struct memory *m = ctx;
	size_t first = m->last;
	ssize_t len = 0;

	for (size_t i = 0; i < ROUNDS * m->slices->count && !m->failed; i++) {
		size_t slice = (first + i) % m->slices->count;

		if (!m->slices->there[slice])
			continue;
		len = memory_ask(m, slice, address, pages, out);
		if (len > 0) {
			m->last = slice;
			return len;
		}
	}
	return len;
}

/* Looks for the guest's kernel once, when there is a page to be named. */
static void names_find(struct stats_names *names, struct memory *m, char why[KERNEL_WHY_MAX])
{
	if (!names->map || names->kernel || names->why || !stats_has_hot(m->slices))
		return;
	if (kernel_new(names->map, memory_read, m, &names->kernel, why))
		names->why = why;
}

static int stats_span(struct ctl *c, const char *vm, const struct sysmap *map)
{
	struct stats_names names = {.map = map};
	struct memory memory = {.c = c, .vm = vm};
	char why[KERNEL_WHY_MAX];
	BASE_AUTO_FREE struct stats_sample *now = calloc(2, sizeof(*now));
	struct timespec pause = base_clock_timespec((int64_t)c->interval_ms * BASE_NS_PER_MS);
	struct stats_sample *before;
	int code;

	if (!now)
		return ctl_fail(c, CONTROL_FAILED, "out of memory");
	before = &now[1];
	memory.slices = now;
	for (unsigned looks = 0;; looks++) {
		code = sample_slices(c, vm, now);
		if (code)
			break;
		names_find(&names, &memory, why);
		/* To whom a page belongs changes slowly, and asking is not for nothing. */
		if (names.kernel && looks % LOOKS_KEPT == 0)
			kernel_refresh(names.kernel);
		if (c->json)
			stats_json(vm, now, before->count ? before : NULL, &names);
		else
			stats_print(c, now, before->count ? before : NULL, &names);
		sample_fini(before);
		*before = *now;
		if (!c->watch || nanosleep(&pause, NULL))
			break;
	}
	sample_fini(before);
	kernel_free(names.kernel);
	return code;
}

/* ---- the command ---- */

/* Again and again; `now` has been asked already. */
static int stats_one(struct ctl *c, const struct control_request *req, struct control_reply *now)
{
	struct timespec pause = base_clock_timespec((int64_t)c->interval_ms * BASE_NS_PER_MS);
	struct control_reply before = {0};
	int64_t then = 0, at;
	int code = 0;

	do {
		at = base_clock_ns();
		if (c->json)
			json_stats(now);
		else
			print_stats(c, now, before.backing ? &before : NULL, at - then);
		control_reply_fini(&before);
		before = *now;
		then = at;
		if (!c->watch || nanosleep(&pause, NULL))
			break;
		code = stats_once(c, req, now);
	} while (!code);
	control_reply_fini(&before);
	return code;
}

int ctl_vm_stats(struct ctl *c)
{
	struct sysmap *map = NULL;
	struct control_request req;
	struct control_reply now;
	int code, rc;

	if (!ctl_vm_request(c, CONTROL_VM_STATS, &req))
		return CONTROL_USAGE;
	rc = c->system_map ? sysmap_read(c->system_map, &map) : 0;
	if (rc)
		return ctl_fail(c, rc == -ENOENT ? CONTROL_NOT_FOUND : CONTROL_USAGE,
				"--system-map %s: %s", c->system_map,
				rc == -EBADMSG ? "no symbols of a kernel in it" : strerror(-rc));
	code = stats_once(c, &req, &now);
	if (!code && !c->node && of_slice(&now)) {
		control_reply_fini(&now);
		code = stats_span(c, req.vm, map);
	} else if (!code) {
		code = stats_one(c, &req, &now);
	}
	sysmap_free(map);
	return code;
}
