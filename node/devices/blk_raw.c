/* Raw images and block devices: opening, and the engine of plain system calls. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "base/log.h"
#include "node/devices/blk_engine.h"

enum { ZERO_CHUNK = 256 * 1024 };

struct raw_image {
	struct blk_image image;
	int fd;
	bool no_uring;
	bool lent; /* another host may write it */
};

struct raw_engine {
	struct blk_engine engine;
	int fd;
};

static int raw_transfer(int fd, const struct blk_io *io, uint64_t done)
{
	struct iovec iov[VIRTIO_CHAIN_MAX];

	while (done < io->len) {
		unsigned n = virtio_iov_slice(io->iov, io->iov_count, done, io->len - done, iov);
		ssize_t got;

		if (io->op == BLK_READ)
			got = preadv(fd, iov, n, io->offset + done);
		else
			got = pwritev2(fd, iov, n, io->offset + done, io->sync ? RWF_DSYNC : 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		/* The file was cut behind our back. */
		if (got == 0)
			return -EIO;
		done += got;
	}
	return 0;
}

static int raw_write_zeroes(int fd, uint64_t offset, uint64_t len)
{
	static const uint8_t zeroes[ZERO_CHUNK] __attribute__((aligned(4096)));

	while (len) {
		ssize_t n = pwrite(fd, zeroes, BASE_MIN(len, sizeof(zeroes)), offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		offset += n;
		len -= n;
	}
	return 0;
}

static int raw_fallocate(int fd, int mode, uint64_t offset, uint64_t len)
{
	int rc;

	do
		rc = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, offset, len);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

static int raw_zero(int fd, const struct blk_io *io)
{
	int rc = -EOPNOTSUPP;

	if (io->unmap)
		rc = raw_fallocate(fd, FALLOC_FL_PUNCH_HOLE, io->offset, io->len);
	if (rc == -EOPNOTSUPP)
		rc = raw_fallocate(fd, FALLOC_FL_ZERO_RANGE, io->offset, io->len);
	if (rc == -EOPNOTSUPP)
		rc = raw_write_zeroes(fd, io->offset, io->len);
	return rc;
}

int blk_raw_sync(int fd, const struct blk_io *io, uint64_t done)
{
	int rc;

	switch (io->op) {
	case BLK_READ:
	case BLK_WRITE: return raw_transfer(fd, io, done);
	case BLK_FLUSH: return fdatasync(fd) ? -errno : 0;
	case BLK_ZERO: return raw_zero(fd, io);
	case BLK_DISCARD:
		rc = raw_fallocate(fd, FALLOC_FL_PUNCH_HOLE, io->offset, io->len);
		/* A discard is a hint. */
		return rc == -EOPNOTSUPP ? 0 : rc;
	}
	return -EINVAL;
}

static void sync_submit(struct blk_engine *e, struct blk_io *io)
{
	struct raw_engine *r = base_container_of(e, struct raw_engine, engine);

	e->done(io, blk_raw_sync(r->fd, io, 0));
}

static void sync_flush(struct blk_engine *e)
{
	e->batch(e->owner);
}

static void sync_free(struct blk_engine *e)
{
	free(base_container_of(e, struct raw_engine, engine));
}

static const struct blk_engine_ops sync_ops = {sync_submit, sync_flush, sync_free};

static int raw_engine(struct blk_image *image, struct base_loop *loop, unsigned depth,
		      struct blk_engine **out)
{
	struct raw_image *raw = base_container_of(image, struct raw_image, image);
	struct raw_engine *r;
	int rc;

	if (!raw->no_uring) {
		rc = blk_uring_engine(raw->fd, loop, depth, out);
		if (!rc)
			return 0;
		log_debug("no io_uring (%s): plain system calls", strerror(-rc));
	}
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->engine.ops = &sync_ops;
	r->fd = raw->fd;
	*out = &r->engine;
	return 0;
}

static void raw_free(struct blk_image *image)
{
	struct raw_image *raw = base_container_of(image, struct raw_image, image);

	close(raw->fd);
	free(raw);
}

static const struct blk_copy_ops *raw_copy(struct blk_image *image, void **context)
{
	*context = &base_container_of(image, struct raw_image, image)->fd;
	return &blk_copy_file_ops;
}

/* Both may have it open; but what is in this host's cache must be in the file, where that is another one's, too. */
static void raw_release_soon(struct blk_image *image)
{
	const struct raw_image *raw = base_container_of(image, struct raw_image, image);

	/* What it does not do takes its time later. */
	if (!image->read_only && sync_file_range(raw->fd, 0, 0, SYNC_FILE_RANGE_WRITE))
		log_debug("disk: writing back ahead: %s", strerror(errno));
}

static int raw_release(struct blk_image *image)
{
	struct raw_image *raw = base_container_of(image, struct raw_image, image);

	if (image->read_only)
		return 0;
	raw->lent = true;
	return fdatasync(raw->fd) ? -errno : 0;
}

/* What was read before the other one wrote is old. */
static int raw_acquire(struct blk_image *image)
{
	struct raw_image *raw = base_container_of(image, struct raw_image, image);
	int err = raw->lent ? posix_fadvise(raw->fd, 0, 0, POSIX_FADV_DONTNEED) : 0;

	raw->lent = raw->lent && err;
	return -err;
}

static const struct blk_image_ops raw_ops = {
	.engine = raw_engine,
	.free = raw_free,
	.copy = raw_copy,
	.release_soon = raw_release_soon,
	.release = raw_release,
	.acquire = raw_acquire,
};

/* Size and block size of a file or block device. */
static int raw_measure(struct raw_image *raw)
{
	struct stat st;
	int sector = 512;
	uint64_t size;

	if (fstat(raw->fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode)) {
		if (ioctl(raw->fd, BLKGETSIZE64, &size) || ioctl(raw->fd, BLKSSZGET, &sector))
			return -errno;
		raw->image.size_bytes = size;
	} else if (S_ISREG(st.st_mode)) {
		raw->image.size_bytes = st.st_size;
	} else {
		return -EINVAL;
	}
	if (sector < 512 || sector > 65536)
		return -EINVAL;
	raw->image.block_size = sector;
	return raw->image.size_bytes >= (uint64_t)sector ? 0 : -EINVAL;
}

int blk_raw_open(const char *path, bool read_only, bool later, bool direct, bool no_uring,
		 struct blk_image **out)
{
	int flags = O_CLOEXEC | (read_only ? O_RDONLY : O_RDWR) | (direct ? O_DIRECT : 0), rc;
	struct raw_image *raw = calloc(1, sizeof(*raw));

	if (!raw)
		return -ENOMEM;
	raw->fd = open(path, flags);
	if (raw->fd < 0) {
		rc = -errno;
		goto err_free;
	}
	rc = raw_measure(raw);
	if (rc)
		goto err_close;
	raw->no_uring = no_uring;
	raw->lent = later && !read_only;
	raw->image.ops = &raw_ops;
	raw->image.read_only = read_only;
	raw->image.can_discard = !read_only;
	raw->image.queues_max = UINT16_MAX;
	*out = &raw->image;
	return 0;
err_close:
	close(raw->fd);
err_free:
	free(raw);
	return rc;
}
