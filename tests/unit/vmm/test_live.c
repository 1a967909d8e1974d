// libs: pg_vmm pg_proto
// labels: kvm
// timeout: 120
/* Real pangaea-vmm processes with bare-metal guests, steered by the control socket. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/clock.h"
#include "proto/vmmctl.h"

extern char **environ;

enum { OUTPUT_MAX = 1 << 16, WAIT_MS = 30000, ARGS_MAX = 32 };

struct vm {
	pid_t pid;
	int out; /* its console */
	char text[OUTPUT_MAX];
	size_t len;
	char dir[64];
	struct base_loop *loop;
	struct vmmctl_client *client;
	bool closed;
};

static struct vm first, second;

/* ---- processes ---- */

static void path_of(char *out, size_t cap, const char *what)
{
	const char *build = getenv("PANGAEA_BUILD");

	snprintf(out, cap, "%s/%s", build ? build : "build/release", what);
}

/* Starts `guest` with the further arguments, ended by NULL. */
static void vm_spawn(struct vm *vm, const char *guest, ...)
{
	char program[256], kernel[256], in_build[64];
	const char *argv[ARGS_MAX] = {program, "--name",    "test", "--vcpus",
				      "2",     "--memory",  "64M",  "--console",
				      "stdio", "--run-dir", vm->dir};
	posix_spawn_file_actions_t fa;
	int n = 11, pipe_fd[2];
	va_list ap;

	memset(vm, 0, sizeof(*vm));
	snprintf(vm->dir, sizeof(vm->dir), "/tmp/pangaea-live-XXXXXX");
	assert_non_null(mkdtemp(vm->dir));
	path_of(program, sizeof(program), "node/vmm/pangaea-vmm");
	snprintf(in_build, sizeof(in_build), "tests/guests/%s", guest);
	path_of(kernel, sizeof(kernel), in_build);
	argv[n++] = "--kernel";
	argv[n++] = kernel;
	va_start(ap, guest);
	while ((argv[n] = va_arg(ap, const char *)))
		n++;
	va_end(ap);
	assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&fa, pipe_fd[1], 1);
	assert_int_equal(posix_spawn(&vm->pid, program, &fa, NULL, (char *const *)(uintptr_t)argv,
				     environ),
			 0);
	posix_spawn_file_actions_destroy(&fa);
	close(pipe_fd[1]);
	vm->out = pipe_fd[0];
}

/* Reads the console until `wanted` was there; NULL: until its end. */
static void vm_read(struct vm *vm, const char *wanted)
{
	int64_t until = base_clock_ns() + WAIT_MS * BASE_NS_PER_MS;

	while (!wanted || !strstr(vm->text, wanted)) {
		struct pollfd p = {.fd = vm->out, .events = POLLIN};
		int left = (int)((until - base_clock_ns()) / BASE_NS_PER_MS);
		ssize_t n;

		if (left <= 0 || poll(&p, 1, left) != 1)
			fail_msg("'%s' did not come; the console has:\n%s", wanted, vm->text);
		n = read(vm->out, vm->text + vm->len, OUTPUT_MAX - 1 - vm->len);
		assert_true(n >= 0);
		if (n == 0) {
			if (wanted)
				fail_msg("'%s' did not come before the end:\n%s", wanted, vm->text);
			return;
		}
		vm->len += (size_t)n;
	}
}

