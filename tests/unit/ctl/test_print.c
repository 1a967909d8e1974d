#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ctl/print.h"

static char *text;
static size_t len;
static FILE *f;

static int setup(void **state)
{
	f = open_memstream(&text, &len);
	return f ? 0 : -1;
}

static int teardown(void **state)
{
	free(text);
	return 0;
}

static void json_is_escaped(void **state)
{
	struct print_json j = {.f = f};

	print_json_open(&j, NULL, '{');
	print_json_text(&j, "a\"b", "x\\y\n\x1b[2J\x7f");
	print_json_text(&j, "utf8", "\xc3\xa9");
	print_json_text(&j, "latin", "\xe9");
	print_json_open(&j, "list", '[');
	print_json_number(&j, NULL, UINT64_MAX);
	print_json_bool(&j, NULL, true);
	print_json_open(&j, NULL, '{');
	print_json_close(&j, '}');
	print_json_close(&j, ']');
	print_json_bool(&j, "last", false);
	print_json_close(&j, '}');
	fclose(f);
	assert_string_equal(text,
			    "{\"a\\\"b\":\"x\\\\y\\n\\u001b[2J\\u007f\",\"utf8\":\"\xc3\xa9\","
			    "\"latin\":\"?\",\"list\":[18446744073709551615,true,{}],"
			    "\"last\":false}");
}

static void tables_line_up(void **state)
{
	static const char *const headings[] = {"NAME", ">N", "STATE"};
	static const char *const rows[][3] = {{"\xc3\xa9t\xc3\xa9", "5", "running"},
					      {"longer", "1234", "a\x1b[2Jb"},
					      {"-", NULL, ""}};
	struct print_table t;

	print_table_init(&t, false, headings, 3);
	for (size_t i = 0; i < 3; i++)
		print_table_row(&t, rows[i]);
	print_table_end(&t, f);
	fclose(f);
	assert_string_equal(text, "NAME       N  STATE\n"
				  "\xc3\xa9t\xc3\xa9        5  running\n"
				  "longer  1234  a?[2Jb\n"
				  "-             \n");
}

static void colours_only_where_wanted(void **state)
{
	static const char *const headings[] = {"S"}, *const row[] = {"running"};
	struct print_table t;

	print_table_init(&t, true, headings, 1);
	print_table_row(&t, row);
	print_table_end(&t, f);
	fclose(f);
	assert_string_equal(text, "\033[1mS\033[0m\n\033[32mrunning\033[0m\n");
	assert_string_equal(print_colour(false, "running"), "");
	assert_string_equal(print_colour(true, "unheard-of"), "");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(json_is_escaped),
		T(tables_line_up),
		T(colours_only_where_wanted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
