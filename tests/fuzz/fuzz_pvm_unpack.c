/* libs: pg_pvm */
/* Unpacking of hostile bodies: the input is a script of calls, then the body that they read. */
#include <stdlib.h>
#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_pack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CALLS = 16, MAX_COUNT = 64 };

static void call(struct mp_msg *m, uint8_t op, char *out)
{
	int count = op % (MAX_COUNT - 1), stride = 1 + (op & 1);
	int mid;

	switch (op % 14) {
	case 11:
		if (m->read_left < 8192)
			(void)!mp_unpack_string(m, out);
		break;
	case 12:
		mp_rbuf_set(m->mid);
		mid = pvm_upkmesg();
		if (mid > 0)
			mp_mid_free(mid);
		break;
	case 13: (void)!mp_unpack_bytes(m, out, count); break;
	default: (void)!mp_unpack(m, (enum mp_kind)(op % 14), out, count, stride);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int encs[] = {MP_ENC_XDR, MP_ENC_NATIVE, MP_ENC_SWAPPED, MP_ENC_TRACE, 77};
	size_t script = BASE_MIN(size, (size_t)CALLS + 1);
	struct mp_msg *m = NULL, *piece;
	char *out = malloc(65536);
	size_t at = script, cut;

	if (!out || !size)
		goto out;
	m = mp_msg_new(encs[data[0] % 5]);
	cut = 1 + data[0] / 5;
	for (; m && at < size; at += cut) {
		size_t len = BASE_MIN(cut, size - at);
		uint8_t *copy = malloc(len);

		memcpy(copy, data + at, len);
		if (mp_msg_from_bytes(m->head.enc, copy, len, &piece))
			abort();
		if (mp_msg_append_msg(m, piece))
			abort();
		mp_msg_unref(piece);
	}
	if (!m || mp_rbuf_deliver(m) < 0)
		goto out;
	for (size_t i = 1; i < script; i++)
		call(m, data[i], out);
	mp_mid_free(m->mid);
out:
	free(out);
	return 0;
}
