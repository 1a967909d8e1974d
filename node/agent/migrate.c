#include "node/agent/migrate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"

static const char *const verdict_names[] = {"unknown", "committed", "aborted",	"committing",
					    "gone",    "filling",   "complete", "none"};

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
	for (size_t i = 0; i < VMSPEC_MAX_DISKS; i++)
		g->disk_fds[i] = -1;
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

void agent_migration_close_connections(struct agent_migration *g)
{
	for (unsigned i = 0; i < MIGCTL_MAX_FDS; i++) {
		agent_migration_conn_close(&g->conns[i]);
		if (g->fds[i] >= 0)
			close(g->fds[i]);
		g->fds[i] = -1;
	}
	watch_close(&g->listener);
}

static void migration_free(struct agent_migration *g, enum control_code code, const char *why)
{
	base_loop_timer_cancel(&g->timer);
	agent_migration_close_connections(g);
	watch_close(&g->session);
	agent_migrate_disks_close(g);
	if (g->call)
		agent_reply_text(g->call, code, "%s", why);
	if (g->vm)
		g->vm->migration = NULL;
	explicit_bzero(g->m.key, sizeof(g->m.key));
	free(g);
}

void agent_migration_end(struct agent_migration *g, enum control_code code, const char *why)
{
	if (g->vm)
		agent_migration_unwrite(g);
	migration_free(g, code, why);
}

void agent_migration_forget(struct agent_migration *g)
{
	migration_free(g, CONTROL_FAILED, "the agent ends; the migration goes on");
}

/*
 * A source that is gone can never resume. A destination that is gone never ran, but for one that had
 * journalled the commit; and if memory was missing then, the guest has gone with it.
 */
static enum agent_verdict verdict_of_gone(const struct agent_migration *g)
{
	if (g->out)
		return VERDICT_GONE;
	switch (agent_verdict_of_journal(g->vm->dir, g->m.id)) {
	case VERDICT_COMMITTED:
	case VERDICT_COMPLETE: return VERDICT_COMMITTED;
	case VERDICT_FILLING: return VERDICT_GONE;
	default: return VERDICT_ABORTED;
	}
}

void agent_migration_vm_gone(struct agent_vm *vm)
{
	struct agent_migration *g = vm->migration;
	char why[VMMCTL_REASON_MAX + 64];
	enum agent_verdict v;

	if (!g)
		return;
	if (g->moved) {
		agent_migrate_out_moved(g);
		return;
	}
	v = verdict_of_gone(g);
	agent_verdict_keep(g->agent, g->m.id, v);
	if (!g->out)
		agent_migrate_disks_settle(vm->dir, v != VERDICT_ABORTED);
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

enum agent_verdict agent_verdict_of_journal(const char *dir, const uint8_t id[CONTROL_MIGRATE_ID])
{
	char path[AGENT_PATH_MAX + 330], line[128], hex[2 * CONTROL_MIGRATE_ID + 1];
	enum agent_verdict v = VERDICT_UNKNOWN;
	BASE_AUTO_FILE FILE *f = NULL;

	for (size_t i = 0; i < CONTROL_MIGRATE_ID; i++)
		snprintf(hex + 2 * i, 3, "%02x", id[i]);
	snprintf(path, sizeof(path), "%s/migration.journal", dir);
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
		return VERDICT_NONE;
	v = agent_verdict_of_journal(vm->dir, id);
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
	case VERDICT_FILLING:
	case VERDICT_COMMITTED: return MIGCTL_VERDICT_COMMITTED;
	case VERDICT_COMPLETE: return MIGCTL_VERDICT_COMPLETE;
	case VERDICT_ABORTED: return MIGCTL_VERDICT_ABORTED;
	case VERDICT_COMMITTING: return MIGCTL_VERDICT_COMMITTING;
	case VERDICT_GONE: return MIGCTL_VERDICT_GONE;
	case VERDICT_NONE:
	case VERDICT_UNKNOWN: break;
	}
	return MIGCTL_VERDICT_UNKNOWN;
}

int agent_migration_ask(struct agent_migration *g, enum control_op op, uint16_t port,
			int timeout_ms, const struct chan_out_ops *ops)
{
	struct control_request req = {.op = op, .local = true, .migrate.port = port};
	struct chan_link *link = g->agent->peers[g->peer - g->agent->cluster->nodes].link;
	struct agent_migration_question *q;
	struct chan_out *out;
	uint8_t *body;
	size_t len;
	int rc;

	if (!link)
		return -ENOTCONN;
	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->agent = g->agent;
	memcpy(q->vm, g->vm->spec.name, sizeof(q->vm));
	memcpy(q->id, g->m.id, sizeof(q->id));
	memcpy(req.vm, q->vm, sizeof(req.vm));
	memcpy(req.node, g->peer->name, sizeof(req.node));
	memcpy(req.migrate.id, g->m.id, sizeof(req.migrate.id));
	rc = control_request_encode(&req, &body, &len);
	if (!rc) {
		rc = chan_link_call(link, body, len, timeout_ms, false, ops, q, &out);
		free(body);
	}
	if (rc)
		free(q);
	return rc;
}

