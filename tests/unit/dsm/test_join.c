/* A slice joins others that go on meanwhile: in the place of one that has left, and where one was alone. */
/* libs: pg_dsm */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/rng.h"
#include "slices.h"

enum { COUNT = 3, PAGES = 256, ALL = COUNT * PAGES, WAIT_MS = 10000, BY = COUNT };

static struct slices g;
static const struct xp_ops *transport;
static _Atomic(bool) done;
static uint64_t group = 100;

static _Atomic(uint64_t) *word(unsigned slice, uint64_t page, unsigned n)
{
	return (_Atomic(uint64_t) *)(void *)(g.slice[slice].mem + page * DSM_PAGE_SIZE + 8 * n);
}

#define UNTIL(what)                                                                                \
	for (int64_t end_ = base_clock_ns() + WAIT_MS * BASE_NS_PER_MS; !(what);) {                \
		assert_true(base_clock_ns() < end_);                                               \
		(void)poll(NULL, 0, 1);                                                            \
	}

/* ---- what the slices of a guest do together ---- */

struct rehome {
	struct dsm *dsm;
	struct dsm_home homes[COUNT];
	int err;
};

static void *rehome_main(void *arg)
{
	struct rehome *r = arg;

	r->err = dsm_rehome(r->dsm, r->homes, COUNT, WAIT_MS);
	return NULL;
}

/* home[i]: of part i. Of the slices `members`, whose writers stand. */
static void rehome(uint16_t members, const uint8_t home[COUNT])
{
	struct rehome r[COUNT];
	pthread_t t[COUNT];

	for (unsigned i = 0; i < COUNT; i++)
		if (members & 1u << i)
			assert_int_equal(dsm_quiesce(g.slice[i].dsm, WAIT_MS), 0);
	for (unsigned i = 0; i < COUNT; i++) {
		r[i] = (struct rehome){.dsm = g.slice[i].dsm};
		for (unsigned p = 0; p < COUNT; p++)
			r[i].homes[p] = (struct dsm_home){(uint64_t)p * PAGES, PAGES, home[p]};
		if (members & 1u << i)
			assert_int_equal(pthread_create(&t[i], NULL, rehome_main, &r[i]), 0);
	}
	for (unsigned i = 0; i < COUNT; i++) {
		if (!(members & 1u << i))
			continue;
		pthread_join(t[i], NULL);
		assert_int_equal(r[i].err, 0);
	}
}

static void close_slice(unsigned i)
{
	dsm_free(g.slice[i].dsm);
	munmap(g.slice[i].mem, slices_len(&g));
	close(g.slice[i].fd);
	g.slice[i] = (struct slice){0};
}

/* What was asked of it before has been done: memory that is shared is so already. */
static void take_in(unsigned slice)
{
	assert_int_equal(dsm_share(g.slice[slice].dsm, WAIT_MS), 0);
}

/* `who` has no home any more; it leaves the others of `members`. */
static void leave(uint16_t members, unsigned who)
{
	uint64_t asked, total;

	for (unsigned i = 0; i < COUNT; i++)
		if (i != who && members & 1u << i)
			assert_int_equal(dsm_evict(g.slice[i].dsm, (uint16_t)(1u << who), 0), 0);
	for (unsigned i = 0; i < COUNT; i++) {
		if (i == who || !(members & 1u << i))
			continue;
		UNTIL(!dsm_evict_progress(g.slice[i].dsm, &asked, &total));
		assert_int_equal(dsm_forget(g.slice[i].dsm, (uint8_t)who), 0);
		take_in(i);
	}
	close_slice(who);
}

static struct slices_options options(void)
{
	return (struct slices_options){
		.count = COUNT, .pages = PAGES, .transport = transport, .window_ms = 500};
}

static void listen_anew(unsigned who, int *fd)
{
	*fd = -1;
	if (transport != &xp_inproc)
		assert_int_equal(slices_listen(transport, g.address[who], fd), 0);
	group++;
}

static void admit(uint16_t members, unsigned who)
{
	for (unsigned i = 0; i < COUNT; i++) {
		if (i == who || !(members & 1u << i))
			continue;
		atomic_store(&g.slice[i].links, 0);
		atomic_store(&g.slice[i].link_error, 0);
		assert_int_equal(dsm_admit(g.slice[i].dsm, (uint8_t)who, g.address[who], group), 0);
	}
}

