/*
 * Two vCPUs hand a token to and fro: through memory, then by IPIs that wake the other from HLT.
 * rounds=N. Prints nanoseconds a round trip.
 */
#include "guest.h"

static volatile uint64_t token __attribute__((aligned(64)));
static volatile uint64_t alive __attribute__((aligned(64)));
static volatile uint64_t stop __attribute__((aligned(64)));

enum { V_PING = 0x50, V_PONG = 0x51 };

/* Halts until counts[i] is at least n. With interrupts off the check cannot race with HLT. */
static void wait_count(unsigned i, uint64_t n)
{
	irq_disable();
	while (counts[i] < n)
		cpu_halt();
	irq_enable();
}

static void other(unsigned cpu)
{
	uint64_t rounds = guest_arg("rounds", 1000);

	alive = 1;
	for (uint64_t i = 0; i < rounds; i++) {
		while (token != 2 * i + 1)
			cpu_pause();
		token = 2 * i + 2;
	}
	for (uint64_t i = 0; i < rounds; i++) {
		wait_count(0, i + 1);
		apic_ipi(0, V_PONG);
	}
	stop = 1;
}

void guest_main(void)
{
	uint64_t rounds = guest_arg("rounds", 1000), hz = guest_tsc_hz(), t;

	guest_start_cpu(1, other);
	while (!alive)
		cpu_pause();
	guest_printf("pingpong: both run\n");
	t = rdtsc();
	for (uint64_t i = 0; i < rounds; i++) {
		token = 2 * i + 1;
		while (token != 2 * i + 2)
			cpu_pause();
	}
	guest_printf("pingpong: memory %lu ns\n", (rdtsc() - t) / rounds * 1000 / (hz / 1000000));
	t = rdtsc();
	for (uint64_t i = 0; i < rounds; i++) {
		apic_ipi(1, V_PING);
		wait_count(1, i + 1);
	}
	guest_printf("pingpong: ipi %lu ns\n", (rdtsc() - t) / rounds * 1000 / (hz / 1000000));
	while (!stop)
		cpu_pause();
	guest_printf("pingpong: PASS\n");
}
