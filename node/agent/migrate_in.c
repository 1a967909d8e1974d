/* The destination's agent: an empty VM, a listener for this migration, and the way to its process. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/migrate.h"
#include "node/agent/span.h"

/* The VM was never anybody's: it goes without a trace. */
static void in_fail(struct agent_migration *g, enum control_code code, const char *why)
{
	struct agent_vm *vm = g->vm;

	if (g->relinking) {
		agent_migration_relink_failed(g, code, why);
		return;
	}
	agent_verdict_keep(g->agent, g->m.id, VERDICT_ABORTED);
	agent_migrate_disks_settle(vm->dir, false);
	log_warn("%s: migration from %s: %s", vm->spec.name, g->peer ? g->peer->name : "?", why);
	agent_migration_end(g, code, why);
	agent_vm_discard(vm);
}

static void in_arrived(struct agent_migration *g, const char *how)
{
	struct agent_vm *vm = g->vm;

	vm->incoming = false;
	agent_migrate_disks_settle(vm->dir, true);
	agent_event(g->agent, vm->spec.name, "migrate", "%s %s", how, g->peer->name);
	agent_nics_announce(vm);
}

/* Post-copy: it runs, and the network must know at once. */
void agent_migrate_in_progress(struct agent_migration *g)
{
	if (g->vm->incoming && !strcmp(g->progress.state, "postcopy"))
		in_arrived(g, "runs here; its memory follows from");
	if (!g->vm->incoming || strcmp(g->progress.state, MIGCTL_STATE_DISKS) != 0)
		return;
	if (agent_migration_order(g,
				  agent_migrate_disks_name(g) ? MIGCTL_CANCEL : MIGCTL_DISKS_HERE))
		log_warn("%s: its process takes no order", g->vm->spec.name);
}

void agent_migrate_in_result(struct agent_migration *g, const struct migctl_result *r)
{
	struct agent_vm *vm = g->vm;

	if (r->end == MIGCTL_LOST) {
		/* Its process says so as well, and ends. */
		agent_event(g->agent, vm->spec.name, "migrate",
			    "node %s is gone, and the rest of the memory with it", g->peer->name);
		agent_migration_end(g, CONTROL_FAILED, "the source is gone");
		return;
	}
	if (r->end != MIGCTL_DONE) {
		in_fail(g, CONTROL_FAILED, g->why[0] ? g->why : "failed");
		return;
	}
	agent_verdict_keep(g->agent, g->m.id,
			   strcmp(g->progress.state, "postcopy") != 0 ? VERDICT_COMMITTED
								      : VERDICT_COMPLETE);
	if (vm->incoming)
		in_arrived(g, "arrived from");
	else
		agent_event(g->agent, vm->spec.name, "migrate", "all memory has come from %s",
			    g->peer->name);
	agent_migration_end(g, CONTROL_OK, "");
}

/* ---- connections ---- */

static void in_preamble(struct agent_migration_conn *c)
{
	struct agent_migration *g = c->g;
	unsigned index = c->preamble[CONTROL_MIGRATE_ID] |
			 (unsigned)c->preamble[CONTROL_MIGRATE_ID + 1] << 8;
	int rc;

	if (memcmp(c->preamble, g->m.id, sizeof(g->m.id)) != 0 || index >= g->wanted ||
	    g->fds[index] >= 0) {
		log_warn("%s: a stranger at the migration's port", g->vm->spec.name);
		agent_migration_conn_close(c);
		return;
	}
	agent_migration_conn_done(c, index);
	if (g->ready < g->wanted)
		return;
	rc = agent_migration_hand_over(g);
	if (rc)
		in_fail(g, CONTROL_FAILED, strerror(-rc));
}

static void in_readable(struct base_watch *w, uint32_t events)
{
	struct agent_migration_conn *c = base_container_of(w, struct agent_migration_conn, watch);
	/* Not a byte more: what follows is the engine's. */
	ssize_t n = recv(w->fd, c->preamble + c->len, MIGRATE_PREAMBLE_LEN - c->len, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		agent_migration_conn_close(c);
		return;
	}
	c->len += (size_t)n;
	if (c->len == MIGRATE_PREAMBLE_LEN)
		in_preamble(c);
}

static void in_accept(struct base_watch *w, uint32_t events)
{
	struct agent_migration *g = base_container_of(w, struct agent_migration, listener);
	int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	/* With all places taken by strangers the time-out ends it. */
	if (fd >= 0 && agent_migration_conn(g, fd, EPOLLIN, in_readable))
		log_warn("%s: a connection too many", g->vm->spec.name);
}

/* A port of its own for each migration, on the address of the cluster file. */
int agent_migrate_in_listen(struct agent_migration *g, uint16_t *port)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	socklen_t len = sizeof(at);
	int fd, rc;

	if (inet_pton(AF_INET, g->agent->self->address, &at.sin_addr) != 1)
		return -EINVAL;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, MIGCTL_MAX_FDS) ||
	    getsockname(fd, (struct sockaddr *)&at, &len)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	g->listener = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = in_accept};
	*port = ntohs(at.sin_port);
	return base_loop_add(g->agent->loop, &g->listener);
}

static void in_timeout(struct base_timer *t)
{
	struct agent_migration *g = base_container_of(t, struct agent_migration, timer);

	in_fail(g, CONTROL_TIMEOUT, "the source did not connect in time");
}