/* `who` joins `members`, where pages are at home as in `home`. */
static void join(uint16_t members, unsigned who, const uint8_t home[COUNT])
{
	const struct slices_options o = options();
	struct dsm_home homes[COUNT];
	int fd;

	for (unsigned p = 0; p < COUNT; p++)
		homes[p] = (struct dsm_home){(uint64_t)p * PAGES, PAGES, home[p]};
	listen_anew(who, &fd);
	g.peers = members;
	g.group = group;
	g.homes = homes;
	admit(members, who);
	assert_int_equal(slices_open_one(&g, &o, who, fd), 0);
	assert_int_equal(dsm_start(g.slice[who].dsm), 0);
	assert_int_equal(dsm_wait_up(g.slice[who].dsm, WAIT_MS), 0);
	for (unsigned i = 0; i < COUNT; i++) {
		if (i == who || !(members & 1u << i))
			continue;
		UNTIL(atomic_load(&g.slice[i].links));
		assert_int_equal(dsm_keep(g.slice[i].dsm, (uint8_t)who), 0);
	}
}

/* ---- threads that count up words of their own, on pages that all use ---- */

struct writer {
	unsigned slice;
	pthread_t thread;
	_Atomic(uint64_t) sum;
};

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	struct base_rng rng;

	base_rng_seed(&rng, w->slice + 1);
	while (!atomic_load(&done)) {
		atomic_fetch_add(word(w->slice, base_rng_next(&rng) % ALL, w->slice), 1);
		atomic_fetch_add(&w->sum, 1);
	}
	return NULL;
}

static void writers_start(struct writer w[COUNT], uint16_t slices)
{
	atomic_store(&done, false);
	for (unsigned i = 0; i < COUNT; i++)
		if (slices & 1u << i) {
			w[i].slice = i;
			assert_int_equal(pthread_create(&w[i].thread, NULL, writer_main, &w[i]), 0);
		}
}

static void writers_stop(struct writer w[COUNT], uint16_t slices)
{
	atomic_store(&done, true);
	for (unsigned i = 0; i < COUNT; i++)
		if (slices & 1u << i)
			pthread_join(w[i].thread, NULL);
}

/* What `slice` sees of all that was ever written is all of it. */
static void check(const struct writer w[COUNT], unsigned slice)
{
	for (unsigned i = 0; i < COUNT; i++) {
		uint64_t seen = 0;

		for (uint64_t p = 0; p < ALL; p++)
			seen += atomic_load(word(slice, p, i));
		assert_int_equal(seen, w[i].sum);
	}
	for (uint64_t p = 0; p < ALL; p++)
		assert_int_equal(atomic_load(word(slice, p, BY)), p + 1);
}

static void open_all(void)
{
	const struct slices_options o = options();

	assert_int_equal(slices_open(&g, &o), 0);
	assert_int_equal(slices_start(&g), 0);
	for (uint64_t p = 0; p < ALL; p++)
		atomic_store(word(p % COUNT, p, BY), p + 1);
}

static void close_all(void)
{
	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(atomic_load(&g.slice[i].error), 0);
	slices_close(&g);
}

/* Each number in turn leaves and comes back, while the others write. */
static void test_takes_the_place_of_one_that_left(void **state)
{
	static const uint8_t before[COUNT] = {0, 1, 2};
	struct writer w[COUNT] = {0};

	transport = *state;
	open_all();
	for (unsigned who = COUNT; who-- > 0;) {
		uint16_t others = (uint16_t)(((1u << COUNT) - 1) & ~(1u << who));
		uint8_t home[COUNT];

		for (unsigned i = 0; i < COUNT; i++)
			home[i] = (uint8_t)(i == who ? (who + 1) % COUNT : i);
		rehome((1u << COUNT) - 1, home);
		writers_start(w, others);
		leave((1u << COUNT) - 1, who);
		join(others, who, home);
		writers_stop(w, others);
		writers_start(w, (1u << COUNT) - 1);
		UNTIL(atomic_load(&w[who].sum));
		writers_stop(w, (1u << COUNT) - 1);
		rehome((1u << COUNT) - 1, before);
		check(w, who);
		writers_start(w, (1u << COUNT) - 1);
		(void)poll(NULL, 0, 5);
		writers_stop(w, (1u << COUNT) - 1);
		check(w, (who + 1) % COUNT);
	}
	close_all();
}

