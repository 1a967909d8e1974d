/* The socket to the daemon: enrolment, calls, frames in and out. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "pvm/include/pvm3.h"
#include "pvm/mp_copy.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_net.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_task.h"
#include "pvm/mp_tev.h"
#include "pvm/wire/mp_seg.h"

extern struct Pvmtracer pvmtrc, pvmctrc;

enum {
	IN_FIRST = 2048, /* a task that has little to say does not touch more */
	IN_MIN = 64 * 1024,
	ENROL_VERSION = 1,
	CONNECT_TRIES = 3,
	READ_FDS = 4,
	UNLOOKED_MAX = 1024,
	QUICK_WAIT_MS = 20,
};

struct mp_rt mp_rt = {.fd = -1};

/* A call that waits for its answer; they nest when a handler calls. */
struct mp_wait {
	struct mp_wait *outer;
	uint32_t req;
	bool done;
	int rc;
	struct base_wbuf *body;
	bool want_fd; /* a result of 0 brings one */
	int fd;
};

/* A message of which pieces are missing. */
struct partial {
	struct base_list link;
	int src;
	struct mp_msg *msg; /* NULL: no memory for it, its pieces are dropped */
	uint8_t *data;
	size_t got, total;
};

static int received_fds[READ_FDS];
static int received_count;

static int take_fd(void)
{
	int fd;

	if (!received_count)
		return -1;
	fd = received_fds[0];
	memmove(received_fds, received_fds + 1, (size_t)--received_count * sizeof(int));
	return fd;
}

static void partial_free(struct partial *p)
{
	base_list_del(&p->link);
	mp_msg_unref(p->msg);
	free(p);
}

void mp_item_free(struct mp_item *it)
{
	base_list_add(&mp_rt.spare, &it->link);
}

static void lists_init(void)
{
	if (mp_rt.queue.next)
		return;
	base_list_init(&mp_rt.queue);
	base_list_init(&mp_rt.partial);
	base_list_init(&mp_rt.spare);
	base_list_init(&mp_rt.handlers);
	base_list_init(&mp_rt.todo);
}

static void drop_list(struct base_list *list)
{
	base_list_foreach_safe (it, list, struct mp_item, link) {
		base_list_del(&it->link);
		if (it->msg && it->msg->mid)
			mp_mid_free(it->msg->mid);
		mp_msg_unref(it->msg);
		free(it);
	}
}

void mp_rt_lost(void)
{
	if (mp_rt.fd >= 0)
		close(mp_rt.fd);
	mp_rt.fd = -1;
	lists_init();
	mp_net_close();
	mp_chan_close();
	base_list_foreach_safe (p, &mp_rt.partial, struct partial, link)
		partial_free(p);
	drop_list(&mp_rt.queue);
	drop_list(&mp_rt.todo);
	while (received_count)
		close(take_fd());
	mp_tev_reset();
	mp_rt.in_len = 0;
	mp_rt.look_due = true;
	pvmmytid = -1;
	pvmnoresetindex = -1;
	for (struct mp_wait *w = mp_rt.waits; w; w = w->outer) {
		w->done = true;
		w->rc = PvmSysErr;
	}
}

/* A child of fork is not the task: it starts anew. */
static void after_fork(void)
{
	if (mp_rt.fd < 0)
		return;
	mp_chan_forked();
	mp_rt_lost();
}

/* Frames in */

static int piece_first(const struct mp_route *r, const struct mp_msghdr *h, struct partial **out)
{
	struct partial *p = calloc(1, sizeof(*p));
	struct mp_block *b = NULL;

	if (!p)
		return PvmNoMem;
	p->src = r->src;
	p->total = (size_t)h->total;
	if (p->total)
		b = mp_block_new(p->total);
	if (b)
		p->data = b->data;
	if ((p->total && !b) || mp_msg_from_block(h->enc, b, 0, p->total, &p->msg)) {
		mp_block_unref(b);
		p->data = NULL;
		pvmlogprintf("no memory for a message of %zu bytes from t%x: lost\n", p->total,
			     (unsigned)r->src);
	} else {
		p->msg->head.src = r->src;
		p->msg->head.dst = r->dst;
		p->msg->head.tag = h->tag;
		p->msg->head.ctx = h->ctx;
		p->msg->head.wid = h->wid;
		p->msg->head.crc = h->crc;
	}
	base_list_add_tail(&mp_rt.partial, &p->link);
	*out = p;
	return 0;
}

