/*
 * What an exit costs: loops over a port write, an MMIO read and a halt with a wake-up by an IPI to
 * itself. rounds=N. Prints "exits: KIND N per second" for tests/bench.
 */
#include "guest.h"

enum { V_SELF = 0x53, PORT_NOBODY = 0x80, MMIO_NOBODY = 0xd8000000 };

static uint64_t hz;

static void report(const char *kind, uint64_t rounds, uint64_t ticks)
{
	guest_printf("exits: %s %lu per second\n", kind, rounds * (hz / 1000) / (ticks / 1000 + 1));
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
	t = rdtsc();
	for (uint64_t i = 0; i < rounds; i++) {
		irq_disable();
		apic_ipi(0, V_SELF);
		while (counts[3] <= i)
			cpu_halt();
		irq_enable();
	}
	report("ipi_hlt", rounds, rdtsc() - t);
	guest_printf("exits: PASS\n");
}
