#include "ctl/stats.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const kinds[] = {"local", "read", "write", "upgrade"};

enum {
	PAGE = 4096,
	HOT_MAX = 64,	/* of all slices, */
	HOT_LINES = 16, /* and for people */
	NAME_CAP = 64,
	SUMS_MAX = 512,
	SYMBOL_CAP = 300,
	HOLDS_CAP = 600
};

/* As node/vmm/mem.h lays memory out: up to 3 GiB, and from 4 GiB on. */
#define HOLE_START UINT64_C(0xc0000000)
#define HOLE_LEN   UINT64_C(0x40000000)

uint64_t stats_gfn_address(uint64_t gfn)
{
	uint64_t address = gfn * PAGE;

	return address < HOLE_START ? address : address + HOLE_LEN;
}

/* ---- finding counters ---- */

static const struct control_item *find(const struct stats_sample *s, size_t slice, const char *fmt,
				       ...) BASE_PRINTF(3, 4);
static const struct control_item *find(const struct stats_sample *s, size_t slice, const char *fmt,
				       ...)
{
	const struct control_reply *r = &s->reply[slice];
	char name[NAME_CAP];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(name, sizeof(name), fmt, ap);
	va_end(ap);
	for (size_t i = 0; s->there[slice] && i < r->item_count; i++)
		if (!strcmp(r->items[i].name, name))
			return &r->items[i];
	return NULL;
}

static uint64_t value(const struct control_item *item)
{
	return item ? item->value : 0;
}

/* By how much a counter has grown in a second; 0 without an earlier look. */
static double rate(const struct stats_sample *now, const struct stats_sample *before, uint64_t is,
		   uint64_t was)
{
	int64_t ns = before ? now->at_ns - before->at_ns : 0;

	return ns > 0 && is >= was ? (double)(is - was) * 1e9 / (double)ns : 0;
}

/* ---- sums over slices ---- */

/* "dsm.class.CLASS.FIELD" of all slices. No look: 0. */
static uint64_t of_class(const struct stats_sample *s, const char *class, const char *field)
{
	uint64_t sum = 0;

	for (size_t i = 0; s && i < s->count; i++)
		sum += value(find(s, i, "dsm.class.%s.%s", class, field));
	return sum;
}

struct sum {
	char name[NAME_CAP];
	uint64_t value;
};

/* "vcpu3.exits.pio" counts for "exits.pio", "dsm.peer.1.pages_in" for "dsm.peers.pages_in". False: no
 * amount, so there is no sum of it. */
static bool sum_name(const char *name, char out[NAME_CAP])
{
	unsigned n;
	int len = 0;

	if (sscanf(name, "vcpu%u.%n", &n, &len) == 1 && len)
		snprintf(out, NAME_CAP, "%s", name + len);
	else if (sscanf(name, "dsm.peer.%u.%n", &n, &len) == 1 && len)
		snprintf(out, NAME_CAP, "dsm.peers.%s", name + len);
	else
		snprintf(out, NAME_CAP, "%s", name);
	return strncmp(name, "dsm.latency.", 12) != 0 && strncmp(name, "dsm.hot.", 8) != 0 &&
	       strcmp(out, "slice") != 0 && strcmp(out, "percpu") != 0 &&
	       strcmp(name, "dsm.slice") != 0;
}

static void sum_add(struct sum *sums, size_t *count, const struct control_item *item)
{
	char name[NAME_CAP];

	if (!sum_name(item->name, name))
		return;
	for (size_t i = 0; i < *count; i++) {
		if (!strcmp(sums[i].name, name)) {
			sums[i].value += item->value;
			return;
		}
	}
	if (*count == SUMS_MAX)
		return;
	memcpy(sums[*count].name, name, sizeof(name));
	sums[(*count)++].value = item->value;
}

static size_t sum_all(const struct stats_sample *s, struct sum sums[SUMS_MAX])
{
	size_t count = 0;

	for (size_t i = 0; s && i < s->count; i++)
		for (size_t k = 0; s->there[i] && k < s->reply[i].item_count; k++)
			sum_add(sums, &count, &s->reply[i].items[k]);
	return count;
}

