/*
 * The local APIC of one vCPU in user space (Intel SDM 3A chapter 11; AMD APM 2 chapter 16): xAPIC
 * and x2APIC forms, timer in one-shot, periodic and TSC-deadline mode.
 *
 * Threads: register accesses, next/ack and timer come from the vCPU's own thread; accept from any.
 */
#ifndef VMM_LAPIC_H
#define VMM_LAPIC_H

#include "base/buf.h"
#include "node/vmm/irq.h"

#define VMM_LAPIC_BASE UINT64_C(0xfee00000)
#define VMM_LAPIC_LEN  UINT64_C(0x1000)

/* The vCPU as its LAPIC sees it. `kick` may come from any thread, the others from the vCPU's own.
 */
struct vmm_lapic_cpu {
	/* Something new is pending: leave KVM_RUN, or wake from HLT. Never lost, never blocks. */
	void (*kick)(void *cpu);
	/* Guest TSC now. */
	uint64_t (*tsc)(void *cpu);
	/* Calls vmm_lapic_timer_expired() on the vCPU's thread once the guest TSC is at or past
	 * `tsc_deadline`; 0 disarms. One timer; a new deadline replaces the old. */
	void (*arm)(void *cpu, uint64_t tsc_deadline);
};

/* What vmm_lapic_events() reports besides plain interrupts; taken by the vCPU loop. */
enum {
	VMM_LAPIC_EV_NMI = 1 << 0,
	VMM_LAPIC_EV_INIT = 1 << 1,
	VMM_LAPIC_EV_SIPI = 1 << 2, /* vector in vmm_lapic_sipi_vector() */
	VMM_LAPIC_EV_SMI = 1 << 3,
};

struct vmm_lapic;

/* The clock that the one-shot and periodic modes count: what CPUID and the tables say. */
#define VMM_LAPIC_TIMER_HZ UINT64_C(1000000000)

/* tsc_hz: of the guest's TSC. `chip` may be NULL (tests): nothing can be sent then. */
BASE_MUST_CHECK int vmm_lapic_new(struct vmm_irqchip *chip, uint32_t apic_id, uint64_t tsc_hz,
				  const struct vmm_lapic_cpu *ops, void *cpu,
				  struct vmm_lapic **out);
void vmm_lapic_free(struct vmm_lapic *l);
/*
 * Before the vCPU runs: where a memory access may take milliseconds (a page on another host), a tick
 * that takes longer than its period would leave the guest no time for anything else. The deadline
 * that such a tick sets comes later: ticks take an eighth of the time at most.
 */
void vmm_lapic_let_breathe(struct vmm_lapic *l);
/* Power-up state; INIT keeps the id and the base MSR. */
void vmm_lapic_reset(struct vmm_lapic *l, bool init);

/* MMIO registers at the APIC page; offset below 0x1000, 4-byte accesses (others read 0). */
uint32_t vmm_lapic_read(struct vmm_lapic *l, uint32_t offset);
void vmm_lapic_write(struct vmm_lapic *l, uint32_t offset, uint32_t value);
/* MSRs 0x800-0x8ff, IA32_APIC_BASE (0x1b), IA32_TSC_DEADLINE (0x6e0). -EINVAL: inject #GP. */
BASE_MUST_CHECK int vmm_lapic_rdmsr(struct vmm_lapic *l, uint32_t msr, uint64_t *value);
BASE_MUST_CHECK int vmm_lapic_wrmsr(struct vmm_lapic *l, uint32_t msr, uint64_t value);

/* The highest vector that the processor priority lets through, or -1. Cheap: one load when idle. */
int vmm_lapic_next(struct vmm_lapic *l);
/* Accepts what next returned: IRR to ISR. */
void vmm_lapic_ack(struct vmm_lapic *l, uint8_t vector);
uint8_t vmm_lapic_tpr(const struct vmm_lapic *l);
/* CR8 was written in the guest (kvm_run.cr8 holds TPR bits 7..4). */
void vmm_lapic_set_cr8(struct vmm_lapic *l, uint8_t cr8);
/* Takes the pending VMM_LAPIC_EV_* bits. */
uint32_t vmm_lapic_events(struct vmm_lapic *l);
uint8_t vmm_lapic_sipi_vector(const struct vmm_lapic *l);
void vmm_lapic_timer_expired(struct vmm_lapic *l);

/* Any thread: takes a message that the router found to be for this LAPIC. Kicks if it is new. */
void vmm_lapic_accept(struct vmm_lapic *l, const struct vmm_irq_msg *msg);

enum { VMM_LAPIC_STATE_VERSION = 1 };
void vmm_lapic_save(struct vmm_lapic *l, struct base_wbuf *out);
BASE_MUST_CHECK int vmm_lapic_load(struct vmm_lapic *l, struct base_rbuf *in, uint32_t version);

/*
 * A vCPU that moves to another slice takes its LAPIC's registers along (save, move_in); requests that
 * wait in the LAPIC follow as messages, so that those that come while it moves are neither lost nor
 * taken twice.
 */
/* Away: requests are only kept for vmm_lapic_take_requests(), whatever the registers here say. */
void vmm_lapic_go_away(struct vmm_lapic *l);
/* Gives each request, once, as a message of which vmm_lapic_accept() makes the same request. */
void vmm_lapic_take_requests(struct vmm_lapic *l,
			     void (*put)(void *arg, const struct vmm_irq_msg *msg), void *arg);
/* As load, but the requests are those that wait here and not those of the state. Still away where it
 * fails. */
BASE_MUST_CHECK int vmm_lapic_move_in(struct vmm_lapic *l, struct base_rbuf *in, uint32_t version);

#endif
