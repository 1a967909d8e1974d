/*
 * Whether the TSC of two vCPUs is one: each tells the other its TSC in memory, and what arrives must not
 * be from the future. rounds=N. Prints the least time of a hand-over each way, in ns.
 */
#include "guest.h"

struct cell {
	volatile uint64_t turn, tsc;
} __attribute__((aligned(4096)));

static struct cell cell[2];
static volatile uint64_t failed __attribute__((aligned(4096)));
static volatile uint64_t least[2] __attribute__((aligned(4096)));

static void tell(unsigned me, uint64_t turn)
{
	cell[me].tsc = rdtsc();
	__atomic_store_n(&cell[me].turn, turn, __ATOMIC_RELEASE);
}

static void hear(unsigned from, uint64_t turn)
{
	uint64_t sent, now;

	while (__atomic_load_n(&cell[from].turn, __ATOMIC_ACQUIRE) < turn)
		cpu_pause();
	sent = cell[from].tsc;
	now = rdtsc();
	if (now < sent)
		failed = sent - now;
	else if (!least[from] || now - sent < least[from])
		least[from] = now - sent;
}

static void other(unsigned cpu)
{
	uint64_t rounds = guest_arg("rounds", 200);

	for (uint64_t i = 1; i <= rounds; i++) {
		hear(0, i);
		tell(1, i);
	}
}

void guest_main(void)
{
	uint64_t rounds = guest_arg("rounds", 200), hz = guest_tsc_hz();

	guest_start_cpu(1, other);
	for (uint64_t i = 1; i <= rounds; i++) {
		tell(0, i);
		hear(1, i);
	}
	guest_printf("tsc: there %lu ns, back %lu ns\n", least[0] * 1000 / (hz / 1000000),
		     least[1] * 1000 / (hz / 1000000));
	if (failed)
		guest_printf("tsc: FAIL %lu ticks from the future\n", failed);
	else
		guest_printf("tsc: PASS\n");
}