static struct partial *partial_find(int src)
{
	base_list_foreach (p, &mp_rt.partial, struct partial, link)
		if (p->src == src)
			return p;
	return NULL;
}

static int take_piece(const uint8_t *payload, size_t len)
{
	const uint8_t *body;
	struct mp_msghdr h;
	struct mp_route r;
	struct partial *p;
	size_t n;
	int rc = mp_piece_get(payload, len, &r, &h, &body, &n);

	if (rc)
		return rc;
	p = partial_find(r.src);
	if (r.flags & MP_PIECE_FIRST) {
		if (p)
			partial_free(p);
		rc = piece_first(&r, &h, &p);
		if (rc)
			return -ENOMEM;
	}
	/* The rest of a message whose sender died and whose tid is in use again. */
	if (!p || n > p->total - p->got)
		return p ? -EPROTO : 0;
	if (p->data && n)
		mp_copy(p->data + p->got, body, n);
	p->got += n;
	if (!(r.flags & MP_PIECE_LAST))
		return 0;
	if (p->msg && p->got == p->total) {
		/* What the sender sent by shared memory before comes first. */
		mp_chan_poll(true);
		mp_rt_arrived(p->msg);
		p->msg = NULL;
	}
	partial_free(p);
	return 0;
}

static void take_siblings(struct base_rbuf *b)
{
	uint32_t n = base_rbuf_u32(b);
	int *tids;

	if (b->error || n > base_rbuf_left(b) / 4)
		return;
	tids = calloc(n ? n : 1, sizeof(*tids));
	if (!tids)
		return;
	for (uint32_t i = 0; i < n; i++)
		tids[i] = (int32_t)base_rbuf_u32(b);
	free(pvmsibtids);
	pvmsibtids = tids;
	pvmnsibs = (int)n;
	mp_rt.siblings_known = true;
}

static void take_ctl(struct base_rbuf *b)
{
	uint16_t what = base_rbuf_u16(b);
	uint32_t slot;
	int tid;

	switch (what) {
	case MP_C_PEER:
		slot = base_rbuf_u32(b);
		tid = (int32_t)base_rbuf_u32(b);
		mp_chan_peer(slot, tid, take_fd());
		break;
	case MP_C_PEER_GONE:
		tid = (int32_t)base_rbuf_u32(b);
		mp_chan_peer_gone(tid, base_rbuf_left(b) ? (int)base_rbuf_u32(b) : -1);
		break;
	case MP_C_SIBLINGS: take_siblings(b); break;
	case MP_C_POKE: mp_chan_poked(); break; /* looking at the rings follows anyway */
	case MP_C_NET: mp_net_peer((int32_t)base_rbuf_u32(b), take_fd()); break;
	case MP_C_NET_OPEN: mp_net_peer_open((int32_t)base_rbuf_u32(b)); break;
	case MP_C_NET_GONE:
		tid = (int32_t)base_rbuf_u32(b);
		mp_net_peer_gone(tid, base_rbuf_u32(b) != 0);
		break;
	default: break;
	}
}

static void take_answer(uint32_t req, struct base_rbuf *b)
{
	for (struct mp_wait *w = mp_rt.waits; w; w = w->outer) {
		if (w->req != req)
			continue;
		w->rc = (int32_t)base_rbuf_u32(b);
		/* Others in the queue belong to the notices behind. */
		if (w->want_fd && w->rc == 0)
			w->fd = take_fd();
		if (w->body)
			base_wbuf_bytes(w->body, b->data + b->pos, base_rbuf_left(b));
		w->done = true;
		return;
	}
}

