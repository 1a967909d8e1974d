/*
 * Disks that move along. The destination's copy has no name until all of it has come: it is an unnamed
 * file (O_TMPFILE), so whatever breaks before leaves nothing behind. It gets its name when the process
 * says that the copy is durable and the guest stands still, before the commit; an abort after that takes
 * the name away again. The source's file stays as it was when the guest stopped there.
 *
 * With force, a file of that name is exchanged for the copy, kept beside it until the commit, and put
 * back by an abort. The copy of a qcow2 image is a new one with the same disk in it. <dir>/migration.disks says what has been named: "DEVICE INODE SPARE PATH" each.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/log.h"
#include "node/agent/migrate.h"
#include "node/agent/qcow2.h"

enum { PARK_FROM = 64, SPARE_MAX = VMSPEC_PATH_MAX + 32 };

static bool is_qcow2(const struct vmspec_disk *d)
{
	return !strcmp(d->format, "qcow2");
}

/* ---- at the source ---- */

/* What moves is the disk in it; the copy has no backing file, and no snapshots. */
static enum control_code measure_qcow2(const struct vmspec_disk *d, size_t i,
				       struct control_migrate *m, char why[AGENT_WHY_MAX])
{
	BASE_AUTO_FD int fd = open(d->path, O_RDONLY | O_CLOEXEC);
	bool backed;
	int rc = fd < 0 ? -errno : agent_qcow2_read(fd, &m->disk_bytes[i], &backed);

	if (rc) {
		snprintf(why, AGENT_WHY_MAX, "disk %.200s: %s", d->path,
			 rc == -EINVAL ? "no qcow2 image" : strerror(-rc));
		return CONTROL_FAILED;
	}
	if (backed)
		m->disk_used[i] = m->disk_bytes[i];
	return CONTROL_OK;
}

static enum control_code measure(const struct agent_vm *vm, size_t i, struct control_migrate *m,
				 char why[AGENT_WHY_MAX])
{
	const struct vmspec_disk *d = &vm->spec.disks[i];
	struct stat st;

	if (stat(d->path, &st)) {
		snprintf(why, AGENT_WHY_MAX, "disk %.200s on node %s: %s", d->path,
			 vm->agent->self->name, strerror(errno));
		return CONTROL_NOT_FOUND;
	}
	if (!S_ISREG(st.st_mode)) {
		snprintf(why, AGENT_WHY_MAX,
			 "disk %.200s is no regular file: only image files are copied", d->path);
		return CONTROL_USAGE;
	}
	m->disk_bytes[i] = (uint64_t)st.st_size;
	m->disk_used[i] = BASE_MIN((uint64_t)st.st_blocks * 512, (uint64_t)st.st_size);
	return is_qcow2(d) ? measure_qcow2(d, i, m, why) : CONTROL_OK;
}

enum control_code agent_migrate_disks_measure(const struct agent_vm *vm, struct control_migrate *m,
					      char why[AGENT_WHY_MAX])
{
	enum control_code code = CONTROL_OK;

	memset(m->disk_bytes, 0, sizeof(m->disk_bytes));
	if (!m->with_disk)
		return CONTROL_OK;
	if (m->mode) {
		snprintf(why, AGENT_WHY_MAX,
			 "disks are copied before the guest stops: --with-disk goes with --mode "
			 "precopy");
		return CONTROL_USAGE;
	}
	for (size_t i = 0; i < vm->spec.disk_count && !code; i++)
		if (!vm->spec.disks[i].read_only)
			code = measure(vm, i, m, why);
	return code;
}

/* ---- at the destination: making them ---- */

static bool folder_of(const char *path, char out[VMSPEC_PATH_MAX])
{
	size_t len = strlen(path);
	char *slash;

	if (len >= VMSPEC_PATH_MAX)
		return false;
	memcpy(out, path, len + 1);
	slash = strrchr(out, '/');
	if (!slash || !slash[1])
		return false;
	slash[slash == out] = 0;
	return true;
}

/* The name is free, or may be taken. */
static enum control_code check_name(const struct agent_migration *g, const char *path,
				    char why[AGENT_WHY_MAX])
{
	const char *node = g->agent->self->name;
	struct stat st;

	if (lstat(path, &st)) {
		if (errno == ENOENT)
			return CONTROL_OK;
		snprintf(why, AGENT_WHY_MAX, "disk %.200s: %s", path, strerror(errno));
		return CONTROL_FAILED;
	}
	if (!S_ISREG(st.st_mode)) {
		snprintf(why, AGENT_WHY_MAX, "%.200s on node %s is no regular file", path, node);
		return CONTROL_USAGE;
	}
	if (g->m.force)
		return CONTROL_OK;
	snprintf(why, AGENT_WHY_MAX,
		 "there is a disk %.200s already: --force replaces it; where both nodes reach the "
		 "same file, leave --with-disk away",
		 path);
	return CONTROL_EXISTS;
}

