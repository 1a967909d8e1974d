/*
 * Two vCPUs hand a token to and fro: through memory, then by IPIs that wake the other from HLT.
 * rounds=N, 0: either until a key is pressed. Prints nanoseconds a round trip.
 */
#include "guest.h"

static volatile uint64_t token __attribute__((aligned(64)));
static volatile uint64_t alive __attribute__((aligned(64)));
static volatile uint64_t stop __attribute__((aligned(64)));

enum { V_PING = 0x50, V_PONG = 0x51, ROUNDS_A_LOOK = 16 };

#define TOKEN_GONE UINT64_MAX

/* Halts until counts[i] is at least n. With interrupts off the check cannot race with HLT. */
static void wait_count(unsigned i, uint64_t n)
{
	irq_disable();
	while (counts[i] < n)
		cpu_halt();
	irq_enable();
}

static bool over(uint64_t round, uint64_t rounds)
{
	return rounds ? round == rounds : round && round % ROUNDS_A_LOOK == 0 && guest_key();
}

static void other(unsigned cpu)
{
	uint64_t held;

	alive = 1;
	for (uint64_t i = 0;; i++) {
		while ((held = token) != 2 * i + 1 && held != TOKEN_GONE)
			cpu_pause();
		if (held == TOKEN_GONE)
			break;
		token = 2 * i + 2;
	}
	for (uint64_t i = 0;; i++) {
		wait_count(0, i + 1);
		if (stop)
			break;
		apic_ipi(0, V_PONG);
	}
	alive = 0;
}

void guest_main(void)
{
	uint64_t rounds = guest_arg("rounds", 1000), hz = guest_tsc_hz(), t, i;

	guest_start_cpu(1, other);
	while (!alive)
		cpu_pause();
	guest_printf("pingpong: both run\n");
	t = rdtsc();
	for (i = 0; !over(i, rounds); i++) {
		token = 2 * i + 1;
		while (token != 2 * i + 2)
			cpu_pause();
	}
	guest_printf("pingpong: memory %lu ns\n", (rdtsc() - t) / i * 1000 / (hz / 1000000));
	token = TOKEN_GONE;
	t = rdtsc();
	for (i = 0; !over(i, rounds); i++) {
		apic_ipi(1, V_PING);
		wait_count(1, i + 1);
	}
	guest_printf("pingpong: ipi %lu ns\n", (rdtsc() - t) / i * 1000 / (hz / 1000000));
	stop = 1;
	apic_ipi(1, V_PING);
	while (alive)
		cpu_pause();
	guest_printf("pingpong: PASS\n");
}
