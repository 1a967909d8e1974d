// timeout: 120
/*
 * Real threads on several slices: the litmus tests of x86-TSO, locked increments also across a page
 * boundary, and random writers whose every word is checked, over each transport and both ways to
 * install pages.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/rng.h"
#include "slices.h"

/* Unordered accesses are what a litmus test is about. */
#define RACY __attribute__((no_sanitize("thread")))

struct setup {
	const char *name;
	struct slices_options o;
};

static const struct setup setups[] = {
	{"inproc", {.count = 2, .pages = 64, .transport = &xp_inproc}},
	{"inproc copy",
	 {.count = 2, .pages = 64, .transport = &xp_inproc, .install = DSM_INSTALL_COPY}},
	{"tcp", {.count = 2, .pages = 64, .transport = &xp_tcp}},
	{"tcp encrypted", {.count = 2, .pages = 64, .transport = &xp_tcp, .encrypt = true}},
	{"tcp breaking", {.count = 2, .pages = 64, .transport = &xp_tcp, .break_one_in = 5000}},
	{"tcp 4 slices", {.count = 4, .pages = 64, .transport = &xp_tcp}},
	{"verbs", {.count = 2, .pages = 64, .transport = &xp_verbs}},
	{"verbs breaking", {.count = 2, .pages = 64, .transport = &xp_verbs, .break_one_in = 3000}},
};

static struct slices g;

static volatile uint64_t *word(unsigned slice, uint64_t page, unsigned offset)
{
	return (volatile uint64_t *)(void *)(g.slice[slice].mem + page * DSM_PAGE_SIZE + offset);
}

static int begin(void **state)
{
	const struct setup *s = *state;
	enum dsm_install best;
	int err = dsm_uffd_probe(&best);

	if (err) {
		print_message("skip: no userfaultfd here (%s)\n", strerror(-err));
		exit(77);
	}
	err = slices_open(&g, &s->o);
	return err ? err : slices_start(&g);
}

static int end(void **state)
{
	for (unsigned i = 0; i < g.count; i++)
		if (atomic_load(&g.slice[i].error))
			return -1;
	slices_close(&g);
	return 0;
}

/* ---- rounds that all threads enter together ---- */

struct player {
	unsigned index, slice;
	unsigned rounds;
	pthread_barrier_t *barrier;
	uint64_t *seen; /* of the round */
	void (*play)(struct player *p, uint64_t round);
};

static void *player_main(void *arg)
{
	struct player *p = arg;

	for (uint64_t r = 1; r <= p->rounds; r++) {
		pthread_barrier_wait(p->barrier);
		p->play(p, r);
		pthread_barrier_wait(p->barrier);
	}
	return NULL;
}

typedef void (*play_fn)(struct player *p, uint64_t round);

static void play_all(const play_fn *plays, unsigned count, unsigned rounds, uint64_t seen[][4],
		     void (*check)(uint64_t seen[][4], uint64_t round))
{
	pthread_barrier_t barrier;
	pthread_t t[4];
	struct player p[4];

	pthread_barrier_init(&barrier, NULL, count + 1);
	for (unsigned i = 0; i < count; i++) {
		p[i] = (struct player){.index = i,
				       .slice = i % g.count,
				       .rounds = rounds,
				       .barrier = &barrier,
				       .seen = seen[i],
				       .play = plays[i]};
		assert_int_equal(pthread_create(&t[i], NULL, player_main, &p[i]), 0);
	}
	for (uint64_t r = 1; r <= rounds; r++) {
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		check(seen, r);
	}
	for (unsigned i = 0; i < count; i++)
		pthread_join(t[i], NULL);
	pthread_barrier_destroy(&barrier);
}

enum { PAGE_X = 10, PAGE_Y = 70, ROUNDS = 60 };

static void fence(void)
{
	__asm__ volatile("mfence" ::: "memory");
}

RACY static void sb_x(struct player *p, uint64_t r)
{
	*word(p->slice, PAGE_X, 0) = r;
	fence();
	p->seen[0] = *word(p->slice, PAGE_Y, 0);
}

