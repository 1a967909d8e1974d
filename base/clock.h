/* Monotonic time in nanoseconds; never jumps with the wall clock. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define BASE_NS_PER_SEC INT64_C(1000000000)
#define BASE_NS_PER_MS	INT64_C(1000000)
#define BASE_NS_PER_US	INT64_C(1000)

static inline int64_t base_clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * BASE_NS_PER_SEC + t.tv_nsec;
}

static inline struct timespec base_clock_timespec(int64_t ns)
{
	return (struct timespec){.tv_sec = ns / BASE_NS_PER_SEC, .tv_nsec = ns % BASE_NS_PER_SEC};
}

#endif
