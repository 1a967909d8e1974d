/*
 * Moves of a bare-metal guest between two processes over loopback: ours beside QEMU 10 of the
 * backports (multifd with 2 and with 4 channels, memory of the destination allocated beforehand,
 * downtime limit 30 ms) and beside a raw TCP stream, in one run, alternating. The downtime is seen
 * from outside: from the last sign of the guest at the source to its first at the destination, which
 * comes every 0.2 ms. PANGAEA_BUILD names the build.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"
#include "tests/bench/migrate_vm.h"

enum { RUNS = 5, RUNS_QUICK = 3, PEERS = 2, FILLED_MIB = 750 };

struct scene {
	const char *rate_case;	/* bytes of memory per second */
	const char *total_case; /* ms */
	const char *down_case;	/* ms */
	struct move_job job;
	bool raw;
};

static const struct scene scenes[] = {
	{"nonzero", NULL, "downtime_idle", {.memory_mib = 1024, .fill_mib = FILLED_MIB}, true},
	{NULL, "zero", NULL, {.memory_mib = 4096}, false},
	{NULL,
	 "total_100",
	 "downtime_100",
	 {.memory_mib = 1024, .fill_mib = FILLED_MIB, .rate_mb = 100},
	 false},
	{NULL,
	 "total_400",
	 "downtime_400",
	 {.memory_mib = 1024, .fill_mib = FILLED_MIB, .rate_mb = 400},
	 false},
	{NULL,
	 "total_unthrottled",
	 "downtime_unthrottled",
	 {.memory_mib = 1024, .fill_mib = FILLED_MIB, .unthrottled = true},
	 false},
	{NULL,
	 "total_postcopy",
	 "downtime_postcopy",
	 {.memory_mib = 1024, .fill_mib = FILLED_MIB, .unthrottled = true, .postcopy = true},
	 false},
	{"encrypted",
	 NULL,
	 NULL,
	 {.memory_mib = 1024, .fill_mib = FILLED_MIB, .encrypt = true},
	 false},
};

static const unsigned peer_channels[PEERS] = {2, 4};
static const char *const peer_names[PEERS] = {"qemu-multifd2", "qemu-multifd4"};

struct measured {
	struct bench_samples total, down, rate, mb;
};

static const char *build, *qemu;
static char qemu_path[512];

static void keep(struct measured *m, const struct scene *s, const struct move_result *r)
{
	bench_add(&m->total, r->total_ms);
	bench_add(&m->down, r->downtime_ms);
	bench_add(&m->rate, s->job.fill_mib * 1048576.0 / (r->total_ms / 1e3));
	bench_add(&m->mb, r->bytes / 1e6);
}

static void measure_ours(const struct scene *s, struct measured *m)
{
	struct move_result r = {0};
	int err = move_ours(build, &s->job, &r);

	if (err)
		bench_note("%s: ours: %s", s->total_case ? s->total_case : s->rate_case, r.why);
	else
		keep(m, s, &r);
}

static void measure_qemu(const struct scene *s, int peer, struct measured *m)
{
	struct move_job job = s->job;
	struct move_result r = {0};
	int err;

	if (!qemu || !qemu[0] || s->job.encrypt)
		return;
	/* QEMU's post-copy has one connection. */
	if (job.postcopy && peer)
		return;
	job.channels = job.postcopy ? 0 : peer_channels[peer];
	err = move_qemu(qemu, build, &job, &r);
	if (err)
		bench_note("%s: %s: %s", s->total_case ? s->total_case : s->rate_case,
			   peer_names[peer], r.why);
	else
		keep(m, s, &r);
}

static void report(const struct bench *b, const char *name, const char *unit,
		   struct bench_samples *ours, struct bench_samples *peers[PEERS], bool more)
{
	int best = -1;

