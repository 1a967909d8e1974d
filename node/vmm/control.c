#include "node/vmm/control.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "node/vmm/migration.h"
#include "proto/vmmctl.h"

struct vmm_control {
	struct base_loop *loop;
	struct vmm_vm *vm;
	struct vmmctl_server *server;

	/* One save at a time. */
	bool saving, resume_after, save_live;
	sem_t paused; /* posted when the main thread has paused the VM for the saver */
	int pause_error;
	pthread_t saver;
	struct vmmctl_call *save_call;
	int save_fd, save_error;

	struct vmm_migration *migration; /* the last one, or NULL */
	int journal_fd;			 /* of migrations; open before the sandbox closes */
};

static enum vmmctl_state wire_state(enum vmm_state state)
{
	switch (state) {
	case VMM_STARTING: return VMMCTL_STARTING;
	case VMM_RUNNING: return VMMCTL_RUNNING;
	case VMM_PAUSED: return VMMCTL_PAUSED;
	case VMM_STOPPED: return VMMCTL_STOPPED;
	case VMM_FAILED: return VMMCTL_FAILED;
	}
	return VMMCTL_FAILED;
}

/* ---- answers ---- */

static void answer_step(struct vmm_control *c, struct vmmctl_call *call, int err)
{
	if (!err)
		vmmctl_call_ok(call);
	else if (err == -EINVAL)
		vmmctl_call_fail(call, err, "not possible while the VM is %s",
				 vmmctl_state_name(wire_state(vmm_vm_state(c->vm))));
	else if (err == -EBUSY && vmm_vm_reason(c->vm)[0])
		vmmctl_call_fail(call, err, "%s", vmm_vm_reason(c->vm));
	else
		vmmctl_call_fail(call, err, "%s", strerror(-err));
}

static void answer_status(struct vmm_control *c, struct vmmctl_call *call)
{
	const struct vmm_config *config = vmm_vm_config(c->vm);
	struct vmmctl_status *s = calloc(1, sizeof(*s));
	struct vmmctl_reply reply = {.status = s};

	if (!s) {
		vmmctl_call_fail(call, -ENOMEM, "out of memory");
		return;
	}
	s->state = wire_state(vmm_vm_state(c->vm));
	snprintf(s->reason, sizeof(s->reason), "%s", vmm_vm_reason(c->vm));
	snprintf(s->name, sizeof(s->name), "%s", config->name);
	s->vcpus = config->vcpus;
	s->memory_bytes = config->memory_bytes;
	s->uptime_ns = vmm_vm_uptime_ns(c->vm);
	s->pid = (uint32_t)getpid();
	base_list_foreach (dev, vmm_vm_devices(c->vm), struct vmm_device, link) {
		struct vmmctl_device *d = &s->devices[s->device_count];

		if (s->device_count == VMMCTL_MAX_DEVICES)
			break;
		snprintf(d->kind, sizeof(d->kind), "%s", dev->ops->name);
		snprintf(d->name, sizeof(d->name), "%s%u", dev->ops->name, dev->instance);
		s->device_count++;
	}
	vmmctl_call_reply(call, &reply);
	free(s);
}

struct stat_list {
	struct vmmctl_stat *stats;
	size_t count;
};

static void put_stat(void *arg, const char *name, uint64_t value)
{
	struct stat_list *list = arg;
	struct vmmctl_stat *s = &list->stats[list->count];

	if (list->count == VMMCTL_MAX_STATS)
		return;
	snprintf(s->name, sizeof(s->name), "%s", name);
	s->value = value;
	list->count++;
}

static void answer_stats(struct vmm_control *c, struct vmmctl_call *call,
			 void (*stats)(struct vmm_vm *vm,
				       void (*put)(void *arg, const char *name, uint64_t value),
				       void *arg))
{
	struct stat_list list = {.stats = calloc(VMMCTL_MAX_STATS, sizeof(struct vmmctl_stat))};
	struct vmmctl_reply reply = {0};

	if (!list.stats) {
		vmmctl_call_fail(call, -ENOMEM, "out of memory");
		return;
	}
	stats(c->vm, put_stat, &list);
	reply.stats = list.stats;
	reply.stat_count = list.count;
	vmmctl_call_reply(call, &reply);
	free(list.stats);
}

