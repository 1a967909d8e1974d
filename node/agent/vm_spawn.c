/* The process of a VM: its arguments, and its start in a session of its own. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "node/agent/migrate.h"
#include "node/agent/span.h"

enum {
	ARGS_MAX = 192,
	SLICE_FDS = 2, /* a slice's listener and key */
};

struct args {
	char *argv[ARGS_MAX + 1];
	size_t count;
	bool failed;
};

static void args_add(struct args *a, const char *fmt, ...) BASE_PRINTF(2, 3);
static void args_add(struct args *a, const char *fmt, ...)
{
	va_list ap;
	int n = -1;

	va_start(ap, fmt);
	if (a->count < ARGS_MAX)
		n = vasprintf(&a->argv[a->count], fmt, ap);
	va_end(ap);
	if (n < 0)
		a->failed = true;
	else
		a->argv[++a->count] = NULL;
}

static void args_option(struct args *a, const char *name, const char *value)
{
	if (!value[0])
		return;
	args_add(a, "%s", name);
	args_add(a, "%s", value);
}

static void args_free(struct args *a)
{
	for (size_t i = 0; i < a->count; i++)
		free(a->argv[i]);
}

static void add_nic(struct args *a, const struct agent_vm *vm, size_t i)
{
	const struct vmspec_nic *n = &vm->spec.nics[i];
	char mac[18];

	text_mac_print(vm->nics[i].mac, mac);
	args_add(a, "--nic");
	if (n->kind == VMSPEC_NIC_NET)
		args_add(a, "fd=%d,mac=%s", AGENT_NIC_FD(i), mac);
	else
		args_add(a, "%s=%s,mac=%s", n->kind == VMSPEC_NIC_TAP ? "tap" : "port", n->target,
			 mac);
}

/* The descriptors of a slice come after those of the interfaces. */
static int slice_fd(const struct agent_vm *vm)
{
	return AGENT_NIC_FD(vm->spec.nic_count);
}

static size_t add_numbers(char *out, size_t cap, const uint8_t *numbers, uint32_t count)
{
	size_t len = 0;

	for (uint32_t i = 0; i < count && len < cap; i++)
		len += (size_t)snprintf(out + len, cap - len, "%s%u", i ? "," : "", numbers[i]);
	return BASE_MIN(len, cap - 1);
}

static void add_joins(struct args *a, const struct control_slice *s)
{
	char text[4 * (VMSPEC_MAX_PARTS + CONTROL_PLACES_MAX) + 2];
	size_t len = add_numbers(text, sizeof(text) - 1, s->homes, s->home_count);

	text[len++] = ':';
	text[len] = 0;
	add_numbers(text + len, sizeof(text) - len, s->places, s->place_count);
	args_add(a, "--joins");
	args_add(a, "%s", text);
}

static void add_slice(struct args *a, const struct agent_vm *vm)
{
	const struct vmspec *s = &vm->spec;

	args_add(a, "--slice");
	args_add(a, "%u", vm->slice.index);
	for (size_t i = 0; i < s->part_count; i++) {
		args_add(a, "--part");
		args_add(a, "%" PRIu32 ":%" PRIu64, s->parts[i].vcpus, s->parts[i].memory_bytes);
		args_add(a, "--peer");
		args_add(a, "%s", vm->slice.start->peers[i]);
	}
	args_add(a, "--group");
	args_add(a, "%016" PRIx64,
		 vm->slice.start->links_group ? vm->slice.start->links_group : vm->slice.group);
	if (vm->slice.start->links_group)
		add_joins(a, vm->slice.start);
	args_add(a, "--listen-fd");
	args_add(a, "%d", slice_fd(vm));
	args_add(a, "--key-fd");
	args_add(a, "%d", slice_fd(vm) + 1);
	if (s->encrypt)
		args_add(a, "--encrypt");
	args_option(a, "--transport", s->transport);
}

/* The file that a disk comes to with its guest; -1: it is there. */
static int copied_disk(const struct agent_vm *vm, size_t i)
{
	return vm->incoming && vm->migration ? vm->migration->disk_fds[i] : -1;
}

