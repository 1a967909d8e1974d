/* The LAPIC's registers as the guest sees them. Everything here runs on the vCPU's thread. */
#include <errno.h>

#include "node/vmm/lapic_internal.h"

/* Numbers of the registers: MMIO offset / 16, MSR - 0x800. */
enum {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_LDR = 0x0d,
	REG_DFR = 0x0e,
	REG_SVR = 0x0f,
	REG_ISR = 0x10,
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_ICR = 0x30,
	REG_ICR_HIGH = 0x31,
	REG_LVT = 0x32,
	REG_COUNT = 0x38,
	REG_CURRENT = 0x39,
	REG_DIVIDE = 0x3e,
	REG_SELF_IPI = 0x3f,

	MSR_APIC_BASE = 0x1b,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC = 0x800,

	VERSION = 0x14 | (LVT_COUNT - 1) << 16,
	ICR_LOGICAL = 1 << 11,
	ICR_ASSERT = 1 << 14,
	ICR_LEVEL = 1 << 15,
	ICR_WRITABLE = 0xccfff,
};

static const uint32_t lvt_writable[LVT_COUNT] = {
	[LVT_TIMER] = 0x100ff | LVT_MODE,
	[LVT_THERMAL] = 0x107ff,
	[LVT_COUNTER] = 0x107ff,
	[LVT_LINT0] = 0x1a7ff,
	[LVT_LINT1] = 0x1a7ff,
	[LVT_ERROR] = 0x100ff,
};

static bool is_lvt(unsigned reg)
{
	return reg >= REG_LVT && reg < REG_LVT + LVT_COUNT;
}

/* -EINVAL where there is no such register to read; a reserved one. */
static int reg_read(struct vmm_lapic *l, unsigned reg, uint32_t *v)
{
	if (reg >= REG_ISR && reg < REG_ISR + WORDS)
		*v = l->isr[reg - REG_ISR];
	else if (reg >= REG_TMR && reg < REG_TMR + WORDS)
		*v = atomic_load(&l->tmr[reg - REG_TMR]);
	else if (reg >= REG_IRR && reg < REG_IRR + WORDS)
		*v = atomic_load(&l->irr[reg - REG_IRR]);
	else if (is_lvt(reg))
		*v = l->lvt[reg - REG_LVT];
	else
		switch (reg) {
		case REG_ID: *v = lapic_x2apic(l) ? l->id : l->id << 24; break;
		case REG_VERSION: *v = VERSION; break;
		case REG_TPR: *v = l->tpr; break;
		case REG_PPR: *v = lapic_ppr(l); break;
		case REG_LDR:
			*v = lapic_x2apic(l) ? l->id >> 4 << 16 | 1u << (l->id & 15) : l->ldr;
			break;
		case REG_DFR: *v = l->dfr; break;
		case REG_SVR: *v = l->svr; break;
		case REG_ESR: *v = l->esr; break;
		case REG_ICR: *v = (uint32_t)l->icr; break;
		case REG_ICR_HIGH: *v = (uint32_t)(l->icr >> 32); break;
		case REG_COUNT: *v = l->initial_count; break;
		case REG_CURRENT: *v = lapic_timer_count(l); break;
		case REG_DIVIDE: *v = l->divide; break;
		default: return -EINVAL;
		}
	return 0;
}

static void report_error(struct vmm_lapic *l, uint32_t bit)
{
	uint32_t lvt = l->lvt[LVT_ERROR];

	atomic_fetch_or(&l->esr_pending, bit);
	if (!(lvt & LVT_MASKED) && (lvt & 0xff) >= VECTOR_MIN)
		lapic_request(l, (uint8_t)lvt, false);
}

static void send_self(struct vmm_lapic *l, uint8_t vector)
{
	if (vector < VECTOR_MIN)
		report_error(l, ESR_SEND_VECTOR);
	else if (atomic_load(&l->enabled))
		lapic_request(l, vector, false); /* this thread looks before it enters the guest */
}

static void send_icr(struct vmm_lapic *l)
{
	uint32_t low = (uint32_t)l->icr, high = (uint32_t)(l->icr >> 32);
	struct vmm_irq_msg msg = {
		.dest = lapic_x2apic(l) ? high : high >> 24,
		.vector = (uint8_t)low,
		.delivery = low >> 8 & 7,
		.shorthand = low >> 18 & 3,
		.logical = low & ICR_LOGICAL,
		.assert_level = low & ICR_ASSERT,
		.x2apic_dest = lapic_x2apic(l),
		.source = l->id,
	};
	bool vectored = msg.delivery == VMM_IRQ_FIXED || msg.delivery == VMM_IRQ_LOWEST;

	/* INIT level de-assert synchronised arbitration once; it does nothing any more. */
	if (msg.delivery == VMM_IRQ_INIT && (low & ICR_LEVEL) && !msg.assert_level)
		return;
	if (vectored && msg.shorthand == VMM_IRQ_SELF) {
		send_self(l, msg.vector);
		return;
	}
	if (vectored && msg.vector < VECTOR_MIN) {
		report_error(l, ESR_SEND_VECTOR);
		return;
	}
	if (l->chip)
		vmm_irq_send(l->chip, &msg);
}

static void write_svr(struct vmm_lapic *l, uint32_t v)
{
	l->svr = v & 0x1ff;
	if (!(v & SVR_ENABLE))
		for (unsigned i = 0; i < LVT_COUNT; i++)
			l->lvt[i] |= LVT_MASKED;
	lapic_publish(l);
}

