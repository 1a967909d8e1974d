#include "base/loop.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/clock.h"

enum { POST_MAX = 65536, EVENT_BATCH = 64 };

struct post {
	struct base_list link;
	void (*fn)(void *arg);
	void *arg;
};

struct base_loop {
	int epoll_fd;
	struct base_watch wake;
	atomic_bool stopping;
	atomic_int code;
	struct base_list timers; /* sorted by deadline */
	pthread_mutex_t lock;	 /* guards posts, post_count */
	struct base_list posts;
	unsigned post_count;
	bool lets_in;
	sigset_t mask; /* while it waits; only if it lets signals in */
	/* The batch under way, so that removing a watch also drops its pending events. */
	struct epoll_event batch[EVENT_BATCH];
	int batch_len;
};

static void loop_signal(struct base_loop *loop)
{
	uint64_t one = 1;

	/* EAGAIN means that the counter is full: the loop wakes anyway. */
	if (write(loop->wake.fd, &one, sizeof(one)) < 0)
		return;
}

static void loop_run_posts(struct base_watch *w, uint32_t events)
{
	struct base_loop *loop = w->loop;
	struct base_list todo;
	uint64_t n;

	if (read(w->fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		return;
	base_list_init(&todo);
	pthread_mutex_lock(&loop->lock);
	if (!base_list_empty(&loop->posts)) {
		base_list_insert(&todo, loop->posts.prev, loop->posts.next);
		base_list_init(&loop->posts);
		loop->post_count = 0;
	}
	pthread_mutex_unlock(&loop->lock);
	while (!base_list_empty(&todo)) {
		struct post *p = base_list_entry(todo.next, struct post, link);

		base_list_del(&p->link);
		p->fn(p->arg);
		free(p);
	}
}

int base_loop_new(struct base_loop **out)
{
	struct base_loop *loop = calloc(1, sizeof(*loop));
	int rc;

	if (!loop)
		return -ENOMEM;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0) {
		rc = -errno;
		goto err_free;
	}
	loop->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake.fd < 0) {
		rc = -errno;
		goto err_epoll;
	}
	loop->wake.events = EPOLLIN;
	loop->wake.ready = loop_run_posts;
	base_list_init(&loop->timers);
	base_list_init(&loop->posts);
	pthread_mutex_init(&loop->lock, NULL);
	rc = base_loop_add(loop, &loop->wake);
	if (rc)
		goto err_wake;
	*out = loop;
	return 0;
err_wake:
	pthread_mutex_destroy(&loop->lock);
	close(loop->wake.fd);
err_epoll:
	close(loop->epoll_fd);
err_free:
	free(loop);
	return rc;
}

