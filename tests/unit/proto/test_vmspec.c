#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "proto/vmspec.h"

static char why[VMSPEC_WHY_MAX];
static struct vmspec s;

static int setup(void **state)
{
	memset(&s, 0, sizeof(s));
	return 0;
}

static void disks_and_nics(void **state)
{
	char out[VMSPEC_PATH_MAX + 64];

	assert_true(vmspec_add_disk(&s, "/x.img", why));
	assert_true(vmspec_add_disk(&s, "/x.qcow2,format=qcow2,ro", why));
	assert_false(vmspec_add_disk(&s, "", why));
	assert_false(vmspec_add_disk(&s, ",ro", why));
	assert_false(vmspec_add_disk(&s, "/x,rw", why));
	assert_string_equal(why, "disk '/x,rw': 'rw' is not 'ro' or 'format=raw|qcow2'");
	vmspec_disk_print(&s.disks[1], out, sizeof(out));
	assert_string_equal(out, "/x.qcow2,ro,format=qcow2");
	assert_true(vmspec_add_nic(&s, "net", why));
	assert_true(vmspec_add_nic(&s, "tap=tap0,mac=52:00:00:00:00:01", why));
	assert_true(vmspec_add_nic(&s, "port=/run/sw", why));
	assert_false(vmspec_add_nic(&s, "tap=", why));
	assert_false(vmspec_add_nic(&s, "tap=an-interface-name-too-long", why));
	assert_false(vmspec_add_nic(&s, "bridge=br0", why));
	assert_false(vmspec_add_nic(&s, "net,mac=01:00:00:00:00:01", why));
	vmspec_nic_print(&s.nics[1], out, sizeof(out));
	assert_string_equal(out, "tap=tap0,mac=52:00:00:00:00:01");
	while (s.disk_count < VMSPEC_MAX_DISKS)
		assert_true(vmspec_add_disk(&s, "/y", why));
	assert_false(vmspec_add_disk(&s, "/y", why));
}

static void shares(void **state)
{
	assert_true(vmspec_set_vcpus(&s, "4", why));
	assert_int_equal(s.vcpus, 4);
	assert_true(vmspec_set_vcpus(&s, "a=2,b=3", why));
	assert_true(vmspec_set_memory(&s, "b=1G,a=512M", why));
	assert_int_equal(s.vcpus, 5);
	assert_int_equal(s.part_count, 2);
	assert_int_equal(s.parts[0].memory_bytes, 512 << 20);
	assert_false(vmspec_set_vcpus(&s, "0", why));
	assert_false(vmspec_set_vcpus(&s, "65", why));
	assert_false(vmspec_set_memory(&s, "1", why));
	setup(NULL);
	assert_false(vmspec_set_vcpus(&s, "a=60,b=60", why));
	setup(NULL);
	assert_false(vmspec_set_vcpus(&s, "a=1,a=1", why));
	assert_false(vmspec_set_memory(&s, "a=1G,b", why));
	assert_false(vmspec_set_memory(&s, "c=16777215T,d=16777215T", why));
}

static void checks(void **state)
{
	static const struct {
		const char *name, *kernel, *memory, *why;
	} cases[] = {
		{"web", "/k", "64M", NULL},
		{"", "/k", "64M", ""},
		{"../x", "/k", "64M", ""},
		{"web", "", "64M", "kernel is missing"},
		{"web", "k", "64M", "kernel 'k': expected an absolute path"},
		{"web", "/k", NULL, "memory is missing or under 1M"},
		{"web", "/k", "1048577", "memory must be a multiple of 4096 bytes"},
	};

	for (size_t i = 0; i < BASE_ARRAY_LEN(cases); i++) {
		setup(NULL);
		assert_true(vmspec_set_vcpus(&s, "1", why));
		assert_true(vmspec_set_text(s.name, sizeof(s.name), "name", cases[i].name, why));
		assert_true(vmspec_set_text(s.kernel, sizeof(s.kernel), "kernel", cases[i].kernel,
					    why));
		if (cases[i].memory)
			assert_true(vmspec_set_memory(&s, cases[i].memory, why));
		assert_int_equal(vmspec_check(&s, why), cases[i].why == NULL);
		if (cases[i].why && cases[i].why[0])
			assert_string_equal(why, cases[i].why);
	}
}