static uint64_t sum_of(const struct sum *sums, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (!strcmp(sums[i].name, name))
			return sums[i].value;
	return 0;
}

/* ---- hot pages ---- */

struct hot {
	size_t slice;
	uint64_t gfn, count;
};

static int by_count(const void *a, const void *b)
{
	const struct hot *x = a, *y = b;

	return x->count < y->count ? 1 : x->count > y->count ? -1 : 0;
}

static size_t hot_pages(const struct stats_sample *s, struct hot out[HOT_MAX * VMSPEC_MAX_PARTS])
{
	size_t count = 0;

	for (size_t i = 0; i < s->count; i++) {
		for (unsigned k = 0; k < HOT_MAX; k++) {
			const struct control_item *gfn = find(s, i, "dsm.hot.%u.gfn", k);

			if (!gfn)
				break;
			out[count++] = (struct hot){i, gfn->value,
						    value(find(s, i, "dsm.hot.%u.count", k))};
		}
	}
	qsort(out, count, sizeof(*out), by_count);
	return BASE_MIN(count, (size_t)HOT_MAX);
}

bool stats_has_hot(const struct stats_sample *s)
{
	for (size_t i = 0; i < s->count; i++)
		if (find(s, i, "dsm.hot.0.gfn"))
			return true;
	return false;
}

/* Which of the guest's processors has its kernel's data at or below this address, nearest. */
static const struct control_item *percpu_area(const struct stats_sample *s, uint64_t address,
					      unsigned *vcpu)
{
	const struct control_item *best = NULL;

	for (size_t i = 0; i < s->count; i++) {
		for (size_t k = 0; s->there[i] && k < s->reply[i].item_count; k++) {
			const struct control_item *item = &s->reply[i].items[k];
			unsigned n;
			int len = 0;

			if (sscanf(item->name, "vcpu%u.percpu%n", &n, &len) != 1 || !len ||
			    item->name[len] || item->value > address ||
			    (best && item->value <= best->value))
				continue;
			best = item;
			*vcpu = n;
		}
	}
	return best;
}

/* What is known of a page; all empty: nothing. */
struct holds {
	char symbol[SYMBOL_CAP + 32];
	struct kernel_page page;
};

static void hot_holds(const struct stats_sample *s, const struct stats_names *names,
		      uint64_t address, struct holds *out)
{
	const struct control_item *area;
	char name[SYMBOL_CAP];
	unsigned vcpu;

	memset(out, 0, sizeof(*out));
	if (!names->map)
		return;
	/* The guest's own word comes first: Linux gives pages of its image away. */
	if (names->kernel && kernel_page(names->kernel, address, &out->page))
		return;
	memset(&out->page, 0, sizeof(out->page));
	if (*sysmap_page(names->map, address, out->symbol, sizeof(out->symbol)))
		return;
	area = percpu_area(s, address, &vcpu);
	if (area && *sysmap_percpu_page(names->map, address - area->value, name, sizeof(name)))
		snprintf(out->symbol, sizeof(out->symbol), "per-cpu %u: %s", vcpu, name);
}

static const char *holds_text(const struct holds *h, char *out, size_t cap)
{
	const struct kernel_page *p = &h->page;
	int n = snprintf(out, cap, "%s%s%s%s%s", h->symbol, p->slab[0] ? "slab " : "", p->slab,
			 p->file[0] ? "file " : "", p->file);

	if (p->process[0] && n >= 0 && (size_t)n < cap)
		n += snprintf(out + n, cap - (size_t)n, "%sprocess %s (%" PRIu32 ")",
			      p->file[0] ? " of " : "", p->process, p->pid);
	if (p->others && n >= 0 && (size_t)n < cap)
		snprintf(out + n, cap - (size_t)n, " and %u more", p->others);
	return out;
}

/* ---- JSON ---- */

static void json_slice(struct print_json *j, const struct stats_sample *s, size_t i)
{
	print_json_open(j, NULL, '{');
	print_json_number(j, "slice", i);
	print_json_text(j, "node", s->node[i]);
	print_json_open(j, "counters", '{');
	for (size_t k = 0; k < s->reply[i].item_count; k++)
		print_json_number(j, s->reply[i].items[k].name, s->reply[i].items[k].value);
	print_json_close(j, '}');
	print_json_close(j, '}');
}

