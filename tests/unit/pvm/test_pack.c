/* Packing by type: every type, every encoding, segments of odd sizes, hostile bodies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_pack.h"

enum { MANY = 1000 };

static void fill(uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(i * 37 + i / 256);
}

/* The same bytes again, cut into pieces of `cut`. */
static struct mp_msg *recut(const struct mp_msg *m, size_t cut)
{
	struct mp_msg *out = mp_msg_new(m->head.enc);

	for (size_t off = 0; off < m->len; off += cut) {
		size_t len = BASE_MIN(cut, m->len - off);
		struct mp_msg *piece;
		uint8_t *bytes = malloc(len);

		mp_msg_copy_out(m, off, bytes, len);
		assert_int_equal(mp_msg_from_bytes(m->head.enc, bytes, len, &piece), 0);
		assert_int_equal(mp_msg_append_msg(out, piece), 0);
		mp_msg_unref(piece);
	}
	mp_msg_rewind(out);
	return out;
}

static void round_trip(int enc, enum mp_kind kind, int stride, size_t cut)
{
	size_t size = mp_kind_size(kind), span = size * MANY * (size_t)stride;
	uint8_t *in = malloc(span), *out = calloc(1, span);
	struct mp_msg *m = mp_msg_new(enc), *cut_up;

	fill(in, span);
	assert_int_equal(mp_pack(m, kind, in, MANY, stride), 0);
	cut_up = recut(m, cut);
	assert_int_equal(mp_unpack(cut_up, kind, out, MANY, stride), 0);
	for (size_t i = 0; i < MANY; i++)
		assert_memory_equal(in + i * size * (size_t)stride, out + i * size * (size_t)stride,
				    size);
	assert_int_equal(mp_unpack(cut_up, kind, out, 1, 1), PvmNoData);
	mp_msg_unref(m);
	mp_msg_unref(cut_up);
	free(in);
	free(out);
}

static void every_type_comes_back(void **state)
{
	static const int encs[] = {MP_ENC_XDR, MP_ENC_NATIVE};
	static const size_t cuts[] = {1, 3, 7, 64, 100000};

	for (unsigned e = 0; e < 2; e++)
		for (int kind = 0; kind < MP_K_COUNT; kind++)
			for (unsigned c = 0; c < BASE_ARRAY_LEN(cuts); c++)
				for (int stride = 1; stride < 4; stride++)
					round_trip(encs[e], kind, stride, cuts[c]);
}

