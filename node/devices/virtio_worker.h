/* A thread with a loop of its own that serves queues, for devices whose work may take long. */
#ifndef VIRTIO_WORKER_H
#define VIRTIO_WORKER_H

#include <pthread.h>

#include "base/loop.h"

struct virtio_worker {
	struct base_loop *loop;
	pthread_t thread;
	bool started;
	char name[16];
};

/* The loop, so that watches can be added. -errno. */
BASE_MUST_CHECK int virtio_worker_init(struct virtio_worker *w);
/*
 * Harmless when it runs already. `name` is seen in ps; at most 15 characters count. All signals are
 * blocked. -errno.
 */
BASE_MUST_CHECK int virtio_worker_start(struct virtio_worker *w, const char *name);
/* Ends the thread; then its watches may be removed and freed. Harmless when it never started. */
void virtio_worker_stop(struct virtio_worker *w);
void virtio_worker_fini(struct virtio_worker *w);

#endif
