/* Message bodies and the table of message numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_buf.h"

static void body_is_read_as_written(void **state)
{
	struct mp_msg *m = mp_msg_new(MP_ENC_NATIVE);
	static uint8_t big[100000], out[100000];
	struct iovec iov[8];
	size_t sum = 0;
	int n;

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = i * 7;
	assert_int_equal(mp_msg_append(m, "abc", 3), 0);
	assert_int_equal(mp_msg_append(m, big, sizeof(big)), 0);
	assert_int_equal(mp_msg_append_place(m, "xyz", 3), 0);
	assert_int_equal(mp_msg_append(m, "end", 3), 0);
	assert_int_equal(m->len, sizeof(big) + 9);

	mp_msg_rewind(m);
	assert_int_equal(mp_msg_read(m, out, 3), 0);
	assert_memory_equal(out, "abc", 3);
	assert_int_equal(mp_msg_read(m, out, sizeof(big)), 0);
	assert_memory_equal(out, big, sizeof(big));
	assert_int_equal(mp_msg_read(m, out, 7), PvmNoData);
	assert_int_equal(mp_msg_read(m, out, 6), 0);
	assert_memory_equal(out, "xyzend", 6);

	n = mp_msg_iov(m, 1, SIZE_MAX, iov, 8);
	for (int i = 0; i < n; i++)
		sum += iov[i].iov_len;
	assert_int_equal(sum, m->len - 1);
	assert_int_equal(mp_msg_iov(m, m->len, SIZE_MAX, iov, 8), 0);
	assert_int_equal(mp_msg_iov(m, 2, 2, iov, 1), 1);
	assert_memory_equal(iov[0].iov_base, "c", 1);
	mp_msg_unref(m);
}

static void shared_blocks_are_not_written(void **state)
{
	struct mp_msg *a = mp_msg_new(MP_ENC_NATIVE), *b = mp_msg_new(MP_ENC_NATIVE);
	char out[8] = "";

	assert_int_equal(mp_msg_append(a, "one", 3), 0);
	assert_int_equal(mp_msg_append_msg(b, a), 0);
	assert_int_equal(mp_msg_append(b, "two", 3), 0);
	assert_int_equal(mp_msg_append(a, "TOO", 3), 0);
	mp_msg_copy_out(b, 0, out, 6);
	assert_string_equal(out, "onetwo");
	mp_msg_copy_out(a, 2, out, 4);
	assert_memory_equal(out, "eTOO", 4);
	mp_msg_unref(a);
	mp_msg_rewind(b);
	assert_int_equal(mp_msg_read(b, out, 6), 0);
	mp_msg_unref(b);
}

static void numbers_are_used_again(void **state)
{
	int mid[100];

	for (int i = 0; i < 100; i++) {
		struct mp_msg *m = mp_msg_new(MP_ENC_XDR);

		assert_int_equal(mp_mid_add(m), 0);
		mid[i] = m->mid;
		assert_int_equal(mid[i], i + 1);
	}
	mp_mid_free(mid[7]);
	mp_mid_free(mid[3]);
	assert_null(mp_mid_get(mid[3]));
	assert_null(mp_mid_get(0));
	assert_null(mp_mid_get(-1));
	assert_null(mp_mid_get(1 << 30));
	assert_non_null(mp_mid_get(mid[99]));
	mp_sbuf_set(mid[5]);
	assert_int_equal(mp_sbuf_mid(), mid[5]);
	mp_rbuf_set(mid[5]);
	assert_int_equal(mp_sbuf_mid(), 0);
	mp_mid_free(mid[5]);
	assert_int_equal(mp_rbuf_mid(), 0);
	mp_mid_reset();
	assert_null(mp_mid_get(1));
}

static void a_receive_frees_the_message_before(void **state)
{
	struct mp_msg *m;
	int first, second;

	assert_int_equal(mp_msg_from_bytes(MP_ENC_XDR, strdup("abcd"), 4, &m), 0);
	first = mp_rbuf_deliver(m);
	assert_true(first > 0);
	assert_int_equal(mp_msg_from_bytes(MP_ENC_XDR, strdup("efgh"), 4, &m), 0);
	second = mp_rbuf_deliver(m);
	assert_null(mp_mid_get(first));
	assert_int_equal(mp_rbuf_mid(), second);
	mp_mid_reset();
}

static void swapped(void **state)
{
	uint64_t in[9], out[9];
	uint32_t half[19], half_out[19];

	for (unsigned i = 0; i < 9; i++)
		in[i] = UINT64_C(0x0102030405060708) + i;
	mp_xdr_swap64(out, in, 9);
	for (unsigned i = 0; i < 9; i++)
		assert_true(out[i] == __builtin_bswap64(in[i]));
	for (unsigned i = 0; i < 19; i++)
		half[i] = 0x01020304u * i;
	mp_xdr_swap32(half_out, half, 19);
	for (unsigned i = 0; i < 19; i++)
		assert_int_equal(half_out[i], __builtin_bswap32(half[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(body_is_read_as_written),
		cmocka_unit_test(shared_blocks_are_not_written),
		cmocka_unit_test(numbers_are_used_again),
		cmocka_unit_test(a_receive_frees_the_message_before),
		cmocka_unit_test(swapped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
