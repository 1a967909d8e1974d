/*
 * The life of a VM as its agent sees it. It is over when the process has ended and its control
 * connection has said all: the last event, with the reason, may be read after the process's end.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/migrate.h"
#include "node/agent/span.h"
#include "node/agent/vm.h"

enum { RETRY_MS = 10, KILL_MS = 2000, SOCKET_NAME_LEN = 14 };

/* ---- finding and counting ---- */

struct agent_vm *agent_vm_find(struct agent *a, const char *name)
{
	base_list_foreach (vm, &a->vms, struct agent_vm, link)
		if (!strcmp(vm->spec.name, name))
			return vm;
	return NULL;
}

void agent_vm_record(const struct agent_vm *vm, struct control_vm *out)
{
	*out = (struct control_vm){.name = vm->spec.name,
				   .node = vm->agent->self->name,
				   .state = vmmctl_state_name(vm->state),
				   .reason = vm->reason,
				   .kernel = vm->spec.kernel,
				   .vcpus = vm->spec.vcpus,
				   .memory_bytes = vm->spec.memory_bytes,
				   .uptime_ns = (uint64_t)(base_clock_ns() - vm->started_ns),
				   .pid = (uint64_t)vm->pid};
	if (vmspec_spans(&vm->spec)) {
		const struct vmspec_part p = agent_vm_part_now(vm, vm->slice.index);

		out->slice = vm->slice.index;
		out->slices = vm->spec.part_count;
		out->group = vm->slice.group;
		out->slices_gone = vm->slice.places.gone;
		out->slice_vcpus = p.vcpus;
		out->slice_memory_bytes = p.memory_bytes;
	}
}

struct vmspec_part agent_vm_share(const struct agent *a, const struct vmspec *s)
{
	for (size_t i = 0; vmspec_spans(s) && i < s->part_count; i++)
		if (!strcmp(s->parts[i].node, a->self->name))
			return s->parts[i];
	return (struct vmspec_part){.vcpus = s->vcpus, .memory_bytes = s->memory_bytes};
}

static struct vmspec_part share_now(const struct agent_vm *vm)
{
	return vmspec_spans(&vm->spec) ? agent_vm_part_now(vm, vm->slice.index)
				       : agent_vm_share(vm->agent, &vm->spec);
}

uint64_t agent_vms_memory(const struct agent *a)
{
	uint64_t sum = 0;

	base_list_foreach (vm, &a->vms, struct agent_vm, link)
		sum += share_now(vm).memory_bytes;
	return sum;
}

uint64_t agent_vms_vcpus(const struct agent *a)
{
	uint64_t sum = 0;

	base_list_foreach (vm, &a->vms, struct agent_vm, link)
		sum += share_now(vm).vcpus;
	return sum;
}

void agent_vm_signal(const struct agent_vm *vm, int sig)
{
	if (vm->process.fd >= 0 && pidfd_send_signal(vm->process.fd, sig, NULL, 0))
		log_warn("%s: its process takes no signal: %s", vm->spec.name, strerror(errno));
}

void agent_vm_runs(struct agent_vm *vm)
{
	bool runs = vm->state == VMMCTL_RUNNING || vm->state == VMMCTL_PAUSED;

	if (runs && !vm->slice.starting)
		agent_waiters_running(vm);
}

/* ---- the control connection ---- */

static void slice_joined(struct agent_vm *vm)
{
	int rc;

	vm->slice.joins = false;
	rc = agent_vm_group_write(vm);
	if (rc)
		log_warn("%s: that it has joined is not written: %s", vm->spec.name, strerror(-rc));
}

