/* A slice leaves: its homes and pages go to the others, which go on without it. */
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

enum { COUNT = 3, LEAVER = 2, PAGES = 512, ALL = COUNT * PAGES, WRITERS = 2 };

static struct slices g;
static _Atomic(bool) done;

static _Atomic(uint64_t) *word(unsigned slice, uint64_t page, unsigned n)
{
	return (_Atomic(uint64_t) *)(void *)(g.slice[slice].mem + page * DSM_PAGE_SIZE + 8 * n);
}

struct rehome {
	struct dsm *dsm;
	int err;
};

static void *rehome_main(void *arg)
{
	static const struct dsm_home without[] = {
		{0, PAGES, 0}, {PAGES, PAGES, 1}, {2ul * PAGES, PAGES, 0}};
	struct rehome *r = arg;

	r->err = dsm_rehome(r->dsm, without, COUNT, 5000);
	return NULL;
}

static void move_homes(void)
{
	struct rehome r[COUNT];
	pthread_t t[COUNT];

	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(dsm_quiesce(g.slice[i].dsm, 5000), 0);
	for (unsigned i = 0; i < COUNT; i++) {
		r[i] = (struct rehome){.dsm = g.slice[i].dsm};
		assert_int_equal(pthread_create(&t[i], NULL, rehome_main, &r[i]), 0);
	}
	for (unsigned i = 0; i < COUNT; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(r[i].err, 0);
	}
}

/* Counts up words of its own on pages that all use: every other one. */
static void *writer_main(void *arg)
{
	unsigned slice = *(unsigned *)arg;
	struct base_rng rng;
	uint64_t sum = 0;

	base_rng_seed(&rng, slice + 1);
	while (!atomic_load(&done)) {
		atomic_fetch_add(word(slice, base_rng_next(&rng) % (ALL / 2) * 2, slice), 1);
		sum++;
	}
	return (void *)(uintptr_t)sum;
}

static void empty(void)
{
	uint64_t asked, total;

	assert_int_equal(dsm_evict(g.slice[0].dsm, 1u << 0, 0), -EINVAL);
	assert_int_equal(dsm_evict(g.slice[0].dsm, 1u << LEAVER, 0), 0);
	assert_int_equal(dsm_evict(g.slice[0].dsm, 1u << LEAVER, 0), -EBUSY);
	assert_int_equal(dsm_evict(g.slice[1].dsm, 1u << LEAVER, 100000), 0);
	for (unsigned i = 0; i < WRITERS; i++)
		while (dsm_evict_progress(g.slice[i].dsm, &asked, &total))
			(void)poll(NULL, 0, 1);
	(void)dsm_evict_progress(g.slice[0].dsm, &asked, &total);
	assert_true(total > 0 && asked > 0);
}

struct one_home {
	struct dsm *dsm;
	int err;
};

static void *last_home_main(void *arg)
{
	static const struct dsm_home all[] = {{0, ALL, 0}};
	struct one_home *r = arg;

	r->err = dsm_rehome(r->dsm, all, 1, 5000);
	return NULL;
}

