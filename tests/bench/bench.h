/*
 * What all benchmarks share: options, medians, and one form of output. A benchmark measures ours and
 * its peers in one run, alternating, and reports each case; a table comes at the end, or with --json
 * one line a case: {"case":..,"value":..,"min":..,"max":..,"unit":..,"peer":..,"peer_value":..,
 * "ratio":..}. value and peer_value are medians; ratio is ours / peer, for times and for rates, of the medians
 * or (`rounds`) the median of those of the rounds: what a machine does changes while it is measured.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>

enum { BENCH_SAMPLES_MAX = 4096 };

struct bench {
	const char *name;
	bool quick, json;
	bool rounds; /* ours and a peer's samples are of the same rounds, in order */
	/* Cases named on the command line; none: all. */
	int only_count;
	char **only;
};

struct bench_samples {
	double v[BENCH_SAMPLES_MAX];
	size_t n;
};

/* Handles --quick, --json, --help (exits) and names of cases. `cases` is for --help. */
void bench_init(struct bench *b, int argc, char **argv, const char *cases);
/* Whether the case is to be measured. */
bool bench_wants(const struct bench *b, const char *name);

/* Beyond the maximum a sample replaces an arbitrary older one. */
void bench_add(struct bench_samples *s, double value);
/* q in 0..1. 0 of none. */
double bench_quantile(const struct bench_samples *s, double q);

/* peer may be NULL, with peer_samples NULL. Call once for each peer. */
void bench_report(const struct bench *b, const char *name, const char *unit,
		  const struct bench_samples *ours, const char *peer,
		  const struct bench_samples *peer_samples);
/* A line that explains (what could not be measured and why); to standard error. */
void bench_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

double bench_now_us(void);

#endif