static void vm_set_state(struct agent_vm *vm, enum vmmctl_state state, const char *reason)
{
	enum vmmctl_state old = vm->state;

	/* Slices stand for a moment between having found each other and the first instruction. */
	if (vmspec_spans(&vm->spec) && !vm->found && !vm->incoming && old == VMMCTL_STARTING &&
	    state == VMMCTL_PAUSED)
		return;
	/* What has been decided stays: its process may not know yet. */
	if (old == VMMCTL_FAILED || old == VMMCTL_STOPPED)
		return;
	vm->state = state;
	snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
	text_clean(vm->reason);
	if (old == state)
		return;
	if (state == VMMCTL_RUNNING && vm->slice.joins)
		slice_joined(vm);
	if (vm->incoming) {
		if (old == VMMCTL_STARTING && state == VMMCTL_PAUSED)
			agent_migrate_in_ready(vm);
		return;
	}
	if (old != VMMCTL_STARTING || state != VMMCTL_RUNNING)
		agent_event(vm->agent, vm->spec.name, "state", "%s%s%s", vmmctl_state_name(state),
			    vm->reason[0] ? ": " : "", vm->reason);
	if (old == VMMCTL_STARTING && (state == VMMCTL_RUNNING || state == VMMCTL_PAUSED)) {
		agent_event(vm->agent, vm->spec.name, vm->found ? "found" : "started",
			    "pid %d, %u vCPUs", (int)vm->pid,
			    agent_vm_share(vm->agent, &vm->spec).vcpus);
		agent_vm_runs(vm);
	}
	if (old == VMMCTL_STARTING && state == VMMCTL_FAILED)
		agent_vm_signal(vm, SIGKILL);
}

static void control_event(void *ctx, const struct vmmctl_event *event)
{
	struct agent_vm *vm = ctx;

	switch (event->kind) {
	case VMMCTL_EVENT_STATE: vm_set_state(vm, event->state, event->text); break;
	case VMMCTL_EVENT_CONSOLE:
		agent_event(vm->agent, vm->spec.name, "console", "the guest opened its console");
		break;
	case VMMCTL_EVENT_PANIC:
		agent_event(vm->agent, vm->spec.name, "panic", "%s", event->text);
		break;
	case VMMCTL_EVENT_PLACES: agent_places_ask(vm); break;
	case VMMCTL_EVENT_ERROR:
		agent_event(vm->agent, vm->spec.name, "error", "%s", event->text);
		break;
	}
}

/* A new VM is expected within milliseconds. */
static int64_t vm_retry_at(const struct agent_vm *vm)
{
	return base_clock_ns() + (vm->found ? 50 : 1) * RETRY_MS * BASE_NS_PER_MS;
}

static void control_closed(void *ctx, int error)
{
	struct agent_vm *vm = ctx;

	vmmctl_client_free(vm->control);
	vm->control = NULL;
	if (vm->exited)
		agent_vm_over(vm);
	else
		base_loop_timer(vm->agent->loop, &vm->retry, vm_retry_at(vm));
}

static const struct vmmctl_client_ops control_ops = {control_event, control_closed};

static void status_done(void *arg, const struct vmmctl_reply *reply)
{
	struct agent_vm *vm = arg;

	if (reply->error || !reply->status) {
		log_debug("%s: no status: %s", vm->spec.name, reply->text);
		return;
	}
	vm->started_ns = base_clock_ns() - (int64_t)reply->status->uptime_ns;
	vm_set_state(vm, reply->status->state, reply->status->reason);
	if (vmspec_spans(&vm->spec))
		agent_places_ask(vm);
	agent_migration_attach(vm);
}

static void vm_connect(struct base_timer *t)
{
	struct agent_vm *vm = base_container_of(t, struct agent_vm, retry);
	struct vmmctl_request req = {.op = VMMCTL_STATUS};
	int rc;

	if (vm->exited) {
		agent_vm_over(vm);
		return;
	}
	rc = vmmctl_client_new(vm->agent->loop, vm->dir, &control_ops, vm, &vm->control);
	if (!rc)
		rc = vmmctl_client_call(vm->control, &req, -1, AGENT_VMM_MS, status_done, vm);
	else
		base_loop_timer(vm->agent->loop, t, vm_retry_at(vm));
	if (rc)
		log_debug("%s: control connection: %s", vm->spec.name, strerror(-rc));
}

