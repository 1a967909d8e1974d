/* pangaea vm heatmap: which slice owns what memory over time, as an SVG. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "ctl/guest.h"
#include "ctl/stats.h"

enum {
	ROWS = 256,
	LOOKS_A_SECOND = 4,
	LOOKS_MAX = 1200,
	SECONDS_DEFAULT = 10,
	STEP = 2, /* bytes of a part in the agent's answer: owner, share */
	NOBODY = 255,
	LEFT = 100,
	TOP = 40,
	BOTTOM = 50,
	HEIGHT = 2 * ROWS,
	WIDTH = 900, /* of the picture itself */
	SHADES = 4,
};

/* One look: the owner of each part of memory, and how much of it it owns. */
struct look {
	int64_t at_ns;
	uint8_t owner[ROWS], shade[ROWS]; /* shade 1 to SHADES */
};

struct heatmap {
	struct ctl_guest guest;
	struct control_reply records;
	size_t count;
	struct look looks[LOOKS_MAX];
};

static const char *const colours[VMSPEC_MAX_PARTS] = {"#1f77b4", "#d62728", "#2ca02c", "#ff7f0e",
						      "#9467bd", "#8c564b", "#e377c2", "#bcbd22",
						      "#17becf", "#393b79", "#637939", "#8c6d31",
						      "#843c39", "#7b4173", "#3182bd", "#636363"};

/* ---- looking ---- */

/* What one home knows; where memory is at home in several, who owns more of it counts. */
static void look_add(struct look *l, uint8_t best[ROWS], const uint8_t *map)
{
	for (size_t i = 0; i < ROWS; i++) {
		uint8_t owner = map[STEP * i], share = map[STEP * i + 1];

		if (owner >= VMSPEC_MAX_PARTS || share < best[i])
			continue;
		best[i] = share;
		l->owner[i] = owner;
		l->shade[i] = (uint8_t)(1 + share * (SHADES - 1) / 255);
	}
}

static int look_at(struct ctl *c, struct heatmap *h, const char *vm)
{
	struct look *l = &h->looks[h->count];
	uint8_t best[ROWS] = {0};

	l->at_ns = base_clock_ns();
	memset(l->owner, NOBODY, sizeof(l->owner));
	for (size_t i = 0; i < h->guest.count; i++) {
		struct control_request req = {.op = CONTROL_VM_PAGEMAP, .cols = ROWS};
		struct control_reply r;
		int code;

		if (!h->guest.slice[i] || ctl_guest_left(&h->guest, i) ||
		    !text_name_valid(h->guest.slice[i]->node))
			continue;
		snprintf(req.vm, sizeof(req.vm), "%s", vm);
		snprintf(req.node, sizeof(req.node), "%s", h->guest.slice[i]->node);
		code = ctl_call(c, &req, NULL, NULL, &r);
		if (code)
			return code;
		code = ctl_check(c, &r);
		if (!code && r.data_len == STEP * ROWS)
			look_add(l, best, r.data);
		control_reply_fini(&r);
		if (code)
			return code;
	}
	h->count++;
	return 0;
}

static int look_often(struct ctl *c, struct heatmap *h, const char *vm)
{
	uint64_t seconds = c->seconds ? c->seconds : SECONDS_DEFAULT;
	uint64_t looks = BASE_MIN(seconds * LOOKS_A_SECOND, (uint64_t)LOOKS_MAX);
	int64_t step = (int64_t)(seconds * (uint64_t)BASE_NS_PER_SEC / looks);
	int64_t next = base_clock_ns();
	int code = 0;

	for (uint64_t i = 0; i < looks && !code; i++) {
		struct timespec until = base_clock_timespec(next);

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		code = look_at(c, h, vm);
		if (c->progress)
			fprintf(stderr, "\r%" PRIu64 " of %" PRIu64 " looks", i + 1, looks);
		next += step;
	}
	if (c->progress)
		fputc('\n', stderr);
	/* A guest that ends while it is looked at is drawn as far as it went. */
	return h->count ? 0 : code;
}

/* ---- drawing ---- */

static double x_of(const struct heatmap *h, size_t i)
{
	return LEFT + (double)i * WIDTH / (double)h->count;
}

static void draw_look(FILE *f, const struct heatmap *h, size_t i)
{
	const struct look *l = &h->looks[i];
	size_t end;

	for (size_t row = 0; row < ROWS; row = end) {
		for (end = row + 1; end < ROWS && l->owner[end] == l->owner[row] &&
				    l->shade[end] == l->shade[row];)
			end++;
		if (l->owner[row] == NOBODY)
			continue;
		fprintf(f,
			"<rect x=\"%.2f\" y=\"%zu\" width=\"%.2f\" height=\"%zu\" fill=\"%s\" "
			"fill-opacity=\"%.2f\"/>\n",
			x_of(h, i), TOP + row * HEIGHT / ROWS, x_of(h, i + 1) - x_of(h, i) + 0.05,
			(end - row) * HEIGHT / ROWS, colours[l->owner[row]],
			(double)l->shade[row] / SHADES);
	}
}

