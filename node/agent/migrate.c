#include "node/agent/migrate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"

static const char *const verdict_names[] = {"unknown", "committed", "aborted", "committing",
					    "gone"};

const char *agent_verdict_name(enum agent_verdict v)
{
	return verdict_names[v];
}

enum agent_verdict agent_verdict_parse(const char *name)
{
	for (size_t i = 0; i < BASE_ARRAY_LEN(verdict_names); i++)
		if (!strcmp(name, verdict_names[i]))
			return (enum agent_verdict)i;
	return VERDICT_UNKNOWN;
}

/* ---- making and ending ---- */

int agent_migration_new(struct agent_vm *vm, bool out, const struct control_migrate *m,
			struct agent_migration **result)
{
	struct agent_migration *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	g->agent = vm->agent;
	g->vm = vm;
	g->out = out;
	g->m = *m;
	if (!g->m.channels)
		g->m.channels = MIGRATE_CHANNELS_DEFAULT;
	g->wanted = 1 + g->m.channels;
	for (unsigned i = 0; i < MIGCTL_MAX_FDS; i++)
		g->fds[i] = g->conns[i].watch.fd = -1;
	g->listener.fd = g->session.fd = -1;
	vm->migration = g;
	*result = g;
	return 0;
}

static void watch_close(struct base_watch *w)
{
	if (w->loop)
		base_loop_remove(w);
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

int agent_migration_conn(struct agent_migration *g, int fd, uint32_t events,
			 void (*ready)(struct base_watch *w, uint32_t events))
{
	for (unsigned i = 0; i < MIGCTL_MAX_FDS; i++) {
		struct agent_migration_conn *c = &g->conns[i];

		if (c->watch.fd >= 0)
			continue;
		c->g = g;
		c->len = 0;
		c->watch = (struct base_watch){.fd = fd, .events = events, .ready = ready};
		return base_loop_add(g->agent->loop, &c->watch);
	}
	close(fd);
	return -ENOSPC;
}

void agent_migration_conn_done(struct agent_migration_conn *c, unsigned index)
{
	base_loop_remove(&c->watch);
	c->g->fds[index] = c->watch.fd;
	c->g->ready++;
	c->watch.fd = -1;
}

void agent_migration_conn_close(struct agent_migration_conn *c)
{
	watch_close(&c->watch);
}

static void migration_close_connections(struct agent_migration *g)
{
	for (unsigned i = 0; i < MIGCTL_MAX_FDS; i++) {
		agent_migration_conn_close(&g->conns[i]);
		if (g->fds[i] >= 0)
			close(g->fds[i]);
		g->fds[i] = -1;
	}
	watch_close(&g->listener);
}

void agent_migration_end(struct agent_migration *g, enum control_code code, const char *why)
{
	base_loop_timer_cancel(&g->timer);
	migration_close_connections(g);
	watch_close(&g->session);
	if (g->call)
		agent_reply_text(g->call, code, "%s", why);
	if (g->vm)
		g->vm->migration = NULL;
	free(g);
}

void agent_migration_vm_gone(struct agent_vm *vm)
{
	struct agent_migration *g = vm->migration;
	char why[VMMCTL_REASON_MAX + 64];

	if (!g)
		return;
	if (g->moved) {
		agent_migrate_out_moved(g);
		return;
	}
	/* A source that is gone can never resume; a destination that is gone never ran. */
	agent_verdict_keep(g->agent, g->m.id, g->out ? VERDICT_GONE : VERDICT_ABORTED);
	snprintf(why, sizeof(why), "the VM ended while it migrated: %s", vm->reason);
	agent_migration_end(g, CONTROL_FAILED, why);
}

/* ---- what became of migrations ---- */

void agent_verdict_keep(struct agent *a, const uint8_t id[CONTROL_MIGRATE_ID], enum agent_verdict v)
{
	struct agent_outcome *o = &a->outcomes[a->outcome_count++ % AGENT_OUTCOME_MAX];

	memcpy(o->id, id, sizeof(o->id));
	o->verdict = (uint8_t)v;
}

/* The last line with this id in the journal that the VM's process keeps in its folder. */
static enum agent_verdict verdict_of_journal(const struct agent_vm *vm,
					     const uint8_t id[CONTROL_MIGRATE_ID])
{
	char path[AGENT_PATH_MAX + 24], line[128], hex[2 * CONTROL_MIGRATE_ID + 1];
	enum agent_verdict v = VERDICT_UNKNOWN;
	BASE_AUTO_FILE FILE *f = NULL;

	for (size_t i = 0; i < CONTROL_MIGRATE_ID; i++)
		snprintf(hex + 2 * i, 3, "%02x", id[i]);
	snprintf(path, sizeof(path), "%s/migration.journal", vm->dir);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		char *word = strrchr(line, ' ');

		if (strncmp(line, hex, sizeof(hex) - 1) != 0 || !word)
			continue;
		word[1 + strcspn(word + 1, "\n")] = 0;
		v = agent_verdict_parse(word + 1);
	}
	return v;
}