/* All but slice 0 leave; what was ordinary memory for a while is shared again. */
static void test_joins_one_that_was_alone(void **state)
{
	static const uint8_t alone[COUNT] = {0}, with_one[COUNT] = {0, 1, 0};
	struct writer w[COUNT] = {0};

	transport = *state;
	open_all();
	for (unsigned round = 0; round < 2; round++) {
		rehome(round ? 3 : 7, alone);
		writers_start(w, 1);
		if (!round)
			leave(7, 2);
		leave(3, 1);
		UNTIL(dsm_is_released(g.slice[0].dsm));
		(void)poll(NULL, 0, 2); /* writes of which the DSM learns nothing */
		writers_stop(w, 1);
		assert_int_equal(dsm_share(g.slice[0].dsm, WAIT_MS), 0);
		assert_false(dsm_is_released(g.slice[0].dsm));
		assert_int_equal(dsm_share(g.slice[0].dsm, WAIT_MS), 0);
		writers_start(w, 1);
		join(1, 1, alone);
		writers_stop(w, 1);
		check(w, 1);
		rehome(3, with_one);
		writers_start(w, 3);
		(void)poll(NULL, 0, 5);
		writers_stop(w, 3);
		check(w, 0);
		check(w, 1);
	}
	/* The third one again, from nothing. */
	join(3, 2, with_one);
	check(w, 2);
	close_all();
}

/* Nobody comes, or it ends before it is kept: the others go on, and the next one may come. */
static void test_one_that_does_not_come_harms_nobody(void **state)
{
	static const uint8_t home[COUNT] = {0, 1, 0}, alone[COUNT] = {0};
	struct writer w[COUNT] = {0};
	struct dsm_home homes[COUNT];
	int fd;

	transport = *state;
	const struct slices_options o = options();

	open_all();
	for (unsigned p = 0; p < COUNT; p++)
		homes[p] = (struct dsm_home){(uint64_t)p * PAGES, PAGES, home[p]};
	rehome(7, home);
	writers_start(w, 3);
	leave(7, 2);
	if (transport->caps & XP_CAP_REMOTE) {
		listen_anew(2, &fd);
		close(fd);
		admit(3, 2);
		for (unsigned i = 0; i < 2; i++)
			UNTIL(atomic_load(&g.slice[i].link_error) == -ETIMEDOUT);
	}
	/* It ends by itself. */
	listen_anew(2, &fd);
	g.peers = 3;
	g.group = group;
	g.homes = homes;
	admit(3, 2);
	assert_int_equal(slices_open_one(&g, &o, 2, fd), 0);
	assert_int_equal(dsm_start(g.slice[2].dsm), 0);
	for (unsigned i = 0; i < 2; i++)
		UNTIL(atomic_load(&g.slice[i].links));
	close_slice(2);
	for (unsigned i = 0; i < 2; i++)
		UNTIL(atomic_load(&g.slice[i].link_error)); /* a goodbye may be lost */
	/* It is dropped, one time before the link is there. */
	for (unsigned late = 0; late < 2; late++) {
		listen_anew(2, &fd);
		g.group = group;
		admit(3, 2);
		if (late) {
			assert_int_equal(slices_open_one(&g, &o, 2, fd), 0);
			assert_int_equal(dsm_start(g.slice[2].dsm), 0);
			for (unsigned i = 0; i < 2; i++)
				UNTIL(atomic_load(&g.slice[i].links));
		} else if (fd >= 0) {
			close(fd);
		}
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(dsm_drop(g.slice[i].dsm, 2), 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		take_in(i);
		assert_int_equal(dsm_message(g.slice[i].dsm, 2, "x", 1), -EINVAL);
	}
	close_slice(2);
	join(3, 2, home);
	writers_stop(w, 3);
	check(w, 2);
	/* Slice 0 alone is ordinary again when nobody comes. */
	rehome(7, alone);
	leave(7, 2);
	leave(3, 1);
	UNTIL(dsm_is_released(g.slice[0].dsm));
	assert_int_equal(dsm_share(g.slice[0].dsm, WAIT_MS), 0);
	listen_anew(1, &fd);
	if (fd >= 0)
		close(fd);
	admit(1, 1);
	assert_int_equal(dsm_drop(g.slice[0].dsm, 1), 0);
	UNTIL(dsm_is_released(g.slice[0].dsm));
	check(w, 0);
	assert_int_equal(dsm_admit(g.slice[0].dsm, 0, "", group), -EINVAL);
	assert_int_equal(dsm_keep(g.slice[0].dsm, 1), -EINVAL);
	assert_int_equal(atomic_load(&g.slice[0].error), 0);
	close_slice(0);
	xp_inproc_network_free(g.network);
	g.network = NULL;
}

#define OVER(test, xp) cmocka_unit_test_prestate(test, (void *)(uintptr_t) & (xp))

int main(void)
{
	const struct CMUnitTest tests[] = {
		OVER(test_takes_the_place_of_one_that_left, xp_inproc),
		OVER(test_takes_the_place_of_one_that_left, xp_tcp),
		OVER(test_joins_one_that_was_alone, xp_inproc),
		OVER(test_joins_one_that_was_alone, xp_tcp),
		OVER(test_one_that_does_not_come_harms_nobody, xp_inproc),
		OVER(test_one_that_does_not_come_harms_nobody, xp_tcp),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
