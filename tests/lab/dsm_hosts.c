/*
 * The DSM between hosts: one such process on each, all joined by the memory that they share, which also
 * carries their barriers. Litmus tests of x86-TSO, locked increments, random writers, a scan and the
 * latencies of single faults; every value is checked.
 *
 *   lab-dsm SELF tcp|verbs ADDRESS:PORT ADDRESS:PORT...        (2 to 4 addresses, SELF among them)
 */
#include <sched.h>
#include <stdlib.h>

#include "base/rng.h"
#include "tests/unit/dsm/slices.h"

enum { PAGES = 2048, ROUNDS = 200, INCREMENTS = 500, WRITES = 1000, FAULTS = 200, SCAN = 1536 };
enum { PAGE_BARRIER = 0, PAGE_X = 16, PAGE_Y = PAGES + 16, PAGE_SUM = 24, PAGE_MIX = 32 };

static struct slices g;
static unsigned self;
static uint64_t turn;
static unsigned wrong;

static volatile uint64_t *word(uint64_t page, unsigned offset)
{
	return (volatile uint64_t *)(void *)(g.slice[self].mem + page * DSM_PAGE_SIZE + offset);
}

static void barrier(void)
{
	*word(PAGE_BARRIER + self, 0) = ++turn;
	for (unsigned n = 0; n < g.count; n++)
		while (*word(PAGE_BARRIER + n, 0) < turn) {
			if (atomic_load(&g.slice[self].error))
				exit(1);
			sched_yield();
		}
}

static void verdict(const char *what)
{
	printf("%s %s\n", wrong ? "WRONG" : "ok", what);
	(void)fflush(stdout);
	if (wrong)
		exit(1);
}

/* Not both may miss the other's store: what each saw goes to a page of its own, node 0 judges. */
static void store_buffering(void)
{
	for (uint64_t r = 1; r <= ROUNDS; r++) {
		barrier();
		if (self < 2) {
			*word(self ? PAGE_Y : PAGE_X, 0) = r;
			__asm__ volatile("mfence" ::: "memory");
			*word(4 + self, 0) = *word(self ? PAGE_X : PAGE_Y, 0);
		}
		barrier();
		if (!self)
			wrong += *word(4, 0) != r && *word(5, 0) != r;
	}
	verdict("store buffering");
}

static void message_passing(void)
{
	for (uint64_t r = 1; r <= ROUNDS; r++) {
		barrier();
		if (self == 0) {
			*word(PAGE_X, 8) = r;
			*word(PAGE_Y, 8) = r;
		} else {
			uint64_t y = *word(PAGE_Y, 8), x = *word(PAGE_X, 8);

			wrong += y > x || x > r;
		}
		barrier();
	}
	verdict("message passing");
}

static void locked_increments(unsigned offset, const char *what)
{
	volatile uint64_t *at = word(PAGE_SUM, offset);

	barrier();
	for (unsigned i = 0; i < INCREMENTS; i++)
		__asm__ volatile("lock addq $1, %0" : "+m"(*at)::"memory");
	barrier();
	wrong += *at != (uint64_t)INCREMENTS * g.count;
	barrier();
	verdict(what);
}

static void random_writers(void)
{
	uint64_t last[16] = {0}, highest[16][SLICES_MAX] = {{0}};
	struct base_rng rng;

	base_rng_seed(&rng, self + 1);
	barrier();
	for (uint64_t i = 1; i <= WRITES; i++) {
		uint64_t k = base_rng_below(&rng, 16), page = (k % 2 ? PAGES : 0) + PAGE_MIX + k;
		unsigned other = (unsigned)base_rng_below(&rng, g.count);
		uint64_t v = *word(page, 512 + other * 8);

		wrong += v < highest[k][other];
		highest[k][other] = v;
		wrong += *word(page, 512 + self * 8) != last[k];
		*word(page, 512 + self * 8) = last[k] = highest[k][self] = i;
	}
	barrier();
	verdict("random writers");
}

/* Who leaves first takes its pages along, so nobody does before all have said that they are done. */
static void farewell(void)
{
	struct slice *me = &g.slice[self];

	for (uint8_t n = 0; n < g.count; n++)
		if (n != self && dsm_message(me->dsm, n, "done", 4))
			return;
	while (atomic_load(&me->messages) < g.count - 1 && !atomic_load(&me->error))
		sched_yield();
}

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

