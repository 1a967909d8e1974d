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

struct blk_copy {
	int fd; /* borrowed; -1: this disk cannot be copied */
	uint64_t size_bytes;
	size_t words;
	_Atomic uint64_t *written; /* bit by block */
	atomic_bool tracking;
};

void blk_copy_init(struct blk_copy *c, int fd, uint64_t size_bytes);
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