struct agent_migration *agent_migration_asked(const struct agent_migration_question *q)
{
	struct agent_vm *vm = agent_vm_find(q->agent, q->vm);
	struct agent_migration *g = vm ? vm->migration : NULL;

	return g && !memcmp(g->m.id, q->id, sizeof(q->id)) ? g : NULL;
}

/* What is known already need not be said again. */
static bool decides(const struct agent_migration *g, enum agent_verdict v)
{
	if (v == VERDICT_UNKNOWN || v == VERDICT_NONE)
		return false;
	return !g->cut || v == VERDICT_GONE || v == VERDICT_COMPLETE || v == VERDICT_COMMITTED;
}

static void verdict_came(void *arg, int error, const void *body, size_t len)
{
	struct agent_migration_question *q = arg;
	struct agent_migration *g = agent_migration_asked(q);
	enum agent_verdict v = VERDICT_UNKNOWN;
	struct control_reply r;

	if (!error && !control_reply_decode(body, len, &r)) {
		v = agent_verdict_parse(r.text);
		control_reply_fini(&r);
	}
	if (g && g->doubt) {
		g->asking = false;
		g->no_record = v == VERDICT_NONE;
		if (decides(g, v) && agent_migration_order(g, order_of(v)))
			log_warn("%s: its process takes no verdict", q->vm);
		base_loop_timer(q->agent->loop, &g->timer,
				base_clock_ns() + MIGRATE_ASK_MS * BASE_NS_PER_MS);
	}
	free(q);
}

static const struct chan_out_ops verdict_ops = {.done = verdict_came};

static void ask_again(struct base_timer *t)
{
	struct agent_migration *g = base_container_of(t, struct agent_migration, timer);

	if (!g->doubt || g->asking)
		return;
	g->asking =
		!agent_migration_ask(g, CONTROL_MIGRATE_VERDICT, 0, AGENT_PEER_MS, &verdict_ops);
	if (!g->asking)
		base_loop_timer(g->agent->loop, t,
				base_clock_ns() + MIGRATE_ASK_MS * BASE_NS_PER_MS);
}

void agent_migration_in_doubt(struct agent_migration *g)
{
	if (!g->doubt && g->cut)
		agent_event(g->agent, g->vm->spec.name, "migrate",
			    "the link of post-copy broke; 'pangaea vm migrate %s --resume' when "
			    "node %s is reachable again",
			    g->vm->spec.name, g->peer->name);
	else if (!g->doubt)
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
	g->cut = msg->result.end == MIGCTL_CUT;
	g->vm->departed |= g->out && g->cut;
	if (g->cut && g->call) {
		agent_reply_text(
			g->call, CONTROL_FAILED,
			"%s; %s is paused on node %s: 'pangaea vm migrate %s --resume' when "
			"the nodes reach each other again",
			g->why, g->vm->spec.name, g->out ? g->peer->name : g->agent->self->name,
			g->vm->spec.name);
		g->call = NULL;
	}
	if (g->cut || msg->result.end == MIGCTL_DOUBT)
		agent_migration_in_doubt(g);
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
		else
			agent_migrate_in_progress(g);
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
	msg->start.mode = g->m.mode;
	msg->start.with_disk = g->m.with_disk;
	msg->start.postcopy_rounds = g->m.postcopy_rounds;
	memcpy(msg->fds, g->fds, sizeof(g->fds));
	msg->fd_count = g->wanted;
}

static void make_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0)
		fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

int agent_migration_session(struct agent_migration *g, int *theirs)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
		return -errno;
	*theirs = pair[1];
	g->session = (struct base_watch){.fd = pair[0], .events = EPOLLIN, .ready = session_ready};
	return base_loop_add(g->agent->loop, &g->session);
}

/* The process knows the migration; only the connections are new. */
static int hand_over_link(struct agent_migration *g, struct migctl_msg *msg)
{
	int rc = g->session.fd < 0 ? -ENOTCONN : migctl_send(g->session.fd, msg);

	if (rc)
		return rc;
	g->cut = false;
	agent_migration_close_connections(g);
	agent_migration_relinked(g);
	return 0;
}

int agent_migration_hand_over(struct agent_migration *g)
{
	struct vmmctl_request req = {.op = g->out ? VMMCTL_MIGRATE_OUT : VMMCTL_MIGRATE_IN};
	struct migctl_msg msg = {0};
	BASE_AUTO_FD int theirs = -1;
	int rc;

	base_loop_timer_cancel(&g->timer);
	for (unsigned i = 0; i < g->wanted; i++)
		make_blocking(g->fds[i]);
	fill_start(g, &msg);
	if (g->relinking)
		return hand_over_link(g, &msg);
	if (!g->vm->control)
		return -ENOTCONN;
	rc = agent_migration_write(g);
	if (!rc)
		rc = agent_migration_session(g, &theirs);
	if (!rc)
		rc = migctl_send(g->session.fd, &msg);
	if (!rc)
		rc = vmmctl_client_call(g->vm->control, &req, theirs, AGENT_VMM_MS, handed_over,
					g->vm);
	if (rc)
		return rc;
	g->handed_over = true;
	agent_migration_close_connections(g);
	return 0;
}