static void answer_registers(struct vmm_control *c, struct vmmctl_call *call)
{
	char *text = malloc(VMMCTL_TEXT_MAX);
	struct vmmctl_reply reply = {.text = text};

	if (!text) {
		vmmctl_call_fail(call, -ENOMEM, "out of memory");
		return;
	}
	vmm_vm_dump(c->vm, text, VMMCTL_TEXT_MAX);
	vmmctl_call_reply(call, &reply);
	free(text);
}

static void answer_pagemap(struct vmm_control *c, struct vmmctl_call *call, unsigned parts)
{
	uint8_t *map = NULL;
	struct vmmctl_reply reply = {0};

	if (parts < 1 || parts > VMMCTL_PAGEMAP_MAX) {
		vmmctl_call_fail(call, -EINVAL, "1 to %d parts", VMMCTL_PAGEMAP_MAX);
		return;
	}
	map = malloc((size_t)parts * VMMCTL_PAGEMAP_STEP);
	if (!map) {
		vmmctl_call_fail(call, -ENOMEM, "out of memory");
	} else if (!vmm_vm_pagemap(c->vm, parts, map)) {
		vmmctl_call_fail(call, -EOPNOTSUPP, "all of it is on this node");
	} else {
		reply.data = map;
		reply.data_len = (size_t)parts * VMMCTL_PAGEMAP_STEP;
		vmmctl_call_reply(call, &reply);
	}
	free(map);
}

static void answer_peek(struct vmm_control *c, struct vmmctl_call *call,
			const struct vmmctl_request *req)
{
	BASE_AUTO_FREE uint8_t *bytes = malloc((size_t)VMMCTL_PEEK_MAX * VMM_PAGE_SIZE);
	ssize_t len = -ENOMEM;

	if (req->cols < 1 || req->cols > VMMCTL_PEEK_MAX)
		len = -EINVAL;
	else if (bytes)
		len = vmm_vm_peek(c->vm, req->address, req->cols, bytes);
	if (len < 0)
		vmmctl_call_fail(call, (int)len, "%s",
				 len == -EFAULT ? "the guest has no memory there"
						: strerror((int)-len));
	else
		vmmctl_call_reply(call,
				  &(struct vmmctl_reply){.data = bytes, .data_len = (size_t)len});
}

/* ---- saving ---- */

static void save_resume(void *arg)
{
	struct vmm_control *c = arg;

	if (c->resume_after && vmm_vm_resume(c->vm) < 0)
		log_error("cannot resume after the save");
	c->resume_after = false;
}

static void save_done(void *arg)
{
	struct vmm_control *c = arg;

	if (!c->saving)
		return;
	pthread_join(c->saver, NULL);
	close(c->save_fd);
	c->saving = false;
	save_resume(c);
	answer_step(c, c->save_call, c->save_error);
}

static void save_pause_main(void *arg)
{
	struct vmm_control *c = arg;

	c->pause_error = vmm_vm_pause(c->vm);
	c->resume_after = !c->pause_error;
	sem_post(&c->paused);
}

/* The saver's thread asks the main thread. */
static int save_pause(void *arg)
{
	struct vmm_control *c = arg;
	int err = base_loop_post(c->loop, save_pause_main, c);

	if (err)
		return err;
	while (sem_wait(&c->paused) && errno == EINTR)
		;
	return c->pause_error;
}

static void *save_main(void *arg)
{
	struct vmm_control *c = arg;

	c->save_error = c->save_live ? vmm_vm_save_live(c->vm, c->save_fd, save_pause, c)
				     : vmm_vm_save(c->vm, c->save_fd);
	/* The guest need not wait for the disk. */
	if (base_loop_post(c->loop, save_resume, c) < 0)
		log_error("the main loop takes no posts");
	/* Not on a pipe. */
	if (!c->save_error && fsync(c->save_fd) < 0 && errno != EINVAL && errno != EROFS)
		c->save_error = -errno;
	if (base_loop_post(c->loop, save_done, c) < 0)
		log_error("the main loop takes no posts");
	return NULL;
}

