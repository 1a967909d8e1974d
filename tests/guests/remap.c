/*
 * The first vCPU puts one of two pages at an address in turn; the second flushes its TLB and reads there,
 * as a kernel's shootdown has it. rounds=N. It must see the page that has just been put there.
 */
#include "guest.h"

#define WINDOW 0x40000000ul

enum { USED = 0x67 }; /* dirty, accessed, user, writable, present */

static volatile uint64_t table[512] __attribute__((aligned(4096)));
static volatile uint64_t pages[2][512] __attribute__((aligned(4096)));
static volatile uint64_t token __attribute__((aligned(4096)));
static volatile uint64_t wrong, ready __attribute__((aligned(4096)));

static void reader(unsigned cpu)
{
	const volatile uint64_t *window = (const uint64_t *)WINDOW;

	ready = 1;
	for (uint64_t i = 1;; i++) {
		uint64_t seen;

		while (token < 2 * i - 1)
			cpu_pause();
		if (token == UINT64_MAX)
			return;
		tlb_flush();
		seen = *window;
		if (seen != i) {
			wrong++;
			guest_printf("remap: round %lu sees the page of round %lu\n", i, seen);
		}
		token = 2 * i;
	}
}

void guest_main(void)
{
	uint64_t rounds = guest_arg("rounds", 20);

	guest_start_cpu(1, reader);
	while (!ready)
		cpu_pause();
	table[0] = (uint64_t)pages[0] | USED;
	pd[WINDOW >> 21] = (uint64_t)table | USED;
	for (uint64_t i = 1; i <= rounds; i++) {
		pages[i % 2][0] = i;
		table[0] = (uint64_t)pages[i % 2] | USED;
		token = 2 * i - 1;
		while (token != 2 * i)
			cpu_pause();
	}
	token = UINT64_MAX;
	guest_printf("remap: %s\n", wrong ? "FAIL" : "PASS");
}
