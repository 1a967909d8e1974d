/*
 * Raw images through io_uring. A batch of requests costs one system call; what the page cache
 * answers is complete when that returns, the rest is announced by the ring's descriptor.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/devices/blk_engine.h"

#define RETRY_NS (2 * BASE_NS_PER_MS)

struct uring_engine {
	struct blk_engine engine;
	struct io_uring ring;
	struct base_loop *loop;
	struct base_watch watch;
	struct base_timer retry;
	int fd;
};

static void uring_prepare(struct uring_engine *u, struct io_uring_sqe *sqe, struct blk_io *io)
{
	switch (io->op) {
	case BLK_READ: io_uring_prep_readv(sqe, u->fd, io->iov, io->iov_count, io->offset); break;
	case BLK_WRITE:
		io_uring_prep_writev2(sqe, u->fd, io->iov, io->iov_count, io->offset,
				      io->sync ? RWF_DSYNC : 0);
		break;
	case BLK_FLUSH: io_uring_prep_fsync(sqe, u->fd, IORING_FSYNC_DATASYNC); break;
	case BLK_DISCARD:
		io_uring_prep_fallocate(sqe, u->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					io->offset, io->len);
		break;
	case BLK_ZERO:
		io_uring_prep_fallocate(sqe, u->fd,
					(io->unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) |
						FALLOC_FL_KEEP_SIZE,
					io->offset, io->len);
		break;
	}
	io_uring_sqe_set_data(sqe, io);
}

static void uring_complete(struct uring_engine *u, struct blk_io *io, int res)
{
	bool transfer = io->op == BLK_READ || io->op == BLK_WRITE;
	int rc = res < 0 ? res : 0;

	/* Short, interrupted, or something that the file system can only do another way. */
	if (transfer && res >= 0 && (uint64_t)res < io->len)
		rc = res ? blk_raw_sync(u->fd, io, res) : -EIO;
	else if (res == -EAGAIN || res == -EINTR || res == -EOPNOTSUPP)
		rc = blk_raw_sync(u->fd, io, 0);
	u->engine.done(io, rc);
}

/* True when something was complete. */
static bool uring_reap(struct uring_engine *u)
{
	struct io_uring_cqe *cqe;
	bool any = false;

	while (!io_uring_peek_cqe(&u->ring, &cqe)) {
		struct blk_io *io = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&u->ring, cqe);
		uring_complete(u, io, res);
		any = true;
	}
	return any;
}

static void uring_submit(struct blk_engine *e, struct blk_io *io)
{
	struct uring_engine *u = base_container_of(e, struct uring_engine, engine);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (!sqe) {
		/* The ring is as deep as the queue, so this empties it. */
		io_uring_submit(&u->ring);
		sqe = io_uring_get_sqe(&u->ring);
	}
	if (!sqe)
		e->done(io, blk_raw_sync(u->fd, io, 0));
	else
		uring_prepare(u, sqe, io);
}

static void uring_flush(struct blk_engine *e)
{
	struct uring_engine *u = base_container_of(e, struct uring_engine, engine);

	int rc = 0;

	if (io_uring_sq_ready(&u->ring))
		rc = io_uring_submit(&u->ring);
	/* Out of memory for the moment, or of room for completions: it stays in the ring. */
	if (rc == -EAGAIN || rc == -EBUSY || rc == -EINTR)
		base_loop_timer(u->loop, &u->retry, base_clock_ns() + RETRY_NS);
	else if (rc < 0)
		log_error("disk: io_uring: %s", strerror(-rc));
	assert(rc >= 0 || u->retry.armed);
	if (uring_reap(u))
		e->batch(e->owner);
}

static void uring_retry(struct base_timer *t)
{
	struct uring_engine *u = base_container_of(t, struct uring_engine, retry);

	pthread_mutex_lock(u->engine.lock);
	uring_flush(&u->engine);
	pthread_mutex_unlock(u->engine.lock);
}

static void uring_ready(struct base_watch *w, uint32_t events)
{
	struct uring_engine *u = base_container_of(w, struct uring_engine, watch);

	pthread_mutex_lock(u->engine.lock);
	uring_flush(&u->engine);
	pthread_mutex_unlock(u->engine.lock);
}

static void uring_free(struct blk_engine *e)
{
	struct uring_engine *u = base_container_of(e, struct uring_engine, engine);

	base_loop_timer_cancel(&u->retry);
	base_loop_remove(&u->watch);
	io_uring_queue_exit(&u->ring);
	free(u);
}

static const struct blk_engine_ops uring_ops = {uring_submit, uring_flush, uring_free};

int blk_uring_engine(int fd, struct base_loop *loop, unsigned depth, struct blk_engine **out)
{
	struct uring_engine *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return -ENOMEM;
	u->engine.ops = &uring_ops;
	u->fd = fd;
	u->loop = loop;
	u->retry.fire = uring_retry;
	rc = io_uring_queue_init(depth, &u->ring, 0);
	if (rc)
		goto err_free;
	u->watch =
		(struct base_watch){.fd = u->ring.ring_fd, .events = EPOLLIN, .ready = uring_ready};
	rc = base_loop_add(loop, &u->watch);
	if (rc)
		goto err_ring;
	*out = &u->engine;
	return 0;
err_ring:
	io_uring_queue_exit(&u->ring);
err_free:
	free(u);
	return rc;
}
