/*
 * Event loop on epoll: descriptors, one-shot timers, functions posted from other threads, signals.
 * Everything except base_loop_post() and base_loop_stop() belongs to the thread that runs the loop
 * (or to the creator before it runs). Callbacks may add and remove any watch or timer, their own
 * included; memory of a removed watch may be freed at once.
 */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/list.h"

struct base_loop;

/* `events` is a set of EPOLLIN, EPOLLOUT; EPOLLERR and EPOLLHUP are always reported. */
struct base_watch {
	int fd;
	uint32_t events;
	void (*ready)(struct base_watch *w, uint32_t events);
	struct base_loop *loop; /* set while it is added */
};

/* Zero it before the first use. */
struct base_timer {
	void (*fire)(struct base_timer *t);
	int64_t deadline_ns;
	struct base_list link;
	bool armed;
};

BASE_MUST_CHECK int base_loop_new(struct base_loop **out);
void base_loop_free(struct base_loop *loop);

/* Runs until base_loop_stop(); returns the code given there, or -errno. */
BASE_MUST_CHECK int base_loop_run(struct base_loop *loop);
/* Handles what is ready, waiting at most timeout_ms (-1: no limit). 0 or -errno. */
BASE_MUST_CHECK int base_loop_step(struct base_loop *loop, int timeout_ms);
/* Any thread, and signal handlers. */
void base_loop_stop(struct base_loop *loop, int code);

/* The descriptor stays the caller's; -errno of epoll_ctl(2). */
BASE_MUST_CHECK int base_loop_add(struct base_loop *loop, struct base_watch *w);
BASE_MUST_CHECK int base_loop_modify(struct base_watch *w, uint32_t events);
void base_loop_remove(struct base_watch *w);

/* Arms or moves the timer; a deadline in the past fires on the next turn. */
void base_loop_timer(struct base_loop *loop, struct base_timer *t, int64_t deadline_ns);
void base_loop_timer_cancel(struct base_timer *t);

/*
 * Runs fn(arg) on the loop's thread, in the order of the posts. At most 65536 are queued: then
 * -EAGAIN, and nothing was queued.
 */
BASE_MUST_CHECK int base_loop_post(struct base_loop *loop, void (*fn)(void *arg), void *arg);

/*
 * Signals that every thread blocks come in, to the caller's handlers, only while the loop waits. Unlike
 * with a signalfd(2) in the loop no other signal of the process wakes it: the kernel wakes whoever polls
 * a signalfd for each signal of any thread, and vCPUs take thousands a second.
 */
void base_loop_let_in(struct base_loop *loop, const sigset_t *signals);

/* The descriptor that is readable when base_loop_step(loop, 0) has work, for nesting in another
 * loop. */
int base_loop_fd(const struct base_loop *loop);

#endif