static int vm_wait(struct vm *vm)
{
	int status = 0;

	vm_read(vm, NULL);
	assert_int_equal(waitpid(vm->pid, &status, 0), vm->pid);
	vm->pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void vm_clean(struct vm *vm)
{
	static const char *const left[] = {"control.sock", "console.sock", "migration.journal"};
	char path[128];

	vmmctl_client_free(vm->client);
	base_loop_free(vm->loop);
	if (vm->pid > 0) {
		kill(vm->pid, SIGKILL);
		waitpid(vm->pid, NULL, 0);
	}
	close(vm->out);
	for (size_t i = 0; i < BASE_ARRAY_LEN(left); i++) {
		snprintf(path, sizeof(path), "%s/%s", vm->dir, left[i]);
		unlink(path);
	}
	rmdir(vm->dir);
}

/* ---- control ---- */

static void on_event(void *ctx, const struct vmmctl_event *event)
{
}

static void on_closed(void *ctx, int error)
{
	struct vm *vm = ctx;

	vm->closed = true;
}

static const struct vmmctl_client_ops client_ops = {.event = on_event, .closed = on_closed};

static void vm_connect(struct vm *vm)
{
	assert_int_equal(base_loop_new(&vm->loop), 0);
	assert_int_equal(vmmctl_client_new(vm->loop, vm->dir, &client_ops, vm, &vm->client), 0);
}

struct answer {
	bool come;
	int error;
	enum vmmctl_state state;
	char text[256];
	uint64_t pio_exits;
};

static void on_answer(void *arg, const struct vmmctl_reply *reply)
{
	struct answer *a = arg;

	a->come = true;
	a->error = reply->error;
	if (reply->status)
		a->state = reply->status->state;
	if (reply->text)
		snprintf(a->text, sizeof(a->text), "%s", reply->text);
	for (size_t i = 0; i < reply->stat_count; i++)
		if (strcmp(reply->stats[i].name, "vcpu0.exits.pio") == 0)
			a->pio_exits = reply->stats[i].value;
}

static struct answer vm_call(struct vm *vm, enum vmmctl_op op, int fd)
{
	struct vmmctl_request req = {.op = op};
	struct answer a = {0};

	assert_int_equal(vmmctl_client_call(vm->client, &req, fd, WAIT_MS, on_answer, &a), 0);
	while (!a.come)
		assert_int_equal(base_loop_step(vm->loop, WAIT_MS), 0);
	return a;
}

/* ---- tests ---- */

static char saved_path[] = "/tmp/pangaea-live-saved-XXXXXX";

static void save_and_kill(struct vm *vm)
{
	int fd;

	memset(saved_path + sizeof(saved_path) - 7, 'X', 6);
	fd = mkstemp(saved_path);
	assert_true(fd >= 0);
	assert_int_equal(vm_call(vm, VMMCTL_PAUSE, -1).error, 0);
	assert_int_equal(vm_call(vm, VMMCTL_STATUS, -1).state, VMMCTL_PAUSED);
	assert_int_equal(vm_call(vm, VMMCTL_SAVE, fd).error, 0);
	close(fd);
	assert_int_equal(vm_call(vm, VMMCTL_KILL, -1).error, 0);
	assert_int_equal(vm_wait(vm), 0);
}

static void a_saved_guest_counts_on(void **state)
{
	static char both[2 * OUTPUT_MAX];
	const char *p;

	vm_spawn(&first, "timer", "--cmdline", "ticks=120", NULL);
	vm_read(&first, "tick 30\n");
	vm_connect(&first);
	save_and_kill(&first);
	assert_null(strstr(first.text, "PASS"));
	vm_spawn(&second, "timer", "--cmdline", "ticks=120", "--restore", saved_path, NULL);
	assert_int_equal(vm_wait(&second), 0);
	snprintf(both, sizeof(both), "%s%s", first.text, second.text);
	p = strstr(both, "tick 0\n");
	assert_non_null(p);
	for (int i = 0; i < 120; i++) {
		char line[32];

		snprintf(line, sizeof(line), "tick %d\n", i);
		if (strncmp(p, line, strlen(line)) != 0)
			fail_msg("no '%s' where it should be, but '%.20s'", line, p);
		p += strlen(line);
	}
	assert_non_null(strstr(p, "timer: PASS"));
	unlink(saved_path);
	vm_clean(&first);
	vm_clean(&second);
}

static void memory_and_a_second_vcpu_survive(void **state)
{
	vm_spawn(&first, "dirty", "--cmdline", "mib=16 rate=100 seconds=2", NULL);
	vm_read(&first, "MiB written");
	vm_connect(&first);
	save_and_kill(&first);
	vm_spawn(&second, "dirty", "--restore", saved_path, NULL);
	assert_int_equal(vm_wait(&second), 0);
	assert_non_null(strstr(second.text, "dirty: PASS"));
	unlink(saved_path);
	vm_clean(&first);
	vm_clean(&second);
}

static void damage_is_refused(void **state)
{
	char byte;
	int fd;

	vm_spawn(&first, "timer", "--cmdline", "ticks=100", NULL);
	vm_read(&first, "tick 3\n");
	vm_connect(&first);
	save_and_kill(&first);
	fd = open(saved_path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, 5000), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, 5000), 1);
	vm_spawn(&second, "timer", "--restore", saved_path, NULL);
	assert_int_equal(vm_wait(&second), 3);
	vm_clean(&second);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, 5000), 1);
	assert_int_equal(ftruncate(fd, lseek(fd, 0, SEEK_END) - 1), 0);
	vm_spawn(&second, "timer", "--restore", saved_path, NULL);
	assert_int_equal(vm_wait(&second), 3);
	close(fd);
	unlink(saved_path);
	vm_clean(&first);
	vm_clean(&second);
}

