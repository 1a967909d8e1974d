/* pangaea events */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/ctl.h"

/* Without --follow everything comes first and is then put in order of time. */
struct collected {
	struct ctl *ctl;
	struct line {
		uint64_t time_ns;
		size_t at;
		char *text;
	} * lines;
	size_t count, cap;
	bool failed;
};

static void json_event(FILE *f, const struct control_event *e)
{
	struct print_json j = {.f = f};

	print_json_open(&j, NULL, '{');
	print_json_number(&j, "seq", e->seq);
	print_json_number(&j, "time_ns", e->time_ns);
	print_json_text(&j, "node", e->node);
	print_json_text(&j, "vm", e->vm);
	print_json_text(&j, "kind", e->kind);
	print_json_text(&j, "text", e->text);
	print_json_close(&j, '}');
	fputc('\n', f);
}

static void text_event(FILE *f, bool colour, const struct control_event *e)
{
	time_t seconds = (time_t)(e->time_ns / 1000000000);
	char when[32], what[700];
	struct tm tm;

	localtime_r(&seconds, &tm);
	strftime(when, sizeof(when), "%F %T", &tm);
	snprintf(what, sizeof(what), "%s", e->text);
	text_clean(what);
	fprintf(f, "%s.%03u  %-8s %-12s %s%-8s%s %s\n", when,
		(unsigned)(e->time_ns / 1000000 % 1000), e->node, e->vm[0] ? e->vm : "-",
		print_colour(colour, e->kind), e->kind, print_plain(colour), what);
}

static void collect(struct collected *all, const struct control_event *e)
{
	struct line *l;
	size_t len;
	FILE *f;

	if (all->count == all->cap) {
		size_t cap = all->cap * 2 + 64;

		l = realloc(all->lines, cap * sizeof(*l));
		if (!l) {
			all->failed = true;
			return;
		}
		all->lines = l;
		all->cap = cap;
	}
	l = &all->lines[all->count];
	f = open_memstream(&l->text, &len);
	if (!f) {
		all->failed = true;
		return;
	}
	if (all->ctl->json)
		json_event(f, e);
	else
		text_event(f, all->ctl->colour, e);
	fclose(f);
	l->time_ns = e->time_ns;
	l->at = all->count++;
}

static bool take_item(void *arg, const struct control_reply *item)
{
	struct collected *all = arg;

	for (size_t i = 0; i < item->event_count; i++) {
		if (!all->ctl->follow)
			collect(all, &item->events[i]);
		else if (all->ctl->json)
			json_event(stdout, &item->events[i]);
		else
			text_event(stdout, all->ctl->colour, &item->events[i]);
	}
	return fflush(stdout) == 0;
}

/* Of one node in their own order, which is the order of arrival. */
static int by_time(const void *a, const void *b)
{
	const struct line *x = a, *y = b;

	if (x->time_ns != y->time_ns)
		return x->time_ns < y->time_ns ? -1 : 1;
	return x->at < y->at ? -1 : x->at > y->at;
}

int ctl_events(struct ctl *c)
{
	struct control_request req = {.op = CONTROL_EVENTS, .follow = c->follow};
	struct collected all = {.ctl = c};
	struct control_reply r;
	int code;

	if ((c->arg_count && !ctl_name(c, "VM", c->args[0], req.vm)) ||
	    (c->node && !ctl_name(c, "node", c->node, req.node)))
		return CONTROL_USAGE;
	code = ctl_call(c, &req, take_item, &all, &r);
	if (!code) {
		code = ctl_check(c, &r);
		control_reply_fini(&r);
	}
	if (all.count)
		qsort(all.lines, all.count, sizeof(*all.lines), by_time);
	for (size_t i = 0; i < all.count; i++) {
		fputs(all.lines[i].text, stdout);
		free(all.lines[i].text);
	}
	free(all.lines);
	if (all.failed)
		return ctl_fail(c, CONTROL_FAILED, "out of memory");
	return code;
}
