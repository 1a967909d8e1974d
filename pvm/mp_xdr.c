/* Big-endian arrays. The loops are written so that the compiler turns them into vector shuffles. */
#include "pvm/mp_buf.h"

#include <string.h>

/*
 * Not target_clones: that asks the processor at the start of every program, which in a virtual
 * machine takes as long as much of the rest. The loader knows it already.
 */
#if defined(__x86_64__) && __has_include(<sys/platform/x86.h>)
#include <sys/platform/x86.h>
#define WIDE 1
#else
#define WIDE 0
#endif

enum { WIDE_MIN = 16 };

static inline __attribute__((always_inline)) void swap32(uint8_t *to, const uint8_t *from,
							 size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint32_t v;

		memcpy(&v, from + i * 4, 4);
		v = __builtin_bswap32(v);
		memcpy(to + i * 4, &v, 4);
	}
}

static inline __attribute__((always_inline)) void swap64(uint8_t *to, const uint8_t *from,
							 size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t v;

		memcpy(&v, from + i * 8, 8);
		v = __builtin_bswap64(v);
		memcpy(to + i * 8, &v, 8);
	}
}

#if WIDE

#ifdef __clang__
#define VECTOR __attribute__((target("avx2")))
#else
#define VECTOR __attribute__((target("avx2"), optimize("O3")))
#endif

VECTOR static void swap32_wide(uint8_t *to, const uint8_t *from, size_t count)
{
	swap32(to, from, count);
}

VECTOR static void swap64_wide(uint8_t *to, const uint8_t *from, size_t count)
{
	swap64(to, from, count);
}

static bool is_wide(size_t count)
{
	return count >= WIDE_MIN && CPU_FEATURE_ACTIVE(AVX2);
}

#endif

void mp_xdr_swap32(void *dst, const void *src, size_t count)
{
#if WIDE
	if (is_wide(count)) {
		swap32_wide(dst, src, count);
		return;
	}
#endif
	swap32(dst, src, count);
}

void mp_xdr_swap64(void *dst, const void *src, size_t count)
{
#if WIDE
	if (is_wide(count)) {
		swap64_wide(dst, src, count);
		return;
	}
#endif
	swap64(dst, src, count);
}