static void json_sums(struct print_json *j, const struct stats_sample *now,
		      const struct stats_sample *before)
{
	BASE_AUTO_FREE struct sum *sums = calloc(2 * SUMS_MAX, sizeof(*sums));
	struct sum *old = sums ? sums + SUMS_MAX : NULL;
	size_t count = sums ? sum_all(now, sums) : 0, old_count = sums ? sum_all(before, old) : 0;

	print_json_open(j, "total", '{');
	for (size_t i = 0; i < count; i++)
		print_json_number(j, sums[i].name, sums[i].value);
	print_json_close(j, '}');
	if (!before)
		return;
	print_json_open(j, "per_second", '{');
	for (size_t i = 0; i < count; i++)
		print_json_number(j, sums[i].name,
				  (uint64_t)rate(now, before, sums[i].value,
						 sum_of(old, old_count, sums[i].name)));
	print_json_close(j, '}');
}

static void json_holds(struct print_json *j, const struct holds *h)
{
	print_json_text(j, "symbol", h->symbol);
	if (h->page.process[0]) {
		print_json_text(j, "process", h->page.process);
		print_json_number(j, "pid", h->page.pid);
		print_json_number(j, "others", h->page.others);
	}
	if (h->page.file[0])
		print_json_text(j, "file", h->page.file);
	if (h->page.slab[0])
		print_json_text(j, "slab", h->page.slab);
}

static void json_hot(struct print_json *j, const struct stats_sample *s,
		     const struct stats_names *names)
{
	struct hot hot[HOT_MAX * VMSPEC_MAX_PARTS];
	size_t count = hot_pages(s, hot);
	struct holds holds;

	print_json_open(j, "hot", '[');
	for (size_t i = 0; i < count; i++) {
		uint64_t address = stats_gfn_address(hot[i].gfn);

		print_json_open(j, NULL, '{');
		print_json_text(j, "node", s->node[hot[i].slice]);
		print_json_number(j, "address", address);
		print_json_number(j, "taken", hot[i].count);
		if (names->map) {
			hot_holds(s, names, address, &holds);
			json_holds(j, &holds);
		}
		print_json_close(j, '}');
	}
	print_json_close(j, ']');
	if (names->why)
		print_json_text(j, "no_processes", names->why);
}

void stats_json(const char *vm, const struct stats_sample *now, const struct stats_sample *before,
		const struct stats_names *names)
{
	struct print_json j = {.f = stdout};

	print_json_open(&j, NULL, '{');
	print_json_text(&j, "name", vm);
	print_json_open(&j, "slices", '[');
	for (size_t i = 0; i < now->count; i++)
		if (now->there[i])
			json_slice(&j, now, i);
	print_json_close(&j, ']');
	json_sums(&j, now, before);
	json_hot(&j, now, names);
	print_json_close(&j, '}');
	putchar('\n');
	fflush(stdout);
}

/* ---- for people ---- */

static void put_us(char out[24], const struct control_item *ns)
{
	snprintf(out, 24, "%.1f", (double)value(ns) / 1000);
}

static void row_fault(struct print_table *t, const struct stats_sample *now,
		      const struct stats_sample *before, size_t i, const char *kind)
{
	uint64_t n = value(find(now, i, "dsm.faults.%s", kind));
	char count[24], per_s[32], p50[24], p99[24], max[24];
	const char *cells[] = {now->node[i], kind, count, per_s, p50, p99, max};

	if (!n)
		return;
	snprintf(count, sizeof(count), "%" PRIu64, n);
	snprintf(per_s, sizeof(per_s), "%.0f",
		 rate(now, before, n, before ? value(find(before, i, "dsm.faults.%s", kind)) : 0));
	put_us(p50, find(now, i, "dsm.latency.%s.p50_ns", kind));
	put_us(p99, find(now, i, "dsm.latency.%s.p99_ns", kind));
	put_us(max, find(now, i, "dsm.latency.%s.max_ns", kind));
	print_table_row(t, cells);
}