static enum agent_verdict verdict_of(struct agent *a, const char *name,
				     const uint8_t id[CONTROL_MIGRATE_ID])
{
	const struct agent_vm *vm = agent_vm_find(a, name);
	const struct agent_migration *g = vm ? vm->migration : NULL;
	enum agent_verdict v;

	for (size_t i = 0; i < AGENT_OUTCOME_MAX; i++)
		if (a->outcomes[i].verdict && !memcmp(a->outcomes[i].id, id, CONTROL_MIGRATE_ID))
			return (enum agent_verdict)a->outcomes[i].verdict;
	if (!vm)
		return VERDICT_UNKNOWN;
	v = verdict_of_journal(vm, id);
	if (v == VERDICT_COMMITTING && g && !g->doubt)
		v = VERDICT_UNKNOWN; /* it is being handed over this moment */
	return v;
}

void agent_verdict_answer(struct agent *a, struct chan_call *call,
			  const struct control_request *req)
{
	agent_reply_text(call, CONTROL_OK, "%s",
			 agent_verdict_name(verdict_of(a, req->vm, req->migrate.id)));
}

/* ---- asking the other side ---- */

static enum migctl_order order_of(enum agent_verdict v)
{
	switch (v) {
	case VERDICT_COMMITTED: return MIGCTL_VERDICT_COMMITTED;
	case VERDICT_ABORTED: return MIGCTL_VERDICT_ABORTED;
	case VERDICT_COMMITTING: return MIGCTL_VERDICT_COMMITTING;
	case VERDICT_GONE: return MIGCTL_VERDICT_GONE;
	case VERDICT_UNKNOWN: break;
	}
	return MIGCTL_VERDICT_UNKNOWN;
}

struct verdict_question {
	struct agent *agent;
	char vm[TEXT_NAME_MAX];
	uint8_t id[CONTROL_MIGRATE_ID];
};

static void verdict_came(void *arg, int error, const void *body, size_t len)
{
	struct verdict_question *q = arg;
	struct agent_vm *vm = agent_vm_find(q->agent, q->vm);
	struct agent_migration *g = vm ? vm->migration : NULL;
	enum agent_verdict v = VERDICT_UNKNOWN;
	struct control_reply r;

	if (!error && !control_reply_decode(body, len, &r)) {
		v = agent_verdict_parse(r.text);
		control_reply_fini(&r);
	}
	if (g && g->doubt && !memcmp(g->m.id, q->id, sizeof(q->id))) {
		g->asking = false;
		if (v != VERDICT_UNKNOWN && agent_migration_order(g, order_of(v)))
			log_warn("%s: its process takes no verdict", q->vm);
		base_loop_timer(q->agent->loop, &g->timer,
				base_clock_ns() + MIGRATE_ASK_MS * BASE_NS_PER_MS);
	}
	free(q);
}

static const struct chan_out_ops verdict_ops = {.done = verdict_came};

static int ask_verdict(struct agent_migration *g)
{
	struct control_request req = {.op = CONTROL_MIGRATE_VERDICT, .local = true};
	struct chan_link *link = g->agent->peers[g->peer - g->agent->cluster->nodes].link;
	struct verdict_question *q = calloc(1, sizeof(*q));
	struct chan_out *out;
	uint8_t *body;
	size_t len;
	int rc;

	if (!q)
		return -ENOMEM;
	q->agent = g->agent;
	memcpy(q->vm, g->vm->spec.name, sizeof(q->vm));
	memcpy(q->id, g->m.id, sizeof(q->id));
	memcpy(req.vm, q->vm, sizeof(req.vm));
	memcpy(req.node, g->peer->name, sizeof(req.node));
	memcpy(req.migrate.id, g->m.id, sizeof(req.migrate.id));
	rc = link ? control_request_encode(&req, &body, &len) : -ENOTCONN;
	if (!rc) {
		rc = chan_link_call(link, body, len, AGENT_PEER_MS, false, &verdict_ops, q, &out);
		free(body);
	}
	if (rc)
		free(q);
	return rc;
}

