/*
 * qcow2 through libnbd: a qemu-nbd serves the image (blk_nbd_server.h) and ends when its connections close.
 * One connection for the guest, so one queue; and one beside it, for a disk that moves along (blk_nbd_copy.c).
 *
 * An image that two hosts reach is open on one of them: QEMU's lock is on it, and what qemu-nbd knows of its
 * tables would be wrong once another one writes. So the source of a migration lets it go, and the destination,
 * which has only had a look at it, takes it.
 */
#include <errno.h>
#include <libnbd.h>
#include <semaphore.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "node/devices/blk_nbd.h"
#include "node/devices/blk_nbd_server.h"

enum {
	NBD_PART_MAX = 8 << 20,	  /* bytes of one command */
	NBD_BOUNCE_MAX = 1 << 20, /* scattered requests up to this go as one command */
};

struct nbd_image {
	struct blk_image image;
	struct blk_nbd_server *server;
	struct nbd_handle *nbd;	     /* NULL: not open here */
	struct blk_nbd_copy *beside; /* NULL: the image is read-only */
	bool can_flush, can_zero, can_trim;
	/* The one engine. */
	struct blk_engine engine;
	struct base_loop *loop;
	struct base_watch watch; /* added and removed on the loop's thread */
	bool dead;
	sem_t unwatched;
};

static struct nbd_image *image_of(struct blk_engine *e)
{
	return base_container_of(e, struct nbd_image, engine);
}

static void image_ready(struct base_watch *w, uint32_t events);

/* What the state machine waits for; and whether it has died. */
static void image_update(struct nbd_image *n)
{
	unsigned dir;

	uint32_t events;

	if (n->dead || !n->nbd)
		return;
	if (nbd_aio_is_dead(n->nbd) > 0 || nbd_aio_is_closed(n->nbd) > 0) {
		log_error("disk: the image server has gone");
		n->dead = true;
		if (n->watch.loop)
			base_loop_remove(&n->watch);
		return;
	}
	dir = nbd_aio_get_direction(n->nbd);
	events = (dir & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0u) |
		 (dir & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0u);
	if (!n->watch.loop)
		n->watch = (struct base_watch){
			.fd = nbd_aio_get_fd(n->nbd), .events = events, .ready = image_ready};
	if (n->watch.loop ? base_loop_modify(&n->watch, events) : base_loop_add(n->loop, &n->watch))
		log_error("disk: cannot watch the image server");
}

/* One command of an io is done. */
static void part_done(struct nbd_image *n, struct blk_io *io, int error)
{
	if (error && !io->error)
		io->error = -error;
	if (--io->parts)
		return;
	if (io->private && io->op == BLK_READ && !io->error)
		virtio_iov_write(io->iov, io->iov_count, 0, io->private, io->len);
	free(io->private);
	io->private = NULL;
	n->engine.done(io, io->error);
}

struct part {
	struct nbd_image *image;
	struct blk_io *io;
};

static int part_completed(void *arg, int *error)
{
	struct part *p = arg;

	part_done(p->image, p->io, *error);
	return 1; /* retire the command */
}

