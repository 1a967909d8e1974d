/* libs: pg_pvmd */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "pvm/pvmd/crypt.h"

static struct mpd_crypt *a, *b;
static uint8_t out[MPD_RECORD_MAX];

static void pair(uint8_t key_a, uint8_t key_b)
{
	uint8_t ka[MPD_KEY_LEN] = {key_a}, kb[MPD_KEY_LEN] = {key_b};
	uint8_t ha[MPD_HELLO_LEN], hb[MPD_HELLO_LEN];

	assert_int_equal(mpd_crypt_setup(), 0);
	assert_int_equal(mpd_crypt_new(&a, true, ka, ha), 0);
	assert_int_equal(mpd_crypt_new(&b, false, kb, hb), 0);
	assert_int_equal(mpd_crypt_hello(a, hb), 0);
	assert_int_equal(mpd_crypt_hello(b, ha), 0);
}

static int drop(void **state)
{
	(void)state;
	mpd_crypt_free(a);
	mpd_crypt_free(b);
	return 0;
}

static void records_arrive(void **state)
{
	uint8_t r[64];
	size_t n, used, len;

	(void)state;
	pair(1, 1);
	for (int i = 0; i < 3; i++) {
		n = mpd_crypt_seal(i % 2 ? b : a, "hello", 5, r);
		assert_int_equal(mpd_crypt_open(i % 2 ? a : b, r, n - 1, &used, out, &len), 0);
		assert_int_equal(mpd_crypt_open(i % 2 ? a : b, r, n, &used, out, &len), 1);
		assert_int_equal(used, n);
		assert_int_equal(len, 5);
		assert_memory_equal(out, "hello", 5);
	}
}

static void wrong_secret_is_refused(void **state)
{
	uint8_t r[64];
	size_t n, used, len;

	(void)state;
	pair(1, 2);
	n = mpd_crypt_seal(a, "hello", 5, r);
	assert_int_equal(mpd_crypt_open(b, r, n, &used, out, &len), -EPROTO);
}

static void changed_or_repeated_is_refused(void **state)
{
	uint8_t r[64];
	size_t n, used, len;

	(void)state;
	pair(1, 1);
	n = mpd_crypt_seal(a, "hello", 5, r);
	assert_int_equal(mpd_crypt_open(b, r, n, &used, out, &len), 1);
	assert_int_equal(mpd_crypt_open(b, r, n, &used, out, &len), -EPROTO);
	n = mpd_crypt_seal(a, "again", 5, r);
	r[6] ^= 1;
	assert_int_equal(mpd_crypt_open(b, r, n, &used, out, &len), -EPROTO);
}

/* Only the other one of two can have written it, and only he can read it. */
static void a_box_between_two(void **state)
{
	uint8_t pub[3][MPD_KEY_LEN], sec[3][MPD_KEY_LEN], box[64];
	char text[8] = "orders", got[8];
	size_t len;

	(void)state;
	assert_int_equal(mpd_crypt_setup(), 0);
	for (int i = 0; i < 3; i++)
		mpd_crypt_box_keys(pub[i], sec[i]);
	len = mpd_crypt_box_seal(box, text, sizeof(text), pub[1], sec[0]);
	assert_int_equal(len, sizeof(text) + MPD_BOX_EXTRA);
	assert_int_equal(mpd_crypt_box_open(got, box, len, pub[0], sec[1]), 0);
	assert_string_equal(got, text);
	assert_int_equal(mpd_crypt_box_open(got, box, len, pub[0], sec[2]), -EPROTO);
	assert_int_equal(mpd_crypt_box_open(got, box, len, pub[2], sec[1]), -EPROTO);
	for (size_t i = 0; i < len; i++) {
		box[i] ^= 1;
		assert_int_equal(mpd_crypt_box_open(got, box, len, pub[0], sec[1]), -EPROTO);
		box[i] ^= 1;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_box_between_two),
		cmocka_unit_test_teardown(records_arrive, drop),
		cmocka_unit_test_teardown(wrong_secret_is_refused, drop),
		cmocka_unit_test_teardown(changed_or_repeated_is_refused, drop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
