#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "proto/text.h"

static void names(void **state)
{
	char longest[TEXT_NAME_MAX + 1];

	assert_true(text_name_valid("web"));
	assert_true(text_name_valid("0a.B-c_d"));
	assert_false(text_name_valid(""));
	assert_false(text_name_valid(".."));
	assert_false(text_name_valid("-x"));
	assert_false(text_name_valid("a/b"));
	assert_false(text_name_valid("a b"));
	memset(longest, 'n', sizeof(longest));
	longest[TEXT_NAME_MAX] = 0;
	assert_false(text_name_valid(longest));
	longest[TEXT_NAME_MAX - 1] = 0;
	assert_true(text_name_valid(longest));
}

static void numbers(void **state)
{
	uint64_t v = 7;

	assert_true(text_number_parse("18446744073709551615", 0, UINT64_MAX, &v));
	assert_true(v == UINT64_MAX);
	assert_false(text_number_parse("18446744073709551616", 0, UINT64_MAX, &v));
	assert_false(text_number_parse("99999999999999999999999", 0, UINT64_MAX, &v));
	assert_false(text_number_parse("", 0, 9, &v));
	assert_false(text_number_parse("-1", 0, 9, &v));
	assert_false(text_number_parse("1 ", 0, 9, &v));
	assert_false(text_number_parse("10", 0, 9, &v));
	assert_false(text_number_parse("0", 1, 9, &v));
}

static void sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0},
		    {"4096", 4096},
		    {"64k", 65536},
		    {"512M", 512ull << 20},
		    {"2GiB", 2ull << 30},
		    {"1TB", 1ull << 40}};
	static const char *const bad[] = {"",	 "M",	"1.5G",	     "1MM",
					  "-1M", "1 G", "16777216T", "99999999999999999999999G"};
	uint64_t v;
	char out[32];

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_true(text_size_parse(good[i].text, &v));
		assert_true(v == good[i].bytes);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(text_size_parse(bad[i], &v));
	assert_string_equal(text_size_print(512ull << 20, out, sizeof(out)), "512M");
	assert_string_equal(text_size_print(3ull << 29, out, sizeof(out)), "1.5G");
	assert_string_equal(text_size_print(100, out, sizeof(out)), "100");
}

static void durations(void **state)
{
	char out[32];

	assert_string_equal(text_duration_print(12999999999, out, sizeof(out)), "12s");
	assert_string_equal(text_duration_print(200000000000, out, sizeof(out)), "3m20s");
	assert_string_equal(text_duration_print(18180000000000, out, sizeof(out)), "5h03m");
	assert_string_equal(text_duration_print(1051200000000000, out, sizeof(out)), "12d4h");
}

static void macs(void **state)
{
	uint8_t mac[6], other[6];
	char out[18];

	assert_true(text_mac_parse("52:00:AB:cd:0e:01", mac));
	text_mac_print(mac, out);
	assert_string_equal(out, "52:00:ab:cd:0e:01");
	assert_false(text_mac_parse("53:00:00:00:00:01", mac));
	assert_false(text_mac_parse("52:00:00:00:00:1", mac));
	assert_false(text_mac_parse("52:00:00:00:00:011", mac));
	assert_false(text_mac_parse("52:00:00:00:00::1", mac));
	text_mac_derive("web", 0, mac);
	text_mac_derive("web", 0, other);
	assert_memory_equal(mac, other, 6);
	text_mac_derive("web", 1, other);
	assert_memory_not_equal(mac, other, 6);
	assert_int_equal(mac[0] & 3, 2);
}

static void printable(void **state)
{
	static const char *const bad[] = {"a\n",      "\x1b[2J",	 "\x7f", "\xc2\x85",
					  "\xc0\x80", "\xe2\x80\xa8",	 "\xff", "\xed\xa0\x80",
					  "\xe2\x80", "\xf4\x90\x80\x80"};
	char text[] = "a\x1b[2J\xc2\x9b\x33 \xc3\xa9\x7f";

	assert_true(text_printable("/srv/\xc3\xa9t\xc3\xa9.img"));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(text_printable(bad[i]));
	text_clean(text);
	assert_string_equal(text, "a?[2J??3 \xc3\xa9?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),     cmocka_unit_test(numbers), cmocka_unit_test(sizes),
		cmocka_unit_test(durations), cmocka_unit_test(macs),	cmocka_unit_test(printable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
