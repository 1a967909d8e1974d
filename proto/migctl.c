#include "proto/migctl.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "proto/migctl.pb-c.h"

#define PB(name) Migctl__Pb__##name

/* ---- codec ---- */

#define PROGRESS_FIELDS(X)                                                                         \
	X(round)                                                                                   \
	X(throttle)                                                                                \
	X(pages_total)                                                                             \
	X(pages_left)                                                                              \
	X(bytes_sent)                                                                              \
	X(pages_sent)                                                                              \
	X(pages_zero)                                                                              \
	X(pages_unchanged)                                                                         \
	X(pages_resent)                                                                            \
	X(rate)                                                                                    \
	X(dirty_rate)                                                                              \
	X(total_ns)                                                                                \
	X(downtime_ns)

static char *lend(const char *s)
{
	return (char *)(uintptr_t)s;
}

static void encode_progress(const struct migctl_progress *in, PB(Progress) * out)
{
	migctl__pb__progress__init(out);
	out->state = lend(in->state);
#define X(f) out->f = in->f;
	PROGRESS_FIELDS(X)
#undef X
}

static void encode_start(const struct migctl_start *in, PB(Start) * out)
{
	migctl__pb__start__init(out);
	out->id = (ProtobufCBinaryData){sizeof(in->id), (uint8_t *)(uintptr_t)in->id};
	out->key = (ProtobufCBinaryData){sizeof(in->key), (uint8_t *)(uintptr_t)in->key};
	out->encrypt = in->encrypt;
	out->auto_converge = in->auto_converge;
	out->channels = in->channels;
	out->max_downtime_ms = in->max_downtime_ms;
	out->stall_ms = in->stall_ms;
	out->max_rounds = in->max_rounds;
	out->bandwidth = in->bandwidth;
	out->mode = in->mode;
	out->postcopy_rounds = in->postcopy_rounds;
	out->with_disk = in->with_disk;
}

int migctl_encode(const struct migctl_msg *m, uint8_t out[MIGCTL_MAX_BYTES], size_t *len)
{
	PB(Message) pb = MIGCTL__PB__MESSAGE__INIT;
	PB(Result) result = MIGCTL__PB__RESULT__INIT;
	PB(Progress) progress;
	PB(Start) start;
	size_t need;

	pb.version = MIGCTL_VERSION;
	switch (m->kind) {
	case MIGCTL_START:
		encode_start(&m->start, &start);
		pb.body_case = MIGCTL__PB__MESSAGE__BODY_START;
		pb.start = &start;
		break;
	case MIGCTL_ORDER:
		pb.body_case = MIGCTL__PB__MESSAGE__BODY_ORDER;
		pb.order = (PB(Order))m->order;
		break;
	case MIGCTL_PROGRESS:
		encode_progress(&m->progress, &progress);
		pb.body_case = MIGCTL__PB__MESSAGE__BODY_PROGRESS;
		pb.progress = &progress;
		break;
	case MIGCTL_RESULT:
		encode_progress(&m->progress, &progress);
		result.end = (PB(End))m->result.end;
		result.text = lend(m->result.text);
		result.progress = &progress;
		pb.body_case = MIGCTL__PB__MESSAGE__BODY_RESULT;
		pb.result = &result;
		break;
	}
	need = migctl__pb__message__get_packed_size(&pb);
	if (need > MIGCTL_MAX_BYTES)
		return -E2BIG;
	*len = migctl__pb__message__pack(&pb, out);
	return 0;
}

static bool copy_text(char *out, size_t cap, const char *in)
{
	size_t len = strlen(in);

	if (len >= cap)
		return false;
	memcpy(out, in, len + 1);
	return true;
}

static bool decode_progress(const PB(Progress) * in, struct migctl_progress *out)
{
#define X(f) out->f = in->f;
	PROGRESS_FIELDS(X)
#undef X
	return copy_text(out->state, sizeof(out->state), in->state);
}

static bool decode_start(const PB(Start) * in, struct migctl_start *out)
{
	if (in->id.len != sizeof(out->id) || in->key.len != sizeof(out->key) || !in->channels ||
	    in->channels >= MIGCTL_MAX_FDS || in->mode > MIGCTL_MODE_MAX)
		return false;
	memcpy(out->id, in->id.data, sizeof(out->id));
	memcpy(out->key, in->key.data, sizeof(out->key));
	out->encrypt = in->encrypt;
	out->auto_converge = in->auto_converge;
	out->channels = in->channels;
	out->max_downtime_ms = in->max_downtime_ms;
	out->stall_ms = in->stall_ms;
	out->max_rounds = in->max_rounds;
	out->bandwidth = in->bandwidth;
	out->mode = in->mode;
	out->postcopy_rounds = in->postcopy_rounds;
	out->with_disk = in->with_disk;
	return true;
}

