/* Runs a program and watches what it prints, for the benchmarks of whole processes. */
#ifndef BENCH_PROCESS_H
#define BENCH_PROCESS_H

#include <stddef.h>

enum { BENCH_OUTPUT_MAX = 1 << 18 };

struct bench_output {
	char text[BENCH_OUTPUT_MAX];
	size_t len;
	double marker_us; /* from the start until the marker was seen */
};

/*
 * Starts argv (looked up in PATH), reads its standard output until `marker` is there, then kills it
 * and waits for it. 0; -ETIMEDOUT; -EPIPE where it ended without the marker; -errno of the start.
 */
int bench_spawn(const char *const argv[], const char *marker, int timeout_ms,
		struct bench_output *out);
/* The number behind `key` in the text, or -1. */
double bench_output_number(const struct bench_output *out, const char *key);

#endif
