/* The source's agent: asks the destination, connects, and reports to the caller. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/migrate.h"

/* ---- reports ---- */

static size_t progress_items(const struct agent_migration *g, struct control_item *items)
{
	const struct migctl_progress *p = &g->progress;
	const struct control_item all[] = {
		{"round", "", p->round},
		{"pages_total", "", p->pages_total},
		{"pages_left", "", p->pages_left},
		{"bytes_sent", "", p->bytes_sent},
		{"pages_sent", "", p->pages_sent},
		{"pages_zero", "", p->pages_zero},
		{"pages_unchanged", "", p->pages_unchanged},
		{"pages_resent", "", p->pages_resent},
		{"rate", "", p->rate},
		{"dirty_rate", "", p->dirty_rate},
		{"throttle", "", p->throttle},
		{"total_ns", "", p->total_ns},
		{"downtime_ns", "", p->downtime_ns},
	};

	memcpy(items, all, sizeof(all));
	return BASE_ARRAY_LEN(all);
}

enum { ITEMS = 13 };

void agent_migrate_out_progress(struct agent_migration *g)
{
	struct control_item items[ITEMS];
	struct control_reply r = {.text = g->progress.state, .items = items};

	r.item_count = progress_items(g, items);
	/* From here on it is the other node's; this one has only memory. */
	if (!strcmp(g->progress.state, "postcopy") && !g->vm->departed) {
		g->vm->departed = true;
		agent_event(g->agent, g->vm->spec.name, "migrate",
			    "runs on %s after a downtime of %" PRIu64 ".%" PRIu64
			    " ms; its memory follows",
			    g->peer->name, g->progress.downtime_ns / 1000000,
			    g->progress.downtime_ns / 100000 % 10);
	}
	if (g->call && !g->relinking && agent_item(g->call, &r))
		log_debug("%s: nobody reads the progress", g->vm->spec.name);
}

static void out_fail(struct agent_migration *g, enum control_code code, const char *why)
{
	if (g->relinking) {
		agent_migration_relink_failed(g, code, why);
		return;
	}
	agent_event(g->agent, g->vm->spec.name, "migrate", "to %s failed: %s", g->peer->name, why);
	agent_migration_end(g, code, why);
}

void agent_migrate_out_result(struct agent_migration *g, const struct migctl_result *r)
{
	char why[MIGCTL_TEXT_MAX + TEXT_NAME_MAX + 32];

	if (r->end == MIGCTL_FAILED) {
		agent_verdict_keep(g->agent, g->m.id, VERDICT_ABORTED);
		snprintf(why, sizeof(why), "%s; the guest goes on at %s",
			 g->why[0] ? g->why : "the migration failed", g->agent->self->name);
		out_fail(g, CONTROL_FAILED, why);
		return;
	}
	if (r->end == MIGCTL_LOST) {
		agent_verdict_keep(g->agent, g->m.id, VERDICT_GONE);
		out_fail(g, CONTROL_FAILED, "the destination is gone, and the guest with it");
		return;
	}
	agent_event(g->agent, g->vm->spec.name, "migrate",
		    "moved to %s in %" PRIu64 " ms, downtime %" PRIu64 ".%" PRIu64
		    " ms, %u rounds, %" PRIu64 " MB",
		    g->peer->name, g->progress.total_ns / 1000000,
		    g->progress.downtime_ns / 1000000, g->progress.downtime_ns / 100000 % 10,
		    g->progress.round, g->progress.bytes_sent / 1000000);
	g->moved = true;
	g->vm->departed = true;
	memcpy(g->vm->moved_to, g->peer->name, sizeof(g->vm->moved_to));
}

void agent_migrate_out_moved(struct agent_migration *g)
{
	struct control_item items[ITEMS];
	struct control_reply reply = {.text = "done", .items = items};

	reply.item_count = progress_items(g, items);
	if (g->call)
		agent_reply(g->call, &reply);
	g->call = NULL;
	agent_migration_end(g, CONTROL_OK, "");
}

/* ---- connections ---- */

static void out_hand_over(struct agent_migration *g)
{
	int rc = agent_migration_hand_over(g);

	if (rc)
		out_fail(g, CONTROL_FAILED, strerror(-rc));
}

