/* A second connection to the qemu-nbd of a disk, to read and write it beside the guest. */
#ifndef BLK_NBD_H
#define BLK_NBD_H

#include <libnbd.h>

#include "node/devices/blk_engine.h"

struct blk_nbd_copy;

struct blk_nbd_copy *blk_nbd_copy_new(void);
/* Takes the descriptor. Until then, and after the end of the connection, nothing is read or written: -ENOTCONN. */
BASE_MUST_CHECK int blk_nbd_copy_connect(struct blk_nbd_copy *c, int fd, bool can_zero);
void blk_nbd_copy_disconnect(struct blk_nbd_copy *c);
void blk_nbd_copy_free(struct blk_nbd_copy *c);
/* Called with a struct blk_nbd_copy. */
extern const struct blk_copy_ops blk_nbd_copy_ops;

#endif
