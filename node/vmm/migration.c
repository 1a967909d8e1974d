#include "node/vmm/migration.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sched.h"
#include "node/vmm/migration_impl.h"

enum {
	PROGRESS_INTERVAL_MS = 200,
	STALL_MAX_MS = 600000,
};

/* ---- from the engine's thread to the main thread ---- */

static void migration_answer(void *arg)
{
	struct vmm_migration *m = arg;

	m->answer = m->ask(m);
	sem_post(&m->answered);
}

int migration_ask(struct vmm_migration *m, int (*fn)(struct vmm_migration *m))
{
	int err;

	m->ask = fn;
	err = base_loop_post(m->loop, migration_answer, m);
	if (err)
		return err;
	while (sem_wait(&m->answered) && errno == EINTR)
		;
	return m->answer;
}

int migration_journal(struct vmm_migration *m, const char *entry)
{
	char line[2 * MIG_ID_LEN + 64];
	size_t at = 0;

	if (m->journal_fd < 0)
		return 0;
	for (int i = 0; i < MIG_ID_LEN; i++)
		at += (size_t)snprintf(line + at, sizeof(line) - at, "%02x", m->params.id[i]);
	at += (size_t)snprintf(line + at, sizeof(line) - at, " %s %s\n",
			       m->way == VMM_MIGRATE_OUT ? "source" : "destination", entry);
	if (write(m->journal_fd, line, at) != (ssize_t)at)
		return errno ? -errno : -EIO;
	return 0;
}

uint64_t migration_wall_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the session ---- */

static void fill_progress(struct vmm_migration *m, struct migctl_progress *out)
{
	struct mig_progress p = {0};

	if (m->source)
		mig_source_progress(m->source, &p);
	*out = (struct migctl_progress){
		.round = p.round,
		.throttle = p.throttle,
		.pages_total = p.pages_total,
		.pages_left = p.pages_left,
		.bytes_sent = p.bytes_sent,
		.pages_sent = p.pages_sent,
		.pages_zero = p.pages_zero,
		.pages_unchanged = p.pages_unchanged,
		.pages_resent = p.pages_resent,
		.rate = p.rate,
		.dirty_rate = p.dirty_rate,
		.total_ns = (uint64_t)(p.total_ns   ? p.total_ns
				       : p.start_ns ? base_clock_ns() - p.start_ns
						    : 0),
		.downtime_ns = (uint64_t)p.downtime_ns,
	};
	snprintf(out->state, sizeof(out->state), "%s",
		 m->source   ? mig_src_state_name(p.state)
		 : m->cut    ? mig_dst_state_name(MIG_DST_BROKEN)
		 : m->ran    ? mig_dst_state_name(MIG_DST_FILL)
		 : m->naming ? MIGCTL_STATE_DISKS
			     : "receive");
	if (m->dest)
		out->pages_left = mig_dest_missing(m->dest);
}

static void send_to_agent(struct vmm_migration *m, struct migctl_msg *msg)
{
	fill_progress(m, &msg->progress);
	/* Without an agent the migration goes on; the journal has the outcome. */
	if (m->session.fd >= 0 && migctl_send(m->session.fd, msg))
		log_debug("migration: the agent does not read");
}

void migration_report(struct vmm_migration *m)
{
	struct migctl_msg msg = {.kind = MIGCTL_PROGRESS};

	send_to_agent(m, &msg);
}

static void report_tick(struct base_timer *t)
{
	struct vmm_migration *m = base_container_of(t, struct vmm_migration, report_timer);

	migration_report(m);
	base_loop_timer(m->loop, t, base_clock_ns() + PROGRESS_INTERVAL_MS * BASE_NS_PER_MS);
}

static void send_result(struct vmm_migration *m, enum migctl_end end)
{
	struct migctl_msg msg = {.kind = MIGCTL_RESULT, .result.end = end};

	snprintf(msg.result.text, sizeof(msg.result.text), "%s", m->why);
	send_to_agent(m, &msg);
}

static void session_close(struct vmm_migration *m)
{
	base_loop_remove(&m->session);
	migctl_hang_up(m->session.fd);
	m->session.fd = -1;
	migration_disks_named(m, -ENOTCONN);
}

