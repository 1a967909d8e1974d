#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/loop.h"

struct ctx {
	struct base_loop *loop;
	struct base_watch a, b;
	struct base_timer t1, t2;
	int order[8], count;
};

static struct ctx c;

static void note(int what)
{
	c.order[c.count++] = what;
}

static int setup(void **state)
{
	c = (struct ctx){0};
	return base_loop_new(&c.loop);
}

static int teardown(void **state)
{
	base_loop_free(c.loop);
	return 0;
}

static void remove_both(struct base_watch *w, uint32_t events)
{
	note(1);
	base_loop_remove(&c.a);
	base_loop_remove(&c.b);
}

/* Both are ready in one batch; the first callback removes the second, whose event must not come. */
static void removed_watch_is_silent(void **state)
{
	int p[2];

	assert_int_equal(pipe(p), 0);
	assert_int_equal(write(p[1], "x", 1), 1);
	c.a = (struct base_watch){.fd = p[0], .events = EPOLLIN, .ready = remove_both};
	c.b = (struct base_watch){.fd = p[1], .events = EPOLLOUT, .ready = remove_both};
	assert_int_equal(base_loop_add(c.loop, &c.a), 0);
	assert_int_equal(base_loop_add(c.loop, &c.b), 0);
	assert_int_equal(base_loop_step(c.loop, 1000), 0);
	assert_int_equal(base_loop_step(c.loop, 0), 0);
	assert_int_equal(c.count, 1);
	close(p[0]);
	close(p[1]);
}

static void fire1(struct base_timer *t)
{
	note(1);
}

static void fire2(struct base_timer *t)
{
	note(2);
	base_loop_stop(c.loop, 7);
}

static void timers_fire_in_order(void **state)
{
	int64_t now = base_clock_ns();

	c.t1.fire = fire1;
	c.t2.fire = fire2;
	base_loop_timer(c.loop, &c.t2, now + 2 * BASE_NS_PER_MS);
	base_loop_timer(c.loop, &c.t1, now + 9 * BASE_NS_PER_MS);
	base_loop_timer(c.loop, &c.t1, now + 1 * BASE_NS_PER_MS);
	assert_int_equal(base_loop_run(c.loop), 7);
	assert_int_equal(c.count, 2);
	assert_int_equal(c.order[0], 1);
	assert_int_equal(c.order[1], 2);
	assert_true(base_clock_ns() - now >= 2 * BASE_NS_PER_MS);
}

static void posted(void *arg)
{
	note((int)(intptr_t)arg);
	if ((intptr_t)arg == 3)
		base_loop_stop(c.loop, 0);
}

static void *poster(void *arg)
{
	for (intptr_t i = 1; i <= 3; i++)
		assert_int_equal(base_loop_post(c.loop, posted, (void *)i), 0);
	return NULL;
}

static void posts_keep_their_order(void **state)
{
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, poster, NULL), 0);
	assert_int_equal(base_loop_run(c.loop), 0);
	pthread_join(t, NULL);
	for (int i = 0; i < 3; i++)
		assert_int_equal(c.order[i], i + 1);
}

static void posts_are_bounded(void **state)
{
	int queued = 0;

	while (base_loop_post(c.loop, posted, NULL) == 0 && queued < 100000)
		queued++;
	assert_int_equal(queued, 65536);
}

static volatile sig_atomic_t taken;

static void take(int number)
{
	taken = number;
}

/* It comes in while the loop waits, and at no other time. */
static void a_signal_is_let_in(void **state)
{
	struct sigaction action = {.sa_handler = take}, old;
	sigset_t set, before;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &before);
	assert_int_equal(sigaction(SIGUSR1, &action, &old), 0);
	base_loop_let_in(c.loop, &set);
	taken = 0;
	assert_int_equal(raise(SIGUSR1), 0);
	assert_int_equal(taken, 0);
	assert_int_equal(base_loop_step(c.loop, 10000), 0);
	assert_int_equal(taken, SIGUSR1);
	taken = 0;
	assert_int_equal(raise(SIGUSR1), 0);
	assert_int_equal(taken, 0);
	assert_int_equal(base_loop_step(c.loop, 0), 0);
	assert_int_equal(taken, SIGUSR1);
	sigaction(SIGUSR1, &old, NULL);
	sigprocmask(SIG_SETMASK, &before, NULL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(removed_watch_is_silent), T(timers_fire_in_order), T(posts_keep_their_order),
		T(posts_are_bounded),	    T(a_signal_is_let_in),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
