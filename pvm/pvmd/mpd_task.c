#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pvm3.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/log.h"
#include "pvm/pvmd/mpd.h"

/* A sender's slot in the segment of a receiver: on the lists of both. */
struct mpd_peer {
	struct base_list in, out;
	struct mpd_task *owner;
	int32_t sender; /* 0: gone, the owner still reads what it left */
	uint32_t slot;
};

/* A socket before its task is known. */
struct guest {
	struct mpd *pd;
	pid_t pid;
};

struct mpd_task *mpd_task_get(const struct mpd *pd, int32_t tid)
{
	if (tid <= 0 || mp_tid_host(tid) != pd->self || (tid & MP_TID_GROUP))
		return NULL;
	return pd->task_by_local[tid & MP_TID_LOCAL];
}

struct mpd_task *mpd_task_new(struct mpd *pd, const char *name)
{
	struct mpd_task *t = calloc(1, sizeof(*t));
	uint32_t tries;

	if (!t)
		return NULL;
	t->name = strdup(name);
	t->trace_mask = strdup("");
	for (tries = 0; tries < MPD_TASK_SLOTS; tries++) {
		pd->next_local = pd->next_local % (MPD_TASK_SLOTS - 1) + 1;
		if (!pd->task_by_local[pd->next_local])
			break;
	}
	if (!t->name || !t->trace_mask || tries == MPD_TASK_SLOTS) {
		free(t->name);
		free(t->trace_mask);
		free(t);
		return NULL;
	}
	t->pd = pd;
	t->tid = pd->self << MP_TID_HOST_SHIFT | (int32_t)pd->next_local;
	t->serial = ++pd->next_serial;
	t->seg_fd = -1;
	base_wbuf_init(&t->early, (size_t)1 << 32);
	base_list_init(&t->watchers);
	base_list_init(&t->blocked);
	base_list_init(&t->peers);
	base_list_init(&t->outboxes);
	base_list_add_tail(&pd->tasks, &t->link);
	pd->task_by_local[pd->next_local] = t;
	pd->task_count++;
	return t;
}

static void peer_free(struct mpd_peer *p)
{
	base_list_del(&p->in);
	base_list_del(&p->out);
	p->owner->slots[p->slot / 32] &= ~(1u << p->slot % 32);
	free(p);
}

static void task_drop_peers(struct mpd_task *t)
{
	base_list_foreach_safe (p, &t->peers, struct mpd_peer, in) {
		uint32_t v[2] = {(uint32_t)t->tid, p->slot};
		struct mpd_task *s = mpd_task_get(t->pd, p->sender);

		if (s)
			mpd_task_ctl(s, MP_C_PEER_GONE, v, sizeof(v[0]), -1);
		peer_free(p);
	}
	base_list_foreach_safe (p, &t->outboxes, struct mpd_peer, out) {
		uint32_t v[2] = {(uint32_t)t->tid, p->slot};

		base_list_del(&p->out);
		p->sender = 0;
		mpd_task_ctl(p->owner, MP_C_PEER_GONE, v, sizeof(v), -1);
	}
}

void mpd_task_unbell(const struct mpd *pd, int32_t tid)
{
	char path[sizeof(pd->dir) + 32];

	snprintf(path, sizeof(path), "%s/bell.%x", pd->dir, (unsigned)tid);
	unlink(path);
}