static void row_all_faults(struct print_table *t, const struct stats_sample *now,
			   const struct stats_sample *before)
{
	char count[24], per_s[32];
	const char *cells[] = {"all", "", count, per_s, "", "", ""};
	uint64_t is = 0, was = 0;

	for (size_t i = 0; i < now->count; i++) {
		for (size_t k = 0; k < BASE_ARRAY_LEN(kinds); k++) {
			is += value(find(now, i, "dsm.faults.%s", kinds[k]));
			was += before ? value(find(before, i, "dsm.faults.%s", kinds[k])) : 0;
		}
	}
	snprintf(count, sizeof(count), "%" PRIu64, is);
	snprintf(per_s, sizeof(per_s), "%.0f", rate(now, before, is, was));
	print_table_row(t, cells);
}

static void print_faults(const struct ctl *c, const struct stats_sample *now,
			 const struct stats_sample *before)
{
	static const char *const headings[] = {"SLICE",	  "FAULTS",  ">COUNT", ">PER SECOND",
					       ">P50 us", ">P99 us", ">MAX us"};
	struct print_table t;

	print_table_init(&t, c->colour, headings, BASE_ARRAY_LEN(headings));
	for (size_t i = 0; i < now->count; i++)
		for (size_t k = 0; k < BASE_ARRAY_LEN(kinds); k++)
			row_fault(&t, now, before, i, kinds[k]);
	row_all_faults(&t, now, before);
	print_table_end(&t, stdout);
}

static void print_classes(const struct ctl *c, const struct stats_sample *now,
			  const struct stats_sample *before)
{
	static const char *const headings[] = {"PAGES", ">FAULTS", ">PER SECOND", ">WAITED s"};
	static const char *const classes[][2] = {{"untouched", "untouched by anybody"},
						 {"new", "new here"},
						 {"back", "back after a while"},
						 {"contended", "back within 100 ms"}};
	struct print_table t;

	print_table_init(&t, c->colour, headings, BASE_ARRAY_LEN(headings));
	for (size_t k = 0; k < BASE_ARRAY_LEN(classes); k++) {
		uint64_t n = of_class(now, classes[k][0], "faults");
		char count[24], per_s[32], waited[24];
		const char *cells[] = {classes[k][1], count, per_s, waited};

		snprintf(count, sizeof(count), "%" PRIu64, n);
		snprintf(per_s, sizeof(per_s), "%.0f",
			 rate(now, before, n, of_class(before, classes[k][0], "faults")));
		snprintf(waited, sizeof(waited), "%.3f",
			 (double)of_class(now, classes[k][0], "wait_us") / 1e6);
		print_table_row(&t, cells);
	}
	putchar('\n');
	print_table_end(&t, stdout);
}

static void row_link(struct print_table *t, const struct stats_sample *now,
		     const struct stats_sample *before, size_t i, size_t k)
{
	uint64_t bytes = value(find(now, i, "dsm.peer.%zu.bytes_out", k));
	char pages[24], zero[24], requests[24], invalidations[24], sent[32], per_s[40], again[24];
	const char *cells[] = {now->node[i], now->node[k], requests,	  pages, zero,
			       sent,	     per_s,	   invalidations, again};
	const struct control_item *was =
		before ? find(before, i, "dsm.peer.%zu.bytes_out", k) : NULL;

	snprintf(requests, sizeof(requests), "%" PRIu64,
		 value(find(now, i, "dsm.peer.%zu.requests", k)));
	snprintf(pages, sizeof(pages), "%" PRIu64,
		 value(find(now, i, "dsm.peer.%zu.pages_out", k)));
	snprintf(zero, sizeof(zero), "%" PRIu64, value(find(now, i, "dsm.peer.%zu.zero_out", k)));
	snprintf(invalidations, sizeof(invalidations), "%" PRIu64,
		 value(find(now, i, "dsm.peer.%zu.invalidations", k)));
	snprintf(again, sizeof(again), "%" PRIu64,
		 value(find(now, i, "dsm.peer.%zu.reconnects", k)));
	text_size_print(bytes, sent, sizeof(sent));
	text_size_print((uint64_t)rate(now, before, bytes, value(was)), per_s, sizeof(per_s));
	print_table_row(t, cells);
}

