// timeout: 60
/* A slice that dies, hangs or talks nonsense: the others hear of it in time and stop answering. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "slices.h"

enum { WINDOW_MS = 300, COUNT = 3 };

static struct slices g;

/* Slice `self` in a process of its own, which serves until it is killed. */
static pid_t fork_slice(const struct slices_options *o, unsigned self, int listen)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	/* A test that fails must leave nobody behind. */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (slices_open_one(&g, o, self, listen) || dsm_start(g.slice[self].dsm) ||
	    dsm_wait_up(g.slice[self].dsm, 10000))
		_exit(1);
	*(volatile uint64_t *)(void *)(g.slice[self].mem + self * g.pages * DSM_PAGE_SIZE) = self;
	for (;;)
		pause();
}

static void wait_failed(struct slice *s, int64_t until_ns)
{
	while (!atomic_load(&s->error) && base_clock_ns() < until_ns)
		(void)poll(NULL, 0, 5);
	assert_int_not_equal(atomic_load(&s->error), 0);
}

static void lose_a_slice(int sig, int expect)
{
	const struct slices_options o = {
		.count = COUNT, .pages = 16, .transport = &xp_tcp, .window_ms = WINDOW_MS};
	int listen[COUNT];
	enum dsm_install install;

	if (dsm_uffd_probe(&install))
		skip();
	g = (struct slices){.count = COUNT, .pages = 16};
	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(slices_listen(&xp_tcp, g.address[i], &listen[i]), 0);
	pid_t pid = fork_slice(&o, 2, listen[2]);

	close(listen[2]);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(slices_open_one(&g, &o, i, listen[i]), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(dsm_start(g.slice[i].dsm), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(dsm_wait_up(g.slice[i].dsm, 10000), 0);
	assert_int_equal(*(volatile uint64_t *)(void *)(g.slice[0].mem + 17 * DSM_PAGE_SIZE), 0);

	int64_t start = base_clock_ns();

	kill(pid, sig);
	for (unsigned i = 0; i < 2; i++)
		wait_failed(&g.slice[i], start + 20 * BASE_NS_PER_SEC);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(atomic_load(&g.slice[i].error), expect);
		assert_true(atomic_load(&g.slice[i].failed_ns) - start <
			    WINDOW_MS * BASE_NS_PER_MS + 2 * BASE_NS_PER_SEC);
		assert_int_equal(dsm_message(g.slice[i].dsm, 2, "x", 1), -ENOTCONN);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	for (unsigned i = 0; i < 2; i++) {
		dsm_free(g.slice[i].dsm);
		munmap(g.slice[i].mem, slices_len(&g));
		close(g.slice[i].fd);
	}
}

static void test_a_slice_that_dies(void **state)
{
	lose_a_slice(SIGKILL, -ETIMEDOUT);
}

static void test_a_slice_that_hangs(void **state)
{
	lose_a_slice(SIGSTOP, -ETIMEDOUT);
}

static void test_messages_arrive(void **state)
{
	const struct slices_options o = {.count = 2, .pages = 16, .transport = &xp_inproc};

	assert_int_equal(slices_open(&g, &o), 0);
	assert_int_equal(slices_start(&g), 0);
	for (unsigned i = 0; i < 500; i++)
		assert_int_equal(dsm_message(g.slice[0].dsm, 1, &i, sizeof(i)), 0);
	while (atomic_load(&g.slice[1].messages) != 500)
		(void)poll(NULL, 0, 1);
	assert_int_equal(dsm_message(g.slice[0].dsm, 0, "x", 1), -EINVAL);
	assert_int_equal(dsm_message(g.slice[0].dsm, 1, g.slice, 4096), -EMSGSIZE);
	assert_int_equal(dsm_quiesce(g.slice[0].dsm, 1000), 0);
	slices_close(&g);
}

struct rehome {
	struct dsm *dsm;
	const struct dsm_home *homes;
	int err;
};

static void *rehome_main(void *arg)
{
	struct rehome *r = arg;

	r->err = dsm_rehome(r->dsm, r->homes, 3, 5000);
	return NULL;
}

static volatile uint64_t *word(unsigned slice, uint64_t page)
{
	return (volatile uint64_t *)(void *)(g.slice[slice].mem + page * DSM_PAGE_SIZE);
}

/* Homes change hands while the guest is paused; every page keeps its bytes and
 * its owner. */
static void move_homes(const struct dsm_home *homes)
{
	struct rehome r[COUNT];
	pthread_t t[COUNT];

	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(dsm_quiesce(g.slice[i].dsm, 5000), 0);
	for (unsigned i = 0; i < COUNT; i++) {
		r[i] = (struct rehome){.dsm = g.slice[i].dsm, .homes = homes};
		assert_int_equal(pthread_create(&t[i], NULL, rehome_main, &r[i]), 0);
	}
	for (unsigned i = 0; i < COUNT; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(r[i].err, 0);
	}
}

static void test_homes_move(void **state)
{
	const struct slices_options o = {.count = COUNT, .pages = 16, .transport = &xp_tcp};
	const struct dsm_home turned[] = {{0, 16, 1}, {16, 16, 2}, {32, 16, 0}};
	const struct dsm_home uneven[] = {{0, 40, 2}, {40, 4, 0}, {44, 4, 1}};
	uint64_t value = 1;
	uint64_t now[48] = {0};

	assert_int_equal(slices_open(&g, &o), 0);
	assert_int_equal(slices_start(&g), 0);
	for (unsigned round = 0; round < 3; round++) {
		for (uint64_t p = round; p < 48; p += 2)
			*word((unsigned)(p * 7 + round) % COUNT, p) = now[p] = value++;
		for (uint64_t p = 0; p < 48; p++)
			assert_int_equal(*word((unsigned)(p + round) % COUNT, p), now[p]);
		move_homes(round % 2 ? uneven : turned);
	}
	for (unsigned i = 0; i < COUNT; i++)
		for (uint64_t p = 0; p < 48; p++)
			assert_int_equal(*word(i, p), now[p]);
	assert_int_equal(dsm_rehome(g.slice[0].dsm, turned, 2, 1000), -EINVAL);
	slices_close(&g);
}

static void test_strange_layouts_are_refused(void **state)
{
	struct slices_options o = {
		.count = 2, .pages = 16, .transport = &xp_inproc, .encrypt = true};

	assert_int_equal(slices_open(&g, &o), -EOPNOTSUPP);
	xp_inproc_network_free(g.network);
	struct dsm_home gap[] = {{.first = 1, .count = 15, .node = 0}};
	struct dsm_engine *e;

	assert_int_equal(dsm_engine_new(&(struct dsm_engine_config){.page_count = 16,
								    .homes = gap,
								    .home_count = 1},
					&e),
			 -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_slice_that_dies),
		cmocka_unit_test(test_a_slice_that_hangs),
		cmocka_unit_test(test_homes_move),
		cmocka_unit_test(test_messages_arrive),
		cmocka_unit_test(test_strange_layouts_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