static void out_connected(struct base_watch *w, uint32_t events)
{
	struct agent_migration_conn *c = base_container_of(w, struct agent_migration_conn, watch);
	struct agent_migration *g = c->g;
	char why[128];
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &error, &len))
		error = errno;
	/* A new connection's buffer takes these few bytes at once. */
	if (!error &&
	    send(w->fd, c->preamble, c->len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)c->len)
		error = errno ? errno : EIO;
	if (error) {
		snprintf(why, sizeof(why), "no connection to node %s: %s", g->peer->name,
			 strerror(error));
		out_fail(g, CONTROL_UNREACHABLE, why);
		return;
	}
	agent_migration_conn_done(c, c->preamble[MIGRATE_PREAMBLE_LEN - 2]);
	if (g->ready == g->wanted)
		out_hand_over(g);
}

static int out_connect(struct agent_migration *g, unsigned index, uint16_t port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct agent_migration_conn *c = &g->conns[index];
	int fd, rc;

	if (inet_pton(AF_INET, g->peer->address, &to.sin_addr) != 1)
		return -EINVAL;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS) {
		rc = -errno;
		close(fd);
		return rc;
	}
	rc = agent_migration_conn(g, fd, EPOLLOUT, out_connected);
	memcpy(c->preamble, g->m.id, sizeof(g->m.id));
	c->preamble[MIGRATE_PREAMBLE_LEN - 2] = (uint8_t)index;
	c->preamble[MIGRATE_PREAMBLE_LEN - 1] = 0;
	c->len = MIGRATE_PREAMBLE_LEN;
	return rc;
}

static void out_timeout(struct base_timer *t)
{
	struct agent_migration *g = base_container_of(t, struct agent_migration, timer);

	out_fail(g, CONTROL_TIMEOUT, "the destination did not take the connections in time");
}

void agent_migrate_out_connect(struct agent_migration *g, uint16_t port)
{
	int rc = 0;

	g->timer.fire = out_timeout;
	base_loop_timer(g->agent->loop, &g->timer,
			base_clock_ns() + MIGRATE_CONNECT_MS * BASE_NS_PER_MS);
	for (unsigned i = 0; i < g->wanted && !rc; i++)
		rc = out_connect(g, i, port);
	if (rc)
		out_fail(g, CONTROL_UNREACHABLE, strerror(-rc));
}

/* ---- asking the destination ---- */

struct prepare {
	struct agent *agent;
	char vm[TEXT_NAME_MAX];
	uint8_t id[CONTROL_MIGRATE_ID];
};

static uint16_t port_of(const struct control_reply *r)
{
	for (size_t i = 0; i < r->item_count; i++)
		if (!strcmp(r->items[i].name, "port") && r->items[i].value <= UINT16_MAX)
			return (uint16_t)r->items[i].value;
	return 0;
}

static void prepare_done(void *arg, int error, const void *body, size_t len)
{
	struct prepare *p = arg;
	struct agent_vm *vm = agent_vm_find(p->agent, p->vm);
	struct agent_migration *g = vm ? vm->migration : NULL;
	bool ours = g && !memcmp(g->m.id, p->id, sizeof(p->id));
	struct control_reply r;

	free(p);
	if (!ours)
		return;
	if (!error)
		error = control_reply_decode(body, len, &r);
	if (error) {
		out_fail(g, control_code_of(error), control_error_text(error));
		return;
	}
	if (r.code)
		out_fail(g, r.code, r.text);
	else
		agent_migrate_out_connect(g, port_of(&r));
	control_reply_fini(&r);
}

static const struct chan_out_ops prepare_ops = {.done = prepare_done};

/*
 * What has been a guest of several nodes is one of one part for a node that knows no better; see
 * vm_spawn.c. Others take its parts from out_parts().
 */
static struct vmspec out_spec(const struct agent_migration *g)
{
	struct vmspec s = g->vm->spec;

	if (!vmspec_spans(&s))
		return s;
	s.part_count = 1;
	s.parts[0].vcpus = s.vcpus;
	s.parts[0].memory_bytes = s.memory_bytes;
	memcpy(s.parts[0].node, g->peer->name, sizeof(s.parts[0].node));
	memcpy(s.node, g->peer->name, sizeof(s.node));
	s.encrypt = false;
	s.transport[0] = 0;
	return s;
}