void mpd_task_gone(struct mpd_task *t)
{
	struct mpd *pd = t->pd;

	log_debug("task t%x is gone", (unsigned)t->tid);
	pd->task_by_local[t->tid & MP_TID_LOCAL] = NULL;
	base_list_del(&t->link);
	pd->task_count--;
	mpd_output_flush(pd, t->tid);
	mpd_trace_task_gone(pd, t);
	task_drop_peers(t);
	mpd_direct_task_gone(pd, t->tid);
	mpd_route_forget(pd, t);
	mpd_notify_task_gone(pd, t);
	mpd_notify_forget(pd, t->tid);
	mpd_mbox_task_gone(pd, t->tid);
	/* That of the resource manager is known everywhere: mpd_role_gone(). */
	for (int r = MP_ROLE_HOSTER; r < (int)BASE_ARRAY_LEN(pd->role_tid); r++)
		if (pd->role_tid[r] == t->tid) {
			pd->role_tid[r] = 0;
			if (r == MP_ROLE_HOSTER)
				mpd_hoster_gone(pd);
			if (r == MP_ROLE_TASKER)
				mpd_tasker_gone(pd);
		}
	mpd_task_unbell(pd, t->tid);
	if (t->conn)
		mpd_conn_close(t->conn);
	if (t->seg)
		munmap(t->seg, MP_SEG_HEAD);
	if (t->seg_fd >= 0)
		close(t->seg_fd);
	base_wbuf_fini(&t->early);
	free(t->name);
	free(t->trace_mask);
	free(t);
}

/* The process ended: what it wrote to its socket before still counts. */
void mpd_task_ended(struct mpd_task *t, int status, const struct rusage *usage)
{
	struct mpd *pd = t->pd;

	t->reaped = true;
	t->status = status;
	t->usage = *usage;
	if (t->conn) {
		uint64_t serial = t->serial;
		int32_t tid = t->tid;

		/* A child that it forked may hold the socket, so EOF need not come; nor may that go on writing. */
		shutdown(t->conn->watch.fd, SHUT_RD);
		while (mpd_task_get(pd, tid) == t && t->serial == serial &&
		       mpd_conn_read_rest(t->conn))
			continue;
		if (mpd_task_get(pd, tid) != t || t->serial != serial)
			return;
	}
	if (WIFSIGNALED(status))
		log_debug("task t%x died by signal %d", (unsigned)t->tid, WTERMSIG(status));
	mpd_task_gone(t);
}

void mpd_task_reaped(struct mpd *pd, pid_t pid, int status, const struct rusage *usage)
{
	base_list_foreach_safe (t, &pd->tasks, struct mpd_task, link)
		if (t->pid == pid && t->child) {
			mpd_task_ended(t, status, usage);
			return;
		}
}

void mpd_task_wake(struct mpd_task *t)
{
	if (!t->seg)
		return;
	atomic_fetch_add(&t->seg->mail, 1);
	mp_seg_ring_bell(t->seg);
}

void mpd_task_send(struct mpd_task *t, const void *hdr, size_t hdr_len, const void *body,
		   size_t len)
{
	if (t->conn) {
		mpd_conn_send(t->conn, hdr, hdr_len, body, len, -1);
		mpd_task_wake(t);
		return;
	}
	base_wbuf_bytes(&t->early, hdr, hdr_len);
	base_wbuf_bytes(&t->early, body, len);
}

void mpd_task_ctl(struct mpd_task *t, enum mp_ctl what, const void *p, size_t len, int fd)
{
	struct mp_frame f = {.type = MP_F_CTL, .len = len + 2};
	uint8_t hdr[MP_FRAME_HDR + 2];

	mp_frame_put(hdr, &f);
	hdr[MP_FRAME_HDR] = (uint8_t)what;
	hdr[MP_FRAME_HDR + 1] = (uint8_t)(what >> 8);
	if (fd >= 0 && t->conn) {
		mpd_conn_send(t->conn, hdr, sizeof(hdr), p, len, fd);
		mpd_task_wake(t);
	} else {
		mpd_task_send(t, hdr, sizeof(hdr), p, len);
	}
}

