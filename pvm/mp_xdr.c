/* Big-endian arrays. The loops are written so that the compiler turns them into vector shuffles. */
#include "pvm/mp_buf.h"

#include <string.h>

/* ThreadSanitizer instruments the resolvers, which run before it is set up. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
#define VECTOR __attribute__((target_clones("avx2", "default"), optimize("O3")))
#else
#define VECTOR
#endif

VECTOR
void mp_xdr_swap32(void *dst, const void *src, size_t count)
{
	const uint8_t *from = src;
	uint8_t *to = dst;

	for (size_t i = 0; i < count; i++) {
		uint32_t v;

		memcpy(&v, from + i * 4, 4);
		v = __builtin_bswap32(v);
		memcpy(to + i * 4, &v, 4);
	}
}

VECTOR
void mp_xdr_swap64(void *dst, const void *src, size_t count)
{
	const uint8_t *from = src;
	uint8_t *to = dst;

	for (size_t i = 0; i < count; i++) {
		uint64_t v;

		memcpy(&v, from + i * 8, 8);
		v = __builtin_bswap64(v);
		memcpy(to + i * 8, &v, 8);
	}
}
