/*
 * Says that it runs, then takes its own interrupt table away and faults: the CPU shuts down. keys=1: once a
 * key is pressed.
 */
#include "guest.h"

void guest_main(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idt;

	__asm__ volatile("sidt %0" : "=m"(idt));
	guest_printf("booted\n");
	while (guest_arg("keys", 0) && !guest_key())
		;
	for (unsigned i = 0; i <= idt.limit; i++)
		*(volatile uint8_t *)(idt.base + i) = 0;
	__asm__ volatile("ud2");
	guest_printf("still here\n");
}