/* ---- the process ---- */

/* The VMM's last line, without its time stamp and name. */
static void last_word(const struct agent_vm *vm, char *out, size_t cap)
{
	static const char name[] = "pangaea-vmm: ";
	char tail[VMMCTL_REASON_MAX];
	const char *p;

	agent_vm_log_tail(vm->dir, tail, sizeof(tail));
	p = strstr(tail, name);
	snprintf(out, cap, "%s", p ? p + strlen(name) : tail);
}

/* The reason that the VMM gave, or else its last line, or else how the process ended. */
static bool vm_why_over(struct agent_vm *vm)
{
	bool failed = vm->state == VMMCTL_FAILED || (vm->status != 0 && vm->status != -1);

	/* Found by a new agent, so its status is nobody's: a good end would have been announced. */
	if (vm->status == -1 && vm->state != VMMCTL_STOPPED && !vm->incoming && !vm->departed)
		failed = true;

	if (vm->reason[0])
		return failed;
	if (vm->status > 0 && WIFSIGNALED(vm->status))
		snprintf(vm->reason, sizeof(vm->reason), "its process was ended by signal %d (%s)",
			 WTERMSIG(vm->status), strsignal(WTERMSIG(vm->status)));
	else
		last_word(vm, vm->reason, sizeof(vm->reason));
	if (!vm->reason[0])
		snprintf(vm->reason, sizeof(vm->reason), "%s",
			 failed ? "its process failed without a word" : "ended");
	return failed;
}

void agent_vm_free(struct agent_vm *vm)
{
	agent_migration_vm_gone(vm);
	agent_slice_close(vm);
	agent_nics_close(vm);
	vmmctl_client_free(vm->control);
	base_loop_timer_cancel(&vm->retry);
	if (vm->process.fd >= 0) {
		base_loop_remove(&vm->process);
		close(vm->process.fd);
	}
	base_list_del(&vm->link);
	vm->agent->vm_count--;
	free(vm);
}

void agent_vm_over_everywhere(struct agent_vm *vm)
{
	agent_waiters_over(vm, vm->state == VMMCTL_FAILED);
	agent_vm_free(vm);
}

void agent_vm_over(struct agent_vm *vm)
{
	bool failed = vm_why_over(vm);

	vm->state = failed ? VMMCTL_FAILED : VMMCTL_STOPPED;
	agent_migration_vm_gone(vm);
	if (!vm->incoming && (!vm->departed || vm->moved_to[0]) && vm->pid && !vm->slice.joins)
		agent_gone_keep(vm, failed && !vm->departed);
	agent_vm_dir_remove(vm->dir);
	if (!vm->incoming)
		agent_event(vm->agent, vm->spec.name, failed ? "failed" : "ended", "%s",
			    vm->reason);
	agent_slice_over(vm, failed);
	if (!vm->slice.ending)
		agent_vm_over_everywhere(vm);
}

static void process_ended(struct base_watch *w, uint32_t events)
{
	struct agent_vm *vm = base_container_of(w, struct agent_vm, process);

	vm->exited = true;
	if (vm->found || waitpid(vm->pid, &vm->status, 0) != vm->pid)
		vm->status = -1;
	base_loop_remove(w);
	close(w->fd);
	w->fd = -1;
	base_loop_timer_cancel(&vm->retry);
	if (vm->control)
		base_loop_timer(vm->agent->loop, &vm->retry, base_clock_ns() + BASE_NS_PER_SEC);
	else
		agent_vm_over(vm);
}

static int vm_watch(struct agent_vm *vm)
{
	int fd = pidfd_open(vm->pid, 0), rc;

	if (fd < 0)
		return -errno;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	vm->process = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = process_ended};
	rc = base_loop_add(vm->agent->loop, &vm->process);
	if (rc) {
		close(fd);
		vm->process.fd = -1;
	}
	return rc;
}

/* ---- starting ---- */