/* No node has two: the part that was of the destination is of this node from then on. */
static void out_parts(const struct agent_migration *g, struct control_migrate *m)
{
	const struct vmspec *s = &g->vm->spec;

	if (!vmspec_spans(s))
		return;
	m->part_count = s->part_count;
	memcpy(m->parts, s->parts, s->part_count * sizeof(s->parts[0]));
	for (size_t i = 1; i < s->part_count; i++)
		if (!strcmp(m->parts[i].node, g->peer->name))
			memcpy(m->parts[i].node, m->parts[0].node, sizeof(m->parts[i].node));
	memcpy(m->parts[0].node, g->peer->name, sizeof(g->peer->name));
	m->parts_encrypt = s->encrypt;
	memcpy(m->parts_transport, s->transport, sizeof(m->parts_transport));
}

static int out_prepare(struct agent_migration *g)
{
	struct chan_link *link = g->agent->peers[g->peer - g->agent->cluster->nodes].link;
	struct control_request req = {
		.op = CONTROL_MIGRATE_PREPARE, .local = true, .migrate = g->m};
	struct prepare *p = calloc(1, sizeof(*p));
	struct vmspec spec = out_spec(g);
	struct chan_out *out;
	uint8_t *body;
	size_t len;
	int rc = !p ? -ENOMEM : !link ? -ENOTCONN : 0;

	req.spec = &spec;
	out_parts(g, &req.migrate);
	if (!rc) {
		p->agent = g->agent;
		memcpy(p->vm, g->vm->spec.name, sizeof(p->vm));
		memcpy(p->id, g->m.id, sizeof(p->id));
		memcpy(req.vm, p->vm, sizeof(req.vm));
		memcpy(req.node, g->peer->name, sizeof(req.node));
		memcpy(req.migrate.target, g->agent->self->name, sizeof(req.migrate.target));
		rc = control_request_encode(&req, &body, &len);
	}
	if (!rc) {
		rc = chan_link_call(link, body, len, AGENT_START_MS, false, &prepare_ops, p, &out);
		explicit_bzero(body, len);
		free(body);
	}
	if (rc)
		free(p);
	return rc;
}

/* ---- the request ---- */

static void out_cancelled(void *arg)
{
	struct agent_migration *g = arg;

	/* Who asked has gone; the migration goes on. */
	chan_call_reply(g->call, NULL, 0);
	g->call = NULL;
}

static const struct chan_call_ops out_call_ops = {.cancel = out_cancelled};

static bool out_refuse(struct agent_vm *vm, struct chan_call *call, const struct control_migrate *m,
		       const struct cluster_node *to)
{
	struct agent *a = vm->agent;

	if (!to)
		agent_reply_text(call, CONTROL_NOT_FOUND,
				 "there is no node '%s'; 'pangaea node ls' lists them", m->target);
	else if (to == a->self)
		agent_reply_text(call, CONTROL_USAGE, "%s is on node %s already", vm->spec.name,
				 to->name);
	else if (agent_vm_spans(vm))
		agent_reply_text(call, CONTROL_USAGE,
				 "%s spans nodes: only guests of one node migrate so far",
				 vm->spec.name);
	else if (vm->migration)
		agent_reply_text(call, CONTROL_BUSY, "%s is migrating already", vm->spec.name);
	else if (vm->state != VMMCTL_RUNNING)
		agent_reply_text(call, CONTROL_BUSY, "%s is %s; only a running VM migrates",
				 vm->spec.name, vmmctl_state_name(vm->state));
	else
		return false;
	return true;
}

void agent_migrate_out(struct agent_vm *vm, struct chan_call *call,
		       const struct control_request *req)
{
	struct control_migrate m = req->migrate;
	const struct cluster_node *to = cluster_find(vm->agent->cluster, m.target);
	struct agent_migration *g;
	char why[AGENT_WHY_MAX];
	enum control_code code;
	int rc;

	if (out_refuse(vm, call, &m, to))
		return;
	code = agent_migrate_disks_measure(vm, &m, why);
	if (code) {
		agent_reply_text(call, code, "%s", why);
		return;
	}
	if (getrandom(m.id, sizeof(m.id), 0) != sizeof(m.id) ||
	    getrandom(m.key, sizeof(m.key), 0) != sizeof(m.key) ||
	    agent_migration_new(vm, true, &m, &g)) {
		agent_reply_text(call, CONTROL_FAILED, "out of memory");
		return;
	}
	g->peer = to;
	g->call = call;
	chan_call_stream(call, &out_call_ops, g);
	agent_event(vm->agent, vm->spec.name, "migrate", "to %s", to->name);
	rc = out_prepare(g);
	if (rc)
		out_fail(g, control_code_of(rc), control_error_text(rc));
}
