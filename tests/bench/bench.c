#include "tests/bench/bench.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void bench_init(struct bench *b, int argc, char **argv, const char *cases)
{
	const char *slash = strrchr(argv[0], '/');

	*b = (struct bench){.name = slash ? slash + 1 : argv[0]};
	b->only = calloc((size_t)argc, sizeof(*b->only));
	if (!b->only)
		abort();
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--quick")) {
			b->quick = true;
		} else if (!strcmp(argv[i], "--json")) {
			b->json = true;
		} else if (!strcmp(argv[i], "--help") || argv[i][0] == '-') {
			printf("usage: %s [--quick] [--json] [CASE...]\ncases: %s\n", b->name,
			       cases);
			exit(strcmp(argv[i], "--help") ? 2 : 0);
		} else {
			b->only[b->only_count++] = argv[i];
		}
	}
	if (!b->json)
		printf("%-22s %12s %25s %-6s %-14s %12s %7s\n", "case", "ours", "min..max", "unit",
		       "peer", "peer", "ratio");
}

bool bench_wants(const struct bench *b, const char *name)
{
	for (int i = 0; i < b->only_count; i++)
		if (!strcmp(b->only[i], name))
			return true;
	return !b->only_count;
}

void bench_add(struct bench_samples *s, double value)
{
	s->v[s->n < BENCH_SAMPLES_MAX ? s->n++ : (size_t)(value * 7919) % BENCH_SAMPLES_MAX] =
		value;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_quantile(const struct bench_samples *s, double q)
{
	static double v[BENCH_SAMPLES_MAX];

	if (!s->n)
		return 0;
	memcpy(v, s->v, s->n * sizeof(v[0]));
	qsort(v, s->n, sizeof(v[0]), compare);
	return v[(size_t)(q * (double)(s->n - 1) + 0.5)];
}

static double ratio(const struct bench *b, const struct bench_samples *ours,
		    const struct bench_samples *peer)
{
	static struct bench_samples of_rounds;

	if (!b->rounds || ours->n != peer->n)
		return bench_quantile(ours, 0.5) / bench_quantile(peer, 0.5);
	of_rounds.n = ours->n;
	for (size_t i = 0; i < ours->n; i++)
		of_rounds.v[i] = ours->v[i] / peer->v[i];
	return bench_quantile(&of_rounds, 0.5);
}

void bench_report(const struct bench *b, const char *name, const char *unit,
		  const struct bench_samples *ours, const char *peer,
		  const struct bench_samples *peer_samples)
{
	double value = bench_quantile(ours, 0.5), min = bench_quantile(ours, 0),
	       max = bench_quantile(ours, 1);
	double other = peer_samples ? bench_quantile(peer_samples, 0.5) : 0;

	if (b->json) {
		printf("{\"case\":\"%s\",\"value\":%.6g,\"min\":%.6g,\"max\":%.6g,\"unit\":\"%s\"",
		       name, value, min, max, unit);
		if (other > 0)
			printf(",\"peer\":\"%s\",\"peer_value\":%.6g,\"ratio\":%.4g", peer, other,
			       ratio(b, ours, peer_samples));
		printf("}\n");
	} else if (other > 0) {
		printf("%-22s %12.5g %12.5g..%-11.5g %-6s %-14s %12.5g %7.3f\n", name, value, min,
		       max, unit, peer, other, value / other);
	} else {
		printf("%-22s %12.5g %12.5g..%-11.5g %-6s\n", name, value, min, max, unit);
	}
	fflush(stdout);
}

void bench_note(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

double bench_now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}
