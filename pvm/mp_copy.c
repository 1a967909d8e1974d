#include "pvm/mp_copy.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/clock.h"

enum {
	LOOP_MIN = 2048,
	LINE = 64,
	PROBE_MIN = 32768,	  /* bytes: for less the clock says little */
	FAR_MIN = 4 << 20,	  /* no cache keeps that for the reader */
	NEAR_BYTES_PER_US = 8000, /* slower copies go past the caches, */
	FAR_TURNS = 64,		  /* so many times until near is tried again */
};

#ifdef __SSE2__
#include <emmintrin.h>

/* Intrinsics, as the compiler would turn a plain loop back into memcpy. */
static inline __m128i load(const uint8_t *from)
{
	return _mm_loadu_si128((const __m128i *)(const void *)from);
}

/* Copies what brings `to` to the start of a line; how much. */
static size_t to_line(uint8_t *to, const uint8_t *from)
{
	size_t head = -(uintptr_t)to % LINE;

	memcpy(to, from, head);
	return head;
}

static inline __attribute__((always_inline)) void store(__m128i *to, __m128i what, bool far)
{
	if (far)
		_mm_stream_si128(to, what);
	else
		_mm_store_si128(to, what);
}

/* far: past the caches. One function for both, so that each has its stores without a branch. */
static inline __attribute__((always_inline)) void copy_lines(uint8_t *to, const uint8_t *from,
							     size_t len, bool far)
{
	size_t at;

	for (at = to_line(to, from); len - at >= LINE; at += LINE) {
		__m128i a = load(from + at), b = load(from + at + 16);
		__m128i c = load(from + at + 32), d = load(from + at + 48);
		__m128i *line = (__m128i *)(void *)(to + at);

		store(line, a, far);
		store(line + 1, b, far);
		store(line + 2, c, far);
		store(line + 3, d, far);
	}
	memcpy(to + at, from + at, len - at);
}

void mp_copy(void *dst, const void *src, size_t len)
{
	if (len >= LOOP_MIN)
		copy_lines(dst, src, len, false);
	else if (len)
		memcpy(dst, src, len);
}

static void copy_far(void *dst, const void *src, size_t len)
{
	copy_lines(dst, src, len, true);
	_mm_sfence();
}

void mp_copy_shared(void *dst, const void *src, size_t len)
{
	static unsigned far;
	int64_t begun, us;

	if (len < PROBE_MIN) {
		mp_copy(dst, src, len);
	} else if (len >= FAR_MIN) {
		copy_far(dst, src, len);
	} else if (far) {
		far--;
		copy_far(dst, src, len);
	} else {
		begun = base_clock_ns();
		mp_copy(dst, src, len);
		us = (base_clock_ns() - begun) / BASE_NS_PER_US;
		if (us > (int64_t)(len / NEAR_BYTES_PER_US))
			far = FAR_TURNS;
	}
}

#else

void mp_copy(void *dst, const void *src, size_t len)
{
	if (len)
		memcpy(dst, src, len);
}

void mp_copy_shared(void *dst, const void *src, size_t len)
{
	mp_copy(dst, src, len);
}

#endif
