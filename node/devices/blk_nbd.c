/*
 * qcow2 through libnbd: a qemu-nbd child serves the image on a socket of its own (systemd socket
 * activation) and ends when its connections close. One connection for the guest, so one queue; and one
 * beside it, for a disk that moves along (blk_nbd_copy.c).
 */
#include <errno.h>
#include <libnbd.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "node/devices/blk_nbd.h"

enum {
	NBD_PART_MAX = 8 << 20,	  /* bytes of one command */
	NBD_BOUNCE_MAX = 1 << 20, /* scattered requests up to this go as one command */
};

struct nbd_image {
	struct blk_image image;
	struct nbd_handle *nbd;
	struct blk_nbd_copy *beside; /* NULL: none */
	bool can_flush, can_zero, can_trim;
	/* The one engine. */
	struct blk_engine engine;
	struct base_watch watch;
	bool dead;
};

static struct nbd_image *image_of(struct blk_engine *e)
{
	return base_container_of(e, struct nbd_image, engine);
}

/* What the state machine waits for; and whether it has died. */
static void image_update(struct nbd_image *n)
{
	unsigned dir;

	if (n->dead)
		return;
	if (nbd_aio_is_dead(n->nbd) > 0 || nbd_aio_is_closed(n->nbd) > 0) {
		log_error("disk: the image server has gone");
		n->dead = true;
		base_loop_remove(&n->watch);
		return;
	}
	dir = nbd_aio_get_direction(n->nbd);
	if (base_loop_modify(&n->watch, (dir & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0u) |
						(dir & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0u)))
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
	if (n->dead)
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
	base_loop_remove(&image_of(e)->watch);
}

static const struct blk_engine_ops engine_ops = {image_submit, image_flush, image_engine_free};

static int image_engine(struct blk_image *image, struct base_loop *loop, unsigned depth,
			struct blk_engine **out)
{
	struct nbd_image *n = base_container_of(image, struct nbd_image, image);
	int rc;

	n->engine.ops = &engine_ops;
	n->watch = (struct base_watch){
		.fd = nbd_aio_get_fd(n->nbd), .events = EPOLLIN, .ready = image_ready};
	rc = base_loop_add(loop, &n->watch);
	if (!rc)
		*out = &n->engine;
	return rc;
}

static const struct blk_copy_ops *image_copy(struct blk_image *image, void **context)
{
	struct nbd_image *n = base_container_of(image, struct nbd_image, image);

	*context = n->beside;
	return n->beside ? &blk_nbd_copy_ops : NULL;
}

/* The server ends with its last connection, and closing the first one waits for that. */
static void image_close(struct nbd_image *n)
{
	blk_nbd_copy_close(n->beside);
	if (n->nbd && !n->dead)
		(void)!nbd_shutdown(n->nbd, 0);
	if (n->nbd)
		nbd_close(n->nbd);
	free(n);
}

static void image_free(struct blk_image *image)
{
	image_close(base_container_of(image, struct nbd_image, image));
}

static const struct blk_image_ops image_ops = {image_engine, image_free, image_copy};

/*
 * A path as a value of QEMU's option lists: commas are doubled. Our own descriptors have other numbers in
 * the child.
 */
static char *image_option(const char *path)
{
	static const char self[] = "/proc/self/";
	size_t len = 0;
	char *text = NULL;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	fputs("driver=qcow2,discard=unmap,file.driver=file,file.filename=", f);
	if (!strncmp(path, self, sizeof(self) - 1)) {
		fprintf(f, "/proc/%d/", (int)getpid());
		path += sizeof(self) - 1;
	}
	for (const char *p = path; *p; p++) {
		if (*p == ',')
			fputc(',', f);
		fputc(*p, f);
	}
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

static int image_serve(struct nbd_image *n, const char *path, bool read_only)
{
	BASE_AUTO_FREE char *option = image_option(path);
	/* The library's prototype lacks the const; it copies. */
	const char *const argv[] = {
		"qemu-nbd",   "--image-opts",	       option, "--cache=writeback", "--aio=threads",
		"--shared=2", read_only ? "-r" : NULL, NULL};

	if (!option)
		return -ENOMEM;
	if (nbd_connect_systemd_socket_activation(n->nbd, (char **)argv)) {
		log_error("disk %s: qemu-nbd: %s", path, nbd_get_error());
		return -ENOEXEC;
	}
	return 0;
}

int blk_nbd_open_qcow2(const char *path, bool read_only, struct blk_image **out)
{
	struct nbd_image *n;
	int64_t size;
	int rc;

	/* qemu-nbd would only say so on its standard error. */
	if (access(path, read_only ? R_OK : R_OK | W_OK))
		return -errno;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->nbd = nbd_create();
	rc = n->nbd ? image_serve(n, path, read_only) : -ENOMEM;
	if (rc)
		goto err_free;
	size = nbd_get_size(n->nbd);
	if (size < 512) {
		rc = -EINVAL;
		goto err_free;
	}
	n->can_flush = nbd_can_flush(n->nbd) > 0;
	n->can_zero = nbd_can_zero(n->nbd) > 0;
	n->can_trim = nbd_can_trim(n->nbd) > 0;
	n->image = (struct blk_image){.ops = &image_ops,
				      .size_bytes = size,
				      .block_size = 512,
				      .read_only = read_only,
				      .can_discard = !read_only && n->can_trim,
				      .queues_max = 1};
	/* Now: later this process may open no socket. */
	if (!read_only)
		n->beside = blk_nbd_copy_open(n->nbd, n->can_zero);
	*out = &n->image;
	return 0;
err_free:
	image_close(n);
	return rc;
}
