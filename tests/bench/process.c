#include "tests/bench/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/bench/bench.h"

extern char **environ;

/* What runs now: it must not outlive us, whoever ends us. */
static volatile sig_atomic_t running;

static void spawn_abort(int sig)
{
	if (running)
		kill(running, SIGKILL);
	signal(sig, SIG_DFL);
	raise(sig);
}

static int spawn_start(const char *const argv[], pid_t *pid, int *fd)
{
	posix_spawn_file_actions_t fa;
	int p[2], err;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&fa, p[1], 1);
	posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
	err = posix_spawnp(pid, argv[0], &fa, NULL, (char *const *)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	close(p[1]);
	if (err) {
		close(p[0]);
		return -err;
	}
	*fd = p[0];
	return 0;
}

static int spawn_watch(int fd, const char *marker, int timeout_ms, double start_us,
		       struct bench_output *out)
{
	while (!strstr(out->text, marker)) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		int left = timeout_ms - (int)((bench_now_us() - start_us) / 1000);
		ssize_t n;

		if (left <= 0 || poll(&p, 1, left) != 1)
			return -ETIMEDOUT;
		n = read(fd, out->text + out->len, BENCH_OUTPUT_MAX - 1 - out->len);
		if (n <= 0)
			return -EPIPE;
		out->len += (size_t)n;
		out->text[out->len] = 0;
	}
	out->marker_us = bench_now_us() - start_us;
	return 0;
}

int bench_spawn(const char *const argv[], const char *marker, int timeout_ms,
		struct bench_output *out)
{
	double start_us = bench_now_us();
	pid_t pid;
	int fd = -1, err;

	out->len = 0;
	out->text[0] = 0;
	signal(SIGTERM, spawn_abort);
	signal(SIGINT, spawn_abort);
	err = spawn_start(argv, &pid, &fd);
	if (err)
		return err;
	running = pid;
	err = spawn_watch(fd, marker, timeout_ms, start_us, out);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	running = 0;
	close(fd);
	return err;
}

double bench_output_number(const struct bench_output *out, const char *key)
{
	const char *p = strstr(out->text, key);

	return p ? strtod(p + strlen(key), NULL) : -1;
}