/* What all disks take up, in this folder's file system, as if all were there. */
static enum control_code check_room(const struct agent_migration *g, const char *folder,
				    char why[AGENT_WHY_MAX])
{
	uint64_t want = 0, have;
	char want_text[32], have_text[32];
	struct statvfs fs;

	for (size_t i = 0; i < VMSPEC_MAX_DISKS; i++)
		want += BASE_MIN(g->m.disk_used[i], g->m.disk_bytes[i]);
	if (statvfs(folder, &fs)) {
		snprintf(why, AGENT_WHY_MAX, "folder %.200s: %s", folder, strerror(errno));
		return CONTROL_FAILED;
	}
	have = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (want <= have)
		return CONTROL_OK;
	snprintf(why, AGENT_WHY_MAX, "%.200s has %s free, the disks take %s", folder,
		 text_size_print(have, have_text, sizeof(have_text)),
		 text_size_print(want, want_text, sizeof(want_text)));
	return CONTROL_NO_ROOM;
}

/* A disk of zeros. */
static int fill_file(int fd, const struct vmspec_disk *d, uint64_t bytes)
{
	if (is_qcow2(d))
		return agent_qcow2_make(fd, bytes);
	if (bytes > INT64_MAX)
		return -EFBIG;
	return ftruncate(fd, (off_t)bytes) ? -errno : 0;
}

static enum control_code make_file(struct agent_migration *g, size_t i, const char *folder,
				   char why[AGENT_WHY_MAX])
{
	BASE_AUTO_FD int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int rc;

	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR))
		snprintf(why, AGENT_WHY_MAX,
			 "the file system of %.200s has no unnamed files (O_TMPFILE), which a copy "
			 "begins as",
			 folder);
	else if (fd < 0)
		snprintf(why, AGENT_WHY_MAX, "folder %.200s: %s", folder, strerror(errno));
	if (fd < 0)
		return errno == ENOENT ? CONTROL_NOT_FOUND : CONTROL_FAILED;
	rc = fill_file(fd, &g->vm->spec.disks[i], g->m.disk_bytes[i]);
	if (rc) {
		snprintf(why, AGENT_WHY_MAX, "a disk of %" PRIu64 " bytes in %.200s: %s",
			 g->m.disk_bytes[i], folder, strerror(-rc));
		return CONTROL_FAILED;
	}
	/* Above what it becomes in the process. */
	g->disk_fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, PARK_FROM);
	if (g->disk_fds[i] < 0) {
		snprintf(why, AGENT_WHY_MAX, "no descriptor for a disk: %s", strerror(errno));
		return CONTROL_FAILED;
	}
	return CONTROL_OK;
}

enum control_code agent_migrate_disks_make(struct agent_migration *g, char why[AGENT_WHY_MAX])
{
	const struct vmspec *s = &g->vm->spec;
	enum control_code code = CONTROL_OK;
	char folder[VMSPEC_PATH_MAX];

	for (size_t i = 0; i < VMSPEC_MAX_DISKS && g->m.with_disk && !code; i++) {
		if (!g->m.disk_bytes[i])
			continue;
		if (i >= s->disk_count || s->disks[i].read_only ||
		    !folder_of(s->disks[i].path, folder)) {
			snprintf(why, AGENT_WHY_MAX,
				 "the source wants a disk copied that it lacks");
			return CONTROL_USAGE;
		}
		code = check_name(g, s->disks[i].path, why);
		if (!code)
			code = check_room(g, folder, why);
		if (!code)
			code = make_file(g, i, folder, why);
	}
	return code;
}

void agent_migrate_disks_close(struct agent_migration *g)
{
	for (size_t i = 0; i < VMSPEC_MAX_DISKS; i++) {
		if (g->disk_fds[i] >= 0)
			close(g->disk_fds[i]);
		g->disk_fds[i] = -1;
	}
}

/* ---- naming them ---- */

static void list_path(const char *dir, char out[AGENT_PATH_MAX + 320])
{
	snprintf(out, AGENT_PATH_MAX + 320, "%s/migration.disks", dir);
}

static void spare_name(const char *path, unsigned spare, char out[SPARE_MAX])
{
	snprintf(out, SPARE_MAX, "%s.migrated-%08x", path, spare);
}

/* A name is there after a crash only when its folder was written, too. */
static int sync_folder(const char *path)
{
	char folder[VMSPEC_PATH_MAX];
	BASE_AUTO_FD int fd = -1;

	if (!folder_of(path, folder))
		return -EINVAL;
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) ? -errno : 0;
}