struct agent_vm *agent_vm_new(struct agent *a, const struct vmspec *spec)
{
	struct agent_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return NULL;
	vm->agent = a;
	vm->spec = *spec;
	vm->state = VMMCTL_STARTING;
	vm->process.fd = -1;
	vm->slice.listen_fd = -1;
	vm->retry.fire = vm_connect;
	vm->started_ns = base_clock_ns();
	snprintf(vm->dir, sizeof(vm->dir), "%.400s/vm/%s", a->run_dir, spec->name);
	base_list_init(&vm->waiters);
	base_list_add_tail(&a->vms, &vm->link);
	a->vm_count++;
	return vm;
}

int agent_vm_launch(struct agent_vm *vm)
{
	int rc = agent_vm_dir_make(vm);

	if (rc)
		return rc;
	rc = vmspec_spans(&vm->spec) ? agent_vm_group_write(vm) : 0;
	if (!rc && vm->migration)
		rc = agent_migration_write(vm->migration);
	if (!rc)
		rc = agent_nics_open(vm);
	if (!rc)
		rc = agent_vm_spawn(vm);
	if (rc)
		goto err_dir;
	rc = vm_watch(vm);
	if (!rc)
		rc = agent_vm_pid_write(vm);
	/* It may have ended at once; process_ended() then says why. */
	if (rc == -ESRCH)
		rc = 0;
	if (rc)
		goto err_kill;
	base_loop_timer(vm->agent->loop, &vm->retry, vm_retry_at(vm));
	return 0;
err_kill:
	kill(vm->pid, SIGKILL);
	waitpid(vm->pid, NULL, 0);
err_dir:
	agent_nics_close(vm);
	agent_vm_dir_remove(vm->dir);
	return rc;
}

void agent_vm_fail(struct agent_vm *vm, const char *reason)
{
	if (vm->state == VMMCTL_STOPPED || vm->state == VMMCTL_FAILED)
		return;
	vm->state = VMMCTL_FAILED;
	snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
	text_clean(vm->reason);
	agent_vm_signal(vm, SIGKILL);
}

bool agent_vm_name_fits(const struct agent *a, const char *name, char why[AGENT_WHY_MAX])
{
	if (strlen(a->run_dir) + strlen(name) + 4 + SOCKET_NAME_LEN <= 107)
		return true;
	snprintf(why, AGENT_WHY_MAX, "the name is too long for the run-dir %.100s", a->run_dir);
	return false;
}

static void vm_start(struct agent *a, struct chan_call *call, const struct vmspec *spec)
{
	struct agent_vm *vm = agent_vm_new(a, spec);
	int rc = vm ? agent_vm_launch(vm) : -ENOMEM;

	if (!rc && agent_wait_run(vm, call) == 0)
		return;
	if (!rc) {
		/* It runs, but nobody can be told so later. */
		agent_vm_reply(vm, call);
		return;
	}
	if (rc == -ENOENT)
		agent_reply_text(call, CONTROL_FAILED, "node %s has no %s; is it installed there?",
				 a->self->name, a->vmm);
	else
		agent_reply_text(call, CONTROL_FAILED, "%s cannot be started on node %s: %s",
				 spec->name, a->self->name, strerror(-rc));
	if (vm)
		agent_vm_free(vm);
}

void agent_vm_run(struct agent *a, struct chan_call *call, struct control_request *req)
{
	char why[AGENT_WHY_MAX], text[128];
	struct vmspec *s = req->spec;
	enum control_code code = agent_vm_check(a, s, req->overcommit, why);

	if (!code && !agent_vm_name_fits(a, s->name, why))
		code = CONTROL_USAGE;
	if (!code && req->together && !vmspec_spans(s)) {
		snprintf(why, sizeof(why), "together: say over which nodes it may be spread later");
		code = CONTROL_USAGE;
	}
	if (!code && vmspec_spans(s)) {
		agent_span_run(a, call, req);
		return;
	}
	if (code) {
		agent_reply_text(call, code, "%s", why);
	} else {
		snprintf(text, sizeof(text), "starting on %s", a->self->name);
		if (agent_item(call, &(struct control_reply){.text = text}))
			log_debug("nobody follows the start of %s", s->name);
		vm_start(a, call, s);
	}
	control_request_fini(req);
}