static void start_save(struct vmm_control *c, struct vmmctl_call *call, int fd, bool live)
{
	bool running = vmm_vm_state(c->vm) == VMM_RUNNING;
	int err = 0;

	c->save_live = live && running;
	if (!c->save_live)
		err = vmm_vm_pause(c->vm);
	c->save_call = call;
	c->save_fd = fd;
	c->resume_after = running && !c->save_live;
	if (!err)
		err = -pthread_create(&c->saver, NULL, save_main, c);
	if (err) {
		if (c->resume_after && vmm_vm_resume(c->vm) < 0)
			log_error("cannot resume after a failed save");
		close(fd);
		answer_step(c, call, err);
		return;
	}
	c->saving = true;
}

static void start_migration(struct vmm_control *c, struct vmmctl_call *call,
			    enum vmm_migration_way way, int fd)
{
	int err;

	vmm_migration_free(c->migration);
	c->migration = NULL;
	err = vmm_migration_start(c->vm, c->loop, way, fd, c->journal_fd, &c->migration);
	if (err)
		close(fd);
	answer_step(c, call, err);
}

/* ---- moving a vCPU ---- */

static void move_over(void *arg, int err, const char *why)
{
	if (err)
		vmmctl_call_fail(arg, err, "%s", why);
	else
		vmmctl_call_ok(arg);
}

static void answer_move(struct vmm_control *c, struct vmmctl_call *call, int err,
			const char *invalid)
{
	if (err == -EALREADY)
		vmmctl_call_ok(call);
	else if (err == -EINVAL && vmm_vm_state(c->vm) == VMM_RUNNING)
		vmmctl_call_fail(call, err, "%s", invalid);
	else if (err == -EOPNOTSUPP)
		vmmctl_call_fail(call, err,
				 "only the first slice of a guest that spans nodes "
				 "moves vCPUs");
	else if (err == -EBUSY)
		vmmctl_call_fail(call, err, "a slice is leaving");
	else if (err)
		answer_step(c, call, err);
}

static void start_move(struct vmm_control *c, struct vmmctl_call *call, uint32_t vcpu,
		       unsigned slice)
{
	char invalid[64];

	snprintf(invalid, sizeof(invalid), "there is no vCPU %u, or no slice %u", vcpu, slice);
	answer_move(c, call, vmm_vm_move_vcpu(c->vm, vcpu, slice, move_over, call), invalid);
}

static void start_empty(struct vmm_control *c, struct vmmctl_call *call,
			const struct vmmctl_request *req)
{
	int err = vmm_vm_empty(c->vm, req->cols, req->rows, req->rate, move_over, call);

	answer_move(c, call, err,
		    req->cols ? "there is no such slice"
			      : "slice 0 has the devices and cannot leave");
}

static void start_join(struct vmm_control *c, struct vmmctl_call *call,
		       const struct vmmctl_request *req)
{
	int err = vmm_vm_join(c->vm, req->cols, req->text, req->rate, move_over, call);

	answer_move(c, call, err, "no such slice can join");
}

static void cancel_join(struct vmm_control *c, struct vmmctl_call *call, unsigned slice)
{
	int err = vmm_vm_join_cancel(c->vm, slice, "its node has given it up");

	if (err)
		vmmctl_call_fail(call, err, "slice %u is not joining", slice);
	else
		vmmctl_call_ok(call);
}

static void answer_links(struct vmm_control *c, struct vmmctl_call *call)
{
	char addresses[VMM_SLICE_MAX * (VMMCTL_ADDRESS_MAX + 1)];
	uint8_t key[VMM_SLICE_KEY_LEN];
	int err = vmm_vm_links(c->vm, key, addresses, sizeof(addresses));

	if (err)
		vmmctl_call_fail(call, err, "it leads no guest that spans nodes");
	else
		vmmctl_call_reply(call, &(struct vmmctl_reply){.data = key,
							       .data_len = sizeof(key),
							       .text = addresses});
	explicit_bzero(key, sizeof(key));
}

