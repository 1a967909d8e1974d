/*
 * What tasks print. One pipe a task; the daemon reads it and sends what came to the task that
 * catches the output, or to the log of the coordinator. Message: int tid, int length, the bytes;
 * length 0 ends it, -2 (with the parent's tid behind) begins it.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "pvm/pvmd/mpd.h"

enum { OUT_EOF = 0, OUT_NEW = -2, READ_MAX = 4096 };

struct sink {
	struct base_list link;
	struct mpd *pd;
	struct base_watch watch;
	int32_t tid;
	struct mpd_sink to;
};

static void send_out(struct sink *s, int32_t len, const void *p, size_t n)
{
	size_t padded = (n + 3) & ~(size_t)3;
	uint8_t b[8 + READ_MAX + 4] = {0};
	uint32_t head[2] = {htobe32((uint32_t)s->tid), htobe32((uint32_t)len)};

	memcpy(b, head, sizeof(head));
	if (n)
		memcpy(b + 8, p, n);
	mpd_route_message(s->pd, s->to.tid, mp_tid_of_daemon(s->pd->self), s->to.ctx, s->to.tag, 0,
			  b, 8 + padded);
}

static void log_out(struct sink *s, const void *p, size_t n)
{
	struct mpd *pd = s->pd;
	struct mpd_host *c = mpd_host_get(pd, mpd_coordinator(pd));
	struct base_wbuf b;

	if (!c || c->id == pd->self) {
		mpd_log_raw(pd, s->tid, p, n);
		return;
	}
	base_wbuf_init(&b, MP_FRAME_MAX);
	base_wbuf_u32(&b, (uint32_t)s->tid);
	base_wbuf_blob(&b, p, (uint32_t)n);
	mpd_link_ctl(pd, c, MP_C_LOG, b.data, b.len);
	base_wbuf_fini(&b);
}

void mpd_output_log(struct mpd *pd, struct base_rbuf *b)
{
	int32_t tid = (int32_t)base_rbuf_u32(b);
	size_t n = 0;
	const char *p = base_rbuf_blob(b, READ_MAX, &n);

	if (p)
		mpd_log_raw(pd, tid, p, n);
}

static void sink_end(struct sink *s)
{
	if (s->to.tid > 0)
		send_out(s, OUT_EOF, NULL, 0);
	base_loop_remove(&s->watch);
	close(s->watch.fd);
	base_list_del(&s->link);
	free(s);
}

/* False at the end of the output (then `s` is freed) or when nothing is there now. */
static bool sink_read(struct sink *s)
{
	char buf[READ_MAX];
	ssize_t n = read(s->watch.fd, buf, sizeof(buf));

	if (n > 0) {
		if (s->to.tid > 0)
			send_out(s, (int32_t)n, buf, (size_t)n);
		else
			log_out(s, buf, (size_t)n);
		return true;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	sink_end(s);
	return false;
}

static void sink_ready(struct base_watch *w, uint32_t events)
{
	(void)events;
	sink_read(base_container_of(w, struct sink, watch));
}

int mpd_output_new(struct mpd *pd, int32_t tid, int32_t ptid, int fd, const struct mpd_sink *to)
{
	struct sink *s = calloc(1, sizeof(*s));
	int rc = -ENOMEM;

	if (!s)
		goto err_fd;
	s->pd = pd;
	s->tid = tid;
	s->to = *to;
	s->watch = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = sink_ready};
	rc = base_loop_add(pd->loop, &s->watch);
	if (rc)
		goto err_free;
	base_list_add_tail(&pd->sinks, &s->link);
	if (to->tid) {
		uint32_t parent = htobe32((uint32_t)ptid);

		send_out(s, OUT_NEW, &parent, sizeof(parent));
	}
	return 0;
err_free:
	free(s);
err_fd:
	close(fd);
	return rc;
}

void mpd_output_retarget(struct mpd *pd, int32_t tid, const struct mpd_sink *to)
{
	base_list_foreach (s, &pd->sinks, struct sink, link)
		if (s->tid == tid) {
			while (sink_read(s))
				continue;
			break;
		}
	base_list_foreach (s, &pd->sinks, struct sink, link)
		if (s->tid == tid)
			s->to = *to;
}

/* What the task printed before its end goes out before the news of its end. */
void mpd_output_flush(struct mpd *pd, int32_t tid)
{
	base_list_foreach (s, &pd->sinks, struct sink, link)
		if (s->tid == tid) {
			while (sink_read(s))
				continue;
			return;
		}
}
