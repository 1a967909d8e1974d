/* libs: pg_pvmd */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "pvm/pvmd/mpd_hostfile.h"

static void options_are_read(void **state)
{
	struct mpd_hostline h;
	char why[160];

	(void)state;
	assert_int_equal(mpd_hostline_parse("& host.example lo=bob ep=/a:/b wd=/w sp=250 ip=other",
					    NULL, &h, why, sizeof(why)),
			 0);
	assert_string_equal(h.name, "host.example");
	assert_true(h.later);
	assert_string_equal(h.login, "bob");
	assert_string_equal(h.path, "/a:/b");
	assert_string_equal(h.dir, "/w");
	assert_string_equal(h.ip, "other");
	assert_int_equal(h.speed, 250);
}

static void defaults_are_inherited(void **state)
{
	struct mpd_hostline base, h;
	char why[160];

	(void)state;
	assert_int_equal(mpd_hostline_parse("* lo=ann sp=10", NULL, &base, why, sizeof(why)), 0);
	assert_true(base.defaults);
	assert_int_equal(mpd_hostline_parse("one sp=20", &base, &h, why, sizeof(why)), 0);
	assert_string_equal(h.login, "ann");
	assert_int_equal(h.speed, 20);
	assert_false(h.defaults);
}

static void nonsense_is_refused(void **state)
{
	static const char *const lines[] = {"-oProxyCommand=x", "a;b",	   "h sp=0",   "h sp=x",
					    "h zz=1",		"h so=xx", "h id=a/b", "&"};
	struct mpd_hostline h;
	char why[160];

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		why[0] = 0;
		assert_int_equal(mpd_hostline_parse(lines[i], NULL, &h, why, sizeof(why)), -EINVAL);
		assert_true(why[0] != 0);
	}
	assert_int_equal(mpd_hostline_parse("  # comment", NULL, &h, why, sizeof(why)), 0);
	assert_string_equal(h.name, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_are_read),
		cmocka_unit_test(defaults_are_inherited),
		cmocka_unit_test(nonsense_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