/* What only a guest over several nodes has, and what each of its parts needs. */
static void spans(void **state)
{
	static const struct {
		const char *vcpus, *memory, *why; /* why NULL: fine */
	} cases[] = {
		{"a=2,b=1", "a=512M,b=64M", NULL},
		{"a=1,b=1,c=1,d=1", "d=16M,c=16M,b=16M,a=16M", NULL},
		{"a=2", "a=64M", NULL}, /* all on one node */
		{"a=2,b=1", "a=512M", "node 'b' has vCPUs of the guest but no memory"},
		{"a=2,b=1", "512M", "node 'a' has vCPUs of the guest but no memory"},
		{"a=2", "a=512M,b=64M", "node 'b' has memory of the guest but no vCPUs"},
		{"4", "a=512M,b=64M", "node 'a' has memory of the guest but no vCPUs"},
		{"a=1,b=1", "a=64M,b=8M", "memory of node 'b': expected at least 16M"},
		{"a=1,b=1", "a=67112960,b=16781312", NULL},
		{"a=1,b=1", "a=67110912,b=16779264", "memory of node 'a': expected at least 16M"},
		{"a=1,b=1", "a=16M,b=16M", "memory: a guest that spans nodes needs 64M"},
	};

	for (size_t i = 0; i < BASE_ARRAY_LEN(cases); i++) {
		setup(NULL);
		memcpy(s.name, "big", 4);
		memcpy(s.kernel, "/k", 3);
		assert_true(vmspec_set_vcpus(&s, cases[i].vcpus, why));
		assert_true(vmspec_set_memory(&s, cases[i].memory, why));
		assert_int_equal(vmspec_check(&s, why), cases[i].why == NULL);
		if (cases[i].why)
			assert_memory_equal(why, cases[i].why, strlen(cases[i].why));
	}
	setup(NULL);
	memcpy(s.name, "big", 4);
	memcpy(s.kernel, "/k", 3);
	assert_true(vmspec_set_vcpus(&s, "a=1,b=1", why));
	assert_true(vmspec_set_memory(&s, "a=32M,b=32M", why));
	assert_false(vmspec_set_transport(&s, "udp", why));
	assert_true(vmspec_set_transport(&s, "verbs", why));
	s.encrypt = true;
	assert_true(vmspec_check(&s, why));
	memcpy(s.parts[1].node, "a", 2);
	assert_false(vmspec_check(&s, why));
	assert_string_equal(why, "node 'a' stands there twice");
	memcpy(s.parts[1].node, "b", 2);
	memcpy(s.restore, "/r", 3);
	assert_true(vmspec_check(&s, why));
	setup(NULL);
	memcpy(s.name, "web", 4);
	memcpy(s.kernel, "/k", 3);
	assert_true(vmspec_set_vcpus(&s, "1", why));
	assert_true(vmspec_set_memory(&s, "64M", why));
	s.encrypt = true;
	assert_false(vmspec_check(&s, why));
	assert_memory_equal(why, "encrypt and transport are for a guest that spans", 48);
}

static const char file[] = "name: web\n"
			   "node: a\n"
			   "kernel: /boot/vmlinuz\n"
			   "initrd: /boot/initrd.img\n"
			   "cmdline: console=ttyS0 panic='x'\n"
			   "vcpus: a=1,b=2\n"
			   "memory: a=256M,b=256M\n"
			   "encrypt: on\n"
			   "transport: tcp\n"
			   "gdb: 1234\n"
			   "disks: ['/a,ro', /b]\n"
			   "nics:\n"
			   "  - net\n"
			   "  - tap=t0,mac=52:00:00:00:00:01\n";

static void file_round_trip(void **state)
{
	struct vmspec *a, *b;
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	assert_int_equal(vmspec_parse("v", file, strlen(file), &a, why), 0);
	assert_true(vmspec_check(a, why));
	assert_int_equal(a->vcpus, 3);
	assert_string_equal(a->cmdline, "console=ttyS0 panic='x'");
	assert_int_equal(vmspec_write(a, f), 0);
	fclose(f);
	assert_int_equal(vmspec_parse("w", text, len, &b, why), 0);
	assert_memory_equal(a, b, sizeof(*a));
	free(text);
	free(a);
	free(b);
}

static void file_errors_name_the_line(void **state)
{
	static const char text[] = "name: web\ndisks:\n  - /a\n  - /b,rw\n";
	struct vmspec *a;

	assert_int_equal(vmspec_parse("v.yaml", text, strlen(text), &a, why), -EBADMSG);
	assert_string_equal(why, "v.yaml:4: disk '/b,rw': 'rw' is not 'ro' or 'format=raw|qcow2'");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, setup)
	const struct CMUnitTest tests[] = {
		T(disks_and_nics), T(shares),	       T(checks),
		T(spans),	   T(file_round_trip), T(file_errors_name_the_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
