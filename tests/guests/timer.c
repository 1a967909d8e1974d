/*
 * The LAPIC timer in its three modes: every expected interrupt comes, none too early. And a clock
 * that ticks for ever: ticks=N prints a line every 10 ms, to be watched over a save and a load.
 */
#include "guest.h"

enum { V_TIMER = 0x52, LVT_PERIODIC = 1 << 17, LVT_DEADLINE = 2 << 17, MSR_TSC_DEADLINE = 0x6e0 };

static uint64_t hz;

static void wait_count(uint64_t n)
{
	irq_disable();
	while (counts[2] < n)
		cpu_halt();
	irq_enable();
}

static bool one_shot(void)
{
	uint64_t t = rdtsc();

	apic_write(APIC_TIMER_DIV, 0xb); /* by 1 */
	apic_write(APIC_LVT_TIMER, V_TIMER);
	apic_write(APIC_TIMER_INIT, 10000000); /* 10 ms of 1 GHz */
	wait_count(1);
	t = (rdtsc() - t) * 1000 / (hz / 1000);
	guest_printf("timer: one-shot after %lu us\n", t);
	return t >= 9990 && counts[2] == 1;
}

static bool periodic(void)
{
	uint64_t t = rdtsc();

	apic_write(APIC_LVT_TIMER, V_TIMER | LVT_PERIODIC);
	apic_write(APIC_TIMER_INIT, 2000000);
	wait_count(11);
	apic_write(APIC_TIMER_INIT, 0);
	t = (rdtsc() - t) * 1000 / (hz / 1000);
	guest_printf("timer: 10 periods of 2 ms in %lu us\n", t);
	return t >= 19990;
}

static bool deadline(uint64_t rounds)
{
	uint64_t first = counts[2], t;

	apic_write(APIC_LVT_TIMER, V_TIMER | LVT_DEADLINE);
	t = rdtsc();
	for (uint64_t i = 0; i < rounds; i++) {
		t += hz / 100;
		wrmsr(MSR_TSC_DEADLINE, t);
		wait_count(first + i + 1);
		if (rdtsc() < t) {
			guest_printf("timer: too early\n");
			return false;
		}
		if (rounds > 10)
			guest_printf("tick %lu\n", i);
	}
	guest_printf("timer: %lu deadlines\n", rounds);
	return counts[2] == first + rounds;
}

void guest_main(void)
{
	bool ok;

	hz = guest_tsc_hz();
	ok = one_shot() && periodic() && deadline(guest_arg("ticks", 5));
	guest_printf("timer: %s\n", ok ? "PASS" : "FAIL");
}
