/*
 * qemu-nbd answers each connection in turn, and what one has been told is written another one reads. A
 * request costs two wake-ups, so reads go ahead: what a window holds is as good as read just now until
 * forget(), because what the guest has written in the meantime is marked, and read again.
 */
#include "node/devices/blk_nbd.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum {
	WINDOW_BYTES = 128 << 10,
	/* By which stretch of the disk: each channel of a migration reads along its own. */
	WINDOWS = 16,
	STRETCH_BYTES = 2 << 20,
	WRITE_MAX = 8 << 20,
	ZERO_MAX = 1 << 30,
	STATUS_MAX = 1 << 30,
};

struct window {
	uint64_t at, len, age;
	uint8_t *data;
};

struct blk_nbd_copy {
	struct nbd_handle *nbd;
	uint64_t size_bytes;
	bool can_zero, can_status;
	pthread_mutex_t lock; /* guards what follows; the handle has its own */
	uint64_t age;
	struct window window[WINDOWS];
};

static int error_of(void)
{
	return nbd_get_errno() ? -nbd_get_errno() : -EIO;
}

/* ---- reading ---- */

static int window_fill(struct blk_nbd_copy *c, struct window *w, uint64_t offset)
{
	uint64_t len = BASE_MIN((uint64_t)WINDOW_BYTES, c->size_bytes - offset);

	if (!w->data)
		w->data = malloc(WINDOW_BYTES);
	if (!w->data)
		return -ENOMEM;
	w->len = 0;
	if (!c->nbd)
		return -ENOTCONN;
	if (nbd_pread(c->nbd, w->data, len, offset, 0) < 0)
		return error_of();
	w->at = offset;
	w->len = len;
	w->age = c->age;
	return 0;
}

static int copy_read(void *image, uint64_t offset, uint64_t len, void *data)
{
	struct blk_nbd_copy *c = image;
	struct window *w = &c->window[offset / STRETCH_BYTES % WINDOWS];
	int rc = 0;

	if (offset >= c->size_bytes || len > c->size_bytes - offset || len > WINDOW_BYTES)
		return -EINVAL;
	pthread_mutex_lock(&c->lock);
	if (w->age != c->age || offset < w->at || offset + len > w->at + w->len)
		rc = window_fill(c, w, offset);
	if (!rc)
		memcpy(data, w->data + (offset - w->at), len);
	pthread_mutex_unlock(&c->lock);
	return rc;
}

static void copy_forget(void *image)
{
	struct blk_nbd_copy *c = image;

	pthread_mutex_lock(&c->lock);
	c->age++;
	pthread_mutex_unlock(&c->lock);
}

/* ---- writing ---- */

static int write_some(struct blk_nbd_copy *c, uint64_t offset, uint64_t len, const uint8_t *data)
{
	static const uint8_t zeros[64 << 10];

	if (data)
		return nbd_pwrite(c->nbd, data, len, offset, 0) < 0 ? error_of() : 0;
	if (c->can_zero)
		return nbd_zero(c->nbd, len, offset, 0) < 0 ? error_of() : 0;
	return nbd_pwrite(c->nbd, zeros, len, offset, 0) < 0 ? error_of() : 0;
}

static int copy_write(void *image, uint64_t offset, uint64_t len, const void *data)
{
	struct blk_nbd_copy *c = image;
	uint64_t max = data ? WRITE_MAX : c->can_zero ? ZERO_MAX : 64 << 10;
	int rc = c->nbd ? 0 : -ENOTCONN;

	for (uint64_t done = 0; done < len && !rc; done += max)
		rc = write_some(c, offset + done, BASE_MIN(len - done, max),
				data ? (const uint8_t *)data + done : NULL);
	return rc;
}

static int copy_sync(void *image)
{
	struct blk_nbd_copy *c = image;

	if (!c->nbd)
		return -ENOTCONN;
	return nbd_flush(c->nbd, 0) < 0 ? error_of() : 0;
}

/* ---- what is in it ---- */

struct status {
	uint64_t at, from, to; /* to 0: nothing yet */
};

/* Pairs of length and state. */
static int on_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries,
		      size_t count, int *error)
{
	struct status *s = arg;

	for (size_t i = 0; i + 1 < count; i += 2) {
		bool zero = entries[i + 1] & LIBNBD_STATE_ZERO;

		if (!zero && !s->to)
			s->from = s->at;
		if (zero && s->to)
			return 0;
		s->at += entries[i];
		if (!zero)
			s->to = s->at;
	}
	return 0;
}

static int copy_data(void *image, uint64_t offset, uint64_t *from, uint64_t *to)
{
	struct blk_nbd_copy *c = image;
	struct status s = {.at = offset};

	if (!c->nbd)
		return -ENOTCONN;
	if (!c->can_status) {
		*from = offset;
		*to = UINT64_MAX;
		return 0;
	}
	while (s.at < c->size_bytes && !s.to) {
		nbd_extent_callback cb = {.callback = on_extents, .user_data = &s};
		uint64_t before = s.at, len = BASE_MIN(c->size_bytes - s.at, (uint64_t)STATUS_MAX);

		if (nbd_block_status(c->nbd, len, s.at, cb, 0) < 0)
			return error_of();
		if (s.at == before)
			return -EPROTO;
	}
	if (!s.to)
		return -ENXIO;
	*from = s.from;
	*to = s.to;
	return 0;
}

const struct blk_copy_ops blk_nbd_copy_ops = {
	.read = copy_read,
	.write = copy_write,
	.sync = copy_sync,
	.data = copy_data,
	.forget = copy_forget,
};

/* ---- making ---- */

struct blk_nbd_copy *blk_nbd_copy_new(void)
{
	struct blk_nbd_copy *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	pthread_mutex_init(&c->lock, NULL);
	c->age = 1;
	return c;
}

int blk_nbd_copy_connect(struct blk_nbd_copy *c, int fd, bool can_zero)
{
	int64_t size = -1;

	c->nbd = nbd_create();
	if (!c->nbd) {
		close(fd);
		return -ENOMEM;
	}
	if (nbd_add_meta_context(c->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION))
		close(fd);
	else if (!nbd_connect_socket(c->nbd, fd))
		size = nbd_get_size(c->nbd);
	if (size <= 0) {
		blk_nbd_copy_disconnect(c);
		return -ENOTCONN;
	}
	copy_forget(c);
	c->size_bytes = (uint64_t)size;
	c->can_zero = can_zero;
	c->can_status = nbd_can_meta_context(c->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
	return 0;
}

void blk_nbd_copy_disconnect(struct blk_nbd_copy *c)
{
	if (!c || !c->nbd)
		return;
	if (nbd_aio_is_ready(c->nbd) > 0)
		(void)!nbd_shutdown(c->nbd, 0);
	nbd_close(c->nbd);
	c->nbd = NULL;
}

void blk_nbd_copy_free(struct blk_nbd_copy *c)
{
	if (!c)
		return;
	blk_nbd_copy_disconnect(c);
	for (unsigned i = 0; i < WINDOWS; i++)
		free(c->window[i].data);
	pthread_mutex_destroy(&c->lock);
	free(c);
}
