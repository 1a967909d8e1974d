#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "pvm/wire/mp_wire.h"

static void piece_round_trip(void **state)
{
	struct mp_route r = {.dst = 0x40001, .src = 0x80002, .flags = MP_PIECE_FIRST}, r2;
	struct mp_msghdr h = {
		.ctx = 1, .tag = -2, .enc = 3, .wid = 4, .crc = 5, .total = 1ull << 40};
	struct mp_msghdr h2 = {0};
	uint8_t out[MP_PIECE_HDR_MAX + 4];
	struct mp_frame f;
	const uint8_t *body;
	size_t len = mp_piece_put(out, &r, &h, 4), body_len;

	(void)state;
	memcpy(out + len, "abcd", 4);
	assert_int_equal(len, MP_PIECE_HDR_MAX);
	assert_int_equal(mp_frame_get(out, &f), 0);
	assert_int_equal(f.type, MP_F_MSG);
	assert_int_equal(f.len, len - MP_FRAME_HDR + 4);
	assert_int_equal(mp_piece_get(out + MP_FRAME_HDR, f.len, &r2, &h2, &body, &body_len), 0);
	assert_memory_equal(&r, &r2, sizeof(r));
	assert_int_equal(h2.total, h.total);
	assert_int_equal(h2.tag, -2);
	assert_int_equal(body_len, 4);
	assert_memory_equal(body, "abcd", 4);
}

static void frame_refuses(void **state)
{
	struct mp_frame f = {.type = MP_F_REQ, .len = 10}, g;
	uint8_t out[MP_FRAME_HDR];

	(void)state;
	mp_frame_put(out, &f);
	out[0] ^= 1;
	assert_int_equal(mp_frame_get(out, &g), -EPROTO);
	out[0] ^= 1;
	out[3] = 0;
	assert_int_equal(mp_frame_get(out, &g), -EPROTO);
	f.type = MP_F_MSG;
	f.len = MP_PIECE_MAX * 2;
	mp_frame_put(out, &f);
	assert_int_equal(mp_frame_get(out, &g), -EPROTO);
}

static void piece_refuses_short(void **state)
{
	struct mp_route r = {.flags = MP_PIECE_FIRST};
	struct mp_msghdr h = {0};
	uint8_t out[MP_PIECE_HDR_MAX];
	const uint8_t *body;
	size_t body_len, len = mp_piece_put(out, &r, &h, 0);

	(void)state;
	for (size_t n = 0; n < len - MP_FRAME_HDR; n++)
		assert_int_equal(mp_piece_get(out + MP_FRAME_HDR, n, &r, &h, &body, &body_len),
				 -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(piece_round_trip),
		cmocka_unit_test(frame_refuses),
		cmocka_unit_test(piece_refuses_short),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
