#include "node/devices/virtio_worker.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/log.h"

static void *worker_main(void *arg)
{
	struct virtio_worker *w = arg;
	int rc;

	/* By itself: from another thread it would need /proc, which the sandbox has not. */
	prctl(PR_SET_NAME, w->name);
	rc = base_loop_run(w->loop);

	if (rc)
		log_error("device thread: event loop: %s", strerror(-rc));
	return NULL;
}

int virtio_worker_init(struct virtio_worker *w)
{
	w->started = false;
	return base_loop_new(&w->loop);
}

int virtio_worker_start(struct virtio_worker *w, const char *name)
{
	sigset_t all, old;
	int rc;

	if (w->started)
		return 0;
	snprintf(w->name, sizeof(w->name), "%s", name);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&w->thread, NULL, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return -rc;
	w->started = true;
	return 0;
}

void virtio_worker_stop(struct virtio_worker *w)
{
	if (!w->started)
		return;
	base_loop_stop(w->loop, 0);
	pthread_join(w->thread, NULL);
	w->started = false;
}

void virtio_worker_fini(struct virtio_worker *w)
{
	base_loop_free(w->loop);
	w->loop = NULL;
}
