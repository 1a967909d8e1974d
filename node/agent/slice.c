/* One node's slice of a guest that spans nodes: kept, started, ended. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/span.h"
#include "proto/xp_address.h"

/* As vm_net.c: above what the descriptors become in the child. */
enum { PARK_FROM = 64 };

static int park(int fd, int *out)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, PARK_FROM), rc = high < 0 ? -errno : 0;

	close(fd);
	if (!rc)
		*out = high;
	return rc;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* ---- addresses and keys ---- */

void agent_slice_address(const struct cluster_node *n, uint16_t port, char out[CONTROL_PEER_MAX])
{
	bool six = strchr(n->address, ':') != NULL;

	snprintf(out, CONTROL_PEER_MAX, "%s%s%s:%u", six ? "[" : "", n->address, six ? "]" : "",
		 port);
}

static uint16_t port_of(int fd)
{
	struct sockaddr_storage at;
	socklen_t len = sizeof(at);

	if (getsockname(fd, (struct sockaddr *)&at, &len))
		return 0;
	return ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
					      : ((struct sockaddr_in *)&at)->sin_port);
}

int agent_slice_listen(struct agent_vm *vm, uint16_t *port)
{
	char address[CONTROL_PEER_MAX];
	int fd, rc;

	agent_slice_address(vm->agent->self, 0, address);
	rc = xp_address_listen(address, &fd);
	if (!rc)
		rc = park(fd, &vm->slice.listen_fd);
	if (!rc)
		*port = port_of(vm->slice.listen_fd);
	return rc;
}

