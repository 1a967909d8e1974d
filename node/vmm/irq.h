/*
 * Interrupts as messages. A device raises a line (GSI); the IOAPIC turns it into a message; the
 * router hands the message to the LAPICs of this slice that it names, and to the slices of the
 * others. Any thread may call; nothing here blocks.
 *
 * Order: a message must not be seen before the stores that the sender made before it. Within a
 * slice the LAPIC's atomics give that; between slices the link that carries the message does.
 */
#ifndef VMM_IRQ_H
#define VMM_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

enum vmm_irq_delivery {
	VMM_IRQ_FIXED = 0,
	VMM_IRQ_LOWEST = 1,
	VMM_IRQ_SMI = 2,
	VMM_IRQ_NMI = 4,
	VMM_IRQ_INIT = 5,
	VMM_IRQ_SIPI = 6,
	VMM_IRQ_EXTINT = 7,
};

enum vmm_irq_shorthand {
	VMM_IRQ_DEST = 0,
	VMM_IRQ_SELF = 1,
	VMM_IRQ_ALL = 2,
	VMM_IRQ_OTHERS = 3,
};

/* Fields as in the ICR (Intel SDM 3A, 11.6.1). */
struct vmm_irq_msg {
	uint32_t dest; /* APIC id, or logical destination; 0xff (xAPIC) or 0xffffffff: all */
	uint8_t vector;
	uint8_t delivery;  /* enum vmm_irq_delivery */
	uint8_t shorthand; /* enum vmm_irq_shorthand */
	bool logical;
	bool level_triggered;
	bool assert_level;
	bool x2apic_dest; /* 32-bit destination in x2APIC form */
	uint32_t source;  /* APIC id of the sender, for SELF and OTHERS */
};

struct vmm_irqchip; /* the router, the IOAPIC and this slice's LAPICs: irqchip.c */

enum { VMM_GSI_COUNT = 64 };

/* Sets the level of a line; an edge-triggered pin sends on the change from low to high. */
void vmm_irq_set(struct vmm_irqchip *chip, unsigned gsi, bool level);
/* Low to high to low: what an edge-triggered device does. Each call is heard, also of several threads. */
void vmm_irq_pulse(struct vmm_irqchip *chip, unsigned gsi);
/* Sends a message as if from the bus (MSI, IPI). */
void vmm_irq_send(struct vmm_irqchip *chip, const struct vmm_irq_msg *msg);

#endif