static void ask_again(struct base_timer *t)
{
	struct agent_migration *g = base_container_of(t, struct agent_migration, timer);

	if (!g->doubt || g->asking)
		return;
	g->asking = !ask_verdict(g);
	if (!g->asking)
		base_loop_timer(g->agent->loop, t,
				base_clock_ns() + MIGRATE_ASK_MS * BASE_NS_PER_MS);
}

static void migration_in_doubt(struct agent_migration *g)
{
	if (!g->doubt)
		agent_event(g->agent, g->vm->spec.name, "migrate",
			    "in doubt: paused until node %s says what it decided", g->peer->name);
	g->doubt = true;
	g->timer.fire = ask_again;
	base_loop_timer(g->agent->loop, &g->timer, base_clock_ns());
}

/* ---- the session with the VM's process ---- */

int agent_migration_order(struct agent_migration *g, enum migctl_order order)
{
	struct migctl_msg msg = {.kind = MIGCTL_ORDER, .order = order};

	return g->session.fd < 0 ? -ENOTCONN : migctl_send(g->session.fd, &msg);
}

static void session_result(struct agent_migration *g, const struct migctl_msg *msg)
{
	g->progress = msg->progress;
	snprintf(g->why, sizeof(g->why), "%s", msg->result.text);
	text_clean(g->why);
	if (msg->result.end == MIGCTL_DOUBT)
		migration_in_doubt(g);
	else if (g->out)
		agent_migrate_out_result(g, &msg->result);
	else
		agent_migrate_in_result(g, &msg->result);
}

static void session_ready(struct base_watch *w, uint32_t events)
{
	struct agent_migration *g = base_container_of(w, struct agent_migration, session);
	struct migctl_msg msg;
	int rc = migctl_recv(w->fd, &msg);

	if (rc == -EAGAIN || rc == -EINTR)
		return;
	if (!rc && msg.kind == MIGCTL_RESULT) {
		session_result(g, &msg);
		return;
	}
	if (!rc && msg.kind == MIGCTL_PROGRESS) {
		g->progress = msg.progress;
		if (g->out)
			agent_migrate_out_progress(g);
		return;
	}
	for (unsigned i = 0; !rc && i < msg.fd_count; i++)
		close(msg.fds[i]);
	/* The process ends; agent_migration_vm_gone() follows. */
	watch_close(w);
}

static void handed_over(void *arg, const struct vmmctl_reply *reply)
{
	struct agent_vm *vm = arg;

	if (!reply->error || !vm->migration)
		return;
	agent_migration_end(vm->migration, control_code_of(reply->error),
			    reply->text && reply->text[0] ? reply->text
							  : "the VM's process refused");
}

static void fill_start(const struct agent_migration *g, struct migctl_msg *msg)
{
	msg->kind = MIGCTL_START;
	memcpy(msg->start.id, g->m.id, sizeof(msg->start.id));
	memcpy(msg->start.key, g->m.key, sizeof(msg->start.key));
	msg->start.encrypt = g->m.encrypt;
	msg->start.auto_converge = true;
	msg->start.channels = g->m.channels;
	msg->start.max_downtime_ms = g->m.max_downtime_ms;
	msg->start.bandwidth = g->m.bandwidth;
	memcpy(msg->fds, g->fds, sizeof(g->fds));
	msg->fd_count = g->wanted;
}

static void make_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0)
		fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

int agent_migration_hand_over(struct agent_migration *g)
{
	struct vmmctl_request req = {.op = g->out ? VMMCTL_MIGRATE_OUT : VMMCTL_MIGRATE_IN};
	struct migctl_msg msg = {0};
	BASE_AUTO_FD int theirs = -1;
	int pair[2], rc;

	base_loop_timer_cancel(&g->timer);
	if (!g->vm->control)
		return -ENOTCONN;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
		return -errno;
	theirs = pair[1];
	g->session = (struct base_watch){.fd = pair[0], .events = EPOLLIN, .ready = session_ready};
	rc = base_loop_add(g->agent->loop, &g->session);
	if (rc)
		return rc;
	for (unsigned i = 0; i < g->wanted; i++)
		make_blocking(g->fds[i]);
	fill_start(g, &msg);
	rc = migctl_send(g->session.fd, &msg);
	if (!rc)
		rc = vmmctl_client_call(g->vm->control, &req, theirs, AGENT_VMM_MS, handed_over,
					g->vm);
	if (rc)
		return rc;
	g->handed_over = true;
	migration_close_connections(g);
	return 0;
}