static void migration_over(struct vmm_migration *m, int result)
{
	base_loop_timer_cancel(&m->report_timer);
	m->doubt = result == -EINPROGRESS;
	m->cut = result == -ENOLINK;
	if (m->doubt || m->cut) {
		send_result(m, m->doubt ? MIGCTL_DOUBT : MIGCTL_CUT);
		return;
	}
	m->ended = !result ? MIGCTL_DONE : result == -ESTALE ? MIGCTL_LOST : MIGCTL_FAILED;
	/* Who asks later, on behalf of a destination that holds its copy, must find that the guest went
	 * on here. */
	if (m->way == VMM_MIGRATE_OUT && m->ended == MIGCTL_FAILED &&
	    migration_journal(m, "aborted"))
		log_warn("migration: the journal cannot be written");
	send_result(m, m->ended);
	session_close(m);
	m->active = false;
	if (m->ended == MIGCTL_LOST) {
		vmm_vm_kill(m->vm, "the other node of its post-copy migration is gone");
		return;
	}
	if (m->way == VMM_MIGRATE_OUT && !result)
		vmm_vm_kill(m->vm, "migrated");
	else if (m->way == VMM_MIGRATE_IN && result)
		vmm_vm_kill(m->vm, m->why[0] ? m->why : "the migration failed");
	else if (result)
		log_warn("migration failed: %s", m->why);
}

static void thread_ended(void *arg)
{
	struct vmm_migration *m = arg;

	pthread_join(m->thread, NULL);
	m->thread_started = false;
	migration_over(m, m->result);
}

static void keep_why(struct vmm_migration *m)
{
	struct mig_progress p;

	if (m->dest) {
		snprintf(m->why, sizeof(m->why), "%s", mig_dest_error(m->dest));
		return;
	}
	mig_source_progress(m->source, &p);
	snprintf(m->why, sizeof(m->why), "%s", p.error);
}

static void *engine_main(void *arg)
{
	struct vmm_migration *m = arg;

	m->result = m->source ? mig_source_run(m->source) : mig_dest_run(m->dest);
	if (m->result)
		keep_why(m);
	if (base_loop_post(m->loop, thread_ended, m))
		log_error("the main loop takes no posts");
	return NULL;
}

static void take_params(struct vmm_migration *m, const struct migctl_start *s)
{
	mig_params_default(&m->params);
	memcpy(m->params.id, s->id, sizeof(m->params.id));
	memcpy(m->params.key, s->key, sizeof(m->params.key));
	m->params.encrypt = s->encrypt;
	m->params.auto_converge = s->auto_converge;
	m->params.channels = s->channels;
	m->params.bandwidth = s->bandwidth;
	if (s->max_downtime_ms)
		m->params.max_downtime_ms = s->max_downtime_ms;
	if (s->stall_ms)
		m->params.stall_ms = BASE_MIN(s->stall_ms, (uint32_t)STALL_MAX_MS);
	if (s->max_rounds)
		m->params.max_rounds = s->max_rounds;
	m->params.mode = (enum mig_mode)s->mode;
	if (s->postcopy_rounds)
		m->params.postcopy_rounds = s->postcopy_rounds;
}

static void take_memory(struct vmm_migration *m)
{
	m->memory.region_count = vmm_mem_region_count(m->vm->mem);
	for (unsigned i = 0; i < m->memory.region_count; i++) {
		const struct vmm_mem_region *r = vmm_mem_region_at(m->vm->mem, i);

		m->memory.regions[i] = (struct mig_region){r->host, r->len / VMM_PAGE_SIZE};
	}
}

static int make_engine(struct vmm_migration *m, const int *fds)
{
	for (unsigned i = 0; i <= m->params.channels; i++) {
		int err = mig_socket_prepare(fds[i], m->params.stall_ms);

		if (err)
			return err;
	}
	if (m->way == VMM_MIGRATE_IN)
		return mig_dest_new(&m->params, &m->memory, &migration_dest_ops, m, fds, &m->dest);
	base_wbuf_init(&m->config, 1 << 20);
	migration_config_write(m->vm, &m->config);
	if (m->config.error)
		return m->config.error;
	return mig_source_new(&m->params, &m->memory, &migration_source_ops, m, m->config.data,
			      m->config.len, fds, &m->source);
}