static int take_frame(const struct mp_frame *f, const uint8_t *payload)
{
	struct base_rbuf b;

	base_rbuf_init(&b, payload, (size_t)f->len);
	switch (f->type) {
	case MP_F_MSG: return take_piece(payload, (size_t)f->len);
	case MP_F_REP: take_answer(f->req, &b); return 0;
	case MP_F_CTL: take_ctl(&b); return 0;
	default: return -EPROTO;
	}
}

static int take_quick(void)
{
	struct base_rbuf b;
	uint32_t req;

	if (!mp_quick_answer(&req, &b))
		return 0;
	take_answer(req, &b);
	mp_quick_end();
	return 1;
}

static int in_room(size_t cap)
{
	uint8_t *p;

	if (mp_rt.in_cap >= cap)
		return 0;
	p = realloc(mp_rt.in, cap);
	if (!p)
		return -ENOMEM;
	mp_rt.in = p;
	mp_rt.in_cap = cap;
	return 0;
}

/* All whole frames; how many, or -errno. */
static int parse(void)
{
	size_t pos = 0;
	int n = 0, rc = 0;

	while (mp_rt.in_len - pos >= MP_FRAME_HDR) {
		struct mp_frame f;
		size_t whole;

		rc = mp_frame_get(mp_rt.in + pos, &f);
		if (rc)
			return rc;
		whole = MP_FRAME_HDR + (size_t)f.len;
		if (mp_rt.in_len - pos < whole) {
			rc = pos ? 0 : in_room(whole);
			break;
		}
		rc = take_frame(&f, mp_rt.in + pos + MP_FRAME_HDR);
		if (rc)
			return rc;
		pos += whole;
		n++;
	}
	memmove(mp_rt.in, mp_rt.in + pos, mp_rt.in_len - pos);
	mp_rt.in_len -= pos;
	return rc ? rc : n;
}

static ssize_t receive(int flags)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * READ_FDS)];
	} ctl;
	struct iovec iov = {mp_rt.in + mp_rt.in_len, mp_rt.in_cap - mp_rt.in_len};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = ctl.bytes,
			   .msg_controllen = sizeof(ctl.bytes)};
	ssize_t n = recvmsg(mp_rt.fd, &m, flags | MSG_CMSG_CLOEXEC);

	if (n <= 0)
		return n < 0 ? -errno : -ECONNRESET;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		size_t k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0; c->cmsg_type == SCM_RIGHTS && i < k; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (received_count < READ_FDS)
				received_fds[received_count++] = fd;
			else
				close(fd);
		}
	}
	return n;
}

/* What the socket has now: frames taken in, 0, or PvmSysErr. With `wait` it is waited for. */
static int pump_socket(bool wait)
{
	int total = 0;

	/* A handler that calls us while frames are handed out waits for the outer turn. */
	for (;;) {
		ssize_t n = mp_rt.fd < 0 ? -ECONNRESET : receive(wait ? 0 : MSG_DONTWAIT);
		int rc;

		if (n == -EAGAIN || n == -EINTR)
			return total;
		if (n < 0) {
			mp_rt_lost();
			return PvmSysErr;
		}
		mp_rt.in_len += (size_t)n;
		/* A read ends where a descriptor came along. */
		mp_rt.look_due = true;
		if (mp_rt.in_len == mp_rt.in_cap && in_room(IN_MIN))
			return PvmNoMem;
		rc = parse();
		if (rc < 0) {
			pvmlogprintf("the daemon sent garbage\n");
			mp_rt_lost();
			return PvmSysErr;
		}
		total += rc;
		/* What is behind the answer to an enrolment is for when that is known. */
		if (wait)
			return total;
		if (mp_rt.in_len < mp_rt.in_cap / 2 &&
		    (size_t)n < BASE_MIN(mp_rt.in_cap, (size_t)IN_MIN) / 2)
			return total;
	}
}

