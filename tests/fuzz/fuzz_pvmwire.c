/* libs: pg_pvm_wire pg_base */
/* Frames and message pieces of the PVM task and daemon wire. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/wire/mp_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mp_frame f;
	struct mp_route r;
	struct mp_msghdr h;
	const uint8_t *body;
	size_t len;

	if (size < MP_FRAME_HDR || mp_frame_get(data, &f))
		return 0;
	if (mp_piece_get(data + MP_FRAME_HDR, size - MP_FRAME_HDR, &r, &h, &body, &len))
		return 0;
	/* What was accepted lies within the input. */
	if (body < data || len > size || body + len != data + size)
		abort();
	return 0;
}
