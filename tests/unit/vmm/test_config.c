#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "node/vmm/config.h"

#define GOOD "vmm", "--name", "a", "--kernel", "k", "--vcpus", "2", "--memory", "128M"

static int parse(struct vmm_config *c, char *why, ...)
{
	char *argv[40];
	va_list ap;
	int n = 0;

	va_start(ap, why);
	do
		argv[n] = va_arg(ap, char *);
	while (argv[n++]);
	va_end(ap);
	return vmm_config_parse(c, n - 1, argv, why);
}

static struct vmm_config c;
static char why[VMM_WHY_MAX];

static void takes_the_fixed_command_line(void **state)
{
	assert_int_equal(parse(&c, why, GOOD, "--initrd", "i", "--cmdline", "console=ttyS0",
			       "--disk", "a.img,ro", "--disk", "b.img,format=qcow2", "--nic",
			       "tap=t0,mac=52:54:00:01:02:03", "--nic", "fd=5", "--nic",
			       "port=/run/x.sock", "--run-dir", "/run/a", "--console", "stdio",
			       "--gdb", "1234", NULL),
			 0);
	assert_int_equal(c.vcpus, 2);
	assert_int_equal(c.memory_bytes, 128 << 20);
	assert_int_equal(c.disk_count, 2);
	assert_true(c.disk[0].read_only);
	assert_int_equal(c.disk[1].format, VMM_DISK_QCOW2);
	assert_int_equal(c.nic_count, 3);
	assert_int_equal(c.nic[0].mac[5], 3);
	assert_string_equal(c.nic[0].target, "t0");
	assert_int_equal(c.nic[1].fd, 5);
	assert_string_equal(c.nic[2].target, "/run/x.sock");
	assert_int_equal(c.gdb_port, 1234);
	assert_int_equal(c.console, VMM_CONSOLE_STDIO);
}

static void makes_distinct_stable_macs(void **state)
{
	uint8_t first[6];

	assert_int_equal(parse(&c, why, GOOD, "--nic", "fd=3", "--nic", "fd=4", NULL), 0);
	assert_memory_not_equal(c.nic[0].mac, c.nic[1].mac, 6);
	assert_int_equal(c.nic[0].mac[0] & 3, 2); /* unicast, locally administered */
	memcpy(first, c.nic[0].mac, 6);
	assert_int_equal(parse(&c, why, GOOD, "--nic", "fd=9", NULL), 0);
	assert_memory_equal(c.nic[0].mac, first, 6);
}

static void refuses_with_a_reason(void **state)
{
	static const char *const bad[][2] = {
		{"--vcpus", "0"},
		{"--vcpus", "65"},
		{"--vcpus", "2x"},
		{"--memory", "63M"},
		{"--memory", "-1"},
		{"--memory", "64M1"},
		{"--memory", "99999999999999999999"},
		{"--memory", "18446744073709551615T"},
		{"--name", "../x"},
		{"--name", ""},
		{"--disk", ""},
		{"--disk", "a,rw"},
		{"--nic", "eth0"},
		{"--nic", "tap="},
		{"--nic", "fd=x"},
		{"--nic", "fd=3,mac=53:54:00:00:00:00"},
		{"--nic", "fd=3,mac=52:54:00:00:00"},
		{"--console", "tty"},
		{"--gdb", "0"},
		{"--gdb", "70000"},
		{"--nonsense", "x"},
		{"stray", "words"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(parse(&c, why, GOOD, bad[i][0], bad[i][1], NULL), -EINVAL);
		assert_true(strlen(why) > 0);
	}
	assert_int_equal(parse(&c, why, "vmm", "--name", "a", NULL), -EINVAL);
	assert_int_equal(parse(&c, why, GOOD, "--gdb", NULL), -EINVAL);
}

static void help_needs_nothing_else(void **state)
{
	assert_int_equal(parse(&c, why, "vmm", "--help", NULL), 0);
	assert_true(c.help);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_the_fixed_command_line),
		cmocka_unit_test(makes_distinct_stable_macs),
		cmocka_unit_test(refuses_with_a_reason),
		cmocka_unit_test(help_needs_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
