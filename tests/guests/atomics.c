/*
 * cpus=N vCPUs work on the same few pages at once; the result is known. rounds=R, 0: until a
 * key is pressed.
 * - a counter: lock xadd by all; the sum must be exact
 * - a word that two pages share (split-page locked operations)
 * - a lock (xchg) that guards two plain counters on different pages, which must stay equal
 * - Dekker: of two that store and then look at the other's store, with a fence between, not both may
 *   miss it (x86-TSO with mfence)
 */
#include "guest.h"

#define PAGE 4096ul

static uint8_t area[8 * PAGE] __attribute__((aligned(4096)));
static volatile uint64_t ready __attribute__((aligned(4096)));
static volatile uint64_t finished __attribute__((aligned(4096)));

static volatile uint64_t *counter(void)
{
	return (volatile uint64_t *)area;
}

/* 4 bytes on each of two pages. */
static volatile uint64_t *split(void)
{
	return (volatile uint64_t *)(area + 2 * PAGE - 4);
}

static volatile uint64_t *guarded(unsigned i)
{
	return (volatile uint64_t *)(area + (4 + i) * PAGE);
}

static volatile uint64_t lock_word __attribute__((aligned(4096)));
static volatile uint64_t torn __attribute__((aligned(4096)));
static volatile uint64_t enough __attribute__((aligned(4096)));
static volatile uint64_t done __attribute__((aligned(4096))); /* rounds, by all */

enum { ROUNDS_A_LOOK = 16, DEKKER_ROUNDS = 1000 };

static void add_n(volatile uint64_t *p, uint64_t n)
{
	__asm__ volatile("lock xaddq %0, %1" : "+r"(n), "+m"(*p) : : "memory");
}

static void add(volatile uint64_t *p)
{
	add_n(p, 1);
}

static bool over(unsigned cpu, uint64_t round, uint64_t rounds)
{
	if (rounds)
		return round == rounds;
	if (!cpu && round % ROUNDS_A_LOOK == 0 && guest_key())
		enough = 1;
	return enough;
}

static void work(unsigned cpu)
{
	uint64_t rounds = guest_arg("rounds", 1000), cpus = guest_arg("cpus", 2), i;

	add(&ready);
	while (ready < cpus)
		cpu_pause();
	for (i = 0; !over(cpu, i, rounds); i++) {
		add(counter());
		add(split());
		while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE))
			cpu_pause();
		if (*guarded(0) != *guarded(1))
			torn = 1;
		*guarded(0) += 1;
		*guarded(1) += 1;
		__atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
	}
	add_n(&done, i);
	add(&finished);
}

static bool same(const char *what, uint64_t is, uint64_t should)
{
	if (is == should)
		return true;
	guest_printf("atomics: FAIL %s is %lu, not %lu\n", what, is, should);
	return false;
}

/* ---- Dekker, between cpu 0 and the last ---- */

static volatile uint64_t flag[2][512] __attribute__((aligned(4096)));
static volatile uint64_t saw[2][512] __attribute__((aligned(4096)));
static volatile uint64_t turn[2][512] __attribute__((aligned(4096)));

static void dekker(unsigned me, uint64_t rounds)
{
	for (uint64_t i = 1; i <= rounds; i++) {
		turn[me][0] = i;
		while (turn[!me][0] < i)
			cpu_pause();
		flag[me][0] = i;
		__asm__ volatile("mfence" : : : "memory");
		saw[me][0] = flag[!me][0];
		turn[me][0] = i; /* the page moves again */
		__atomic_store_n(&turn[me][1], i, __ATOMIC_RELEASE);
		while (turn[!me][1] < i)
			cpu_pause();
		if (saw[0][0] < i && saw[1][0] < i)
			torn = 2;
		__atomic_store_n(&turn[me][2], i, __ATOMIC_RELEASE);
		while (turn[!me][2] < i)
			cpu_pause();
	}
}

static uint64_t dekker_rounds(void)
{
	uint64_t rounds = guest_arg("rounds", 1000);

	return rounds ? rounds / 4 : DEKKER_ROUNDS;
}

static void other(unsigned cpu)
{
	uint64_t cpus = guest_arg("cpus", 2);

	work(cpu);
	if (cpu == cpus - 1)
		dekker(1, dekker_rounds());
}

void guest_main(void)
{
	uint64_t cpus = guest_arg("cpus", 2), rounds = guest_arg("rounds", 1000);
	bool ok;

	for (unsigned cpu = 1; cpu < cpus; cpu++)
		guest_start_cpu(cpu, other);
	guest_printf("atomics: %lu CPUs\n", cpus);
	work(0);
	while (finished < cpus)
		cpu_pause();
	dekker(0, dekker_rounds());
	ok = same("rounds", done, rounds ? cpus * rounds : done);
	ok &= same("the counter", *counter(), done);
	ok &= same("the split counter", *split(), done);
	ok &= same("the guarded counter", *guarded(0), done);
	ok &= same("its twin", *guarded(1), done);
	ok &= same("torn", torn, 0);
	if (ok)
		guest_printf("atomics: PASS\n");
}
