/*
 * What follows a break: a new agent finds the migrations of the one before it, and a post-copy gets a
 * new link.
 *
 * <dir>/migration is there while this side takes part: "out|in PEER CHANNELS ID KEY". The VM's process
 * knows how things stand, and says so when it is attached to.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/agent/migrate.h"

/* ---- the file ---- */

static void file_path(const char *dir, char out[AGENT_PATH_MAX + 300])
{
	snprintf(out, AGENT_PATH_MAX + 300, "%s/migration", dir);
}

static void print_hex(char *out, const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static bool parse_hex(const char *in, uint8_t *out, size_t len)
{
	if (strlen(in) != 2 * len)
		return false;
	for (size_t i = 0; i < len; i++) {
		unsigned byte;

		if (sscanf(in + 2 * i, "%2x", &byte) != 1)
			return false;
		out[i] = (uint8_t)byte;
	}
	return true;
}

int agent_migration_write(const struct agent_migration *g)
{
	char path[AGENT_PATH_MAX + 300], id[2 * CONTROL_MIGRATE_ID + 1],
		key[2 * CONTROL_MIGRATE_KEY + 1];
	BASE_AUTO_FILE FILE *f = NULL;
	int fd, rc;

	file_path(g->vm->dir, path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	f = fdopen(fd, "w");
	if (!f) {
		rc = -errno;
		close(fd);
		return rc;
	}
	print_hex(id, g->m.id, sizeof(g->m.id));
	print_hex(key, g->m.key, sizeof(g->m.key));
	fprintf(f, "%s %s %u %s %s\n", g->out ? "out" : "in", g->peer->name, g->m.channels, id,
		key);
	explicit_bzero(key, sizeof(key));
	return fflush(f) ? -errno : 0;
}

void agent_migration_unwrite(const struct agent_migration *g)
{
	char path[AGENT_PATH_MAX + 300];

	file_path(g->vm->dir, path);
	unlink(path);
}

/* m->target is the peer. */
static int file_read(const char *dir, bool *out, struct control_migrate *m)
{
	char path[AGENT_PATH_MAX + 300], way[8], peer[TEXT_NAME_MAX], id[80], key[80];
	BASE_AUTO_FILE FILE *f = NULL;
	int n;

	_Static_assert(TEXT_NAME_MAX >= 64, "the width below");
	file_path(dir, path);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	*m = (struct control_migrate){0};
	n = fscanf(f, "%7s %63s %u %79s %79s", way, peer, &m->channels, id, key);
	if (n != 5 || !text_name_valid(peer) || !m->channels ||
	    m->channels > CONTROL_MIGRATE_CHANNELS || !parse_hex(id, m->id, sizeof(m->id)) ||
	    !parse_hex(key, m->key, sizeof(m->key)))
		return -EBADMSG;
	snprintf(m->target, sizeof(m->target), "%s", peer);
	*out = !strcmp(way, "out");
	return 0;
}

/* ---- a new agent ---- */

void agent_migration_found_dead(struct agent *a, const char *dir)
{
	enum agent_verdict v = VERDICT_GONE;
	struct control_migrate m;
	bool out;

	if (file_read(dir, &out, &m))
		return;
	if (!out) {
		v = agent_verdict_of_journal(dir, m.id);
		if (v == VERDICT_COMPLETE || v == VERDICT_COMMITTED)
			v = VERDICT_COMMITTED;
		else
			v = v == VERDICT_FILLING ? VERDICT_GONE : VERDICT_ABORTED;
		agent_migrate_disks_settle(dir, v != VERDICT_ABORTED);
	}
	agent_verdict_keep(a, m.id, v);
}

void agent_migration_found(struct agent_vm *vm)
{
	const struct cluster_node *peer;
	struct agent_migration *g;
	struct control_migrate m;
	enum agent_verdict v;
	bool out;
	int rc = file_read(vm->dir, &out, &m);

	if (rc == -ENOENT)
		return;
	peer = rc ? NULL : cluster_find(vm->agent->cluster, m.target);
	if (!peer || agent_migration_new(vm, out, &m, &g)) {
		log_error("%s: its migration cannot be taken up again: %s", vm->spec.name,
			  rc	  ? strerror(-rc)
			  : !peer ? "the cluster file lacks the other node"
				  : "out of memory");
		return;
	}
	g->peer = peer;
	g->found = g->handed_over = true;
	v = agent_verdict_of_journal(vm->dir, m.id);
	vm->incoming =
		!out && v != VERDICT_COMMITTED && v != VERDICT_FILLING && v != VERDICT_COMPLETE;
}

static void attached(void *arg, const struct vmmctl_reply *reply)
{
	struct agent_vm *vm = arg;
	struct agent_migration *g = vm->migration;

	if (!reply->error || !g)
		return;
	if (reply->error != -ENOENT) {
		log_error("%s: its process does not say how its migration stands: %s",
			  vm->spec.name, reply->text);
		return;
	}
	/* It was never begun. */
	agent_verdict_keep(vm->agent, g->m.id, VERDICT_ABORTED);
	agent_migration_end(g, CONTROL_FAILED, "the agent was restarted");
	if (vm->incoming)
		agent_vm_discard(vm);
}

void agent_migration_attach(struct agent_vm *vm)
{
	struct vmmctl_request req = {.op = VMMCTL_MIGRATE_ATTACH};
	struct agent_migration *g = vm->migration;
	BASE_AUTO_FD int theirs = -1;
	int rc;

	if (!g || !g->found || g->session.fd >= 0 || !vm->control)
		return;
	rc = agent_migration_session(g, &theirs);
	if (!rc)
		rc = vmmctl_client_call(vm->control, &req, theirs, AGENT_VMM_MS, attached, vm);
	if (rc)
		log_error("%s: its migration cannot be taken up again: %s", vm->spec.name,
			  strerror(-rc));
}

/* ---- a new link ---- */

void agent_migration_relink_failed(struct agent_migration *g, enum control_code code,
				   const char *why)
{
	log_warn("%s: no new link to node %s: %s", g->vm->spec.name, g->peer->name, why);
	g->relinking = false;
	agent_migration_close_connections(g);
	if (g->call)
		agent_reply_text(g->call, code, "%s: no new link to node %s: %s", g->vm->spec.name,
				 g->peer->name, why);
	g->call = NULL;
	agent_migration_in_doubt(g);
}

void agent_migration_relinked(struct agent_migration *g)
{
	g->relinking = false;
	if (g->call)
		agent_reply_text(g->call, CONTROL_OK, "%s", "");
	g->call = NULL;
}

static void relink_timeout(struct base_timer *t)
{
	struct agent_migration *g = base_container_of(t, struct agent_migration, timer);

	agent_migration_relink_failed(g, CONTROL_TIMEOUT, "it took too long");
}

static void relink_begin(struct agent_migration *g, struct chan_call *call)
{
	g->relinking = true;
	g->doubt = false;
	g->call = call;
	g->ready = 0;
	agent_migration_close_connections(g);
	g->timer.fire = relink_timeout;
	base_loop_timer(g->agent->loop, &g->timer,
			base_clock_ns() + MIGRATE_CONNECT_MS * BASE_NS_PER_MS);
}

static void relink_done(void *arg, int error, const void *body, size_t len)
{
	struct agent_migration *g = agent_migration_asked(arg);
	struct control_reply r;

	free(arg);
	if (!g || !g->relinking)
		return;
	if (!error)
		error = control_reply_decode(body, len, &r);
	if (error) {
		agent_migration_relink_failed(g, control_code_of(error), control_error_text(error));
		return;
	}
	if (r.code)
		agent_migration_relink_failed(g, r.code, r.text);
	control_reply_fini(&r);
}

static const struct chan_out_ops relink_ops = {.done = relink_done};

static void force(struct agent_migration *g, struct chan_call *call)
{
	const struct agent *a = g->agent;

	if (a->peers[g->peer - a->cluster->nodes].was_up && !g->no_record) {
		agent_reply_text(call, CONTROL_BUSY,
				 "%s: node %s is up and will say what it decided; only when that "
				 "node is gone for good is it yours to say",
				 g->vm->spec.name, g->peer->name);
		return;
	}
	agent_event(g->agent, g->vm->spec.name, "migrate",
		    "resumed by hand: node %s is taken for dead", g->peer->name);
	if (agent_migration_order(g, MIGCTL_FORCE))
		agent_reply_text(call, CONTROL_FAILED, "%s: its process takes no order",
				 g->vm->spec.name);
	else
		agent_reply_text(call, CONTROL_OK, "%s", "");
}

void agent_migrate_resume(struct agent_vm *vm, struct chan_call *call)
{
	struct agent_migration *g = vm->migration;
	uint16_t port;
	int rc;

	if (!g || !g->doubt) {
		agent_reply_text(call, CONTROL_USAGE,
				 "%s is in no migration that waits to be resumed", vm->spec.name);
		return;
	}
	if (!g->cut) {
		force(g, call);
		return;
	}
	if (g->out) {
		agent_reply_text(call, CONTROL_USAGE,
				 "%s is on node %s; this node has the rest of its memory",
				 vm->spec.name, g->peer->name);
		return;
	}
	relink_begin(g, call);
	rc = agent_migrate_in_listen(g, &port);
	if (!rc)
		rc = agent_migration_ask(g, CONTROL_MIGRATE_RELINK, port, MIGRATE_CONNECT_MS,
					 &relink_ops);
	if (rc)
		agent_migration_relink_failed(g, control_code_of(rc), control_error_text(rc));
}

void agent_migrate_relink(struct agent *a, struct chan_call *call,
			  const struct control_request *req)
{
	struct agent_vm *vm = agent_vm_find(a, req->vm);
	struct agent_migration *g = vm ? vm->migration : NULL;

	if (!g || !g->out || !g->cut || !g->doubt ||
	    memcmp(g->m.id, req->migrate.id, sizeof(g->m.id)) != 0 || !req->migrate.port ||
	    req->migrate.port > UINT16_MAX) {
		agent_reply_text(call, CONTROL_FAILED, "node %s does not wait for a link of %s%s",
				 a->self->name, req->vm,
				 g ? " yet; try again in a moment" : ": it has nothing of it");
		return;
	}
	relink_begin(g, call);
	agent_migrate_out_connect(g, (uint16_t)req->migrate.port);
}