RACY static void sb_y(struct player *p, uint64_t r)
{
	*word(p->slice, PAGE_Y, 0) = r;
	fence();
	p->seen[0] = *word(p->slice, PAGE_X, 0);
}

static void sb_check(uint64_t seen[][4], uint64_t r)
{
	assert_true(seen[0][0] == r || seen[1][0] == r);
	assert_true(seen[0][0] <= r && seen[1][0] <= r);
}

static void test_store_buffering(void **state)
{
	uint64_t seen[4][4] = {0};

	play_all((play_fn[]){sb_x, sb_y}, 2, ROUNDS, seen, sb_check);
}

RACY static void mp_write(struct player *p, uint64_t r)
{
	*word(p->slice, PAGE_X, 8) = r;
	*word(p->slice, PAGE_Y, 8) = r;
}

RACY static void mp_read(struct player *p, uint64_t r)
{
	p->seen[0] = *word(p->slice, PAGE_Y, 8);
	p->seen[1] = *word(p->slice, PAGE_X, 8);
}

static void mp_check(uint64_t seen[][4], uint64_t r)
{
	assert_true(seen[1][0] <= seen[1][1]);
	assert_true(seen[1][1] <= r);
}

static void test_message_passing(void **state)
{
	uint64_t seen[4][4] = {0};

	play_all((play_fn[]){mp_write, mp_read}, 2, ROUNDS, seen, mp_check);
}

RACY static void iriw_x(struct player *p, uint64_t r)
{
	*word(p->slice, PAGE_X, 16) = r;
}

RACY static void iriw_y(struct player *p, uint64_t r)
{
	*word(p->slice, PAGE_Y, 16) = r;
}

RACY static void iriw_xy(struct player *p, uint64_t r)
{
	p->seen[0] = *word(p->slice, PAGE_X, 16);
	p->seen[1] = *word(p->slice, PAGE_Y, 16);
}

RACY static void iriw_yx(struct player *p, uint64_t r)
{
	p->seen[0] = *word(p->slice, PAGE_Y, 16);
	p->seen[1] = *word(p->slice, PAGE_X, 16);
}

/* Two readers may not see the two writes in opposite orders. */
static void iriw_check(uint64_t seen[][4], uint64_t r)
{
	assert_false(seen[2][0] == r && seen[2][1] == r - 1 && seen[3][0] == r &&
		     seen[3][1] == r - 1);
}

static void test_independent_reads_of_independent_writes(void **state)
{
	uint64_t seen[4][4] = {0};

	play_all((play_fn[]){iriw_x, iriw_y, iriw_xy, iriw_yx}, 4, ROUNDS, seen, iriw_check);
}

/* ---- locked increments ---- */

enum { INCREMENTS = 3000 };

struct adder {
	volatile uint64_t *at;
};

static void *add_main(void *arg)
{
	struct adder *a = arg;

	for (unsigned i = 0; i < INCREMENTS; i++)
		__asm__ volatile("lock addq $1, %0" : "+m"(*a->at)::"memory");
	return NULL;
}

static void add_at(uint64_t page, unsigned offset)
{
	pthread_t t[SLICES_MAX];
	struct adder a[SLICES_MAX];

	for (unsigned i = 0; i < g.count; i++) {
		a[i].at = word(i, page, offset);
		assert_int_equal(pthread_create(&t[i], NULL, add_main, &a[i]), 0);
	}
	for (unsigned i = 0; i < g.count; i++)
		pthread_join(t[i], NULL);
	for (unsigned i = 0; i < g.count; i++) {
		uint64_t sum;

		memcpy(&sum, (const void *)word(i, page, offset), sizeof(sum));
		assert_int_equal(sum, g.count * (uint64_t)INCREMENTS);
	}
}

static void test_locked_increments(void **state)
{
	add_at(20, 128);
}

/* Each needs two pages at once, of two homes: what the hold time is for. */
static void test_locked_increments_across_pages(void **state)
{
	add_at(63, DSM_PAGE_SIZE - 4);
}

/* ---- random writers ---- */

enum { WRITER_PAGES = 16, WRITES = 4000 };

