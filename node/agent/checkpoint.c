#include "node/agent/checkpoint.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/vmm/snapshot.h"

enum { HEAD_VERSION = 1, HASH_LEN = 32, TEXT_AT = 8 + 4 + 4 + HASH_LEN, PATH_ROOM = 32 };

#define TEXT_MAX (VMM_SNAP_CHECKPOINT_BYTES - TEXT_AT)

static void head_hash(uint8_t out[HASH_LEN], const uint8_t *head, uint32_t len)
{
	crypto_generichash(out, HASH_LEN, head + TEXT_AT, len, NULL, 0);
}

int agent_checkpoint_head_write(int fd, const struct vmspec *spec)
{
	BASE_AUTO_FREE uint8_t *head = calloc(1, VMM_SNAP_CHECKPOINT_BYTES);
	BASE_AUTO_FREE struct vmspec *s = malloc(sizeof(*s));
	uint32_t version = htole32(HEAD_VERSION), len;
	FILE *f;
	int rc;

	if (!head || !s)
		return -ENOMEM;
	*s = *spec;
	/* It starts from this file, wherever it is then. */
	s->restore[0] = s->node[0] = 0;
	f = fmemopen(head + TEXT_AT, TEXT_MAX, "w");
	if (!f)
		return -errno;
	rc = vmspec_write(s, f);
	len = (uint32_t)ftell(f);
	if (fclose(f) && !rc)
		rc = -EIO;
	if (rc)
		return rc;
	memcpy(head, VMM_SNAP_CHECKPOINT_MAGIC, 8);
	memcpy(head + 8, &version, 4);
	head_hash(head + 16, head, len);
	len = htole32(len);
	memcpy(head + 12, &len, 4);
	if (write(fd, head, VMM_SNAP_CHECKPOINT_BYTES) != VMM_SNAP_CHECKPOINT_BYTES)
		return errno ? -errno : -EIO;
	return 0;
}

static int head_check(const uint8_t *head, ssize_t n, uint32_t *len)
{
	uint8_t hash[HASH_LEN];
	uint32_t version;

	if (n < 8 || memcmp(head, VMM_SNAP_CHECKPOINT_MAGIC, 8) != 0)
		return -EBADF;
	if (n != VMM_SNAP_CHECKPOINT_BYTES)
		return -EBADMSG;
	memcpy(&version, head + 8, 4);
	memcpy(len, head + 12, 4);
	*len = le32toh(*len);
	if (le32toh(version) != HEAD_VERSION)
		return -EPROTONOSUPPORT;
	if (!*len || *len > TEXT_MAX)
		return -EBADMSG;
	head_hash(hash, head, *len);
	return memcmp(hash, head + 16, HASH_LEN) ? -EBADMSG : 0;
}

int agent_checkpoint_head_read(int fd, const char *path, struct vmspec **out,
			       char why[AGENT_WHY_MAX])
{
	BASE_AUTO_FREE uint8_t *head = malloc(VMM_SNAP_CHECKPOINT_BYTES);
	uint32_t len = 0;
	int rc = head ? head_check(head, pread(fd, head, VMM_SNAP_CHECKPOINT_BYTES, 0), &len)
		      : -ENOMEM;

	if (!rc)
		return vmspec_parse(path, head + TEXT_AT, len, out, why);
	snprintf(why, AGENT_WHY_MAX, "'%.200s' %s", path,
		 rc == -EBADF		  ? "is not a checkpoint"
		 : rc == -EPROTONOSUPPORT ? "is a checkpoint of another version"
		 : rc == -ENOMEM	  ? "cannot be read: out of memory"
					  : "is damaged or cut off");
	return rc;
}

/* ---- writing ---- */

struct checkpoint {
	struct agent *agent;
	struct chan_call *call;
	char vm[TEXT_NAME_MAX];
	char path[VMSPEC_PATH_MAX], temporary[VMSPEC_PATH_MAX + PATH_ROOM];
	int fd;
};

