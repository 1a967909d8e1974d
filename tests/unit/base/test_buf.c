#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "base/buf.h"

static void round_trip(void **state)
{
	struct base_wbuf w;
	struct base_rbuf r;
	char name[8];
	size_t len;

	base_wbuf_init(&w, 1024);
	base_wbuf_u8(&w, 0x12);
	base_wbuf_u16(&w, 0x3456);
	base_wbuf_u32(&w, 0x789abcde);
	base_wbuf_u64(&w, UINT64_C(0x1122334455667788));
	base_wbuf_str(&w, "abc");
	base_wbuf_blob(&w, "xy", 2);
	assert_int_equal(w.error, 0);
	assert_memory_equal(w.data, "\x12\x56\x34\xde\xbc\x9a\x78", 7);

	base_rbuf_init(&r, w.data, w.len);
	assert_int_equal(base_rbuf_u8(&r), 0x12);
	assert_int_equal(base_rbuf_u16(&r), 0x3456);
	assert_int_equal(base_rbuf_u32(&r), 0x789abcde);
	assert_true(base_rbuf_u64(&r) == UINT64_C(0x1122334455667788));
	base_rbuf_str(&r, name, sizeof(name));
	assert_string_equal(name, "abc");
	assert_memory_equal(base_rbuf_blob(&r, 2, &len), "xy", 2);
	assert_int_equal(len, 2);
	assert_int_equal(base_rbuf_end(&r), 0);
	base_wbuf_fini(&w);
}

static void writer_is_bounded(void **state)
{
	struct base_wbuf w;

	base_wbuf_init(&w, 10);
	base_wbuf_u64(&w, 1);
	base_wbuf_u32(&w, 2);
	assert_int_equal(w.error, -E2BIG);
	base_wbuf_u8(&w, 3);
	assert_int_equal(w.len, 8);
	base_wbuf_fini(&w);
}

static void reader_is_bounded(void **state)
{
	static const uint8_t bytes[] = {0xff, 0xff, 0xff, 0xff, 1};
	struct base_rbuf r;
	char name[4];
	size_t len;

	base_rbuf_init(&r, bytes, sizeof(bytes));
	assert_null(base_rbuf_blob(&r, SIZE_MAX, &len));
	assert_int_equal(r.error, -EBADMSG);
	assert_int_equal(base_rbuf_u8(&r), 0);
	assert_int_equal(base_rbuf_end(&r), -EBADMSG);

	base_rbuf_init(&r, "\4\0\0\0abcd", 8);
	base_rbuf_str(&r, name, sizeof(name));
	assert_int_equal(r.error, -EBADMSG);
	assert_string_equal(name, "");

	base_rbuf_init(&r, "\2\0\0\0a\0", 6);
	base_rbuf_str(&r, name, sizeof(name));
	assert_int_equal(r.error, -EBADMSG);
}

static void leftover_is_an_error(void **state)
{
	struct base_rbuf r;

	base_rbuf_init(&r, "ab", 2);
	base_rbuf_u8(&r);
	assert_int_equal(base_rbuf_end(&r), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(writer_is_bounded),
		cmocka_unit_test(reader_is_bounded),
		cmocka_unit_test(leftover_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