static void task_ctl(struct mpd *pd, struct mpd_task *t, struct base_rbuf *b)
{
	uint16_t what = base_rbuf_u16(b);
	uint32_t v = base_rbuf_u32(b);
	struct mpd_task *to;

	if (b->error)
		return;
	switch (what) {
	case MP_C_SLOT_FREE:
		base_list_foreach_safe (p, &t->peers, struct mpd_peer, in)
			if (p->slot == v && p->sender == 0) {
				peer_free(p);
				break;
			}
		break;
	case MP_C_LOOK: mpd_quick_call(t); break;
	case MP_C_POKE_TASK:
		to = mpd_task_get(pd, (int32_t)v);
		if (to && to->conn)
			mpd_task_ctl(to, MP_C_POKE, NULL, 0, -1);
		break;
	default: log_warn("t%x sent an unknown notice %u", (unsigned)t->tid, what);
	}
}

static void task_frame(struct mpd_conn *c, const struct mp_frame *f, const uint8_t *payload)
{
	struct mpd_task *t = c->owner;
	struct mpd *pd = t->pd;
	struct base_rbuf b;

	if (f->type == MP_F_MSG) {
		mpd_route_piece(pd, t, NULL, payload, (size_t)f->len);
		return;
	}
	base_rbuf_init(&b, payload, (size_t)f->len);
	if (f->type == MP_F_REQ) {
		struct mpd_from from = {.tid = t->tid, .req = f->req, .serial = t->serial};
		uint16_t op = base_rbuf_u16(&b);

		pd->calls_served++;
		mpd_call_serve(pd, &from, op, &b);
	} else if (f->type == MP_F_CTL) {
		task_ctl(pd, t, &b);
	}
}

static void task_closed(struct mpd_conn *c, int err)
{
	struct mpd_task *t = c->owner;

	if (err)
		log_warn("socket of t%x: %s", (unsigned)t->tid, strerror(-err));
	t->conn = NULL;
	mpd_task_gone(t);
}

static void task_drained(struct mpd_conn *c)
{
	struct mpd_task *t = c->owner;

	mpd_route_forget(t->pd, t);
}

static void task_wrote(struct mpd_conn *c)
{
	mpd_task_wake(c->owner);
}

static const struct mpd_conn_ops task_ops = {
	.frame = task_frame, .closed = task_closed, .drained = task_drained, .wrote = task_wrote};

void mpd_op_exit(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct mpd_task *t = mpd_task_get(pd, from->tid);

	(void)b;
	if (!t)
		return;
	mpd_call_reply(pd, from, 0, NULL, -1);
	/* The socket ends with the answer; the program may go on, no longer a task. */
	if (t->conn) {
		mpd_conn_flush(t->conn, 1000);
		mpd_task_gone(t);
	}
}

static void guest_closed(struct mpd_conn *c, int err)
{
	(void)err;
	free(c->owner);
	c->owner = NULL;
}

static struct mpd_task *enrol_find(struct mpd *pd, pid_t pid, uint32_t cookie)
{
	base_list_foreach (t, &pd->tasks, struct mpd_task, link)
		if (!t->conn && cookie != 0 && t->cookie == cookie)
			return t;
	base_list_foreach (t, &pd->tasks, struct mpd_task, link)
		if (!t->conn && t->pid == pid)
			return t;
	return NULL;
}

static void enrol_segment(struct mpd_task *t, struct mpd_conn *c)
{
	struct stat st;
	void *p;
	int fd = mpd_conn_take_fd(c);

	if (fd < 0)
		return;
	/* A segment that could shrink would kill us by SIGBUS. */
	if (fstat(fd, &st) || st.st_size < MP_SEG_HEAD || fcntl(fd, F_GET_SEALS) < 0 ||
	    !(fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK)) {
		close(fd);
		return;
	}
	p = mmap(NULL, MP_SEG_HEAD, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		close(fd);
		return;
	}
	t->seg = p;
	if (t->seg->layout != MP_SEG_LAYOUT) {
		log_warn("t%x is of another libpvm3: its messages go through the daemon",
			 (unsigned)t->tid);
		munmap(p, MP_SEG_HEAD);
		t->seg = NULL;
		close(fd);
		return;
	}
	t->seg_fd = fd;
}