struct writer {
	unsigned slice;
	uint64_t last[WRITER_PAGES]; /* of our word in each page */
	uint64_t wrong;
};

/* Each slice writes its own word of shared pages and checks that nobody else has changed it, and
 * that the words of others never go back. */
static void *writer_main(void *arg)
{
	struct writer *w = arg;
	uint64_t highest[WRITER_PAGES][SLICES_MAX] = {{0}};
	struct base_rng rng;

	base_rng_seed(&rng, w->slice);
	for (uint64_t i = 1; i <= WRITES; i++) {
		uint64_t k = base_rng_below(&rng, WRITER_PAGES), page = 30 + k * 5;
		unsigned other = (unsigned)base_rng_below(&rng, g.count);
		uint64_t v = *word(w->slice, page, 512 + other * 8);

		w->wrong += v < highest[k][other];
		highest[k][other] = v;
		if (base_rng_below(&rng, 4))
			continue;
		w->wrong += *word(w->slice, page, 512 + w->slice * 8) != w->last[k];
		*word(w->slice, page, 512 + w->slice * 8) = i;
		w->last[k] = highest[k][w->slice] = i;
	}
	return NULL;
}

static void test_random_writers(void **state)
{
	pthread_t t[SLICES_MAX];
	static struct writer w[SLICES_MAX];

	memset(w, 0, sizeof(w));
	for (unsigned i = 0; i < g.count; i++) {
		w[i].slice = i;
		assert_int_equal(pthread_create(&t[i], NULL, writer_main, &w[i]), 0);
	}
	for (unsigned i = 0; i < g.count; i++)
		pthread_join(t[i], NULL);
	for (unsigned i = 0; i < g.count; i++) {
		assert_int_equal(w[i].wrong, 0);
		for (unsigned k = 0; k < WRITER_PAGES; k++)
			for (unsigned from = 0; from < g.count; from++)
				assert_int_equal(*word(from, 30 + k * 5, 512 + i * 8),
						 w[i].last[k]);
	}
}

/* Sequential reading of what another slice wrote: prefetch on, every byte checked. */
static void test_scan(void **state)
{
	for (uint64_t p = 0; p < g.pages; p++)
		for (unsigned k = 0; k < DSM_PAGE_SIZE; k += 8)
			*word(0, p, k) = p * 1000 + k;
	for (uint64_t p = 0; p < g.pages; p++)
		for (unsigned k = 0; k < DSM_PAGE_SIZE; k += 8)
			assert_int_equal(*word(1, p, k), p * 1000 + k);
}

#define SUITE(i)                                                                                   \
	{"store buffering", test_store_buffering, begin, end, (void *)&setups[i]},                 \
		{"message passing", test_message_passing, begin, end, (void *)&setups[i]},         \
		{"IRIW", test_independent_reads_of_independent_writes, begin, end,                 \
		 (void *)&setups[i]},                                                              \
		{"locked increments", test_locked_increments, begin, end, (void *)&setups[i]},     \
		{"locked increments across pages", test_locked_increments_across_pages, begin,     \
		 end, (void *)&setups[i]},                                                         \
		{"random writers", test_random_writers, begin, end, (void *)&setups[i]},           \
	{                                                                                          \
		"scan", test_scan, begin, end, (void *)&setups[i]                                  \
	}

/* `verbs`: over RDMA, and the device must be there. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {SUITE(0), SUITE(1), SUITE(2),
					   SUITE(3), SUITE(4), SUITE(5)};
	const struct CMUnitTest verbs[] = {SUITE(6), SUITE(7)};
	char host[16];
	int failed = 0;

	if (argc < 2 || strcmp(argv[1], "verbs"))
		failed = cmocka_run_group_tests(tests, NULL, NULL);
	else if (xp_verbs_address(host, sizeof(host)))
		failed = 1;
	if (xp_verbs_address(host, sizeof(host)))
		print_message("skip: verbs: this machine has no RDMA device with an address\n");
	else
		failed += cmocka_run_group_tests(verbs, NULL, NULL);
	return failed;
}