static int wait_socket(int64_t deadline_ns)
{
	struct pollfd p = {.fd = mp_rt.fd, .events = POLLIN};
	int64_t left = deadline_ns - base_clock_ns();
	struct timespec ts = base_clock_timespec(BASE_MAX(left, 0));

	ppoll(&p, 1, deadline_ns < 0 ? NULL : &ts, NULL);
	return deadline_ns >= 0 && base_clock_ns() >= deadline_ns;
}

int mp_rt_take(void)
{
	int rc;

	mp_chan_poll(true);
	mp_net_poll();
	rc = pump_socket(false);
	return rc < 0 ? rc : 0;
}

static bool socket_due(uint32_t mail)
{
	if (mp_chan_active() && !mp_net_active() && mail == mp_rt.mail_seen && !mp_rt.look_due &&
	    ++mp_rt.unlooked < UNLOOKED_MAX)
		return false;
	mp_rt.mail_seen = mail;
	mp_rt.unlooked = 0;
	mp_rt.look_due = false;
	return true;
}

int mp_rt_pump(int64_t deadline_ns)
{
	bool looked = deadline_ns == 0;

	/* Waiting looks at connections and the daemon anyway, so before it one look less. */
	for (;; looked = true) {
		uint32_t bell = mp_chan_bell(), mail = mp_chan_mail();
		int n = mp_chan_poll(deadline_ns >= 0) + take_quick(), rc = 0;
		bool net = mp_net_active();

		if (!net || n || looked) {
			n += mp_net_poll();
			if ((mp_net_daemon() || deadline_ns == 0) && socket_due(mail))
				rc = pump_socket(deadline_ns < 0 && !n && !net &&
						 !mp_chan_active());
		}
		if (rc < 0)
			return rc;
		if (n + rc > 0 || deadline_ns == 0) {
			mp_chan_tidy();
			mp_rt_run_handlers();
			return 0;
		}
		if (mp_chan_active() || net) {
			if (!mp_chan_sleep(bell, deadline_ns))
				return 0;
		} else if (wait_socket(deadline_ns)) {
			return 0;
		}
	}
}

/* Frames out */

static void iov_skip(struct iovec **iov, int *n, size_t len)
{
	while (*n && len >= (*iov)->iov_len) {
		len -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (*n) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + len;
		(*iov)->iov_len -= len;
	}
}

int mp_rt_write(struct iovec *iov, int n, int pass_fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} ctl;

	iov_skip(&iov, &n, 0);
	while (n) {
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
		struct pollfd p[2] = {{.fd = mp_rt.fd, .events = POLLOUT | POLLIN},
				      {.fd = mp_net_fd(), .events = POLLIN}};
		ssize_t k;

		if (mp_rt.fd < 0)
			return PvmSysErr;
		if (pass_fd >= 0) {
			m.msg_control = ctl.bytes;
			m.msg_controllen = sizeof(ctl.bytes);
			*CMSG_FIRSTHDR(&m) = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
							      .cmsg_level = SOL_SOCKET,
							      .cmsg_type = SCM_RIGHTS};
			memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &pass_fd, sizeof(int));
		}
		k = sendmsg(mp_rt.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (k > 0) {
			pass_fd = -1;
			iov_skip(&iov, &n, (size_t)k);
			continue;
		}
		if (errno != EAGAIN && errno != EINTR) {
			mp_rt_lost();
			return PvmSysErr;
		}
		/* The daemon may wait for us to read before it reads from us. */
		poll(p, 2, -1);
		mp_net_poll();
		if ((p[0].revents & POLLIN) && pump_socket(false) < 0)
			return PvmSysErr;
	}
	return 0;
}