static void session_start(struct vmm_migration *m, struct migctl_msg *msg)
{
	int err;

	take_params(m, &msg->start);
	take_memory(m);
	err = msg->start.with_disk ? migration_disks_add(m) : 0;
	if (!err)
		err = make_engine(m, msg->fds);
	if (err) {
		for (unsigned i = 0; i < msg->fd_count; i++)
			close(msg->fds[i]);
	} else {
		err = -pthread_create(&m->thread, NULL, engine_main, m);
	}
	if (err) {
		snprintf(m->why, sizeof(m->why), "%s", strerror(-err));
		migration_over(m, err);
		return;
	}
	m->thread_started = true;
	pthread_setname_np(m->thread, "migration");
	/* The hand-over takes some steps of this thread, and the guest stands meanwhile. */
	base_sched_wake_soon();
	report_tick(&m->report_timer);
}

static void *relink_main(void *arg)
{
	struct vmm_migration *m = arg;

	m->result = m->source ? mig_source_relink(m->source, m->new_fds)
			      : mig_dest_relink(m->dest, m->new_fds);
	if (m->result)
		keep_why(m);
	if (base_loop_post(m->loop, thread_ended, m))
		log_error("the main loop takes no posts");
	return NULL;
}

/* New connections for a post-copy that lost its own. */
static void session_relink(struct vmm_migration *m, const struct migctl_msg *msg)
{
	bool ours = m->cut && !m->thread_started && msg->fd_count == m->params.channels + 1 &&
		    !memcmp(msg->start.id, m->params.id, sizeof(m->params.id));

	for (unsigned i = 0; i < msg->fd_count; i++) {
		m->new_fds[i] = msg->fds[i];
		ours = ours && !mig_socket_prepare(msg->fds[i], m->params.stall_ms);
	}
	if (!ours) {
		log_warn("migration: new connections, but none are missed, or they cannot be used");
	} else if (pthread_create(&m->thread, NULL, relink_main, m)) {
		log_error("migration: no thread for the new link");
		ours = false;
	}
	if (!ours) {
		for (unsigned i = 0; i < msg->fd_count; i++)
			close(msg->fds[i]);
		return;
	}
	m->thread_started = true;
	m->cut = false;
	report_tick(&m->report_timer);
}

static enum mig_event verdict_of(enum migctl_order order)
{
	switch (order) {
	case MIGCTL_VERDICT_COMMITTED: return MIG_EV_VERDICT_COMMITTED;
	case MIGCTL_VERDICT_ABORTED: return MIG_EV_VERDICT_ABORTED;
	case MIGCTL_VERDICT_COMMITTING: return MIG_EV_VERDICT_COMMITTING;
	case MIGCTL_VERDICT_GONE: return MIG_EV_VERDICT_GONE;
	case MIGCTL_VERDICT_COMPLETE: return MIG_EV_VERDICT_COMPLETE;
	case MIGCTL_FORCE: return MIG_EV_FORCE;
	case MIGCTL_CANCEL: return MIG_EV_CANCEL;
	case MIGCTL_DISKS_HERE:
	case MIGCTL_VERDICT_UNKNOWN: break;
	}
	return MIG_EV_VERDICT_UNKNOWN;
}

static void *verdict_main(void *arg)
{
	struct vmm_migration *m = arg;
	enum mig_event ev = (enum mig_event)m->result;

	m->result = m->source ? mig_source_verdict(m->source, ev) : mig_dest_verdict(m->dest, ev);
	if (base_loop_post(m->loop, thread_ended, m))
		log_error("the main loop takes no posts");
	return NULL;
}

/* On a thread, because what it decides runs on the main thread. */
static void session_verdict(struct vmm_migration *m, enum migctl_order order)
{
	m->result = (int)verdict_of(order);
	if (pthread_create(&m->thread, NULL, verdict_main, m)) {
		log_error("migration: no thread for the verdict");
		return;
	}
	m->thread_started = true;
	m->doubt = m->cut = false;
}