void base_loop_free(struct base_loop *loop)
{
	if (!loop)
		return;
	base_list_foreach_safe (p, &loop->posts, struct post, link)
		free(p);
	close(loop->wake.fd);
	close(loop->epoll_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

int base_loop_fd(const struct base_loop *loop)
{
	return loop->epoll_fd;
}

static int loop_timeout(const struct base_loop *loop, int timeout_ms)
{
	int64_t left_ns, ms;

	if (base_list_empty(&loop->timers))
		return timeout_ms;
	left_ns = base_list_entry(loop->timers.next, struct base_timer, link)->deadline_ns -
		  base_clock_ns();
	if (left_ns <= 0)
		return 0;
	/* Rounded up: waking early would spin until the deadline. */
	ms = (left_ns + BASE_NS_PER_MS - 1) / BASE_NS_PER_MS;
	if (timeout_ms >= 0 && timeout_ms < ms)
		return timeout_ms;
	return (int)BASE_MIN(ms, INT_MAX);
}

static void loop_fire_timers(struct base_loop *loop)
{
	int64_t now = base_clock_ns();

	while (!base_list_empty(&loop->timers)) {
		struct base_timer *t = base_list_entry(loop->timers.next, struct base_timer, link);

		if (t->deadline_ns > now)
			return;
		base_loop_timer_cancel(t);
		t->fire(t);
	}
}

void base_loop_let_in(struct base_loop *loop, const sigset_t *signals)
{
	pthread_sigmask(SIG_SETMASK, NULL, &loop->mask);
	for (int s = 1; s < NSIG; s++)
		if (sigismember(signals, s) == 1)
			sigdelset(&loop->mask, s);
	loop->lets_in = true;
}

/* A wait that ended at once, because something was ready, has let none in. */
static void loop_let_in(struct base_loop *loop)
{
	sigset_t saved;

	pthread_sigmask(SIG_SETMASK, &loop->mask, &saved);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

int base_loop_step(struct base_loop *loop, int timeout_ms)
{
	int n = epoll_pwait(loop->epoll_fd, loop->batch, EVENT_BATCH,
			    loop_timeout(loop, timeout_ms), loop->lets_in ? &loop->mask : NULL);

	if (n < 0 && errno != EINTR)
		return -errno;
	if (n >= 0 && loop->lets_in)
		loop_let_in(loop);
	loop->batch_len = BASE_MAX(n, 0);
	for (int i = 0; i < loop->batch_len; i++) {
		struct base_watch *w = loop->batch[i].data.ptr;

		if (w)
			w->ready(w, loop->batch[i].events);
	}
	loop->batch_len = 0;
	loop_fire_timers(loop);
	return 0;
}

int base_loop_run(struct base_loop *loop)
{
	while (!atomic_load(&loop->stopping)) {
		int rc = base_loop_step(loop, -1);

		if (rc)
			return rc;
	}
	atomic_store(&loop->stopping, false);
	return atomic_load(&loop->code);
}

void base_loop_stop(struct base_loop *loop, int code)
{
	atomic_store(&loop->code, code);
	atomic_store(&loop->stopping, true);
	loop_signal(loop);
}

int base_loop_add(struct base_loop *loop, struct base_watch *w)
{
	struct epoll_event ev = {.events = w->events, .data.ptr = w};

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, w->fd, &ev))
		return -errno;
	w->loop = loop;
	return 0;
}

int base_loop_modify(struct base_watch *w, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = w};

	assert(w->loop);
	if (w->events == events)
		return 0;
	if (epoll_ctl(w->loop->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev))
		return -errno;
	w->events = events;
	return 0;
}

void base_loop_remove(struct base_watch *w)
{
	struct base_loop *loop = w->loop;

	if (!loop)
		return;
	/* Fails only where the caller closed the descriptor first, which removed it as well. */
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	for (int i = 0; i < loop->batch_len; i++)
		if (loop->batch[i].data.ptr == w)
			loop->batch[i].data.ptr = NULL;
	w->loop = NULL;
}

void base_loop_timer(struct base_loop *loop, struct base_timer *t, int64_t deadline_ns)
{
	struct base_list *at = &loop->timers;

	base_loop_timer_cancel(t);
	t->deadline_ns = deadline_ns;
	/* From the end: most timers are armed later than all others. */
	while (at->prev != &loop->timers &&
	       base_list_entry(at->prev, struct base_timer, link)->deadline_ns > deadline_ns)
		at = at->prev;
	base_list_insert(&t->link, at->prev, at);
	t->armed = true;
}

void base_loop_timer_cancel(struct base_timer *t)
{
	if (!t->armed)
		return;
	base_list_del(&t->link);
	t->armed = false;
}

int base_loop_post(struct base_loop *loop, void (*fn)(void *arg), void *arg)
{
	struct post *p = malloc(sizeof(*p));
	int rc = 0;

	if (!p)
		return -ENOMEM;
	p->fn = fn;
	p->arg = arg;
	pthread_mutex_lock(&loop->lock);
	if (loop->post_count >= POST_MAX) {
		rc = -EAGAIN;
	} else {
		base_list_add_tail(&loop->posts, &p->link);
		loop->post_count++;
	}
	pthread_mutex_unlock(&loop->lock);
	if (rc) {
		free(p);
		return rc;
	}
	loop_signal(loop);
	return 0;
}
