/*
 * What an exit costs: loops over a port write, an MMIO read and a halt with a wake-up by an IPI to
 * itself. rounds=N. Prints "exits: KIND N per second" for tests/bench.
 *
 * On an emulated processor the IPI may come between "sti" and "hlt", and then the halt outlasts it. A timer
 * ends it; rounds with a tick of that timer are not counted.
 */
#include "guest.h"

enum {
	V_TICK = 0x52,
	V_SELF = 0x53,
	PORT_NOBODY = 0x80,
	MMIO_NOBODY = 0xd8000000,
	LVT_PERIODIC = 1 << 17,
	LVT_MASKED = 1 << 16,
	TICK_NS = 20000000,
};

static uint64_t hz;

static void report(const char *kind, uint64_t rounds, uint64_t ticks)
{
	guest_printf("exits: %s %lu per second\n", kind, rounds * (hz / 1000) / (ticks / 1000 + 1));
}

static void ipi_hlt(uint64_t rounds)
{
	uint64_t ticks = 0, lost = 0;

	apic_write(APIC_TIMER_DIV, 0xb); /* by 1: 1 GHz */
	apic_write(APIC_LVT_TIMER, V_TICK | LVT_PERIODIC);
	apic_write(APIC_TIMER_INIT, TICK_NS);
	for (uint64_t i = 0; i < rounds;) {
		uint64_t sent = counts[V_SELF - GUEST_VECTOR], t = rdtsc();
		uint64_t tick = counts[V_TICK - GUEST_VECTOR];

		irq_disable();
		apic_ipi(0, V_SELF);
		while (counts[V_SELF - GUEST_VECTOR] == sent)
			cpu_halt();
		irq_enable();
		t = rdtsc() - t;
		if (counts[V_TICK - GUEST_VECTOR] != tick) {
			lost++;
			continue;
		}
		ticks += t;
		i++;
	}
	apic_write(APIC_LVT_TIMER, V_TICK | LVT_MASKED);
	apic_write(APIC_TIMER_INIT, 0);
	guest_printf("exits: %lu halts with a tick\n", lost);
	report("ipi_hlt", rounds, ticks);
}

void guest_main(void)
{
	uint64_t rounds = guest_arg("rounds", 20000), t;

	hz = guest_tsc_hz();
	t = rdtsc();
	for (uint64_t i = 0; i < rounds; i++)
		outb(PORT_NOBODY, 0);
	report("pio", rounds, rdtsc() - t);
	t = rdtsc();
	for (uint64_t i = 0; i < rounds; i++)
		(void)*(volatile uint32_t *)(uintptr_t)MMIO_NOBODY;
	report("mmio", rounds, rdtsc() - t);
	ipi_hlt(rounds);
	guest_printf("exits: PASS\n");
}
