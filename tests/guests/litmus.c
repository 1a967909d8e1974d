/*
 * What x86-TSO forbids, by four vCPUs; rounds=R, and x=, y= MiB say where the two words are, so that they
 * can be at home with different slices. Each round the vCPUs change their parts.
 * - store buffering: of two that store and then, behind a fence, read the other's word, one sees it
 * - load buffering: of two that read and then store the other's, not both see the store
 * - message passing: who sees the second of two stores sees the first
 * - IRIW: two who read two independent stores agree which was first
 * Says how often a round was one in which an order could be seen at all.
 */
#include "guest.h"

enum { CPUS = 4, ROUNDS = 200, TESTS = 4, JITTER = 2048, WAIT = 4096 };

static const char *const names[TESTS] = {"store buffering", "load buffering", "message passing",
					 "IRIW"};

/* Each on a page of its own. */
static volatile uint64_t arrived __attribute__((aligned(4096)));
static volatile uint64_t phase __attribute__((aligned(4096)));
static volatile uint64_t saw[CPUS][512] __attribute__((aligned(4096)));
static volatile uint64_t bad[512] __attribute__((aligned(4096)));
static uint64_t seen[TESTS];

static volatile uint64_t *word(const char *arg, uint64_t mib)
{
	return (volatile uint64_t *)(guest_arg(arg, mib) << 20);
}

/* All four are here. */
static void meet(uint64_t n)
{
	uint64_t one = 1;

	__asm__ volatile("lock xaddq %0, %1" : "+r"(one), "+m"(arrived) : : "memory");
	if (one + 1 == n * CPUS)
		phase = n;
	while (phase < n)
		cpu_pause();
}

/* So that each may come first. */
static void stagger(uint64_t seed)
{
	for (uint64_t n = (rdtsc() ^ seed * 977) % JITTER; n; n--)
		__asm__ volatile("" : : : "memory");
}

static void fence(void)
{
	__asm__ volatile("mfence" : : : "memory");
}

/* The second of two stores is worth waiting for, but it may come late. */
static uint64_t await(volatile uint64_t *p, uint64_t value)
{
	for (int n = 0; n < WAIT && *p < value; n++)
		cpu_pause();
	return *p;
}

/* What the vCPU in this part saw goes into r[0] and r[1]. */
static void act(unsigned test, unsigned part, uint64_t i, volatile uint64_t *x,
		volatile uint64_t *y, volatile uint64_t *r)
{
	volatile uint64_t *mine = part % 2 ? y : x, *others = part % 2 ? x : y;

	switch (test) {
	case 0:
		if (part > 1)
			return;
		*mine = i;
		fence();
		r[0] = *others;
		return;
	case 1:
		if (part > 1)
			return;
		r[0] = *mine;
		*others = i;
		return;
	case 2:
		if (part == 0) {
			*x = i;
			*y = i;
		} else {
			r[0] = await(y, i);
			r[1] = *x;
		}
		return;
	default:
		if (part < 2) {
			*mine = i;
		} else {
			r[0] = await(mine, i);
			r[1] = *others;
		}
		return;
	}
}

/* by[part]: what it saw. Counts a round that could have shown it, and one that did. */
static void judge(unsigned test, uint64_t i, volatile uint64_t *const by[CPUS])
{
	bool wrong = false, could = false;

	switch (test) {
	case 0:
		wrong = by[0][0] < i && by[1][0] < i;
		could = by[0][0] < i || by[1][0] < i;
		break;
	case 1:
		wrong = by[0][0] == i && by[1][0] == i;
		could = by[0][0] == i || by[1][0] == i;
		break;
	case 2:
		for (unsigned part = 1; part < CPUS; part++) {
			could |= by[part][0] == i;
			wrong |= by[part][0] == i && by[part][1] < i;
		}
		break;
	default:
		/* 2 reads x and then y, 3 the other way round. */
		could = (by[2][0] == i && by[2][1] < i) || (by[3][0] == i && by[3][1] < i);
		wrong = by[2][0] == i && by[2][1] < i && by[3][0] == i && by[3][1] < i;
	}
	seen[test] += could;
	bad[test] += wrong;
}

static void rounds(unsigned cpu)
{
	volatile uint64_t *x = word("x", 17), *y = word("y", 18);
	uint64_t count = guest_arg("rounds", ROUNDS), n = 0;

	for (uint64_t i = 1; i <= count * TESTS; i++) {
		unsigned test = i % TESTS, part = (unsigned)(cpu + i / TESTS) % CPUS;
		volatile uint64_t *by[CPUS];

		meet(++n);
		stagger(i + cpu);
		act(test, part, i, x, y, saw[cpu]);
		meet(++n);
		if (cpu)
			continue;
		for (unsigned c = 0; c < CPUS; c++)
			by[(c + i / TESTS) % CPUS] = saw[c];
		judge(test, i, by);
		/* One that test 0 or 1 did not store is as far as the rest. */
		*x = *y = i;
	}
	meet(++n);
}

void guest_main(void)
{
	uint64_t wrong = 0;

	for (unsigned cpu = 1; cpu < CPUS; cpu++)
		guest_start_cpu(cpu, rounds);
	rounds(0);
	for (unsigned t = 0; t < TESTS; t++) {
		guest_printf("litmus: %s: %lu wrong, order seen in %lu of %lu rounds\n", names[t],
			     bad[t], seen[t], guest_arg("rounds", ROUNDS));
		wrong += bad[t];
	}
	guest_printf(wrong ? "litmus: FAIL\n" : "litmus: PASS\n");
}
