/* A second connection to the qemu-nbd of a disk, to read and write it beside the guest. */
#ifndef BLK_NBD_H
#define BLK_NBD_H

#include <libnbd.h>

#include "node/devices/blk_engine.h"

struct blk_nbd_copy;

/* To where `first` is connected. NULL: it cannot be, and the log says why. */
struct blk_nbd_copy *blk_nbd_copy_open(struct nbd_handle *first, bool can_zero);
void blk_nbd_copy_close(struct blk_nbd_copy *c);
/* Called with a struct blk_nbd_copy. */
extern const struct blk_copy_ops blk_nbd_copy_ops;

#endif
