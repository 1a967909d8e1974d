/*
 * Bytes of the VMM control protocol: what decodes must encode again and decode to the same bytes.
 * libs: pg_proto
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/vmmctl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t first[VMMCTL_MAX_BYTES], second[VMMCTL_MAX_BYTES];
	struct vmmctl_msg *m, *again;
	size_t len, len2;

	if (vmmctl_decode(data, size, &m))
		return 0;
	if (!vmmctl_encode(m, first, &len)) {
		if (vmmctl_decode(first, len, &again) || vmmctl_encode(again, second, &len2))
			abort();
		if (len != len2 || memcmp(first, second, len))
			abort();
		free(again);
	}
	free(m);
	return 0;
}