/* Starts one command of `len` bytes at `buf`, `offset`. */
static void part_start(struct nbd_image *n, struct blk_io *io, uint8_t *buf, uint64_t offset,
		       uint64_t len)
{
	struct part *p = malloc(sizeof(*p));
	nbd_completion_callback cb = {.callback = part_completed, .user_data = p, .free = free};
	uint32_t fua = io->sync ? LIBNBD_CMD_FLAG_FUA : 0;
	int64_t cookie = -1;

	io->parts++;
	if (!p) {
		part_done(n, io, ENOMEM);
		return;
	}
	*p = (struct part){n, io};
	switch (io->op) {
	case BLK_READ: cookie = nbd_aio_pread(n->nbd, buf, len, offset, cb, 0); break;
	case BLK_WRITE: cookie = nbd_aio_pwrite(n->nbd, buf, len, offset, cb, fua); break;
	case BLK_FLUSH: cookie = nbd_aio_flush(n->nbd, cb, 0); break;
	case BLK_DISCARD: cookie = nbd_aio_trim(n->nbd, len, offset, cb, 0); break;
	case BLK_ZERO:
		cookie = nbd_aio_zero(n->nbd, len, offset, cb,
				      io->unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
		break;
	}
	/* Refused: libnbd has freed `p`, and does not call back. */
	if (cookie < 0)
		part_done(n, io, nbd_get_errno() ? nbd_get_errno() : EIO);
}

static void start_transfer(struct nbd_image *n, struct blk_io *io)
{
	uint64_t at = io->offset;

	if (io->iov_count > 1 && io->len <= NBD_BOUNCE_MAX)
		io->private = malloc(io->len);
	if (io->private) {
		if (io->op == BLK_WRITE)
			virtio_iov_read(io->iov, io->iov_count, 0, io->private, io->len);
		part_start(n, io, io->private, at, io->len);
		return;
	}
	for (unsigned i = 0; i < io->iov_count; i++)
		for (size_t done = 0; done < io->iov[i].iov_len;) {
			size_t len = BASE_MIN(io->iov[i].iov_len - done, (size_t)NBD_PART_MAX);

			part_start(n, io, (uint8_t *)io->iov[i].iov_base + done, at, len);
			done += len;
			at += len;
		}
}

static void start_range(struct nbd_image *n, struct blk_io *io)
{
	for (uint64_t done = 0; done < io->len;) {
		/* Commands carry 32 bits of length. */
		uint64_t len = BASE_MIN(io->len - done, UINT64_C(1) << 30);

		part_start(n, io, NULL, io->offset + done, len);
		done += len;
	}
}

static void image_submit(struct blk_engine *e, struct blk_io *io)
{
	struct nbd_image *n = image_of(e);

	io->private = NULL;
	io->error = 0;
	/* Held by this function, so that it is not done before all commands are under way. */
	io->parts = 1;
	if (n->dead || !n->nbd)
		io->error = -EIO;
	else if (io->op == BLK_READ || io->op == BLK_WRITE)
		start_transfer(n, io);
	else if (io->op == BLK_FLUSH && n->can_flush)
		part_start(n, io, NULL, 0, 0);
	else if (io->op == BLK_DISCARD && n->can_trim)
		start_range(n, io);
	else if (io->op == BLK_ZERO && n->can_zero)
		start_range(n, io);
	else if (io->op == BLK_ZERO)
		io->error = -EOPNOTSUPP;
	part_done(n, io, 0);
}

static void image_flush(struct blk_engine *e)
{
	image_update(image_of(e));
	e->batch(e->owner);
}

static void image_ready(struct base_watch *w, uint32_t events)
{
	struct nbd_image *n = base_container_of(w, struct nbd_image, watch);
	unsigned dir;

	pthread_mutex_lock(n->engine.lock);
	dir = nbd_aio_get_direction(n->nbd);
	/* A failure ends the handle, which ends every command; image_update() sees it. */
	if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && (dir & LIBNBD_AIO_DIRECTION_READ))
		(void)!nbd_aio_notify_read(n->nbd);
	else if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) && (dir & LIBNBD_AIO_DIRECTION_WRITE))
		(void)!nbd_aio_notify_write(n->nbd);
	image_flush(&n->engine);
	pthread_mutex_unlock(n->engine.lock);
}

static void image_engine_free(struct blk_engine *e)
{
	if (image_of(e)->watch.loop)
		base_loop_remove(&image_of(e)->watch);
	e->lock = NULL;
}

static const struct blk_engine_ops engine_ops = {image_submit, image_flush, image_engine_free};

/* Its connection is watched from the first request on. */
static int image_engine(struct blk_image *image, struct base_loop *loop, unsigned depth,
			struct blk_engine **out)
{
	struct nbd_image *n = base_container_of(image, struct nbd_image, image);

	n->engine.ops = &engine_ops;
	n->loop = loop;
	*out = &n->engine;
	return 0;
}

static const struct blk_copy_ops *image_copy(struct blk_image *image, void **context)
{
	struct nbd_image *n = base_container_of(image, struct nbd_image, image);

	*context = n->beside;
	return n->beside ? &blk_nbd_copy_ops : NULL;
}

/* ---- opening and closing ---- */

/* The queue's thread may look at any time. NULL: closed. Returns what was there. */
static struct nbd_handle *image_set(struct nbd_image *n, struct nbd_handle *nbd)
{
	struct nbd_handle *had = n->nbd;

	/* None: no queue, yet or any more. */
	if (n->engine.lock)
		pthread_mutex_lock(n->engine.lock);
	n->nbd = nbd;
	n->dead = false;
	if (nbd) {
		n->can_flush = nbd_can_flush(nbd) > 0;
		n->can_zero = nbd_can_zero(nbd) > 0;
		n->can_trim = nbd_can_trim(nbd) > 0;
	}
	if (n->engine.lock)
		pthread_mutex_unlock(n->engine.lock);
	return had;
}

/* The server ends with its last connection. */
static int image_disconnect(struct nbd_image *n)
{
	bool dead = n->dead;
	struct nbd_handle *nbd = image_set(n, NULL);

	blk_nbd_copy_disconnect(n->beside);
	if (!nbd)
		return 0;
	if (!dead)
		(void)!nbd_shutdown(nbd, 0);
	nbd_close(nbd);
	return blk_nbd_server_wait(n->server);
}