static int name_disk(const struct agent_migration *g, size_t i, unsigned spare)
{
	const char *path = g->vm->spec.disks[i].path;
	char self[64], beside[SPARE_MAX];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", g->disk_fds[i]);
	if (!linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW))
		return sync_folder(path);
	if (errno != EEXIST || !g->m.force)
		return -errno;
	spare_name(path, spare, beside);
	if (linkat(AT_FDCWD, self, AT_FDCWD, beside, AT_SYMLINK_FOLLOW) ||
	    renameat2(AT_FDCWD, beside, AT_FDCWD, path, RENAME_EXCHANGE))
		return -errno;
	return sync_folder(path);
}

/* What will be named, before it is; for the next agent, as all of the folder. */
static int write_list(const struct agent_migration *g, unsigned spare)
{
	char path[AGENT_PATH_MAX + 320];
	BASE_AUTO_FILE FILE *f = NULL;
	struct stat st;

	list_path(g->vm->dir, path);
	f = fopen(path, "we");
	if (!f)
		return -errno;
	for (size_t i = 0; i < g->vm->spec.disk_count; i++) {
		if (g->disk_fds[i] < 0)
			continue;
		if (fstat(g->disk_fds[i], &st))
			return -errno;
		fprintf(f, "%" PRIu64 " %" PRIu64 " %08x %s\n", (uint64_t)st.st_dev,
			(uint64_t)st.st_ino, spare, g->vm->spec.disks[i].path);
	}
	return fflush(f) ? -errno : 0;
}

int agent_migrate_disks_name(struct agent_migration *g)
{
	unsigned spare = (unsigned)g->m.id[0] << 24 | (unsigned)g->m.id[1] << 16 |
			 (unsigned)g->m.id[2] << 8 | g->m.id[3];
	int rc = write_list(g, spare);

	for (size_t i = 0; i < g->vm->spec.disk_count && !rc; i++) {
		/* An agent that was restarted has them no more. */
		if (g->m.disk_bytes[i] && g->disk_fds[i] < 0)
			rc = -ENOENT;
		else if (g->disk_fds[i] >= 0)
			rc = name_disk(g, i, spare);
		if (rc)
			log_error("%s: disk %s cannot be named: %s", g->vm->spec.name,
				  g->vm->spec.disks[i].path, strerror(-rc));
	}
	return rc;
}

/* ---- the end ---- */

struct named {
	uint64_t device, inode;
	char path[VMSPEC_PATH_MAX], spare[SPARE_MAX];
};

static bool is_it(const char *path, const struct named *n)
{
	struct stat st;

	return !lstat(path, &st) && st.st_dev == n->device && st.st_ino == n->inode;
}

static bool there(const char *path)
{
	struct stat st;

	return !lstat(path, &st);
}

static void undo(const struct named *n)
{
	int rc = 0;

	if (is_it(n->path, n))
		rc = there(n->spare) ? rename(n->spare, n->path) : unlink(n->path);
	else if (is_it(n->spare, n))
		rc = unlink(n->spare);
	if (rc)
		log_error("%s is what is left of a migration that was given up, and cannot be "
			  "removed: %s",
			  n->path, strerror(errno));
}

/* What was there before, whose place the copy has taken. */
static void drop_spare(const struct named *n)
{
	if (is_it(n->path, n) && there(n->spare) && unlink(n->spare))
		log_error("%s cannot be removed: %s", n->spare, strerror(errno));
}

static bool next_named(FILE *f, struct named *n)
{
	char line[VMSPEC_PATH_MAX + 80];
	unsigned spare;
	int at = 0;

	if (!fgets(line, sizeof(line), f))
		return false;
	line[strcspn(line, "\n")] = 0;
	if (sscanf(line, "%" SCNu64 " %" SCNu64 " %8x %n", &n->device, &n->inode, &spare, &at) !=
		    3 ||
	    !at || line[at] != '/' || strlen(line + at) >= sizeof(n->path))
		return false;
	snprintf(n->path, sizeof(n->path), "%s", line + at);
	spare_name(n->path, spare, n->spare);
	return true;
}

void agent_migrate_disks_settle(const char *dir, bool committed)
{
	char path[AGENT_PATH_MAX + 320];
	BASE_AUTO_FILE FILE *f = NULL;
	struct named n;

	list_path(dir, path);
	f = fopen(path, "re");
	while (f && next_named(f, &n)) {
		if (committed)
			drop_spare(&n);
		else
			undo(&n);
	}
	if (f)
		unlink(path);
}