static void draw_scales(FILE *f, const struct heatmap *h)
{
	double seconds = (double)(h->looks[h->count - 1].at_ns - h->looks[0].at_ns) / 1e9;
	uint64_t bytes = h->guest.vm->memory_bytes;

	for (unsigned i = 0; i <= 4; i++) {
		uint64_t gfn = bytes / 4096 * i / 4;

		fprintf(f,
			"<text x=\"%d\" y=\"%u\" text-anchor=\"end\">0x%" PRIx64 "</text>\n"
			"<text x=\"%u\" y=\"%d\" text-anchor=\"middle\">%.1f s</text>\n",
			LEFT - 6, TOP + i * HEIGHT / 4 + 4, stats_gfn_address(gfn),
			LEFT + i * WIDTH / 4, TOP + HEIGHT + 16, seconds * i / 4);
	}
}

static void draw_legend(FILE *f, const struct ctl_guest *g)
{
	int x = LEFT;

	for (size_t i = 0; i < g->count; i++) {
		const char *node = g->slice[i] ? g->slice[i]->node : "?";

		/* Names are letters, digits, '-', '_' and '.': nothing to escape. */
		if (!text_name_valid(node))
			node = "?";
		fprintf(f,
			"<rect x=\"%d\" y=\"%d\" width=\"10\" height=\"10\" fill=\"%s\"/>"
			"<text x=\"%d\" y=\"%d\">%zu: %s</text>\n",
			x, TOP + HEIGHT + 28, colours[i], x + 14, TOP + HEIGHT + 37, i, node);
		x += 40 + 8 * (int)strlen(node);
	}
}

static int draw(const struct heatmap *h, const char *path, const char *vm)
{
	FILE *f = fopen(path, "we");
	int rc;

	if (!f)
		return -errno;
	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
		"font-family=\"sans-serif\" font-size=\"11\">\n"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
		"<text x=\"%d\" y=\"20\" font-size=\"14\">%s: who owns which memory</text>\n"
		"<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#f4f4f4\"/>\n",
		LEFT + WIDTH + 40, TOP + HEIGHT + BOTTOM, LEFT, vm, LEFT, TOP, WIDTH, HEIGHT);
	for (size_t i = 0; i < h->count; i++)
		draw_look(f, h, i);
	draw_scales(f, h);
	draw_legend(f, &h->guest);
	fputs("</svg>\n", f);
	rc = ferror(f) ? -EIO : 0;
	if (fclose(f) && !rc)
		rc = -errno;
	return rc;
}

/* ---- the command ---- */

static int heatmap(struct ctl *c, struct heatmap *h, const char *vm, const char *path)
{
	struct print_json j = {.f = stdout};
	int code = ctl_guest_ask(c, vm, &h->records, &h->guest), rc;

	if (code)
		return code;
	if (!h->guest.count || h->guest.vm->ended_ns)
		return ctl_fail(c, CONTROL_USAGE, "%s %s", vm,
				h->guest.count ? "has ended" : "is all on one node");
	code = look_often(c, h, vm);
	if (code)
		return code;
	rc = draw(h, path, vm);
	if (rc)
		return ctl_fail(c, CONTROL_FAILED, "%s: %s", path, strerror(-rc));
	if (c->json) {
		print_json_open(&j, NULL, '{');
		print_json_text(&j, "name", vm);
		print_json_text(&j, "file", path);
		print_json_number(&j, "looks", h->count);
		print_json_close(&j, '}');
		putchar('\n');
	} else if (!c->quiet) {
		printf("%s: %zu looks\n", path, h->count);
	}
	return 0;
}

int ctl_vm_heatmap(struct ctl *c)
{
	struct heatmap *h = calloc(1, sizeof(*h));
	struct control_request req;
	char path[CTL_PATH_MAX];
	int code = CONTROL_USAGE;

	if (!h)
		return ctl_fail(c, CONTROL_FAILED, "out of memory");
	if (ctl_vm_request(c, CONTROL_VM_PAGEMAP, &req)) {
		snprintf(path, sizeof(path), "%s.svg", req.vm);
		code = heatmap(c, h, req.vm, c->output ? c->output : path);
	}
	control_reply_fini(&h->records);
	free(h);
	return code;
}