/* PVM 3.4 would cut these to 4 bytes. */
static void longs_keep_their_value(void **state)
{
	const long in[] = {0,	      -1,	 INT32_MAX, INT32_MIN,	    1L << 40,
			   INT64_MAX, INT64_MIN, -5,	    INT32_MIN + 1L, INT32_MIN - 1L};
	unsigned long uin[] = {0, UINT32_MAX, 1UL << 31, UINT64_MAX}, uout[4];
	long out[BASE_ARRAY_LEN(in)];
	struct mp_msg *m = mp_msg_new(MP_ENC_XDR);
	uint8_t head[8];

	assert_int_equal(mp_pack(m, MP_K_LONG, in, BASE_ARRAY_LEN(in), 1), 0);
	assert_int_equal(mp_pack(m, MP_K_ULONG, uin, 4, 1), 0);
	mp_msg_rewind(m);
	assert_int_equal(mp_unpack(m, MP_K_LONG, out, BASE_ARRAY_LEN(in), 1), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(mp_unpack(m, MP_K_ULONG, uout, 4, 1), 0);
	assert_memory_equal(uin, uout, sizeof(uin));
	/* and small ones look as they do there */
	mp_msg_copy_out(m, 0, head, 8);
	assert_memory_equal(head, "\0\0\0\0\377\377\377\377", 8);
	mp_msg_unref(m);
}

static void xdr_bytes_are_as_in_the_original(void **state)
{
	static const char golden[] = "\0\0\0\7"
				     "\0\0\0\6hello\0\0\0"
				     "ace\0"
				     "\377\377\377\376"
				     "\77\300\0\0"
				     "\300\2\0\0\0\0\0\0";
	struct mp_msg *m = mp_msg_new(MP_ENC_XDR);
	const int i = 7;
	const short s = -2;
	const float f = 1.5f;
	const double d = -2.25;
	uint8_t body[64];

	assert_int_equal(mp_pack(m, MP_K_INT, &i, 1, 1), 0);
	assert_int_equal(mp_pack_string(m, "hello"), 0);
	assert_int_equal(mp_pack(m, MP_K_BYTE, "abcdef", 3, 2), 0);
	assert_int_equal(mp_pack(m, MP_K_SHORT, &s, 1, 1), 0);
	assert_int_equal(mp_pack(m, MP_K_FLOAT, &f, 1, 1), 0);
	assert_int_equal(mp_pack(m, MP_K_DOUBLE, &d, 1, 1), 0);
	assert_int_equal(m->len, sizeof(golden) - 1);
	mp_msg_copy_out(m, 0, body, m->len);
	assert_memory_equal(body, golden, m->len);
	mp_msg_unref(m);
}

static void foreign_bytes(void **state)
{
	struct mp_msg *m;
	int i = 0;
	double d = 0;
	uint8_t *body = malloc(12);

	memcpy(body, "\0\0\0\7\77\370\0\0\0\0\0\0", 12);
	assert_int_equal(mp_msg_from_bytes(MP_ENC_SWAPPED, body, 12, &m), 0);
	assert_int_equal(mp_unpack(m, MP_K_INT, &i, 1, 1), 0);
	assert_int_equal(mp_unpack(m, MP_K_DOUBLE, &d, 1, 1), 0);
	assert_int_equal(i, 7);
	assert_true(d == 1.5);
	m->head.enc = 0x1234;
	mp_msg_rewind(m);
	assert_int_equal(mp_unpack(m, MP_K_INT, &i, 1, 1), PvmBadMsg);
	assert_int_equal(mp_pack(m, MP_K_INT, &i, 1, 1), PvmBadMsg);
	mp_msg_unref(m);
}

static void in_place_is_read_late(void **state)
{
	struct mp_msg *m = mp_msg_new(MP_ENC_INPLACE);
	int v[2] = {1, 2}, out[2];

	assert_int_equal(mp_pack(m, MP_K_INT, v, 2, 1), 0);
	assert_int_equal(mp_pack(m, MP_K_INT, v, 2, 2), PvmNotImpl);
	v[1] = 5;
	mp_msg_copy_out(m, 0, out, sizeof(out));
	assert_int_equal(out[1], 5);
	assert_int_equal(mp_msg_own(m), 0);
	v[1] = 6;
	mp_msg_copy_out(m, 0, out, sizeof(out));
	assert_int_equal(out[1], 5);
	mp_msg_unref(m);
}

static void hostile_strings(void **state)
{
	static const uint8_t lengths[][4] = {
		{0x7f, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0xff}, {0x80, 0, 0, 0}, {0, 0, 0, 5}};

	for (unsigned i = 0; i < BASE_ARRAY_LEN(lengths); i++) {
		struct mp_msg *m;
		uint8_t *body = malloc(8);
		char out[16];

		memcpy(body, lengths[i], 4);
		memcpy(body + 4, "abcd", 4);
		assert_int_equal(mp_msg_from_bytes(MP_ENC_XDR, body, 8, &m), 0);
		assert_true(mp_unpack_string(m, out) < 0);
		mp_msg_unref(m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_type_comes_back),
		cmocka_unit_test(longs_keep_their_value),
		cmocka_unit_test(xdr_bytes_are_as_in_the_original),
		cmocka_unit_test(foreign_bytes),
		cmocka_unit_test(in_place_is_read_late),
		cmocka_unit_test(hostile_strings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