/* -ENOEXEC: its server cannot open it, and has said why on our error output. */
static int image_connect(struct nbd_image *n, enum blk_nbd_mode mode)
{
	int fds[BLK_NBD_CONNECTIONS], rc = blk_nbd_server_start(n->server, mode, fds);
	struct nbd_handle *nbd;

	if (rc)
		return rc;
	nbd = nbd_create();
	if (!nbd)
		close(fds[0]);
	if (!nbd || nbd_connect_socket(nbd, fds[0])) {
		log_info("disk: qemu-nbd: %s", nbd_get_error());
		rc = -ENOEXEC;
	}
	if (rc || mode != BLK_NBD_WRITE)
		close(fds[1]);
	else
		rc = blk_nbd_copy_connect(n->beside, fds[1], nbd_can_zero(nbd) > 0);
	if (!rc) {
		(void)!image_set(n, nbd);
		return 0;
	}
	nbd_close(nbd);
	blk_nbd_copy_disconnect(n->beside);
	if (blk_nbd_server_wait(n->server))
		log_warn("disk: qemu-nbd does not end");
	return rc;
}

/* Its cache would be written back by a request that the guest's would wait for. */
static void image_release_soon(struct blk_image *image)
{
}

static void loop_unwatch(void *arg)
{
	struct nbd_image *n = arg;

	pthread_mutex_lock(n->engine.lock);
	if (n->watch.loop)
		base_loop_remove(&n->watch);
	pthread_mutex_unlock(n->engine.lock);
	sem_post(&n->unwatched);
}

/* The guest stands, so no request is under way, nor comes one. */
static int image_release(struct blk_image *image)
{
	struct nbd_image *n = base_container_of(image, struct nbd_image, image);
	int rc;

	if (!n->nbd || image->read_only)
		return 0;
	rc = base_loop_post(n->loop, loop_unwatch, n);
	if (rc)
		return rc;
	while (sem_wait(&n->unwatched) && errno == EINTR)
		;
	/* From here on the queue's thread touches nothing. */
	if (n->dead)
		return -EIO;
	if (n->can_flush && nbd_flush(n->nbd, 0) < 0)
		return -EIO;
	return image_disconnect(n);
}

static int image_acquire(struct blk_image *image)
{
	struct nbd_image *n = base_container_of(image, struct nbd_image, image);
	int rc;

	if (n->nbd)
		return 0;
	rc = image_connect(n, BLK_NBD_WRITE);
	if (!rc && (uint64_t)nbd_get_size(n->nbd) != image->size_bytes) {
		(void)!image_disconnect(n);
		rc = -EPROTO;
	}
	return rc;
}

static void image_close(struct nbd_image *n)
{
	if (image_disconnect(n))
		log_warn("disk: qemu-nbd does not end");
	blk_nbd_copy_free(n->beside);
	blk_nbd_server_free(n->server);
	sem_destroy(&n->unwatched);
	free(n);
}

static void image_free(struct blk_image *image)
{
	image_close(base_container_of(image, struct nbd_image, image));
}

static const struct blk_image_ops image_ops = {
	.engine = image_engine,
	.free = image_free,
	.copy = image_copy,
	.release_soon = image_release_soon,
	.release = image_release,
	.acquire = image_acquire,
};

static int image_open(struct nbd_image *n, const char *path, enum blk_nbd_mode mode)
{
	int64_t size;
	int rc = blk_nbd_server_new(path, &n->server);

	if (!rc && mode != BLK_NBD_READ) {
		n->beside = blk_nbd_copy_new();
		rc = n->beside ? 0 : -ENOMEM;
	}
	if (!rc)
		rc = image_connect(n, mode);
	if (rc)
		return rc;
	size = nbd_get_size(n->nbd);
	if (size < 512)
		return -EINVAL;
	/* What an image can that is open for reading says nothing of what it can for writing. */
	n->can_trim |= mode == BLK_NBD_PEEK;
	n->image = (struct blk_image){.ops = &image_ops,
				      .size_bytes = (uint64_t)size,
				      .block_size = 512,
				      .read_only = mode == BLK_NBD_READ,
				      .can_discard = mode != BLK_NBD_READ && n->can_trim,
				      .queues_max = 1};
	return mode == BLK_NBD_PEEK ? image_disconnect(n) : 0;
}

int blk_nbd_open_qcow2(const char *path, bool read_only, bool later, struct blk_image **out)
{
	enum blk_nbd_mode mode = read_only ? BLK_NBD_READ : later ? BLK_NBD_PEEK : BLK_NBD_WRITE;
	struct nbd_image *n;
	int rc;

	/* qemu-nbd would only say so on its standard error. */
	if (access(path, read_only ? R_OK : R_OK | W_OK))
		return -errno;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	sem_init(&n->unwatched, 0, 0);
	rc = image_open(n, path, mode);
	if (rc) {
		image_close(n);
		return rc;
	}
	*out = &n->image;
	return 0;
}
