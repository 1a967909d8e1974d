/*
 * Seeded random numbers for tests, simulators and back-off: splitmix64 (Steele, Lea, Flood 2014).
 * Never for keys: those come from the crypto library.
 */
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include <stdint.h>

struct base_rng {
	uint64_t state;
};

static inline void base_rng_seed(struct base_rng *rng, uint64_t seed)
{
	rng->state = seed;
}

static inline uint64_t base_rng_next(struct base_rng *rng)
{
	uint64_t z = (rng->state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* Uniform enough below `bound` (multiply-shift; bound > 0). */
static inline uint64_t base_rng_below(struct base_rng *rng, uint64_t bound)
{
	return (uint64_t)(((unsigned __int128)base_rng_next(rng) * bound) >> 64);
}

#endif