void agent_vm_discard(struct agent_vm *vm)
{
	agent_vm_signal(vm, SIGKILL);
}

/* ---- ending ---- */

static void end_asked(void *arg, const struct vmmctl_reply *reply)
{
	if (reply->error)
		log_debug("the VM's process answers to its end: %s", reply->text);
}

void agent_vm_end(struct agent_vm *vm, struct chan_call *call, bool kill_it, uint64_t timeout_ms)
{
	struct vmmctl_request req = {.op = kill_it ? VMMCTL_KILL : VMMCTL_POWERDOWN};
	int rc = vm->control
			 ? vmmctl_client_call(vm->control, &req, -1, AGENT_VMM_MS, end_asked, NULL)
			 : -ENOTCONN;

	if (kill_it && agent_slice_unstarted(vm)) {
		agent_slice_cancel(vm);
		agent_reply_text(call, CONTROL_OK, "%s", "");
		return;
	}
	if (rc && !kill_it) {
		agent_reply_text(call, CONTROL_FAILED,
				 "%s: its process takes no requests; 'pangaea vm kill %s' ends it",
				 vm->spec.name, vm->spec.name);
		return;
	}
	if (agent_wait(vm, call, kill_it ? AGENT_WAIT_KILL : AGENT_WAIT_STOP,
		       kill_it ? KILL_MS : timeout_ms))
		agent_reply_text(call, CONTROL_FAILED, "out of memory");
	if (rc)
		agent_vm_signal(vm, SIGKILL);
}

/* ---- after a restart of the agent ---- */

static int vm_adopt(struct agent *a, const char *dir)
{
	char why[VMSPEC_WHY_MAX], path[2 * AGENT_PATH_MAX];
	struct vmspec *spec;
	struct agent_vm *vm;
	pid_t pid;
	int rc = agent_vm_pid_read(dir, &pid);

	if (rc)
		return rc;
	snprintf(path, sizeof(path), "%s/vm.yaml", dir);
	rc = vmspec_read(path, &spec, why);
	if (rc) {
		log_error("a VM runs as process %d, but %s", (int)pid, why);
		return rc;
	}
	vm = agent_vm_new(a, spec);
	free(spec);
	if (!vm)
		return -ENOMEM;
	vm->pid = pid;
	vm->found = true;
	agent_migration_found(vm);
	rc = agent_slice_found(vm);
	if (!rc)
		rc = vm_watch(vm);
	if (rc) {
		agent_vm_free(vm);
		return rc;
	}
	agent_nics_take_back(vm);
	vm_connect(&vm->retry);
	return 0;
}

void agent_vms_recover(struct agent *a)
{
	char path[AGENT_PATH_MAX + 8], dir[AGENT_PATH_MAX + 300];
	struct dirent *e;
	DIR *d;
	int rc;

	snprintf(path, sizeof(path), "%s/vm", a->run_dir);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		if (!text_name_valid(e->d_name))
			continue;
		snprintf(dir, sizeof(dir), "%s/%s", path, e->d_name);
		rc = vm_adopt(a, dir);
		if (rc == -ESRCH || rc == -ENOENT || rc == -EBADMSG) {
			agent_event(a, e->d_name, "ended", "while no agent was there");
			agent_migration_found_dead(a, dir);
			agent_vm_dir_remove(dir);
		} else if (rc) {
			log_error("the VM in %s cannot be watched: %s", dir, strerror(-rc));
		}
	}
	if (d)
		closedir(d);
}

void agent_vm_forget(struct agent_vm *vm)
{
	agent_waiters_drop(vm);
	if (vm->migration)
		agent_migration_forget(vm->migration);
	agent_vm_free(vm);
}