static void attach_migration(struct vmm_control *c, struct vmmctl_call *call, int fd)
{
	int err = vmm_migration_attach(c->migration, fd);

	if (err)
		close(fd);
	answer_step(c, call, err);
}

/* ---- requests ---- */

/* What would change the machine while it is written out or moves. */
static bool needs_quiet(enum vmmctl_op op)
{
	return op == VMMCTL_PAUSE || op == VMMCTL_RESUME || op == VMMCTL_RESET ||
	       op == VMMCTL_SAVE || op == VMMCTL_SAVE_LIVE || op == VMMCTL_MIGRATE_OUT ||
	       op == VMMCTL_MIGRATE_IN || op == VMMCTL_MOVE_VCPU || op == VMMCTL_EMPTY ||
	       op == VMMCTL_JOIN;
}

static const char *control_busy(const struct vmm_control *c)
{
	if (c->saving)
		return "the VM is being saved";
	if (vmm_vm_moves(c->vm))
		return "a vCPU is moving";
	if (vmm_vm_joins(c->vm))
		return "a slice is joining";
	return vmm_migration_active(c->migration) ? "the VM is migrating" : NULL;
}

static void on_request(void *ctx, struct vmmctl_call *call, const struct vmmctl_request *req,
		       int fd)
{
	struct vmm_control *c = ctx;
	const char *busy = control_busy(c);

	if (!busy && req->op == VMMCTL_MIGRATE_OUT && vmm_vm_spans(c->vm))
		busy = "the guest spans nodes";
	if (busy && needs_quiet(req->op)) {
		if (fd >= 0)
			close(fd);
		vmmctl_call_fail(call, -EBUSY, "%s", busy);
		return;
	}
	switch (req->op) {
	case VMMCTL_STATUS: answer_status(c, call); break;
	case VMMCTL_PAUSE: answer_step(c, call, vmm_vm_pause(c->vm)); break;
	case VMMCTL_RESUME: answer_step(c, call, vmm_vm_resume(c->vm)); break;
	case VMMCTL_POWERDOWN: answer_step(c, call, vmm_vm_powerdown(c->vm)); break;
	case VMMCTL_KILL:
		vmmctl_call_ok(call);
		vmm_vm_kill(c->vm, "killed on request");
		break;
	case VMMCTL_RESET: answer_step(c, call, vmm_vm_reset(c->vm)); break;
	case VMMCTL_SAVE: start_save(c, call, fd, false); break;
	case VMMCTL_SAVE_LIVE: start_save(c, call, fd, true); break;
	case VMMCTL_STATS:
		/* A device may wait for a page with a lock held that this would want. */
		if (vmm_migration_cut(c->migration))
			vmmctl_call_fail(call, -EBUSY, "the VM waits for its memory");
		else
			answer_stats(c, call, vmm_vm_stats);
		break;
	case VMMCTL_PAGEMAP: answer_pagemap(c, call, req->cols); break;
	case VMMCTL_PEEK:
		/* What is not there yet would read as zero. */
		if (vmm_migration_cut(c->migration))
			vmmctl_call_fail(call, -EBUSY, "the VM waits for its memory");
		else
			answer_peek(c, call, req);
		break;
	case VMMCTL_MOVE_VCPU: start_move(c, call, req->cols, req->rows); break;
	case VMMCTL_EMPTY: start_empty(c, call, req); break;
	case VMMCTL_JOIN: start_join(c, call, req); break;
	case VMMCTL_LINKS: answer_links(c, call); break;
	case VMMCTL_JOIN_CANCEL: cancel_join(c, call, req->cols); break;
	case VMMCTL_PLACES:
		if (vmm_vm_config(c->vm)->slices.count)
			answer_stats(c, call, vmm_vm_places);
		else
			vmmctl_call_fail(call, -EOPNOTSUPP, "all of it is on this node");
		break;
	case VMMCTL_CONSOLE_RESIZE:
		vmm_vm_console_resize(c->vm, req->cols, req->rows);
		vmmctl_call_ok(call);
		break;
	case VMMCTL_REGISTERS: answer_registers(c, call); break;
	case VMMCTL_MIGRATE_OUT: start_migration(c, call, VMM_MIGRATE_OUT, fd); break;
	case VMMCTL_MIGRATE_IN: start_migration(c, call, VMM_MIGRATE_IN, fd); break;
	case VMMCTL_MIGRATE_ATTACH: attach_migration(c, call, fd); break;
	}
}