int mp_rt_notice(uint16_t what, const void *p, size_t len)
{
	struct mp_frame f = {.type = MP_F_CTL, .len = len + 2};
	uint8_t hdr[MP_FRAME_HDR + 2];
	struct iovec iov[2] = {{hdr, sizeof(hdr)}, {(void *)(uintptr_t)p, len}};

	mp_frame_put(hdr, &f);
	hdr[MP_FRAME_HDR] = (uint8_t)what;
	hdr[MP_FRAME_HDR + 1] = (uint8_t)(what >> 8);
	return mp_rt_write(iov, 2, -1);
}

static int call_write(uint16_t op, uint32_t req, const struct base_wbuf *args, int pass_fd)
{
	struct mp_frame f = {.type = MP_F_REQ, .req = req, .len = 2 + (args ? args->len : 0)};
	uint8_t hdr[MP_FRAME_HDR + 2];
	struct iovec iov[2] = {{hdr, sizeof(hdr)}, {NULL, 0}};

	if (args)
		iov[1] = (struct iovec){args->data, args->len};
	mp_frame_put(hdr, &f);
	hdr[MP_FRAME_HDR] = (uint8_t)op;
	hdr[MP_FRAME_HDR + 1] = (uint8_t)(op >> 8);
	return mp_rt_write(iov, 2, pass_fd);
}

static int quick_look(void)
{
	int32_t none = 0;

	return mp_rt_notice(MP_C_LOOK, &none, sizeof(none));
}

/* Our mark is in a page that every task writes to: when nothing comes it may be gone. */
static int quick_await(const struct mp_wait *w)
{
	int64_t end = base_clock_ns() + QUICK_WAIT_MS * BASE_NS_PER_MS;
	int rc = 0;

	while (!rc && !w->done && base_clock_ns() < end)
		rc = mp_rt_pump(end);
	return rc || w->done ? rc : quick_look();
}

static int call(uint16_t op, const struct base_wbuf *args, struct base_wbuf *body, int pass_fd,
		int *fd)
{
	struct mp_wait w = {.outer = mp_rt.waits,
			    .req = ++mp_rt.next_req,
			    .body = body,
			    .want_fd = fd != NULL,
			    .fd = -1};
	bool quick = !fd && mp_op_is_quick(op);
	int rc = 0;

	if (args && args->error)
		return PvmNoMem;
	mp_rt.waits = &w;
	quick = quick && mp_quick_ask(op, w.req, args);
	if (!quick)
		rc = call_write(op, w.req, args, pass_fd);
	if (quick && mp_quick_unseen())
		rc = quick_look();
	else if (quick)
		rc = quick_await(&w);
	/* Who leaves waits for nothing but this answer. */
	while (!rc && !w.done)
		rc = op == MP_OP_EXIT ? BASE_MIN(pump_socket(true), 0) : mp_rt_pump(-1);
	/* Its answer may have come by the socket. */
	if (quick)
		mp_quick_end();
	mp_rt.waits = w.outer;
	if (rc)
		return rc;
	if (fd)
		*fd = w.fd;
	return body && body->error ? PvmNoMem : w.rc;
}

int mp_rt_call(uint16_t op, const struct base_wbuf *args, struct base_wbuf *body, int *fd)
{
	return call(op, args, body, -1, fd);
}

/* Enrolment */

static int connect_daemon(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd;

	if (mp_path_socket(a.sun_path, sizeof(a.sun_path)))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	for (int i = 0; connect(fd, (struct sockaddr *)&a, sizeof(a)); i++) {
		int err = errno;

		if (err == EINTR)
			continue;
		if (err == EAGAIN && i < 100 * CONNECT_TRIES) {
			/* A full backlog: many tasks start at once. */
			struct timespec t = {.tv_nsec = 10 * BASE_NS_PER_MS};

			nanosleep(&t, NULL);
			continue;
		}
		close(fd);
		return -err;
	}
	return fd;
}

