/* The images that an agent makes are what qemu-img takes for good ones. */
#include <errno.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/agent/qcow2.h"

static char path[] = "/tmp/test-qcow2-XXXXXX";

/* -1: there is no such program. */
static int run(const char *const argv[])
{
	extern char **environ;
	pid_t pid;
	int st;

	if (posix_spawnp(&pid, argv[0], NULL, NULL, (char **)(uintptr_t)argv, environ))
		return -1;
	assert_int_equal(waitpid(pid, &st, 0), pid);
	return WIFEXITED(st) ? WEXITSTATUS(st) : 128;
}

static void made_and_read(void **state)
{
	/* One cluster of tables, the least, more than one entry, and more than one cluster of them. */
	static const uint64_t sizes[] = {512, 17000448, UINT64_C(1) << 33, UINT64_C(5) << 43};
	const char *const check[] = {"qemu-img", "check", "-q", "-f", "qcow2", path, NULL};
	const char *const write[] = {"qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 512",
				     path,	NULL};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		int fd, rc;
		uint64_t size = 0;
		bool backed = true;

		snprintf(path, sizeof(path), "/tmp/test-qcow2-XXXXXX");
		fd = mkstemp(path);
		assert_true(fd >= 0);
		assert_int_equal(agent_qcow2_read(fd, &size, &backed), -EINVAL);
		assert_int_equal(agent_qcow2_make(fd, sizes[i]), 0);
		assert_int_equal(agent_qcow2_read(fd, &size, &backed), 0);
		assert_int_equal(size, sizes[i]);
		assert_false(backed);
		close(fd);
		rc = run(check);
		if (rc < 0)
			print_message("no qemu-img: not checked by it\n");
		else
			assert_int_equal(rc, 0);
		if (rc == 0 && run(write) == 0)
			assert_int_equal(run(check), 0);
		unlink(path);
	}
}

static void refused(void **state)
{
	static const uint64_t sizes[] = {0, 511, 513, (UINT64_C(1) << 46) + 512, UINT64_MAX};
	int fd;

	snprintf(path, sizeof(path), "/tmp/test-qcow2-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	unlink(path);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		assert_int_equal(agent_qcow2_make(fd, sizes[i]), -EFBIG);
	assert_int_equal(lseek(fd, 0, SEEK_END), 0);
	close(fd);
}

/* Made by others, with a backing file. */
static void backed_by_another(void **state)
{
	char base[] = "/tmp/test-qcow2b-XXXXXX";
	const char *const make[] = {"qemu-img", "create", "-q",	 "-f", "qcow2", "-b",
				    base,	"-F",	  "raw", path, NULL};
	uint64_t size = 0;
	bool backed = false;
	int base_fd = mkstemp(base), fd;

	snprintf(path, sizeof(path), "/tmp/test-qcow2-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0 && base_fd >= 0);
	assert_int_equal(ftruncate(base_fd, 8 << 20), 0);
	if (run(make) == 0) {
		assert_int_equal(agent_qcow2_read(fd, &size, &backed), 0);
		assert_int_equal(size, 8 << 20);
		assert_true(backed);
	} else {
		print_message("no qemu-img: not tested\n");
	}
	unlink(base);
	unlink(path);
	close(base_fd);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(made_and_read),
		cmocka_unit_test(refused),
		cmocka_unit_test(backed_by_another),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