static const struct vmmctl_server_ops server_ops = {
	.request = on_request,
};

/* ---- making ---- */

static int open_journal(struct vmm_control *c, const char *run_dir)
{
	char path[VMM_PATH_MAX];

	if ((size_t)snprintf(path, sizeof(path), "%s/migration.journal", run_dir) >= sizeof(path))
		return -ENAMETOOLONG;
	c->journal_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	return c->journal_fd < 0 ? -errno : 0;
}

/* A guest is not refused for want of room for its last words. */
static void keep_output(struct vmm_console *console, const char *run_dir)
{
	BASE_AUTO_FD int fd = -1;
	char path[VMM_PATH_MAX];
	int err = -ENAMETOOLONG;

	if (!console)
		return;
	if ((size_t)snprintf(path, sizeof(path), "%s/" VMMCTL_OUTPUT, run_dir) < sizeof(path)) {
		unlink(path);
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		err = fd < 0 ? -errno : vmm_console_keep(console, fd);
	}
	if (err)
		log_warn("the console's output is not kept in %s: %s", path, strerror(-err));
}

static int listen_console(struct vmm_console *console, const char *run_dir, const char *name)
{
	int fd, err;

	if (!console)
		return 0;
	fd = vmmctl_listen(run_dir, name, SOCK_STREAM);
	if (fd < 0)
		return fd;
	err = vmm_console_listen(console, fd);
	if (err)
		close(fd);
	return err;
}

static int listen_control(struct vmm_control *c, const char *run_dir)
{
	int fd = vmmctl_listen(run_dir, VMMCTL_SOCKET, SOCK_SEQPACKET), err;

	if (fd < 0)
		return fd;
	err = vmmctl_server_new(c->loop, fd, &server_ops, c, &c->server);
	if (err)
		close(fd);
	return err;
}

int vmm_control_new(struct base_loop *loop, struct vmm_vm *vm, const char *run_dir, char *why,
		    struct vmm_control **out)
{
	struct vmm_control *c = calloc(1, sizeof(*c));
	int err;

	if (!c) {
		snprintf(why, VMM_WHY_MAX, "out of memory");
		return -ENOMEM;
	}
	c->loop = loop;
	c->vm = vm;
	c->journal_fd = -1;
	sem_init(&c->paused, 0, 0);
	/* The agent looks for the control socket: the console must be there before it. */
	keep_output(vmm_vm_console(c->vm), run_dir);
	err = open_journal(c, run_dir);
	if (!err)
		err = listen_console(vmm_vm_console(c->vm), run_dir, VMMCTL_CONSOLE);
	if (!err)
		err = listen_console(vmm_vm_channel(c->vm), run_dir, VMMCTL_CHANNEL);
	if (!err)
		err = listen_control(c, run_dir);
	if (err) {
		snprintf(why, VMM_WHY_MAX, "--run-dir '%.150s': %s", run_dir, strerror(-err));
		if (c->journal_fd >= 0)
			close(c->journal_fd);
		free(c);
		return err;
	}
	*out = c;
	return 0;
}

void vmm_control_free(struct vmm_control *c)
{
	if (!c)
		return;
	c->resume_after = false;
	/* The saver may wait for this very thread. */
	c->pause_error = -ECANCELED;
	sem_post(&c->paused);
	save_done(c);
	vmm_migration_free(c->migration);
	close(c->journal_fd);
	vmmctl_server_free(c->server);
	sem_destroy(&c->paused);
	free(c);
}

void vmm_control_changed(struct vmm_control *c, enum vmm_state state, const char *reason)
{
	struct vmmctl_event event = {
		.kind = VMMCTL_EVENT_STATE, .state = wire_state(state), .text = reason};

	vmmctl_server_event(c->server, &event);
}

void vmm_control_places(struct vmm_control *c)
{
	vmmctl_server_event(c->server, &(struct vmmctl_event){.kind = VMMCTL_EVENT_PLACES});
}