static bool decode_result(const PB(Result) * in, struct migctl_msg *m)
{
	if (in->end < MIGCTL__PB__END__END_DONE || in->end > MIGCTL__PB__END__END_LOST ||
	    !in->progress)
		return false;
	m->result.end = (enum migctl_end)in->end;
	return copy_text(m->result.text, sizeof(m->result.text), in->text) &&
	       decode_progress(in->progress, &m->progress);
}

static bool decode_body(const PB(Message) * pb, struct migctl_msg *m)
{
	switch (pb->body_case) {
	case MIGCTL__PB__MESSAGE__BODY_START:
		m->kind = MIGCTL_START;
		return decode_start(pb->start, &m->start);
	case MIGCTL__PB__MESSAGE__BODY_ORDER:
		m->kind = MIGCTL_ORDER;
		m->order = (enum migctl_order)pb->order;
		return pb->order >= MIGCTL__PB__ORDER__ORDER_CANCEL &&
		       pb->order <= MIGCTL__PB__ORDER__ORDER_DISKS_HERE;
	case MIGCTL__PB__MESSAGE__BODY_PROGRESS:
		m->kind = MIGCTL_PROGRESS;
		return decode_progress(pb->progress, &m->progress);
	case MIGCTL__PB__MESSAGE__BODY_RESULT:
		m->kind = MIGCTL_RESULT;
		return decode_result(pb->result, m);
	default: return false;
	}
}

int migctl_decode(const void *data, size_t len, struct migctl_msg *m)
{
	PB(Message) * pb;
	bool ok;

	memset(m, 0, sizeof(*m));
	if (len > MIGCTL_MAX_BYTES)
		return -EBADMSG;
	pb = migctl__pb__message__unpack(NULL, len, data);
	if (!pb)
		return -EBADMSG;
	ok = pb->version == MIGCTL_VERSION && decode_body(pb, m);
	migctl__pb__message__free_unpacked(pb, NULL);
	return ok ? 0 : -EBADMSG;
}

/* ---- socket ---- */

union fd_buffer {
	char bytes[CMSG_SPACE(sizeof(int) * MIGCTL_MAX_FDS)];
	struct cmsghdr align;
};

int migctl_send(int fd, const struct migctl_msg *m)
{
	uint8_t bytes[MIGCTL_MAX_BYTES];
	union fd_buffer control = {0};
	struct iovec iov = {.iov_base = bytes};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	int rc;

	if (m->fd_count > MIGCTL_MAX_FDS)
		return -EINVAL;
	rc = migctl_encode(m, bytes, &iov.iov_len);
	if (rc)
		return rc;
	if (m->fd_count) {
		struct cmsghdr *c = &control.align;

		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * m->fd_count);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * m->fd_count);
		memcpy(CMSG_DATA(c), m->fds, sizeof(int) * m->fd_count);
	}
	return sendmsg(fd, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static unsigned take_fds(struct msghdr *msg, int fds[MIGCTL_MAX_FDS])
{
	unsigned n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (n < MIGCTL_MAX_FDS)
				fds[n++] = fd;
			else
				close(fd);
		}
	}
	return n;
}

int migctl_recv(int fd, struct migctl_msg *m)
{
	uint8_t bytes[MIGCTL_MAX_BYTES];
	union fd_buffer control;
	struct iovec iov = {bytes, sizeof(bytes)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	int fds[MIGCTL_MAX_FDS], rc;
	ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	unsigned count;

	if (n < 0)
		return -errno;
	count = take_fds(&msg, fds);
	if (n == 0 && !count)
		return -ECONNRESET;
	rc = msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -EBADMSG
						      : migctl_decode(bytes, (size_t)n, m);
	if (!rc && count != (m->kind == MIGCTL_START ? m->start.channels + 1 : 0))
		rc = -EBADMSG;
	if (rc) {
		for (unsigned i = 0; i < count; i++)
			close(fds[i]);
		return rc;
	}
	m->fd_count = count;
	memcpy(m->fds, fds, count * sizeof(int));
	return 0;
}

void migctl_hang_up(int fd)
{
	uint8_t waste;

	if (fd < 0)
		return;
	/* A message that nobody reads would have the other side's next read fail, before what is there for it. */
	shutdown(fd, SHUT_RD);
	while (recv(fd, &waste, sizeof(waste), MSG_DONTWAIT) > 0)
		;
	close(fd);
}