/* Node 0 reads, one by one and not in order, what node 1 wrote. */
static void faults(void)
{
	static int64_t ns[FAULTS];

	for (uint64_t i = 0; i < FAULTS && self == 1; i++)
		*word(PAGES + 100 + i * 2, 64) = i + 1;
	barrier();
	for (uint64_t i = 0; i < FAULTS && self == 0; i++) {
		uint64_t k = i * 37 % FAULTS;
		int64_t start = base_clock_ns();

		wrong += *word(PAGES + 100 + k * 2, 64) != k + 1;
		ns[i] = base_clock_ns() - start;
	}
	barrier();
	qsort(ns, FAULTS, sizeof(ns[0]), by_value);
	if (self == 0)
		printf("read fault: p50 %.0f us, p99 %.0f us\n", (double)ns[FAULTS / 2] / 1e3,
		       (double)ns[FAULTS * 99 / 100] / 1e3);
	verdict("scattered reads");
}

static void scan(void)
{
	for (uint64_t p = 0; p < SCAN && self == 1; p++)
		for (unsigned k = 0; k < DSM_PAGE_SIZE; k += 512)
			*word(PAGES + 512 + p, k) = p * 7 + k + 1;
	barrier();
	int64_t start = base_clock_ns();

	for (uint64_t p = 0; p < SCAN && self == 0; p++)
		for (unsigned k = 0; k < DSM_PAGE_SIZE; k += 512)
			wrong += *word(PAGES + 512 + p, k) != p * 7 + k + 1;
	double s = (double)(base_clock_ns() - start) / 1e9;

	barrier();
	if (self == 0)
		printf("scan: %.2f MB/s\n", SCAN * (double)DSM_PAGE_SIZE / s / 1e6);
	verdict("scan");
}

static int open_slice(int argc, char **argv)
{
	struct slices_options o = {.transport = xp_find(argv[2]), .window_ms = 8000};
	int err;

	self = (unsigned)atoi(argv[1]);
	g.count = o.count = (unsigned)argc - 3;
	g.pages = o.pages = PAGES;
	if (!o.transport || g.count < 2 || g.count > SLICES_MAX || self >= g.count)
		return -EINVAL;
	for (unsigned n = 0; n < g.count; n++)
		(void)snprintf(g.address[n], sizeof(g.address[n]), "%s", argv[3 + n]);
	err = slices_open_one(&g, &o, self, -1);
	if (!err)
		err = dsm_start(g.slice[self].dsm);
	return err ? err : dsm_wait_up(g.slice[self].dsm, 10000);
}

static void report(const char *transport)
{
	struct xp_counters c[DSM_NODE_MAX];
	static struct dsm_stats st;
	struct dsm *d = g.slice[self].dsm;

	dsm_stats_get(d, &st, c);
	for (unsigned n = 0; n < g.count; n++)
		if (n != self)
			printf("%s, pages are %s; peer %u: %llu pages in, %llu out, %llu bytes in, "
			       "%llu reconnects\n",
			       transport,
			       dsm_install_used(d) == DSM_INSTALL_CONTINUE
				       ? "mapped where they arrive"
				       : "copied",
			       n, (unsigned long long)st.peer[n].pages_in,
			       (unsigned long long)st.peer[n].pages_out,
			       (unsigned long long)c[n].bytes_in,
			       (unsigned long long)c[n].reconnects);
}

int main(int argc, char **argv)
{
	int err = argc < 5 ? -EINVAL : open_slice(argc, argv);

	if (err) {
		(void)fprintf(stderr, "lab-dsm SELF tcp|verbs ADDRESS:PORT ADDRESS:PORT...: %s\n",
			      strerror(-err));
		return 1;
	}
	store_buffering();
	message_passing();
	locked_increments(128, "locked increments");
	locked_increments(DSM_PAGE_SIZE - 3, "locked increments across pages");
	random_writers();
	faults();
	scan();
	report(argv[2]);
	farewell();
	dsm_stop(g.slice[self].dsm);
	dsm_free(g.slice[self].dsm);
	return 0;
}