int agent_slice_key(const struct agent_vm *vm, int *out)
{
	const uint8_t *key = vm->slice.start->key;
	int fd = memfd_create("key", MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (write(fd, key, CONTROL_SLICE_KEY) != CONTROL_SLICE_KEY || lseek(fd, 0, SEEK_SET)) {
		close(fd);
		return -EIO;
	}
	return park(fd, out);
}

/* ---- ending ---- */

/* What a node that is told nothing more does with a slice that it keeps. */
static void on_timer(struct base_timer *t)
{
	struct agent_slice *s = base_container_of(t, struct agent_slice, timer);
	struct agent_vm *vm = base_container_of(s, struct agent_vm, slice);

	if (agent_slice_unstarted(vm)) {
		agent_event(vm->agent, vm->spec.name, "failed",
			    "not started: the lead's node did not say so in time");
		agent_vm_free(vm);
		return;
	}
	agent_vm_fail(vm, "the lead has ended");
}

static void set_timer(struct agent_vm *vm, int ms)
{
	vm->slice.timer.fire = on_timer;
	base_loop_timer(vm->agent->loop, &vm->slice.timer, base_clock_ns() + ms * BASE_NS_PER_MS);
}

bool agent_slice_unstarted(const struct agent_vm *vm)
{
	return vmspec_spans(&vm->spec) && !vm->pid && !vm->slice.ending;
}

void agent_slice_cancel(struct agent_vm *vm)
{
	if (vm->slice.span)
		agent_span_abort(vm, CONTROL_FAILED, "killed on request");
	else
		agent_vm_free(vm);
}

void agent_slice_close(struct agent_vm *vm)
{
	close_fd(&vm->slice.listen_fd);
	if (vm->slice.timer.fire)
		base_loop_timer_cancel(&vm->slice.timer);
	if (vm->slice.names_timer.fire)
		base_loop_timer_cancel(&vm->slice.names_timer);
	free(vm->slice.span);
	vm->slice.span = NULL;
}

/* A node that is told of the end; the lead waits for its answer before it answers itself. */
struct told {
	struct agent *agent;
	char vm[TEXT_NAME_MAX];
	uint64_t group;
};

static void stop_told(void *arg, int error, const void *body, size_t len)
{
	struct told *t = arg;
	struct agent_vm *vm = agent_vm_find(t->agent, t->vm);

	if (error)
		log_debug("%s: a slice's node was not told: %s", t->vm, control_error_text(error));
	if (vm && vm->slice.group == t->group && vm->slice.ending && --vm->slice.ending == 0)
		agent_vm_over_everywhere(vm);
	free(t);
}

static const struct chan_out_ops stop_ops = {.done = stop_told};

static void tell(struct agent_vm *vm, unsigned index, const struct control_slice *slice)
{
	struct told *t = calloc(1, sizeof(*t));
	int rc = -ENOMEM;

	if (t) {
		*t = (struct told){.agent = vm->agent, .group = vm->slice.group};
		memcpy(t->vm, vm->spec.name, sizeof(t->vm));
		rc = agent_span_ask(vm, index, CONTROL_SLICE_STOP, slice, AGENT_PEER_MS, &stop_ops,
				    t);
	}
	if (!rc) {
		vm->slice.ending += !vm->slice.index;
		return;
	}
	log_debug("%s: node %s is not told of its end: %s", vm->spec.name,
		  vm->spec.parts[index].node, strerror(-rc));
	free(t);
}

void agent_slice_over(struct agent_vm *vm, bool failed)
{
	struct control_slice slice = {.group = vm->slice.group};
	const char *self = vm->agent->self->name;

	/* A follower that ends well was told to; only the lead's good end is news. */
	if (!vmspec_spans(&vm->spec) || vm->slice.told || (!failed && vm->slice.index))
		return;
	if (vm->slice.joins)
		return; /* the lead will see, and nobody needs it */
	if (failed && vm->pid)
		snprintf(slice.reason, sizeof(slice.reason), "slice %u on node %s: %.400s",
			 vm->slice.index, self, vm->reason);
	else if (failed)
		snprintf(slice.reason, sizeof(slice.reason), "%.500s", vm->reason);
	for (unsigned i = 0; i < vm->spec.part_count; i++)
		if (strcmp(vm->spec.parts[i].node, self) != 0 && !(vm->slice.places.gone & 1u << i))
			tell(vm, i, &slice);
}

/* Ends the call unless there is such a slice. */
static struct agent_vm *find_slice(struct agent *a, struct chan_call *call,
				   const struct control_request *req)
{
	struct agent_vm *vm = agent_vm_find(a, req->vm);

	if (vm && vmspec_spans(&vm->spec) && vm->slice.group == req->slice.group)
		return vm;
	agent_reply_text(call, CONTROL_NOT_FOUND, "node %s has no such slice of %s", a->self->name,
			 req->vm);
	return NULL;
}

void agent_slice_stop(struct agent *a, struct chan_call *call, const struct control_request *req)
{
	struct agent_vm *vm = find_slice(a, call, req);

	if (!vm)
		return;
	vm->slice.told = true;
	if (agent_slice_unstarted(vm)) {
		agent_slice_cancel(vm);
		agent_reply_text(call, CONTROL_OK, "%s", "");
		return;
	}
	if (req->slice.reason[0])
		agent_vm_fail(vm, req->slice.reason);
	else
		set_timer(vm, SPAN_END_MS);
	/* A lead waits for others itself. */
	if (!vm->slice.index || agent_wait(vm, call, AGENT_WAIT_OVER, SPAN_OVER_MS))
		agent_reply_text(call, CONTROL_OK, "%s", "");
}

/* ---- preparing ---- */

static enum control_code check(struct agent *a, const struct control_request *req,
			       char why[AGENT_WHY_MAX], char warning[AGENT_WHY_MAX])
{
	const struct vmspec *s = req->spec;
	enum control_code code;

	if (!vmspec_spans(s) || !req->slice.index || req->slice.index >= s->part_count ||
	    strcmp(s->parts[req->slice.index].node, a->self->name) != 0) {
		snprintf(why, AGENT_WHY_MAX, "that is no slice of this node's");
		return CONTROL_USAGE;
	}
	code = agent_vm_check(a, s, req->overcommit, why);
	if (!code && !agent_vm_name_fits(a, s->name, why))
		code = CONTROL_USAGE;
	if (!code && !agent_doctor_span(a, !strcmp(s->transport, "verbs"), why, warning))
		code = CONTROL_FAILED;
	return code;
}

static int keep(struct agent *a, const struct control_request *req, uint16_t *port)
{
	struct agent_vm *vm = agent_vm_new(a, req->spec);
	int rc;

	if (!vm)
		return -ENOMEM;
	/* Devices are the lead's. */
	vm->spec.disk_count = vm->spec.nic_count = 0;
	vm->spec.gdb_port = 0;
	vm->slice.index = req->slice.index;
	vm->slice.group = req->slice.group;
	rc = agent_slice_listen(vm, port);
	if (rc)
		agent_vm_free(vm);
	else
		set_timer(vm, SPAN_PREPARED_MS);
	return rc;
}

void agent_slice_prepare(struct agent *a, struct chan_call *call, struct control_request *req)
{
	char why[AGENT_WHY_MAX], warning[AGENT_WHY_MAX] = "";
	enum control_code code = check(a, req, why, warning);
	uint16_t port = 0;
	int rc = 0;

	if (!code)
		rc = keep(a, req, &port);
	if (code) {
		agent_reply_text(call, code, "%s", why);
	} else if (rc) {
		agent_reply_text(call, CONTROL_FAILED, "no port for its slice: %s", strerror(-rc));
	} else {
		const struct control_item items[] = {{"port", "", port}, {"warning", warning, 0}};

		agent_reply(call, &(struct control_reply){.items = items, .item_count = 2});
	}
	control_request_fini(req);
}

/* ---- starting ---- */

int agent_slice_launch(struct agent_vm *vm, const struct control_slice *start)
{
	int rc;

	vm->slice.start = start;
	rc = agent_vm_launch(vm);
	vm->slice.start = NULL;
	close_fd(&vm->slice.listen_fd);
	return rc;
}

/* What a slice is told of a guest that it is to join is of this guest; the process looks closer. */
static bool joins_well(const struct agent_vm *vm, const struct control_slice *s)
{
	if (!s->links_group)
		return !s->home_count && !s->place_count;
	return s->home_count == vm->spec.part_count && s->place_count == vm->spec.vcpus;
}

void agent_slice_start(struct agent *a, struct chan_call *call, const struct control_request *req)
{
	struct agent_vm *vm = find_slice(a, call, req);
	int rc = 0;

	if (!vm)
		return;
	if (!agent_slice_unstarted(vm) || vm->slice.span ||
	    req->slice.peer_count != vm->spec.part_count || !joins_well(vm, &req->slice)) {
		agent_reply_text(call, CONTROL_USAGE, "%s is not to be started so", req->vm);
		return;
	}
	base_loop_timer_cancel(&vm->slice.timer);
	vm->slice.joins = req->slice.links_group != 0;
	rc = agent_slice_launch(vm, &req->slice);
	if (rc) {
		agent_reply_text(call, CONTROL_FAILED, "its slice cannot be started: %s",
				 strerror(-rc));
		agent_vm_free(vm);
		return;
	}
	if (agent_wait_run(vm, call))
		agent_reply_text(call, CONTROL_OK, "%s", "");
}

/* ---- after a restart of the agent ---- */

static unsigned part_of(const struct agent_vm *vm)
{
	unsigned i = 0;

	while (i < vm->spec.part_count &&
	       strcmp(vm->spec.parts[i].node, vm->agent->self->name) != 0)
		i++;
	return i;
}

int agent_slice_found(struct agent_vm *vm)
{
	struct agent_slice *s = &vm->slice;
	int rc;

	if (!vmspec_spans(&vm->spec))
		return 0;
	rc = agent_vm_group_read(vm->dir, s);
	if (!rc && s->index == UINT_MAX)
		s->index = part_of(vm);
	if (!rc && (s->index >= vm->spec.part_count ||
		    strcmp(vm->spec.parts[s->index].node, vm->agent->self->name) != 0))
		rc = -EINVAL;
	return rc;
}
