/*
 * Messages between the slices of a spanning guest: what is understood must be written and understood
 * again to the same bytes.
 * libs: pg_vmm
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "node/vmm/span_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t first[SPAN_WIRE_MAX], second[SPAN_WIRE_MAX];
	struct span_msg m, again;
	size_t len;

	if (span_msg_get(data, size, &m))
		return 0;
	len = span_msg_put(first, &m);
	if (len > sizeof(first) || span_msg_get(first, len, &again) ||
	    span_msg_put(second, &again) != len || memcmp(first, second, len))
		abort();
	return 0;
}
