#include "node/devices/blk_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void blk_copy_init(struct blk_copy *c, const struct blk_copy_ops *ops, void *image,
		   uint64_t size_bytes)
{
	*c = (struct blk_copy){.ops = ops, .image = image, .size_bytes = size_bytes};
	c->words = (blk_copy_blocks(c) + 63) / 64;
}

void blk_copy_fini(struct blk_copy *c)
{
	free(c->written);
	c->written = NULL;
}

uint64_t blk_copy_blocks(const struct blk_copy *c)
{
	return (c->size_bytes + BLK_COPY_BLOCK - 1) / BLK_COPY_BLOCK;
}

/* ---- which blocks ---- */

int blk_copy_start(struct blk_copy *c)
{
	/* It stays until the end, so that who marks needs no lock. */
	if (!c->written)
		c->written = calloc(c->words, sizeof(*c->written));
	if (!c->written)
		return -ENOMEM;
	for (size_t i = 0; i < c->words; i++)
		atomic_store(&c->written[i], 0);
	atomic_store(&c->tracking, true);
	return 0;
}

void blk_copy_stop(struct blk_copy *c)
{
	atomic_store(&c->tracking, false);
}

static uint64_t bits_from_to(uint64_t from, uint64_t to)
{
	uint64_t high = to >= 64 ? UINT64_MAX : (UINT64_C(1) << to) - 1;

	return high & ~((UINT64_C(1) << from) - 1);
}

void blk_copy_mark(struct blk_copy *c, uint64_t offset, uint64_t len)
{
	uint64_t at = offset / BLK_COPY_BLOCK,
		 end = (offset + len + BLK_COPY_BLOCK - 1) / BLK_COPY_BLOCK;

	if (!len || !atomic_load(&c->tracking))
		return;
	while (at < end && at / 64 < c->words) {
		uint64_t base = at - at % 64;

		atomic_fetch_or(&c->written[at / 64], bits_from_to(at - base, end - base));
		at = base + 64;
	}
}

static void bitmap_or(uint64_t *bitmap, uint64_t at, uint64_t bits)
{
	bitmap[at / 64] |= bits << (at % 64);
	if (at % 64 && bits >> (64 - at % 64))
		bitmap[at / 64 + 1] |= bits >> (64 - at % 64);
}

void blk_copy_fetch(struct blk_copy *c, uint64_t *bitmap, uint64_t first)
{
	for (size_t i = 0; i < c->words; i++) {
		uint64_t bits =
			atomic_load(&c->written[i]) ? atomic_exchange(&c->written[i], 0) : 0;

		/* Rounded up to whole words, the bitmap has no room for more than the blocks. */
		if (i == c->words - 1 && blk_copy_blocks(c) % 64)
			bits &= bits_from_to(0, blk_copy_blocks(c) % 64);
		if (bits)
			bitmap_or(bitmap, first + i * 64, bits);
	}
	/* Behind the marks, so that no read that began before them is taken for one of after. */
	if (c->ops->forget)
		c->ops->forget(c->image);
}

static void bitmap_set(uint64_t *bitmap, uint64_t from, uint64_t to)
{
	while (from < to) {
		uint64_t base = from - from % 64;

		bitmap[from / 64] |= bits_from_to(from - base, to - base);
		from = base + 64;
	}
}

int blk_copy_used(struct blk_copy *c, uint64_t *bitmap, uint64_t first)
{
	uint64_t at = 0, from, to;
	int rc = 0;

	while (at < c->size_bytes && !rc) {
		rc = c->ops->data(c->image, at, &from, &to);
		if (rc || from >= c->size_bytes || to <= at)
			break;
		to = to < c->size_bytes ? to : c->size_bytes;
		bitmap_set(bitmap, first + from / BLK_COPY_BLOCK,
			   first + (to + BLK_COPY_BLOCK - 1) / BLK_COPY_BLOCK);
		at = to;
	}
	return rc == -ENXIO ? 0 : rc;
}

/* ---- bytes ---- */

/* 0 where the blocks are none of this disk. */
static uint64_t bytes_of(const struct blk_copy *c, uint64_t block, unsigned count)
{
	uint64_t offset = block * BLK_COPY_BLOCK, len = (uint64_t)count * BLK_COPY_BLOCK;

	if (block >= blk_copy_blocks(c) || count > blk_copy_blocks(c) - block)
		return 0;
	return len < c->size_bytes - offset ? len : c->size_bytes - offset;
}

int blk_copy_read(struct blk_copy *c, uint64_t block, void *data)
{
	uint64_t len = bytes_of(c, block, 1);

	if (!len)
		return -EINVAL;
	memset((uint8_t *)data + len, 0, BLK_COPY_BLOCK - len);
	return c->ops->read(c->image, block * BLK_COPY_BLOCK, len, data);
}

int blk_copy_write(struct blk_copy *c, uint64_t block, unsigned count, const void *data)
{
	uint64_t len = bytes_of(c, block, count);

	return len ? c->ops->write(c->image, block * BLK_COPY_BLOCK, len, data) : -EINVAL;
}

int blk_copy_sync(struct blk_copy *c)
{
	return c->ops->sync(c->image);
}

/* ---- of a file ---- */

static int file_read(void *image, uint64_t offset, uint64_t len, void *data)
{
	const int *fd = image;
	uint64_t done = 0;

	while (done < len) {
		ssize_t n = pread(*fd, (uint8_t *)data + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		done += (uint64_t)n;
	}
	return 0;
}

static int write_bytes(int fd, uint64_t offset, uint64_t len, const uint8_t *data)
{
	uint64_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(fd, data + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		done += (uint64_t)n;
	}
	return 0;
}

static int write_zeros(int fd, uint64_t offset, uint64_t len)
{
	static const uint8_t zeros[BLK_COPY_BLOCK];
	int rc = 0;

	if (!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len))
		return 0;
	if (errno != EOPNOTSUPP)
		return -errno;
	for (uint64_t at = 0; at < len && !rc; at += sizeof(zeros)) {
		uint64_t n = len - at < sizeof(zeros) ? len - at : sizeof(zeros);

		rc = write_bytes(fd, offset + at, n, zeros);
	}
	return rc;
}

static int file_write(void *image, uint64_t offset, uint64_t len, const void *data)
{
	const int *fd = image;
	int rc;

	if (!data)
		return write_zeros(*fd, offset, len);
	rc = write_bytes(*fd, offset, len, data);
	/* Begins to go to the disk now, so that little is left to wait for at the end. */
	if (!rc)
		(void)!sync_file_range(*fd, (off_t)offset, (off_t)len, SYNC_FILE_RANGE_WRITE);
	return rc;
}

static int file_sync(void *image)
{
	return fdatasync(*(const int *)image) ? -errno : 0;
}

static int file_data(void *image, uint64_t offset, uint64_t *from, uint64_t *to)
{
	const int *fd = image;
	off_t data = lseek(*fd, (off_t)offset, SEEK_DATA), hole;

	if (data < 0 && errno == ENXIO)
		return -ENXIO;
	/* Block devices and some file systems know no holes. */
	if (data < 0) {
		*from = offset;
		*to = UINT64_MAX;
		return 0;
	}
	hole = lseek(*fd, data, SEEK_HOLE);
	if (hole < 0)
		return -errno;
	*from = (uint64_t)data;
	*to = (uint64_t)hole;
	return 0;
}

const struct blk_copy_ops blk_copy_file_ops = {
	.read = file_read,
	.write = file_write,
	.sync = file_sync,
	.data = file_data,
};