static int enrol_answer(struct base_wbuf *body, int page_fd)
{
	struct base_rbuf b;
	Pvmtmask mask;
	const char *ctx, *debug;

	base_rbuf_init(&b, body->data, body->len);
	pvmmytid = (int32_t)base_rbuf_u32(&b);
	pvmmyptid = (int32_t)base_rbuf_u32(&b);
	mp_rt.flags = (int32_t)base_rbuf_u32(&b);
	mp_rt.my_out_tid = (int32_t)base_rbuf_u32(&b);
	mp_rt.my_out_ctx = (int32_t)base_rbuf_u32(&b);
	mp_rt.my_out_code = (int32_t)base_rbuf_u32(&b);
	mp_rt.my_trace.tid = (int32_t)base_rbuf_u32(&b);
	mp_rt.my_trace.ctx = (int32_t)base_rbuf_u32(&b);
	mp_rt.my_trace.code = (int32_t)base_rbuf_u32(&b);
	mp_rt.my_trace.buffer = (int32_t)base_rbuf_u32(&b);
	mp_rt.my_trace.options = (int32_t)base_rbuf_u32(&b);
	base_rbuf_str(&b, mask, sizeof(mask));
	pvmschedtid = (int32_t)base_rbuf_u32(&b);
	mp_chan_enrolled(pvmmytid, page_fd, base_rbuf_u32(&b) != 0);
	if (base_rbuf_end(&b)) {
		mp_rt_lost();
		return PvmSysErr;
	}
	memcpy(pvmtrc.tmask, mask, sizeof(mask));
	/* Children inherit. */
	memcpy(pvmctrc.tmask, mask, sizeof(mask));
	mp_rt.out_tid = mp_rt.my_out_tid;
	mp_rt.out_ctx = mp_rt.my_out_ctx;
	mp_rt.out_code = mp_rt.my_out_code;
	mp_rt.trace = mp_rt.my_trace;
	debug = getenv("PVMTASKDEBUG");
	if (debug)
		pvmdebmask = (int)strtoul(debug, NULL, 0);
	ctx = getenv("PVMCTX");
	if (ctx && pvmmyptid)
		pvmmyctx = (int)strtoul(ctx, NULL, 0);
	pvmmyupid = getpid();
	pvm_useruid = (int)getuid();
	pvmmydsig = mp_enc_native();
	mp_tev_changed();
	return 0;
}

static int enrol(void)
{
	const char *epid = getenv(MP_ENV_EPID);
	struct base_wbuf args, body;
	int seg = mp_chan_open(), page = -1, rc;

	base_wbuf_init(&args, MP_FRAME_MAX);
	base_wbuf_init(&body, MP_FRAME_MAX);
	base_wbuf_u32(&args, ENROL_VERSION);
	base_wbuf_u32(&args, epid ? (uint32_t)strtoul(epid, NULL, 10) : 0);
	base_wbuf_str(&args, "");
	rc = call(MP_OP_ENROL, &args, &body, seg, &page);
	if (!rc)
		rc = enrol_answer(&body, page);
	if (rc && page >= 0)
		close(page);
	base_wbuf_fini(&args);
	base_wbuf_fini(&body);
	return rc;
}

int mp_rt_begin(void)
{
	static bool registered;
	int rc;

	if (mp_rt.fd >= 0)
		return 0;
	if (!registered) {
		pthread_atfork(NULL, NULL, after_fork);
		registered = true;
	}
	lists_init();
	if (in_room(IN_FIRST))
		return PvmNoMem;
	mp_rt.fd = connect_daemon();
	if (mp_rt.fd < 0) {
		int err = -mp_rt.fd;
		char path[128] = "";

		mp_rt.fd = -1;
		if (!mp_path_socket(path, sizeof(path)) && pvmautoerr)
			pvmlogprintf("%s: %s\n", path, strerror(err));
		return PvmSysErr;
	}
	rc = enrol();
	if (rc && mp_rt.fd >= 0)
		mp_rt_lost();
	return rc;
}

int pvmbeatask(void)
{
	return mp_rt.fd >= 0 ? 0 : mp_rt_begin();
}
