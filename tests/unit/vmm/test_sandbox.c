/* Each case runs in a child: what is given up does not come back. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "node/vmm/sandbox.h"

enum { NO_SANDBOX = 99 };

static int in_sandbox(int (*check)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct vmm_sandbox s = {.user = "pangaea"};
		char why[256];

		if (vmm_sandbox_enter(&s, why, sizeof(why))) {
			(void)!write(STDERR_FILENO, why, strlen(why));
			_exit(NO_SANDBOX);
		}
		_exit(check());
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* 0 when the call was refused. */
static int refused(long rc)
{
	return rc >= 0;
}

static int no_files(void)
{
	return refused(open("/etc/passwd", O_RDONLY)) ||
	       refused(open("/new", O_CREAT | O_RDWR, 0600));
}

static int no_processes(void)
{
	char name[] = "sh", *argv[] = {name, NULL};

	return refused(fork()) || refused(execv("/bin/sh", argv));
}

static int no_sockets(void)
{
	return refused(socket(AF_INET, SOCK_STREAM, 0)) || refused(socket(AF_UNIX, SOCK_STREAM, 0));
}

static int no_code(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
	       MAP_FAILED;
}

static int no_root(void)
{
	return geteuid() == 0 || refused(setuid(0));
}

static void *thread_main(void *arg)
{
	*(int *)arg = 1;
	return NULL;
}

/* What a VM lives on must go on working. */
static int threads_and_memory(void)
{
	pthread_t t;
	int ran = 0;
	void *p = malloc(1 << 20);

	if (!p || pthread_create(&t, NULL, thread_main, &ran) || pthread_join(t, NULL))
		return 1;
	free(p);
	return !ran;
}

static void gives_up(void **state)
{
	assert_int_equal(in_sandbox(no_files), 0);
	assert_int_equal(in_sandbox(no_processes), 0);
	assert_int_equal(in_sandbox(no_sockets), 0);
	assert_int_equal(in_sandbox(no_code), 0);
	assert_int_equal(in_sandbox(no_root), 0);
}

static void keeps_what_it_needs(void **state)
{
	assert_int_equal(in_sandbox(threads_and_memory), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gives_up),
		cmocka_unit_test(keeps_what_it_needs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
