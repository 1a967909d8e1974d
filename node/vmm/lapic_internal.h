/* Shared by lapic.c, lapic_regs.c and lapic_timer.c. */
#ifndef VMM_LAPIC_INTERNAL_H
#define VMM_LAPIC_INTERNAL_H

#include <stdatomic.h>

#include "node/vmm/irqchip.h"
#include "node/vmm/lapic.h"

#define APIC_BASE_BSP	 (UINT64_C(1) << 8)
#define APIC_BASE_X2APIC (UINT64_C(1) << 10)
#define APIC_BASE_ENABLE (UINT64_C(1) << 11)

enum {
	LVT_TIMER,
	LVT_THERMAL,
	LVT_COUNTER,
	LVT_LINT0,
	LVT_LINT1,
	LVT_ERROR,
	LVT_COUNT,
	LVT_MASKED = 1 << 16,
	LVT_MODE = 3 << 17,
	LVT_ONE_SHOT = 0 << 17,
	LVT_PERIODIC = 1 << 17,
	LVT_TSC_DEADLINE = 2 << 17,
	SVR_ENABLE = 1 << 8,
	ESR_SEND_VECTOR = 1 << 5,
	ESR_RECEIVE_VECTOR = 1 << 6,
	WORDS = 8, /* of the 256-bit vector sets */
	VECTOR_MIN = 16,
};

/*
 * Fields above the line belong to the vCPU's thread. Below it, any thread sets bits and the vCPU's
 * thread takes them. `summary` has a bit for each word of `irr` that may be non-zero: it is set
 * after the word and cleared only when the word was seen empty, then checked again.
 */
struct vmm_lapic {
	struct vmm_irqchip *chip;
	const struct vmm_lapic_cpu *ops;
	void *cpu;
	uint32_t id;
	uint64_t tsc_hz;

	uint64_t base;
	uint32_t tpr, ldr, dfr, svr, esr;
	uint64_t icr;
	uint32_t lvt[LVT_COUNT];
	uint32_t isr[WORDS];
	uint32_t initial_count, divide;
	uint64_t deadline; /* guest TSC at which the timer fires; 0: not running */
	/* See lapic_timer.c: not saved. */
	bool breathes;
	uint64_t fired, rest_until; /* guest TSC; fired 0: the timer was set again since */
	/* ---- */
	_Atomic uint32_t summary;
	_Atomic uint32_t irr[WORDS];
	_Atomic uint32_t tmr[WORDS];
	_Atomic uint32_t events;
	_Atomic uint32_t sipi_vector;
	_Atomic uint32_t esr_pending;
	_Atomic bool enabled; /* takes interrupts: both enable bits are set */
};

static inline bool lapic_x2apic(const struct vmm_lapic *l)
{
	return l->base & APIC_BASE_X2APIC;
}

/* Marks a vector as requested; true when it was not. The caller kicks. */
bool lapic_request(struct vmm_lapic *l, uint8_t vector, bool level);
void lapic_eoi(struct vmm_lapic *l);
uint8_t lapic_ppr(const struct vmm_lapic *l);
/* Tells the router what `base`, `svr`, `ldr` and `dfr` say now. */
void lapic_publish(struct vmm_lapic *l);

void lapic_timer_set_count(struct vmm_lapic *l, uint32_t count);
uint32_t lapic_timer_count(struct vmm_lapic *l);
void lapic_timer_set_lvt(struct vmm_lapic *l, uint32_t value);
void lapic_timer_set_divide(struct vmm_lapic *l, uint32_t value);
void lapic_timer_set_deadline(struct vmm_lapic *l, uint64_t tsc);
static inline uint32_t lapic_timer_mode(const struct vmm_lapic *l)
{
	return l->lvt[LVT_TIMER] & LVT_MODE;
}

#endif