static void control_steers_a_running_guest(void **state)
{
	struct answer before, after;

	vm_spawn(&first, "timer", "--cmdline", "ticks=100000", NULL);
	vm_read(&first, "tick 3\n");
	vm_connect(&first);
	assert_int_equal(vm_call(&first, VMMCTL_STATUS, -1).state, VMMCTL_RUNNING);
	assert_int_equal(vm_call(&first, VMMCTL_PAUSE, -1).error, 0);
	before = vm_call(&first, VMMCTL_STATS, -1);
	after = vm_call(&first, VMMCTL_STATS, -1);
	assert_true(before.pio_exits > 0);
	assert_true(before.pio_exits == after.pio_exits);
	assert_non_null(strstr(vm_call(&first, VMMCTL_REGISTERS, -1).text, "vCPU 0"));
	assert_int_equal(vm_call(&first, VMMCTL_POWERDOWN, -1).error, -EINVAL);
	assert_int_equal(vm_call(&first, VMMCTL_RESUME, -1).error, 0);
	/* From the beginning again. */
	first.len = 0;
	memset(first.text, 0, sizeof(first.text));
	assert_int_equal(vm_call(&first, VMMCTL_RESET, -1).error, 0);
	vm_read(&first, "timer: one-shot");
	vm_read(&first, "tick 5\n");
	for (int i = 0; i < 50; i++) {
		assert_int_equal(vm_call(&first, VMMCTL_PAUSE, -1).error, 0);
		assert_int_equal(vm_call(&first, VMMCTL_RESUME, -1).error, 0);
	}
	assert_int_equal(vm_call(&first, VMMCTL_KILL, -1).error, 0);
	assert_int_equal(vm_wait(&first), 0);
	vm_clean(&first);
}

static void console_shows_what_was_written_before(void **state)
{
	char text[256] = "";
	struct pollfd p;
	ssize_t n;
	int fd;

	vm_spawn(&first, "timer", "--cmdline", "ticks=100000", NULL);
	vm_read(&first, "tick 3\n");
	fd = vmmctl_connect(first.dir, VMMCTL_CONSOLE, SOCK_STREAM);
	assert_true(fd >= 0);
	p = (struct pollfd){.fd = fd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	n = read(fd, text, sizeof(text) - 1);
	assert_true(n > 0);
	assert_non_null(strstr(text, "timer: one-shot"));
	close(fd);
	kill(first.pid, SIGTERM);
	assert_int_equal(vm_wait(&first), 0);
	vm_clean(&first);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_saved_guest_counts_on),
		cmocka_unit_test(memory_and_a_second_vcpu_survive),
		cmocka_unit_test(damage_is_refused),
		cmocka_unit_test(control_steers_a_running_guest),
		cmocka_unit_test(console_shows_what_was_written_before),
	};

	if (access("/dev/kvm", R_OK | W_OK) != 0) {
		printf("skipped: no /dev/kvm\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
