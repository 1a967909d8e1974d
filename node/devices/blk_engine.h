/*
 * What virtio-blk needs of a disk image. An image makes one engine for each queue; an engine lives
 * on the queue's thread. All calls but free() come with the queue's lock held, and completions are
 * reported with it held.
 */
#ifndef BLK_ENGINE_H
#define BLK_ENGINE_H

#include "node/devices/blk_copy.h"
#include "node/devices/virtio_queue.h"

enum blk_op { BLK_READ = 1, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_ZERO };

struct blk_engine;

struct blk_io {
	enum blk_op op;
	bool sync;  /* BLK_WRITE: durable when done */
	bool unmap; /* BLK_ZERO: may free the space */
	uint64_t offset, len;
	struct iovec *iov; /* BLK_READ, BLK_WRITE: `len` bytes. Must live until done. */
	unsigned iov_count;
	void *private; /* the engine's, while the io is with it */
	unsigned parts;
	int error;
};

/*
 * submit: starts the io; done() may be called at once. flush: a batch of submits is complete.
 */
struct blk_engine_ops {
	void (*submit)(struct blk_engine *e, struct blk_io *io);
	void (*flush)(struct blk_engine *e);
	void (*free)(struct blk_engine *e);
};

/* Filled by the owner after blk_image_engine(). done: error is 0 or -errno. batch: some are done.
 */
struct blk_engine {
	const struct blk_engine_ops *ops;
	pthread_mutex_t *lock;
	void (*done)(struct blk_io *io, int error);
	void (*batch)(void *owner);
	void *owner;
};

struct blk_image {
	const struct blk_image_ops *ops;
	uint64_t size_bytes;
	uint32_t block_size;
	bool read_only, can_discard;
	unsigned queues_max;
};

struct blk_image_ops {
	int (*engine)(struct blk_image *image, struct base_loop *loop, unsigned depth,
		      struct blk_engine **out);
	void (*free)(struct blk_image *image);
	/* The disk's bytes beside the queues; NULL: not to be had. *context: what the ops are called with. */
	const struct blk_copy_ops *(*copy)(struct blk_image *image, void **context);
	/*
	 * For another host to use the image: release() has all that was written in it, and closes it where only
	 * one may have it open. acquire(): it is ours again. Nothing where it is so already. 0 or -errno.
	 * release_soon(): the guest runs; what makes release() quick.
	 */
	void (*release_soon)(struct blk_image *image);
	int (*release)(struct blk_image *image);
	int (*acquire)(struct blk_image *image);
};

/* later: another one has it, so acquire() comes before the first request. */
BASE_MUST_CHECK int blk_raw_open(const char *path, bool read_only, bool later, bool direct,
				 bool no_uring, struct blk_image **out);
BASE_MUST_CHECK int blk_nbd_open_qcow2(const char *path, bool read_only, bool later,
				       struct blk_image **out);

/* Does the io by system calls, from byte `done` of it on; 0 or -errno. */
BASE_MUST_CHECK int blk_raw_sync(int fd, const struct blk_io *io, uint64_t done);
/* -ENOSYS, -EPERM ... where the kernel has no io_uring for us. */
BASE_MUST_CHECK int blk_uring_engine(int fd, struct base_loop *loop, unsigned depth,
				     struct blk_engine **out);

#endif