static void session_order(struct vmm_migration *m, enum migctl_order order)
{
	if (order == MIGCTL_DISKS_HERE) {
		migration_disks_named(m, 0);
		return;
	}
	if (order == MIGCTL_CANCEL)
		migration_disks_named(m, -ECANCELED);
	/* A cancel comes too late for a guest that runs elsewhere. */
	if (m->doubt || (m->cut && order != MIGCTL_CANCEL))
		session_verdict(m, order);
	else if (order == MIGCTL_CANCEL && m->source)
		mig_source_cancel(m->source);
	else if (order == MIGCTL_CANCEL && m->dest)
		mig_dest_cancel(m->dest);
}

static void session_ready(struct base_watch *w, uint32_t events)
{
	struct vmm_migration *m = base_container_of(w, struct vmm_migration, session);
	struct migctl_msg msg;
	int err = migctl_recv(w->fd, &msg);

	if (err == -EAGAIN || err == -EINTR)
		return;
	if (!err && msg.kind == MIGCTL_START) {
		if (m->source || m->dest)
			session_relink(m, &msg);
		else
			session_start(m, &msg);
		return;
	}
	if (!err && msg.kind == MIGCTL_ORDER) {
		session_order(m, msg.order);
		return;
	}
	for (unsigned i = 0; !err && i < msg.fd_count; i++)
		close(msg.fds[i]);
	if (err != -ECONNRESET)
		log_warn("migration: the agent broke the protocol");
	session_close(m);
	if (!m->source && !m->dest) {
		snprintf(m->why, sizeof(m->why), "the agent went away");
		migration_over(m, -ECONNRESET);
	}
}

int vmm_migration_start(struct vmm_vm *vm, struct base_loop *loop, enum vmm_migration_way way,
			int session_fd, int journal_fd, struct vmm_migration **out)
{
	struct vmm_migration *m = *out;
	int err;

	if (vmm_migration_active(m))
		return -EBUSY;
	if (way == VMM_MIGRATE_OUT ? vm->state != VMM_RUNNING : !vm->incoming)
		return -EINVAL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->vm = vm;
	m->loop = loop;
	m->way = way;
	m->journal_fd = journal_fd;
	m->active = true;
	m->report_timer.fire = report_tick;
	m->session =
		(struct base_watch){.fd = session_fd, .events = EPOLLIN, .ready = session_ready};
	sem_init(&m->answered, 0, 0);
	sem_init(&m->named, 0, 0);
	err = base_loop_add(loop, &m->session);
	if (err) {
		sem_destroy(&m->answered);
		sem_destroy(&m->named);
		free(m);
		return err;
	}
	vmm_migration_free(*out);
	*out = m;
	return 0;
}

int vmm_migration_attach(struct vmm_migration *m, int session_fd)
{
	int err;

	if (!m)
		return -ENOENT;
	session_close(m);
	m->session =
		(struct base_watch){.fd = session_fd, .events = EPOLLIN, .ready = session_ready};
	err = base_loop_add(m->loop, &m->session);
	if (err) {
		m->session.fd = -1;
		return err;
	}
	if (m->doubt || m->cut)
		send_result(m, m->doubt ? MIGCTL_DOUBT : MIGCTL_CUT);
	else if (m->active)
		migration_report(m);
	else
		send_result(m, m->ended);
	if (!m->active)
		session_close(m);
	return 0;
}

bool vmm_migration_cut(const struct vmm_migration *m)
{
	return m && m->cut;
}

bool vmm_migration_active(const struct vmm_migration *m)
{
	return m && m->active;
}

static void migration_stop_thread(struct vmm_migration *m)
{
	if (m->source)
		mig_source_cut(m->source);
	if (m->dest)
		mig_dest_cancel(m->dest);
	/* The engine may be waiting for this very thread. */
	while (m->thread_started)
		if (base_loop_step(m->loop, 100))
			break;
}

void vmm_migration_free(struct vmm_migration *m)
{
	if (!m)
		return;
	migration_stop_thread(m);
	base_loop_timer_cancel(&m->report_timer);
	session_close(m);
	mig_source_free(m->source);
	mig_dest_free(m->dest);
	base_wbuf_fini(&m->config);
	sem_destroy(&m->answered);
	sem_destroy(&m->named);
	free(m);
}
