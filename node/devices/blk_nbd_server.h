/*
 * Who starts qemu-nbd for an image, also when this process may start nothing any more: a child that is made
 * with the image and ends with it. So an image can be let go, for another host to open, and taken again.
 */
#ifndef BLK_NBD_SERVER_H
#define BLK_NBD_SERVER_H

#include "base/cleanup.h"

struct blk_nbd_server;

enum blk_nbd_mode {
	BLK_NBD_WRITE = 1,
	BLK_NBD_READ,
	BLK_NBD_PEEK, /* to read what another one may be writing: its size is right, its contents may not be */
};

enum { BLK_NBD_CONNECTIONS = 2 };

/* Once, before the sandbox. */
BASE_MUST_CHECK int blk_nbd_server_new(const char *path, struct blk_nbd_server **out);
/* Closes no connection. */
void blk_nbd_server_free(struct blk_nbd_server *s);

/* Connections to a qemu-nbd that may still find that it cannot open the image: then they break. */
BASE_MUST_CHECK int blk_nbd_server_start(struct blk_nbd_server *s, enum blk_nbd_mode mode,
					 int fds[BLK_NBD_CONNECTIONS]);
/* All connections are closed: waits until nobody here has the image open. -ETIMEDOUT. */
BASE_MUST_CHECK int blk_nbd_server_wait(struct blk_nbd_server *s);

#endif