	if (!name || !bench_wants(b, name) || !ours->n)
		return;
	for (int i = 0; i < PEERS; i++) {
		if (!peers[i]->n)
			continue;
		if (best < 0 ||
		    (bench_quantile(peers[i], 0.5) > bench_quantile(peers[best], 0.5)) == more)
			best = i;
	}
	/* Named plainly: the better of its two settings. */
	bench_report(b, name, unit, ours, best < 0 ? NULL : "qemu", best < 0 ? NULL : peers[best]);
	for (int i = 0; i < PEERS; i++)
		if (i != best && peers[i]->n)
			bench_report(b, name, unit, ours, peer_names[i], peers[i]);
}

static void report_scene(const struct bench *b, const struct scene *s, struct measured *ours,
			 struct measured peers[PEERS], struct bench_samples *raw)
{
	struct bench_samples *rate[PEERS], *total[PEERS], *down[PEERS];

	for (int i = 0; i < PEERS; i++) {
		rate[i] = &peers[i].rate;
		total[i] = &peers[i].total;
		down[i] = &peers[i].down;
	}
	report(b, s->rate_case, "B/s", &ours->rate, rate, true);
	if (s->rate_case && raw->n && bench_wants(b, s->rate_case))
		bench_report(b, s->rate_case, "B/s", &ours->rate, "raw", raw);
	report(b, s->total_case, "ms", &ours->total, total, false);
	report(b, s->down_case, "ms", &ours->down, down, false);
	bench_note("%s: sent by ours %.0f MB, by QEMU %.0f and %.0f MB",
		   s->total_case ? s->total_case : s->rate_case, bench_quantile(&ours->mb, 0.5),
		   bench_quantile(&peers[0].mb, 0.5), bench_quantile(&peers[1].mb, 0.5));
}

static void measure_raw(const struct scene *s, struct bench_samples *raw)
{
	size_t bytes = (size_t)s->job.fill_mib << 20;
	struct move_result r = {0};

	if (s->raw && !move_raw(bytes, &r))
		bench_add(raw, (double)bytes / (r.total_ms / 1e3));
}

static void measure_scene(const struct bench *b, const struct scene *s)
{
	static struct measured ours, peers[PEERS];
	static struct bench_samples raw;

	memset(&ours, 0, sizeof(ours));
	memset(peers, 0, sizeof(peers));
	raw.n = 0;
	for (int i = 0; i < (b->quick ? RUNS_QUICK : RUNS); i++) {
		measure_raw(s, &raw);
		measure_ours(s, &ours);
		for (int k = 0; k < PEERS; k++)
			measure_qemu(s, k, &peers[k]);
	}
	report_scene(b, s, &ours, peers, &raw);
}

static bool scene_wanted(const struct bench *b, const struct scene *s)
{
	return (s->rate_case && bench_wants(b, s->rate_case)) ||
	       (s->total_case && bench_wants(b, s->total_case)) ||
	       (s->down_case && bench_wants(b, s->down_case));
}

/* $PANGAEA_QEMU (empty: none), or what tests/bench/qemu_peer fetches. */
static void find_qemu(void)
{
	const char *given = getenv("PANGAEA_QEMU");
	FILE *f;

	if (given) {
		qemu = *given ? given : NULL;
		return;
	}
	f = popen(BENCH_SOURCE "/tests/bench/qemu_peer", "re");
	if (f && fgets(qemu_path, sizeof(qemu_path), f)) {
		qemu_path[strcspn(qemu_path, "\n")] = 0;
		qemu = qemu_path;
	}
	if (f && pclose(f))
		qemu = NULL;
	if (!qemu)
		bench_note("no peer: QEMU of the backports could not be fetched");
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv,
		   "nonzero zero total_100 total_400 encrypted downtime_idle downtime_100 "
		   "downtime_400 downtime_unthrottled total_unthrottled total_postcopy "
		   "downtime_postcopy");
	build = getenv("PANGAEA_BUILD");
	if (!build)
		build = "build/release";
	find_qemu();
	for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++)
		if (scene_wanted(&b, &scenes[i]))
			measure_scene(&b, &scenes[i]);
	return 0;
}