static void write_lvt(struct vmm_lapic *l, unsigned i, uint32_t v)
{
	v &= lvt_writable[i];
	if (!(l->svr & SVR_ENABLE))
		v |= LVT_MASKED;
	if (i == LVT_TIMER)
		lapic_timer_set_lvt(l, v);
	else
		l->lvt[i] = v;
}

/* The registers that both forms write alike; -EINVAL for the others. */
static int reg_write(struct vmm_lapic *l, unsigned reg, uint32_t v)
{
	if (is_lvt(reg)) {
		write_lvt(l, reg - REG_LVT, v);
		return 0;
	}
	switch (reg) {
	case REG_TPR: l->tpr = v & 0xff; break;
	case REG_EOI: lapic_eoi(l); break;
	case REG_SVR: write_svr(l, v); break;
	case REG_ESR: l->esr = atomic_exchange(&l->esr_pending, 0); break;
	case REG_COUNT: lapic_timer_set_count(l, v); break;
	case REG_DIVIDE: lapic_timer_set_divide(l, v); break;
	default: return -EINVAL;
	}
	return 0;
}

/* ---- xAPIC ---- */

static bool xapic_visible(const struct vmm_lapic *l, uint32_t offset)
{
	return (l->base & APIC_BASE_ENABLE) && !lapic_x2apic(l) && offset < VMM_LAPIC_LEN &&
	       offset % 16 == 0;
}

uint32_t vmm_lapic_read(struct vmm_lapic *l, uint32_t offset)
{
	uint32_t v = 0;

	if (!xapic_visible(l, offset) || reg_read(l, offset / 16, &v) < 0)
		return 0;
	return v;
}

void vmm_lapic_write(struct vmm_lapic *l, uint32_t offset, uint32_t value)
{
	if (!xapic_visible(l, offset))
		return;
	switch (offset / 16) {
	case REG_LDR:
		l->ldr = value & 0xff000000;
		lapic_publish(l);
		break;
	case REG_DFR:
		l->dfr = value | 0x0fffffff;
		lapic_publish(l);
		break;
	case REG_ICR:
		l->icr = (l->icr & ~(uint64_t)UINT32_MAX) | (value & ICR_WRITABLE);
		send_icr(l);
		break;
	case REG_ICR_HIGH: l->icr = (uint32_t)l->icr | (uint64_t)(value & 0xff000000) << 32; break;
	default:
		/* Writes to what cannot be written are dropped. */
		if (reg_write(l, offset / 16, value) < 0)
			return;
	}
}

/* ---- MSRs ---- */

static int write_base(struct vmm_lapic *l, uint64_t v)
{
	const uint64_t mode = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
	uint64_t old = l->base & mode, new = v &mode;

	if ((v & ~(mode | APIC_BASE_BSP)) != VMM_LAPIC_BASE)
		return -EINVAL;
	if (new == APIC_BASE_X2APIC || (old == 0 && new == mode) ||
	    (old == mode && new == APIC_BASE_ENABLE))
		return -EINVAL;
	l->base = (l->base & APIC_BASE_BSP) | VMM_LAPIC_BASE | new;
	if (old && !new)
		vmm_lapic_reset(l, true);
	else
		lapic_publish(l);
	return 0;
}

int vmm_lapic_rdmsr(struct vmm_lapic *l, uint32_t msr, uint64_t *value)
{
	unsigned reg = msr - MSR_X2APIC;
	uint32_t v;

	if (msr == MSR_APIC_BASE) {
		*value = l->base;
		return 0;
	}
	if (msr == MSR_TSC_DEADLINE) {
		*value = lapic_timer_mode(l) == LVT_TSC_DEADLINE ? l->deadline : 0;
		return 0;
	}
	if (!lapic_x2apic(l) || msr < MSR_X2APIC || reg == REG_DFR || reg == REG_ICR_HIGH)
		return -EINVAL;
	if (reg == REG_ICR) {
		*value = l->icr;
		return 0;
	}
	if (reg_read(l, reg, &v) < 0)
		return -EINVAL;
	*value = v;
	return 0;
}

static int x2apic_write(struct vmm_lapic *l, unsigned reg, uint64_t value)
{
	if (reg == REG_ICR) {
		if (value & UINT32_MAX & ~(uint64_t)(ICR_WRITABLE | 1 << 12))
			return -EINVAL;
		l->icr = value & ~(UINT64_C(1) << 12);
		send_icr(l);
		return 0;
	}
	if (value > UINT32_MAX || ((reg == REG_EOI || reg == REG_ESR) && value))
		return -EINVAL;
	if (reg == REG_SELF_IPI || reg == REG_TPR) {
		if (value > 0xff)
			return -EINVAL;
		if (reg == REG_SELF_IPI) {
			send_self(l, (uint8_t)value);
			return 0;
		}
	}
	return reg_write(l, reg, (uint32_t)value);
}

int vmm_lapic_wrmsr(struct vmm_lapic *l, uint32_t msr, uint64_t value)
{
	if (msr == MSR_APIC_BASE)
		return write_base(l, value);
	if (msr == MSR_TSC_DEADLINE) {
		/* Outside its mode the register holds 0 whatever is written. */
		if (lapic_timer_mode(l) == LVT_TSC_DEADLINE)
			lapic_timer_set_deadline(l, value);
		return 0;
	}
	if (!lapic_x2apic(l) || msr < MSR_X2APIC || msr > MSR_X2APIC + 0xff)
		return -EINVAL;
	return x2apic_write(l, msr - MSR_X2APIC, value);
}