/* The last but one leaves as well: what is left is ordinary memory. */
static void alone(void)
{
	struct one_home r[WRITERS];
	uint64_t asked, total;
	pthread_t t[WRITERS];

	for (unsigned i = 0; i < WRITERS; i++)
		assert_int_equal(dsm_quiesce(g.slice[i].dsm, 5000), 0);
	for (unsigned i = 0; i < WRITERS; i++) {
		r[i] = (struct one_home){.dsm = g.slice[i].dsm};
		assert_int_equal(pthread_create(&t[i], NULL, last_home_main, &r[i]), 0);
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(r[i].err, 0);
	}
	assert_int_equal(dsm_evict(g.slice[0].dsm, 1u << 1, 0), 0);
	while (dsm_evict_progress(g.slice[0].dsm, &asked, &total))
		(void)poll(NULL, 0, 1);
	assert_false(dsm_is_released(g.slice[0].dsm));
	assert_int_equal(dsm_forget(g.slice[0].dsm, 1), 0);
	assert_int_equal(dsm_message(g.slice[0].dsm, 1, "x", 1), 0);
	while (atomic_load(&g.slice[1].messages) < 2)
		(void)poll(NULL, 0, 1);
	dsm_stop(g.slice[1].dsm);
	while (!dsm_is_released(g.slice[0].dsm))
		(void)poll(NULL, 0, 1);
	for (uint64_t p = 0; p < ALL; p++) {
		assert_int_equal(atomic_load(word(0, p, COUNT)), p + 1);
		atomic_store(word(0, p, COUNT + 1), p);
	}
	for (uint64_t p = 0; p < ALL; p++)
		assert_int_equal(atomic_load(word(0, p, COUNT + 1)), p);
	/* Nobody is left who would answer a fault. */
	dsm_stop(g.slice[0].dsm);
	for (uint64_t p = 0; p < ALL; p++)
		atomic_fetch_add(word(0, p, COUNT + 1), 1);
}

static void leave_over(const struct xp_ops *transport)
{
	const struct slices_options o = {.count = COUNT, .pages = PAGES, .transport = transport};
	unsigned ids[WRITERS] = {0, 1};
	uint64_t sums[WRITERS] = {0}, seen[WRITERS] = {0};
	pthread_t t[WRITERS];

	atomic_store(&done, false);
	assert_int_equal(slices_open(&g, &o), 0);
	assert_int_equal(slices_start(&g), 0);
	for (uint64_t p = 0; p < ALL; p++)
		atomic_store(word(p % COUNT, p, COUNT), p + 1);
	for (uint64_t p = 0; p < ALL; p += 5) /* it has copies of others' pages, too */
		assert_int_equal(atomic_load(word(LEAVER, p, COUNT)), p + 1);
	move_homes();
	for (unsigned i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, writer_main, &ids[i]), 0);
	empty();
	for (unsigned i = 0; i < WRITERS; i++) {
		assert_int_equal(dsm_forget(g.slice[i].dsm, LEAVER), 0);
		/* A message behind it tells that it has been taken in. */
		assert_int_equal(dsm_message(g.slice[i].dsm, (uint8_t)!i, "x", 1), 0);
		while (!atomic_load(&g.slice[!i].messages))
			(void)poll(NULL, 0, 1);
	}
	/* What is sent to it from now on comes there or nowhere, and does no harm. */
	assert_int_equal(dsm_message(g.slice[0].dsm, LEAVER, "x", 1), 0);
	assert_int_equal(dsm_quiesce(g.slice[LEAVER].dsm, 5000), 0);
	dsm_stop(g.slice[LEAVER].dsm);
	while (dsm_message(g.slice[1].dsm, LEAVER, "x", 1) != -EINVAL)
		(void)poll(NULL, 0, 1);
	(void)poll(NULL, 0, 20); /* the writers go on without it */
	atomic_store(&done, true);
	for (unsigned i = 0; i < WRITERS; i++) {
		void *sum;

		pthread_join(t[i], &sum);
		sums[i] = (uintptr_t)sum;
	}
	for (uint64_t p = 0; p < ALL; p++) {
		assert_int_equal(atomic_load(word(p % WRITERS, p, COUNT)), p + 1);
		for (unsigned i = 0; i < WRITERS; i++)
			seen[i] += atomic_load(word((p + 1) % WRITERS, p, i));
	}
	assert_memory_equal(sums, seen, sizeof(sums));
	alone();
	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(atomic_load(&g.slice[i].error), 0);
	slices_close(&g);
}

static void test_leaves_over_inproc(void **state)
{
	leave_over(&xp_inproc);
}

static void test_leaves_over_tcp(void **state)
{
	leave_over(&xp_tcp);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_leaves_over_inproc),
		cmocka_unit_test(test_leaves_over_tcp),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
