// libs: pg_proto
/* The bytes of a data-plane connection, after and before the handshake. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/xp_hello.h"
#include "proto/xp_link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take_all(struct xp_link *l, const uint8_t *data, size_t size)
{
	uint8_t plain[WIRE_LENGTH_MAX];
	bool bye = false;

	while (size) {
		struct xp_frame f = {0};
		ssize_t n = xp_link_take(l, data, size, plain, &f, &bye);

		if (n <= 0)
			return;
		assert((size_t)n <= size);
		assert(!f.type || f.body_len <= WIRE_BODY_MAX);
		data += n;
		size -= (size_t)n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct xp_hello h;
	struct xp_link l;

	xp_link_init(&l, 1 << 20);
	/* Something to acknowledge, sent and not. */
	for (int i = 0; i < 3; i++)
		if (xp_link_put(&l, &(struct xp_out){.type = 1, .body = "body", .body_len = 4}))
			return 0;
	xp_link_sent(&l, (size_t)(l.head / 2));
	take_all(&l, data, size);
	if (!xp_link_rewind(&l, size ? data[0] & 3 : 0))
		assert(l.sent == l.acked);
	xp_link_fini(&l);
	if (size >= XP_HELLO_LEN && !xp_hello_get(data, &h))
		assert(h.node < XP_NODE_MAX);
	return 0;
}
