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
		cmocka_unit_test(other_files_are_refused),
		cmocka_unit_test(pages_behind_the_hole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
