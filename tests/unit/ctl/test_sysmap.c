/* Symbols of a kernel's image by the guest's pages. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "ctl/stats.h"
#include "tests/unit/ctl/printed.h"

static char path[] = "/tmp/sysmap.XXXXXX";

static void write_file(const char *text)
{
	FILE *f;

	memcpy(path + strlen(path) - 6, "XXXXXX", 6);
	f = fdopen(mkstemp(path), "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void expect(const struct sysmap *m, uint64_t address, const char *text)
{
	char out[100];

	assert_string_equal(sysmap_page(m, address, out, sizeof(out)), text);
}

static void pages_are_named(void **state)
{
	struct sysmap *m = NULL;

	/* Out of order, as per-CPU symbols make it; the rest is no symbol of the image. */
	write_file("0000000000000000 D __per_cpu_start\n"
		   "ffffffff81003800 T third\n"
		   "ffffffff81000000 T first\n"
		   "ffffffff81000010 t second\n"
		   "ffffffff81005000 D fourth\n"
		   "ffffffff81006000 B _end\n"
		   "nonsense\n"
		   "ffffffffc0000000 t module\n");
	assert_int_equal(sysmap_read(path, &m), 0);
	expect(m, 0x1000000, "first..second");
	expect(m, 0x1000fff, "first..second");
	expect(m, 0x1001000, "second"); /* it reaches into it */
	expect(m, 0x1003000, "second..third");
	expect(m, 0x1004000, "third");
	expect(m, 0x1005123, "fourth"); /* nothing before reaches in */
	expect(m, 0x1006000, "_end");
	expect(m, 0x1007000, ""); /* behind the image */
	expect(m, 0x0fff000, ""); /* before it */
	expect(m, 0x140000000, "");
	sysmap_free(m);
	unlink(path);
	/* What the start alone needed is others' by now. */
	write_file("ffffffff81000000 T first\n"
		   "ffffffff81002000 D __init_begin\n"
		   "ffffffff81002000 T start_kernel\n"
		   "ffffffff81004000 D __init_end\n"
		   "ffffffff81005000 B _end\n");
	assert_int_equal(sysmap_read(path, &m), 0);
	expect(m, 0x1001000, "first");
	expect(m, 0x1002000, "");
	expect(m, 0x1003fff, "");
	expect(m, 0x1004000, "__init_end");
	sysmap_free(m);
	unlink(path);
	write_file("ffffffff81000000 T first\n"
		   "ffffffff81000ff0 T _etext\n"
		   "ffffffff81002000 R __start_rodata\n"
		   "ffffffff81003010 R __end_rodata\n"
		   "ffffffff81005000 D _sdata\n"
		   "ffffffff81006000 B _end\n");
	assert_int_equal(sysmap_read(path, &m), 0);
	expect(m, 0x1000000, "first.._etext");
	expect(m, 0x1001000, ""); /* the gap behind the code */
	expect(m, 0x1002000, "__start_rodata");
	expect(m, 0x1003000, "__start_rodata..__end_rodata");
	expect(m, 0x1004000, ""); /* and behind the constants */
	expect(m, 0x1005000, "_sdata");
	sysmap_free(m);
	unlink(path);
}

static void pages_of_each_processor_are_named(void **state)
{
	struct control_item a[] = {{.name = "vcpu0.percpu", .value = 0x7600000},
				   {.name = "dsm.hot.0.gfn", .value = 0x7601},
				   {.name = "dsm.hot.0.count", .value = 9},
				   {.name = "dsm.hot.1.gfn", .value = 0xfa00},
				   {.name = "dsm.hot.1.count", .value = 8}};
	struct control_item b[] = {{.name = "vcpu1.percpu", .value = 0xfa00000},
				   {.name = "dsm.hot.0.gfn", .value = 0xfa02},
				   {.name = "dsm.hot.0.count", .value = 7},
				   {.name = "dsm.hot.1.gfn", .value = 0x75ff},
				   {.name = "dsm.hot.1.count", .value = 6}};
	struct stats_sample s = {.count = 2,
				 .node = {"a", "b"},
				 .there = {true, true},
				 .reply = {{.items = a, .item_count = BASE_ARRAY_LEN(a)},
					   {.items = b, .item_count = BASE_ARRAY_LEN(b)}}};
	struct sysmap *m = NULL;
	char *printed;

	write_file("0000000000000000 A fixed_percpu_data\n"
		   "0000000000001000 A runqueues\n"
		   "0000000000001c00 A rcu_data\n"
		   "0000000000002000 A __per_cpu_end\n"
		   "ffffffff81000000 T first\n"
		   "ffffffff81001000 B _end\n");
	assert_int_equal(sysmap_read(path, &m), 0);
	printed = printed_json(&s, &(struct stats_names){.map = m});
	assert_non_null(strstr(printed, "\"symbol\":\"per-cpu 0: runqueues..rcu_data\""));
	assert_non_null(strstr(printed, "\"symbol\":\"per-cpu 1: fixed_percpu_data\""));
	/* Behind the named part, and below the first area. */
	assert_non_null(strstr(printed, "\"taken\":7,\"symbol\":\"\""));
	assert_non_null(strstr(printed, "\"taken\":6,\"symbol\":\"\""));
	/* An address is no amount. */
	assert_null(strstr(printed, "\"percpu\":"));
	free(printed);
	sysmap_free(m);
	unlink(path);
}

static void other_files_are_refused(void **state)
{
	struct sysmap *m = NULL;

	assert_int_equal(sysmap_read("/nonexistent", &m), -ENOENT);
	write_file("just text\n0000000000000000 D __per_cpu_start\n");
	assert_int_equal(sysmap_read(path, &m), -EBADMSG);
	assert_null(m);
	unlink(path);
}

static void pages_behind_the_hole(void **state)
{
	assert_int_equal(stats_gfn_address(0), 0);
	assert_int_equal(stats_gfn_address(0xbffff), 0xbffff000);
	assert_int_equal(stats_gfn_address(0xc0000), 0x100000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_are_named),
		cmocka_unit_test(pages_of_each_processor_are_named),
		cmocka_unit_test(other_files_are_refused),
		cmocka_unit_test(pages_behind_the_hole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