static void build_devices(struct args *a, const struct agent_vm *vm)
{
	const struct vmspec *s = &vm->spec;
	char text[VMSPEC_PATH_MAX + 64];
	int disk_fd = slice_fd(vm) + (vmspec_spans(s) ? SLICE_FDS : 0);

	args_option(a, "--kernel", s->kernel);
	args_option(a, "--initrd", s->initrd);
	args_option(a, "--cmdline", s->cmdline);
	for (size_t i = 0; i < s->disk_count; i++) {
		struct vmspec_disk d = s->disks[i];

		if (copied_disk(vm, i) >= 0)
			snprintf(d.path, sizeof(d.path), "/proc/self/fd/%d", disk_fd++);
		vmspec_disk_print(&d, text, sizeof(text));
		args_option(a, "--disk", text);
	}
	for (size_t i = 0; i < s->nic_count; i++)
		add_nic(a, vm, i);
	if (s->gdb_port) {
		args_add(a, "--gdb");
		args_add(a, "%u", s->gdb_port);
	}
}

static void build_args(struct args *a, const struct agent_vm *vm)
{
	const struct vmspec *s = &vm->spec;

	args_add(a, "pangaea-vmm");
	args_option(a, "--name", s->name);
	if (!vm->slice.index)
		build_devices(a, vm);
	if (!vm->incoming && !vm->slice.index)
		args_option(a, "--restore", s->restore);
	/* One part: it has been a slice, whose machine has no balloon, before it migrated here. */
	if (s->part_count == 1)
		args_add(a, "--no-balloon");
	if (vmspec_spans(s)) {
		add_slice(a, vm);
	} else {
		args_add(a, "--vcpus");
		args_add(a, "%" PRIu32, s->vcpus);
		args_add(a, "--memory");
		args_add(a, "%" PRIu64, s->memory_bytes);
	}
	if (vm->incoming)
		args_add(a, "--incoming");
	args_option(a, "--run-dir", vm->dir);
	args_option(a, "--console", "none");
}

/* Standard streams, the interfaces' sockets at their numbers, a slice's, and no other descriptor. */
static int add_files(posix_spawn_file_actions_t *files, const struct agent_vm *vm, const char *log,
		     int key_fd)
{
	int rc = posix_spawn_file_actions_addopen(files, 0, "/dev/null", O_RDONLY, 0), next = 3;

	if (!rc)
		rc = posix_spawn_file_actions_addopen(files, 1, log, O_WRONLY | O_CREAT | O_APPEND,
						      0600);
	if (!rc)
		rc = posix_spawn_file_actions_adddup2(files, 1, 2);
	/* What is left between them of ours is closed first, the rest at the end. */
	for (size_t i = 0; !rc && i < vm->spec.nic_count; i++) {
		for (int end = 0; !rc && end < 2; end++) {
			int fd = vm->nics[i].child_fd[end];

			rc = fd < 0 ? posix_spawn_file_actions_addclose(files, next)
				    : posix_spawn_file_actions_adddup2(files, fd, next);
			next++;
		}
	}
	if (!rc && vmspec_spans(&vm->spec))
		rc = posix_spawn_file_actions_adddup2(files, vm->slice.listen_fd, next++);
	if (!rc && vmspec_spans(&vm->spec))
		rc = posix_spawn_file_actions_adddup2(files, key_fd, next++);
	for (size_t i = 0; !rc && i < vm->spec.disk_count; i++)
		if (copied_disk(vm, i) >= 0)
			rc = posix_spawn_file_actions_adddup2(files, copied_disk(vm, i), next++);
	if (!rc)
		rc = posix_spawn_file_actions_addclosefrom_np(files, next);
	return rc;
}

/* No signal mask or handler of ours, a session of its own. */
static int spawn(const struct agent_vm *vm, char *const argv[], const char *log, int key_fd,
		 pid_t *pid)
{
	static char path_env[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
	char *const env[] = {path_env, NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int rc;

	sigemptyset(&none);
	sigfillset(&all);
	if (posix_spawn_file_actions_init(&files))
		return -ENOMEM;
	if (posix_spawnattr_init(&attr)) {
		posix_spawn_file_actions_destroy(&files);
		return -ENOMEM;
	}
	rc = add_files(&files, vm, log, key_fd);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
						POSIX_SPAWN_SETSIGDEF);
	if (!rc)
		rc = posix_spawn(pid, vm->agent->vmm, &files, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return -rc;
}

int agent_vm_spawn(struct agent_vm *vm)
{
	char log[AGENT_PATH_MAX + 16];
	BASE_AUTO_FD int key_fd = -1;
	struct args args = {0};
	int rc = 0;

	snprintf(log, sizeof(log), "%s/log", vm->dir);
	if (vmspec_spans(&vm->spec))
		rc = agent_slice_key(vm, &key_fd);
	build_args(&args, vm);
	if (!rc)
		rc = args.failed ? -ENOMEM : spawn(vm, args.argv, log, key_fd, &vm->pid);
	args_free(&args);
	agent_nics_unpark(vm);
	return rc;
}
