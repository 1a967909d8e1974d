/*
 * lab-guest-threads LIMIT THREADS...: runs inside a Linux guest as one static program. Counts the primes
 * below LIMIT with that many threads, each kept on a processor of its own, once for each THREADS, and
 * prints how long each took: "threads: 2, 25997 primes below 300000, 812 ms". LIMIT is even.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 64 };

static unsigned count, limit;
/* Each on a page of its own, which stays with its thread's host. */
static struct part {
	_Alignas(4096) unsigned primes;
	int error;
} parts[THREADS_MAX];

static int is_prime(unsigned n)
{
	for (unsigned d = 2; d * d <= n; d++)
		if (n % d == 0)
			return 0;
	return n > 1;
}

static void *work(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg, primes = 0;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(me, &set);
	parts[me].error = sched_setaffinity(0, sizeof(set), &set) != 0;
	/* In pairs: the even ones cost nothing. */
	for (unsigned n = 2 * me; n < limit; n += 2 * count)
		primes += (unsigned)(is_prime(n) + is_prime(n + 1));
	parts[me].primes = primes;
	return NULL;
}

/* The milliseconds that it took, or -1. */
static long run(unsigned *primes)
{
	pthread_t t[THREADS_MAX];
	struct timespec a, b;
	int bad = 0;

	clock_gettime(CLOCK_MONOTONIC, &a);
	for (unsigned i = 0; i < count; i++)
		if (pthread_create(&t[i], NULL, work, (void *)(uintptr_t)i) != 0)
			return -1;
	*primes = 0;
	for (unsigned i = 0; i < count; i++) {
		pthread_join(t[i], NULL);
		*primes += parts[i].primes;
		bad |= parts[i].error;
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	return bad ? -1 : (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	limit = (unsigned)strtoul(argv[1], NULL, 10) & ~1u;
	for (int i = 2; i < argc; i++) {
		unsigned primes;
		long ms;

		count = (unsigned)strtoul(argv[i], NULL, 10);
		if (count == 0 || count > THREADS_MAX)
			return 2;
		ms = run(&primes);
		if (ms < 0) {
			printf("threads: %u do not run here\n", count);
			return 1;
		}
		printf("threads: %u, %u primes below %u, %ld ms\n", count, primes, limit, ms);
	}
	return 0;
}