void agent_migrate_in_ready(struct agent_vm *vm)
{
	struct agent_migration *g = vm->migration;
	struct control_item item = {.name = "port"};
	uint16_t port = 0;
	int rc;

	if (!g || !g->call)
		return;
	rc = agent_migrate_in_listen(g, &port);
	if (rc) {
		in_fail(g, CONTROL_FAILED, strerror(-rc));
		return;
	}
	item.value = port;
	item.text = "";
	agent_reply(g->call, &(struct control_reply){.items = &item, .item_count = 1});
	g->call = NULL;
	g->timer.fire = in_timeout;
	base_loop_timer(g->agent->loop, &g->timer,
			base_clock_ns() + MIGRATE_CONNECT_MS * BASE_NS_PER_MS);
}

/* ---- the request ---- */

static const char *in_refuse(struct agent *a, const struct control_request *req,
			     enum control_code *code, char why[AGENT_WHY_MAX])
{
	BASE_AUTO_FREE struct vmspec *spec = malloc(sizeof(*spec));

	if (!spec) {
		*code = CONTROL_FAILED;
		return "out of memory";
	}
	/* Disks that come along need not be there. */
	*spec = *req->spec;
	spec->disk_count = 0;
	for (size_t i = 0; i < req->spec->disk_count; i++)
		if (!req->migrate.disk_bytes[i])
			spec->disks[spec->disk_count++] = req->spec->disks[i];
	*code = agent_vm_check(a, spec, req->overcommit, why);
	if (*code)
		return why;
	if (!cluster_find(a->cluster, req->migrate.target)) {
		*code = CONTROL_NOT_FOUND;
		return "the destination does not know the source's node";
	}
	return NULL;
}

/* What can be spread where it comes from can be here, if this host can take part in it. */
static void in_parts(struct agent *a, struct control_request *req)
{
	BASE_AUTO_FREE struct vmspec *s = malloc(sizeof(*s));
	const struct control_migrate *m = &req->migrate;
	char why[AGENT_WHY_MAX] = "out of memory", warning[AGENT_WHY_MAX] = "";
	bool good = s && m->part_count > 1;

	_Static_assert((int)AGENT_WHY_MAX >= (int)VMSPEC_WHY_MAX, "vmspec writes into why");
	if (!m->part_count)
		return;
	if (good) {
		*s = *req->spec;
		s->part_count = m->part_count;
		memcpy(s->parts, m->parts, sizeof(s->parts));
		s->encrypt = m->parts_encrypt;
		good = (!m->parts_transport[0] ||
			vmspec_set_transport(s, m->parts_transport, why)) &&
		       vmspec_check(s, why);
	}
	if (good && strcmp(s->parts[0].node, a->self->name) != 0) {
		snprintf(why, sizeof(why), "its devices are to be on another node");
		good = false;
	}
	if (good)
		good = agent_doctor_span(a, !strcmp(s->transport, "verbs"), why, warning);
	if (good)
		*req->spec = *s;
	else
		log_warn("%s cannot be spread from here: %s", req->spec->name, why);
	if (good && warning[0])
		log_warn("%s: %s", req->spec->name, warning);
}

static int in_launch(struct agent_vm *vm)
{
	struct control_slice slice;
	int rc;

	if (!vmspec_spans(&vm->spec))
		return agent_vm_launch(vm);
	rc = agent_span_alone(vm, &slice);
	if (!rc)
		rc = agent_slice_launch(vm, &slice);
	explicit_bzero(&slice, sizeof(slice));
	return rc;
}

/* The launch writes down what this VM is, before there is a process that a next agent could find. */
static enum control_code in_start(struct agent *a, const struct control_request *req,
				  char why[AGENT_WHY_MAX], struct agent_vm **out)
{
	struct agent_vm *vm = agent_vm_new(a, req->spec);
	struct agent_migration *g;
	int rc = vm ? agent_migration_new(vm, false, &req->migrate, &g) : -ENOMEM;
	enum control_code code = CONTROL_OK;

	if (!rc) {
		vm->incoming = true;
		g->peer = cluster_find(a->cluster, req->migrate.target);
		code = agent_migrate_disks_make(g, why);
	}
	if (!rc && !code)
		rc = in_launch(vm);
	if (rc) {
		code = CONTROL_FAILED;
		snprintf(why, AGENT_WHY_MAX, "%s", strerror(-rc));
	}
	if (code && vm)
		agent_vm_free(vm);
	if (!code)
		*out = vm;
	return code;
}

void agent_migrate_in(struct agent *a, struct chan_call *call, struct control_request *req)
{
	char why[AGENT_WHY_MAX], text[AGENT_WHY_MAX + TEXT_NAME_MAX + 16];
	struct agent_migration *g;
	enum control_code code;
	struct agent_vm *vm;
	const char *refusal = in_refuse(a, req, &code, why);

	if (refusal) {
		snprintf(text, sizeof(text), "node %s: %s", a->self->name, refusal);
		agent_reply_text(call, code, "%s", text);
		control_request_fini(req);
		return;
	}
	in_parts(a, req);
	code = in_start(a, req, why, &vm);
	if (code) {
		agent_reply_text(call, code, "node %s: %s", a->self->name, why);
	} else {
		g = vm->migration;
		g->call = call;
		g->timer.fire = in_timeout;
		base_loop_timer(a->loop, &g->timer,
				base_clock_ns() + AGENT_START_MS * BASE_NS_PER_MS);
	}
	control_request_fini(req);
}