static void print_links(const struct ctl *c, const struct stats_sample *now,
			const struct stats_sample *before)
{
	static const char *const headings[] = {"FROM",	      "TO",	      ">REQUESTS",
					       ">PAGES",      ">ZERO PAGES",  ">BYTES",
					       ">PER SECOND", ">INVALIDATED", ">RECONNECTS"};
	struct print_table t;

	print_table_init(&t, c->colour, headings, BASE_ARRAY_LEN(headings));
	for (size_t i = 0; i < now->count; i++)
		for (size_t k = 0; now->there[i] && k < now->count; k++)
			if (i != k)
				row_link(&t, now, before, i, k);
	putchar('\n');
	print_table_end(&t, stdout);
}

static void print_hot(const struct ctl *c, const struct stats_sample *s,
		      const struct stats_names *names)
{
	static const char *const headings[] = {">TAKEN", "FROM", "ADDRESS", "WHAT IT HOLDS"};
	struct hot hot[HOT_MAX * VMSPEC_MAX_PARTS];
	size_t count = hot_pages(s, hot);
	struct print_table t;
	struct holds holds;

	if (!count)
		return;
	print_table_init(&t, c->colour, headings, names->map ? 4 : 3);
	for (size_t i = 0; i < BASE_MIN(count, (size_t)HOT_LINES); i++) {
		uint64_t at = stats_gfn_address(hot[i].gfn);
		char taken[24], address[24], text[HOLDS_CAP];
		const char *cells[] = {taken, s->node[hot[i].slice], address, text};

		snprintf(taken, sizeof(taken), "%" PRIu64, hot[i].count);
		snprintf(address, sizeof(address), "0x%" PRIx64, at);
		hot_holds(s, names, at, &holds);
		holds_text(&holds, text, sizeof(text));
		print_table_row(&t, cells);
	}
	putchar('\n');
	print_table_end(&t, stdout);
	if (names->why)
		printf("processes are not named: %s\n", names->why);
}

/* All else that has been counted, over all slices. */
static void print_rest(const struct ctl *c, const struct stats_sample *now,
		       const struct stats_sample *before)
{
	static const char *const headings[] = {"COUNTER", ">VALUE", ">PER SECOND"};
	BASE_AUTO_FREE struct sum *sums = calloc(2 * SUMS_MAX, sizeof(*sums));
	struct sum *old = sums ? sums + SUMS_MAX : NULL;
	size_t count = sums ? sum_all(now, sums) : 0, old_count = sums ? sum_all(before, old) : 0;
	struct print_table t;

	print_table_init(&t, c->colour, headings, before ? 3 : 2);
	for (size_t i = 0; i < count; i++) {
		char is[24], per_s[32];
		const char *cells[] = {sums[i].name, is, per_s};

		if (!sums[i].value || !strncmp(sums[i].name, "dsm.faults.", 11) ||
		    !strncmp(sums[i].name, "dsm.class.", 10) ||
		    !strncmp(sums[i].name, "dsm.peers.", 10))
			continue;
		snprintf(is, sizeof(is), "%" PRIu64, sums[i].value);
		snprintf(per_s, sizeof(per_s), "%.0f",
			 rate(now, before, sums[i].value, sum_of(old, old_count, sums[i].name)));
		print_table_row(&t, cells);
	}
	putchar('\n');
	print_table_end(&t, stdout);
}

void stats_print(const struct ctl *c, const struct stats_sample *now,
		 const struct stats_sample *before, const struct stats_names *names)
{
	if (c->colour && c->watch)
		fputs("\033[H\033[2J", stdout);
	print_faults(c, now, before);
	print_classes(c, now, before);
	print_links(c, now, before);
	print_hot(c, now, names);
	print_rest(c, now, before);
	if (c->watch && !c->colour)
		putchar('\n');
	fflush(stdout);
}