static void enrol_answer(struct mpd *pd, struct mpd_task *t, uint32_t req)
{
	struct mpd_from from = {.tid = t->tid, .req = req, .serial = t->serial};
	struct base_wbuf b;

	base_wbuf_init(&b, MP_FRAME_MAX);
	base_wbuf_u32(&b, (uint32_t)t->tid);
	base_wbuf_u32(&b, (uint32_t)t->ptid);
	base_wbuf_u32(&b, (uint32_t)t->flags);
	base_wbuf_u32(&b, (uint32_t)t->out.tid);
	base_wbuf_u32(&b, (uint32_t)t->out.ctx);
	base_wbuf_u32(&b, (uint32_t)t->out.tag);
	base_wbuf_u32(&b, (uint32_t)t->trace.to.tid);
	base_wbuf_u32(&b, (uint32_t)t->trace.to.ctx);
	base_wbuf_u32(&b, (uint32_t)t->trace.to.tag);
	base_wbuf_u32(&b, (uint32_t)t->trace.buffer);
	base_wbuf_u32(&b, (uint32_t)t->trace.options);
	base_wbuf_str(&b, t->trace_mask);
	base_wbuf_u32(&b, (uint32_t)pd->role_tid[MP_ROLE_RM]);
	base_wbuf_u32(&b, t->seg != NULL);
	mpd_call_reply(pd, &from, 0, &b, pd->page_fd);
	base_wbuf_fini(&b);
}

static void guest_enrol(struct mpd_conn *c, uint32_t req, struct base_rbuf *b)
{
	struct guest *g = c->owner;
	struct mpd *pd = g->pd;
	uint32_t version = base_rbuf_u32(b), cookie = base_rbuf_u32(b);
	char name[MPD_PATH_MAX];
	struct mpd_task *t;
	bool spawned;

	base_rbuf_str(b, name, sizeof(name));
	if (b->error || version != MPD_VERSION) {
		log_warn("process %d: not a task of this version", (int)g->pid);
		mpd_conn_close(c);
		free(g);
		return;
	}
	t = enrol_find(pd, g->pid, cookie);
	spawned = t != NULL;
	if (!t)
		t = mpd_task_new(pd, name);
	if (!t) {
		mpd_conn_close(c);
		free(g);
		return;
	}
	if (!t->pid)
		t->pid = g->pid;
	free(g);
	t->conn = c;
	c->owner = t;
	c->ops = &task_ops;
	enrol_segment(t, c);
	if (!spawned) {
		mpd_trace_adopt(pd, t);
		mpd_trace_task_came(pd, t, false);
	}
	/* Alone: what comes after it is for a task that knows its segment. */
	enrol_answer(pd, t, req);
	if (!spawned)
		mpd_role_task_came(pd, t->tid);
	if (t->early.len)
		mpd_conn_send(c, t->early.data, t->early.len, NULL, 0, -1);
	if (t->early.len && c->out_bytes < MPD_CONN_LOW)
		mpd_route_forget(pd, t);
	base_wbuf_fini(&t->early);
}

static void guest_frame(struct mpd_conn *c, const struct mp_frame *f, const uint8_t *payload)
{
	struct guest *g = c->owner;
	struct base_rbuf b;

	base_rbuf_init(&b, payload, (size_t)f->len);
	if (f->type == MP_F_REQ && base_rbuf_u16(&b) == MP_OP_ENROL) {
		guest_enrol(c, f->req, &b);
		return;
	}
	log_warn("process %d spoke before it enrolled: dropped", (int)g->pid);
	mpd_conn_close(c);
	free(g);
}

static const struct mpd_conn_ops guest_ops = {.frame = guest_frame, .closed = guest_closed};

static int task_accept_fd(struct mpd *pd, int listen_fd)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0 || (errno != EMFILE && errno != ENFILE))
		return fd;
	mpd_fds_release(pd);
	return accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

