/*
 * A disk whose bytes go to another host while the guest writes them: which blocks were written, and
 * reading and writing them beside the queues. Any thread, but for init and fini.
 *
 * A written block is marked before its request is done. So what was read while a request was under way
 * is either right or marked later, and after a pause nothing is under way.
 */
#ifndef BLK_COPY_H
#define BLK_COPY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

enum { BLK_COPY_BLOCK = 4096 };

/* The bytes of a disk beside its queues; any thread, several at once. All: 0 or -errno. */
struct blk_copy_ops {
	int (*read)(void *image, uint64_t offset, uint64_t len, void *data);
	/* data NULL: zeros, which may free the space. */
	int (*write)(void *image, uint64_t offset, uint64_t len, const void *data);
	int (*sync)(void *image);
	/* The next bytes [*from, *to) at `offset` or behind that may be something else than zeros; -ENXIO: none
	 * up to the end. */
	int (*data)(void *image, uint64_t offset, uint64_t *from, uint64_t *to);
	/* What was read ahead is old from here on. May be NULL. */
	void (*forget)(void *image);
};

struct blk_copy {
	const struct blk_copy_ops *ops; /* NULL: this disk cannot be copied */
	void *image;
	uint64_t size_bytes;
	size_t words;
	_Atomic uint64_t *written; /* bit by block */
	atomic_bool tracking;
};

void blk_copy_init(struct blk_copy *c, const struct blk_copy_ops *ops, void *image,
		   uint64_t size_bytes);
/* Of a file that has the bytes as they are: `image` is where its descriptor is, which stays the caller's. */
extern const struct blk_copy_ops blk_copy_file_ops;
void blk_copy_fini(struct blk_copy *c);
/* The last may be shorter than BLK_COPY_BLOCK; then the rest of it reads as zeros. */
uint64_t blk_copy_blocks(const struct blk_copy *c);

/* From now on written blocks are marked. -ENOMEM. */
BASE_MUST_CHECK int blk_copy_start(struct blk_copy *c);
void blk_copy_stop(struct blk_copy *c);
void blk_copy_mark(struct blk_copy *c, uint64_t offset, uint64_t len);
/* ORs in what was marked since the last call: block i is bit first + i. */
void blk_copy_fetch(struct blk_copy *c, uint64_t *bitmap, uint64_t first);
/* ORs in every block that may hold something else than zeros. -errno. */
BASE_MUST_CHECK int blk_copy_used(struct blk_copy *c, uint64_t *bitmap, uint64_t first);

/* -errno, -EIO where the file is shorter than it was. */
BASE_MUST_CHECK int blk_copy_read(struct blk_copy *c, uint64_t block, void *data);
/* data NULL: zeros. */
BASE_MUST_CHECK int blk_copy_write(struct blk_copy *c, uint64_t block, unsigned count,
				   const void *data);
/* What was written is durable. */
BASE_MUST_CHECK int blk_copy_sync(struct blk_copy *c);

#endif
