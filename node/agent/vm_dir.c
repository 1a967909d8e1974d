/* The folder of a VM: what a new agent finds it by. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "node/agent/vm.h"

static int write_spec(const struct agent_vm *vm, const char *path)
{
	BASE_AUTO_FILE FILE *f = fopen(path, "wxe");

	return f ? vmspec_write(&vm->spec, f) : -errno;
}

int agent_vm_spec_write(const struct agent_vm *vm)
{
	char path[AGENT_PATH_MAX + 16], next[AGENT_PATH_MAX + 24];
	int rc;

	snprintf(path, sizeof(path), "%s/vm.yaml", vm->dir);
	snprintf(next, sizeof(next), "%s.next", path);
	unlink(next);
	rc = write_spec(vm, next);
	if (!rc && rename(next, path))
		rc = -errno;
	if (rc)
		unlink(next);
	return rc;
}

int agent_vm_dir_make(struct agent_vm *vm)
{
	int rc;

	if (mkdir(vm->dir, 0700)) {
		if (errno != EEXIST)
			return -errno;
		/* We know of no VM of this name: what is there is left over. */
		agent_vm_dir_remove(vm->dir);
		if (mkdir(vm->dir, 0700))
			return -errno;
	}
	rc = agent_vm_spec_write(vm);
	if (rc)
		agent_vm_dir_remove(vm->dir);
	return rc;
}

void agent_vm_dir_remove(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	if (rmdir(dir) && errno != ENOENT)
		log_warn("%s cannot be removed: %s", dir, strerror(errno));
}

/* A number of /proc/PID/stat, by its place in proc(5); the name before it may hold anything. */
static int stat_field(pid_t pid, int wanted, uint64_t *out)
{
	BASE_AUTO_FILE FILE *f = NULL;
	char path[64], text[1024], *p;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return -ESRCH;
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = 0;
	p = strrchr(text, ')');
	/* A zombie has ended. */
	if (!p || strlen(p) < 3 || p[2] == 'Z' || p[2] == 'X')
		return -ESRCH;
	for (int field = 2; p && field < wanted; field++)
		p = strchr(p + 1, ' ');
	return p && sscanf(p, " %" SCNu64, out) == 1 ? 0 : -ESRCH;
}

/* In clock ticks since boot. */
static int start_time(pid_t pid, uint64_t *out)
{
	return stat_field(pid, 22, out);
}

int agent_vm_ticks(const struct agent_vm *vm, uint64_t *out)
{
	uint64_t user, system;
	int rc = stat_field(vm->pid, 14, &user);

	if (!rc)
		rc = stat_field(vm->pid, 15, &system);
	if (!rc)
		*out = user + system;
	return rc;
}

int agent_vm_pid_write(const struct agent_vm *vm)
{
	BASE_AUTO_FILE FILE *f = NULL;
	char path[AGENT_PATH_MAX + 16];
	uint64_t started;
	int rc = start_time(vm->pid, &started);

	if (rc)
		return rc;
	snprintf(path, sizeof(path), "%s/pid", vm->dir);
	f = fopen(path, "we");
	if (!f)
		return -errno;
	fprintf(f, "%d %" PRIu64 "\n", (int)vm->pid, started);
	return fflush(f) ? -errno : 0;
}

int agent_vm_pid_read(const char *dir, pid_t *out)
{
	BASE_AUTO_FILE FILE *f = NULL;
	char path[AGENT_PATH_MAX + 16];
	uint64_t started, now;
	int pid;

	snprintf(path, sizeof(path), "%s/pid", dir);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	if (fscanf(f, "%d %" SCNu64, &pid, &started) != 2 || pid <= 1)
		return -EBADMSG;
	if (start_time(pid, &now) || now != started)
		return -ESRCH;
	*out = pid;
	return 0;
}

int agent_vm_group_write(const struct agent_vm *vm)
{
	char path[AGENT_PATH_MAX + 16], next[AGENT_PATH_MAX + 24];
	FILE *f;
	int rc = 0;

	snprintf(path, sizeof(path), "%s/group", vm->dir);
	snprintf(next, sizeof(next), "%s.next", path);
	f = fopen(next, "we");
	if (!f)
		return -errno;
	fprintf(f, "%016" PRIx64 " %u%s\n", vm->slice.group, vm->slice.index,
		vm->slice.joins ? " joins" : "");
	if (fclose(f) || rename(next, path))
		rc = -errno;
	return rc;
}

int agent_vm_group_read(const char *dir, struct agent_slice *out)
{
	BASE_AUTO_FILE FILE *f = NULL;
	char path[AGENT_PATH_MAX + 16], joins[8] = "";

	snprintf(path, sizeof(path), "%s/group", dir);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	out->index = UINT_MAX;
	if (fscanf(f, "%16" SCNx64 " %u %7s", &out->group, &out->index, joins) < 1 || !out->group)
		return -EBADMSG;
	out->joins = !strcmp(joins, "joins");
	return 0;
}

void agent_vm_log_tail(const char *dir, char *out, size_t cap)
{
	BASE_AUTO_FD int fd = -1;
	char path[AGENT_PATH_MAX + 16], text[2048], *line;
	ssize_t n;
	off_t size;

	out[0] = 0;
	snprintf(path, sizeof(path), "%s/log", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	size = lseek(fd, 0, SEEK_END);
	n = pread(fd, text, sizeof(text) - 1, BASE_MAX(size - (off_t)sizeof(text) + 1, (off_t)0));
	if (n <= 0)
		return;
	while (n > 0 && text[n - 1] == '\n')
		n--;
	text[n] = 0;
	line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	snprintf(out, cap, "%s", line);
	text_clean(out);
}