/*
 * Where descriptors are short, the last ones are for a console, which may free others, and not for the
 * tasks that we started.
 */
static bool may_come(struct mpd *pd, pid_t pid)
{
	struct mpd_task *t;

	if (mpd_fds_spare(pd))
		return true;
	t = enrol_find(pd, pid, 0);
	if (t && t->child)
		return false;
	mpd_fds_release(pd);
	return true;
}

static void task_accept(struct base_watch *w, uint32_t events)
{
	struct mpd *pd = base_container_of(w, struct mpd, listen_task);
	int fd = task_accept_fd(pd, w->fd);
	struct ucred who;
	socklen_t len = sizeof(who);
	struct mpd_conn *c;
	struct guest *g;

	(void)events;
	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) || who.uid != getuid()) {
		log_warn("a process of another user (%u) was refused", (unsigned)who.uid);
		close(fd);
		return;
	}
	if (!may_come(pd, who.pid)) {
		close(fd);
		mpd_log(pd, "out of descriptors: task %d was refused; raise the limit (ulimit -n)",
			(int)who.pid);
		return;
	}
	g = calloc(1, sizeof(*g));
	if (!g) {
		close(fd);
		return;
	}
	g->pd = pd;
	g->pid = who.pid;
	if (mpd_conn_new(&c, pd->loop, fd, &guest_ops, g, NULL, false))
		free(g);
}

int mpd_task_listen(struct mpd *pd)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd, rc;

	if (strlen(pd->socket) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	memcpy(a.sun_path, pd->socket, strlen(pd->socket) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || chmod(pd->socket, 0600) ||
	    listen(fd, 1024)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	pd->listen_task = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = task_accept};
	return base_loop_add(pd->loop, &pd->listen_task);
}

static int slot_take(struct mpd_task *t)
{
	for (int w = 0; w < MP_SLOT_WORDS; w++) {
		if (t->slots[w] == UINT32_MAX)
			continue;
		for (int i = 0; i < 32; i++)
			if (!(t->slots[w] & 1u << i)) {
				t->slots[w] |= 1u << i;
				return w * 32 + i;
			}
	}
	return -1;
}

/*
 * The caller gets a slot in the segment of another task of this host. The other learns of it first,
 * so that it knows the slot when the first bytes are there.
 */
void mpd_task_connect(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	int32_t tid = (int32_t)base_rbuf_u32(b);
	struct mpd_task *me = mpd_task_get(pd, from->tid), *to = mpd_task_get(pd, tid);
	struct mpd_peer *p;
	struct base_wbuf out;
	uint32_t v[2];
	int slot;

	if (mp_tid_is_task(tid) && mp_tid_host(tid) != pd->self) {
		mpd_direct_connect(pd, from, tid);
		return;
	}
	if (me && to && !to->conn) {
		/* It has been started and will enrol: ask again later. */
		mpd_call_reply(pd, from, PvmNoData, NULL, -1);
		return;
	}
	if (!me || !to || to == me || to->seg_fd < 0 || me->seg_fd < 0) {
		mpd_call_reply(pd, from, PvmNoTask, NULL, -1);
		return;
	}
	p = calloc(1, sizeof(*p));
	slot = p ? slot_take(to) : -1;
	if (slot < 0) {
		free(p);
		mpd_call_reply(pd, from, PvmOutOfRes, NULL, -1);
		return;
	}
	p->owner = to;
	p->sender = me->tid;
	p->slot = (uint32_t)slot;
	base_list_add_tail(&to->peers, &p->in);
	base_list_add_tail(&me->outboxes, &p->out);
	v[0] = p->slot;
	v[1] = (uint32_t)me->tid;
	mpd_task_ctl(to, MP_C_PEER, v, sizeof(v), me->seg_fd);
	base_wbuf_init(&out, 64);
	base_wbuf_u32(&out, p->slot);
	mpd_call_reply(pd, from, 0, &out, to->seg_fd);
	base_wbuf_fini(&out);
}