/* The new name must survive a crash of the host, too. */
static int sync_folder(const char *path)
{
	char copy[VMSPEC_PATH_MAX];
	BASE_AUTO_FD int fd = -1;

	memcpy(copy, path, strlen(path) + 1);
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static void checkpoint_end(struct checkpoint *p, int rc, const char *why)
{
	struct control_item item = {.name = "bytes", .text = ""};
	struct stat st = {0};

	if (!rc && fstat(p->fd, &st) < 0)
		rc = -errno;
	if (!rc && rename(p->temporary, p->path) < 0)
		rc = -errno;
	if (rc)
		unlink(p->temporary);
	else
		rc = sync_folder(p->path);
	close(p->fd);
	item.value = (uint64_t)st.st_size;
	if (rc) {
		agent_reply_text(p->call, control_code_of(rc), "%s is not written: %s", p->path,
				 why && why[0] ? why : strerror(-rc));
	} else {
		agent_event(p->agent, p->vm, "checkpoint", "to %s", p->path);
		agent_reply(p->call,
			    &(struct control_reply){.text = "", .items = &item, .item_count = 1});
	}
	free(p);
}

static void checkpoint_saved(void *arg, const struct vmmctl_reply *reply)
{
	/* The connection has gone. */
	if (reply->error == -ECANCELED || reply->error == -ECONNRESET)
		checkpoint_end(arg, reply->error, "the VM ended before it was written");
	else
		checkpoint_end(arg, reply->error, reply->text);
}

static int checkpoint_open(struct checkpoint *p, const struct vmspec *spec)
{
	struct stat st;
	int rc;

	/* Not over a device, a folder or through a link. */
	if (!lstat(p->path, &st) && !S_ISREG(st.st_mode))
		return -EEXIST;
	snprintf(p->temporary, sizeof(p->temporary), "%s.%d.tmp", p->path, (int)getpid());
	unlink(p->temporary);
	p->fd = open(p->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (p->fd < 0)
		return -errno;
	rc = agent_checkpoint_head_write(p->fd, spec);
	if (rc) {
		unlink(p->temporary);
		close(p->fd);
	}
	return rc;
}

/* What the lead's node of a guest that spans nodes cannot. */
static bool refuse_span(const struct agent_vm *vm, struct chan_call *call)
{
	uint64_t away;
	char have[32], want[32];
	struct agent_host h;

	if (!vmspec_spans(&vm->spec))
		return false;
	/* The lead reads all of it; what it has already counts double, which is on the safe side. */
	away = vm->spec.memory_bytes - vm->spec.parts[0].memory_bytes;
	agent_host_read(&h);
	if (away <= h.available_bytes)
		return false;
	agent_reply_text(call, CONTROL_NO_ROOM,
			 "%s: node %s has %s of memory free; all of the guest's memory passes "
			 "through its lead, which needs room for the others' %s",
			 vm->spec.name, vm->agent->self->name,
			 text_size_print(h.available_bytes, have, sizeof(have)),
			 text_size_print(away, want, sizeof(want)));
	return true;
}

void agent_checkpoint(struct agent_vm *vm, struct chan_call *call,
		      const struct control_request *req)
{
	struct vmmctl_request save = {.op = req->live ? VMMCTL_SAVE_LIVE : VMMCTL_SAVE};
	struct checkpoint *p;
	int rc;

	if (refuse_span(vm, call))
		return;
	p = calloc(1, sizeof(*p));
	rc = p ? 0 : -ENOMEM;
	if (!rc) {
		p->agent = vm->agent;
		p->call = call;
		memcpy(p->vm, vm->spec.name, sizeof(p->vm));
		memcpy(p->path, req->path, sizeof(p->path));
		rc = vm->control ? checkpoint_open(p, &vm->spec) : -ENOTCONN;
	}
	if (rc) {
		agent_reply_text(call, control_code_of(rc), "%s cannot be written: %s", req->path,
				 rc == -EEXIST ? "something else is there" : strerror(-rc));
		free(p);
		return;
	}
	rc = vmmctl_client_call(vm->control, &save, p->fd, AGENT_SAVE_MS, checkpoint_saved, p);
	if (rc)
		checkpoint_end(p, rc, "its process takes no requests");
}

/* ---- restoring ---- */

/* The nodes of `given` in place of the file's. */
static int take_places(struct vmspec *spec, const struct vmspec *given, char why[AGENT_WHY_MAX])
{
	char size[32];

	if (!vmspec_spans(spec) || !vmspec_spans(given)) {
		snprintf(why, AGENT_WHY_MAX,
			 vmspec_spans(spec)
				 ? "%s spans nodes: give at least two (--vcpus a=1,b=1 --memory ..)"
				 : "%s is a guest of one node: choose it by --node",
			 spec->name);
		return -EINVAL;
	}
	if (given->vcpus != spec->vcpus || given->memory_bytes != spec->memory_bytes) {
		snprintf(why, AGENT_WHY_MAX, "the checkpoint of %s has %u vCPUs and %s of memory",
			 spec->name, spec->vcpus,
			 text_size_print(spec->memory_bytes, size, sizeof(size)));
		return -EINVAL;
	}
	memcpy(spec->parts, given->parts, sizeof(spec->parts));
	spec->part_count = given->part_count;
	return 0;
}

void agent_restore(struct agent *a, struct chan_call *call, struct control_request *req)
{
	BASE_AUTO_FD int fd = open(req->path, O_RDONLY | O_CLOEXEC);
	char why[AGENT_WHY_MAX];
	struct vmspec *spec = NULL;
	int rc = 0;

	if (fd < 0) {
		rc = -errno;
		snprintf(why, sizeof(why), "'%.200s' on node %s: %s", req->path, a->self->name,
			 strerror(-rc));
	} else {
		rc = agent_checkpoint_head_read(fd, req->path, &spec, why);
	}
	if (!rc && req->spec)
		rc = take_places(spec, req->spec, why);
	if (!rc) {
		memcpy(spec->restore, req->path, sizeof(spec->restore));
		if (!vmspec_check(spec, why))
			rc = -EINVAL;
	}
	if (rc) {
		free(spec);
		agent_reply_text(call, rc == -ENOENT ? CONTROL_NOT_FOUND : CONTROL_FAILED, "%s",
				 why);
		control_request_fini(req);
		return;
	}
	free(req->spec);
	req->spec = spec;
	req->op = CONTROL_VM_RUN;
	req->path[0] = 0;
	req->local = false;
	/* That of a guest that spans nodes is its lead's, which then looks for the file. */
	if (!vmspec_spans(spec))
		memcpy(req->node, a->self->name, sizeof(req->node));
	agent_request_run(a, call, req);
}
