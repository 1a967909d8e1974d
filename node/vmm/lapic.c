#include "node/vmm/lapic.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "node/vmm/lapic_internal.h"

int vmm_lapic_new(struct vmm_irqchip *chip, uint32_t apic_id, uint64_t tsc_hz,
		  const struct vmm_lapic_cpu *ops, void *cpu, struct vmm_lapic **out)
{
	struct vmm_lapic *l;

	if (tsc_hz == 0)
		return -EINVAL;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->chip = chip;
	l->id = apic_id;
	l->tsc_hz = tsc_hz;
	l->ops = ops;
	l->cpu = cpu;
	vmm_lapic_reset(l, false);
	*out = l;
	return 0;
}

void vmm_lapic_free(struct vmm_lapic *l)
{
	free(l);
}

void lapic_publish(struct vmm_lapic *l)
{
	bool enabled = (l->base & APIC_BASE_ENABLE) && (l->svr & SVR_ENABLE);
	uint64_t ids = l->ldr;

	if (lapic_x2apic(l))
		ids = (uint64_t)(l->id >> 4) << 16 | UINT64_C(1) << (l->id & 15) |
		      VMM_IRQ_IDS_X2APIC;
	if (l->dfr >> 28 == 0xf)
		ids |= VMM_IRQ_IDS_FLAT;
	if (enabled)
		ids |= VMM_IRQ_IDS_ENABLED;
	atomic_store(&l->enabled, enabled);
	if (l->chip)
		vmm_irqchip_set_ids(l->chip, l->id, ids);
}

void vmm_lapic_reset(struct vmm_lapic *l, bool init)
{
	if (!init)
		l->base = VMM_LAPIC_BASE | APIC_BASE_ENABLE | (l->id == 0 ? APIC_BASE_BSP : 0);
	l->tpr = l->ldr = l->esr = 0;
	l->dfr = UINT32_MAX;
	l->svr = 0xff;
	l->icr = 0;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		l->lvt[i] = LVT_MASKED;
	memset(l->isr, 0, sizeof(l->isr));
	l->initial_count = l->divide = 0;
	lapic_timer_set_deadline(l, 0);
	for (unsigned i = 0; i < WORDS; i++) {
		atomic_store(&l->irr[i], 0);
		atomic_store(&l->tmr[i], 0);
	}
	atomic_store(&l->summary, 0);
	atomic_store(&l->esr_pending, 0);
	/* A SIPI may already have followed the INIT that the vCPU is acting on. */
	if (!init)
		atomic_store(&l->events, 0);
	lapic_publish(l);
}

/* ---- requests, from any thread ---- */

bool lapic_request(struct vmm_lapic *l, uint8_t vector, bool level)
{
	unsigned word = vector / 32;
	uint32_t bit = UINT32_C(1) << (vector % 32);

	if (level)
		atomic_fetch_or(&l->tmr[word], bit);
	else if (atomic_load(&l->tmr[word]) & bit)
		atomic_fetch_and(&l->tmr[word], ~bit);
	if (atomic_fetch_or(&l->irr[word], bit) & bit)
		return false;
	atomic_fetch_or(&l->summary, UINT32_C(1) << word);
	return true;
}

static void lapic_event(struct vmm_lapic *l, uint32_t event)
{
	if (!(atomic_fetch_or(&l->events, event) & event))
		l->ops->kick(l->cpu);
}

static void lapic_accept_vector(struct vmm_lapic *l, const struct vmm_irq_msg *msg)
{
	if (!atomic_load(&l->enabled))
		return;
	if (msg->vector < VECTOR_MIN)
		atomic_fetch_or(&l->esr_pending, ESR_RECEIVE_VECTOR);
	else if (lapic_request(l, msg->vector, msg->level_triggered))
		l->ops->kick(l->cpu);
}

void vmm_lapic_accept(struct vmm_lapic *l, const struct vmm_irq_msg *msg)
{
	switch (msg->delivery) {
	case VMM_IRQ_FIXED:
	case VMM_IRQ_LOWEST: lapic_accept_vector(l, msg); break;
	case VMM_IRQ_SMI: lapic_event(l, VMM_LAPIC_EV_SMI); break;
	case VMM_IRQ_NMI: lapic_event(l, VMM_LAPIC_EV_NMI); break;
	case VMM_IRQ_INIT: lapic_event(l, VMM_LAPIC_EV_INIT); break;
	case VMM_IRQ_SIPI:
		atomic_store(&l->sipi_vector, msg->vector);
		lapic_event(l, VMM_LAPIC_EV_SIPI);
		break;
	default: break; /* ExtINT: there is no 8259 */
	}
}

uint32_t vmm_lapic_events(struct vmm_lapic *l)
{
	if (atomic_load_explicit(&l->events, memory_order_relaxed) == 0)
		return 0;
	return atomic_exchange(&l->events, 0);
}

uint8_t vmm_lapic_sipi_vector(const struct vmm_lapic *l)
{
	return (uint8_t)atomic_load(&l->sipi_vector);
}

/* ---- priorities, on the vCPU's thread ---- */

static int lapic_highest(const uint32_t words[WORDS])
{
	for (int i = WORDS - 1; i >= 0; i--)
		if (words[i])
			return 32 * i + 31 - __builtin_clz(words[i]);
	return -1;
}

static int lapic_highest_request(struct vmm_lapic *l)
{
	uint32_t summary = atomic_load(&l->summary);

	while (summary) {
		unsigned word = 31 - (unsigned)__builtin_clz(summary);
		uint32_t bits = atomic_load(&l->irr[word]);

		if (bits)
			return (int)(32 * word + 31 - (unsigned)__builtin_clz(bits));
		summary &= ~(UINT32_C(1) << word);
	}
	return -1;
}

uint8_t lapic_ppr(const struct vmm_lapic *l)
{
	int in_service = lapic_highest(l->isr);
	uint8_t class = in_service < 0 ? 0 : (uint8_t)in_service & 0xf0;

	return (l->tpr & 0xf0) >= class ? (uint8_t)l->tpr : class;
}

int vmm_lapic_next(struct vmm_lapic *l)
{
	int vector;

	if (atomic_load_explicit(&l->summary, memory_order_relaxed) == 0)
		return -1;
	vector = lapic_highest_request(l);
	return vector >= 0 && (vector & 0xf0) > (lapic_ppr(l) & 0xf0) ? vector : -1;
}

void vmm_lapic_ack(struct vmm_lapic *l, uint8_t vector)
{
	unsigned word = vector / 32;
	uint32_t bit = UINT32_C(1) << (vector % 32);
	uint32_t summary_bit = UINT32_C(1) << word;

	l->isr[word] |= bit;
	if ((atomic_fetch_and(&l->irr[word], ~bit) & ~bit) == 0) {
		atomic_fetch_and(&l->summary, ~summary_bit);
		if (atomic_load(&l->irr[word]))
			atomic_fetch_or(&l->summary, summary_bit);
	}
}

void lapic_eoi(struct vmm_lapic *l)
{
	int vector = lapic_highest(l->isr);
	uint32_t bit;

	if (vector < 0)
		return;
	bit = UINT32_C(1) << (vector % 32);
	l->isr[vector / 32] &= ~bit;
	if (l->chip && (atomic_load(&l->tmr[vector / 32]) & bit))
		vmm_irqchip_eoi(l->chip, (uint8_t)vector);
}

uint8_t vmm_lapic_tpr(const struct vmm_lapic *l)
{
	return (uint8_t)l->tpr;
}

void vmm_lapic_set_cr8(struct vmm_lapic *l, uint8_t cr8)
{
	/* CR8 has no bits 3..0 of the TPR: keep them while the class is the same. */
	if ((l->tpr >> 4) != (cr8 & 15u))
		l->tpr = (cr8 & 15u) << 4;
}

/* ---- saved state ---- */

void vmm_lapic_save(struct vmm_lapic *l, struct base_wbuf *out)
{
	base_wbuf_u32(out, l->id);
	base_wbuf_u64(out, l->base);
	base_wbuf_u32(out, l->tpr);
	base_wbuf_u32(out, l->ldr);
	base_wbuf_u32(out, l->dfr);
	base_wbuf_u32(out, l->svr);
	base_wbuf_u32(out, l->esr);
	base_wbuf_u64(out, l->icr);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		base_wbuf_u32(out, l->lvt[i]);
	for (unsigned i = 0; i < WORDS; i++) {
		base_wbuf_u32(out, l->isr[i]);
		base_wbuf_u32(out, atomic_load(&l->irr[i]));
		base_wbuf_u32(out, atomic_load(&l->tmr[i]));
	}
	base_wbuf_u32(out, l->initial_count);
	base_wbuf_u32(out, l->divide);
	base_wbuf_u64(out, l->deadline);
	base_wbuf_u32(out, atomic_load(&l->events));
	base_wbuf_u32(out, atomic_load(&l->sipi_vector));
	base_wbuf_u32(out, atomic_load(&l->esr_pending));
}

/* The words of requests, which are not those of this LAPIC where it keeps its own. */
static void lapic_take_words(struct vmm_lapic *l, struct base_rbuf *in, bool keep)
{
	uint32_t summary = 0;

	for (unsigned i = 0; i < WORDS; i++) {
		uint32_t irr;

		l->isr[i] = base_rbuf_u32(in);
		irr = base_rbuf_u32(in);
		if (!keep)
			atomic_store(&l->irr[i], irr);
		atomic_store(&l->tmr[i], base_rbuf_u32(in));
		if (irr)
			summary |= UINT32_C(1) << i;
	}
	if (!keep)
		atomic_store(&l->summary, summary);
}

static void lapic_take(struct vmm_lapic *l, struct base_rbuf *in, bool keep)
{
	uint32_t events, sipi_vector;
	uint64_t deadline;

	l->base = base_rbuf_u64(in);
	l->tpr = base_rbuf_u32(in);
	l->ldr = base_rbuf_u32(in);
	l->dfr = base_rbuf_u32(in);
	l->svr = base_rbuf_u32(in);
	l->esr = base_rbuf_u32(in);
	l->icr = base_rbuf_u64(in);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		l->lvt[i] = base_rbuf_u32(in);
	lapic_take_words(l, in, keep);
	l->initial_count = base_rbuf_u32(in);
	l->divide = base_rbuf_u32(in);
	deadline = base_rbuf_u64(in);
	events = base_rbuf_u32(in);
	sipi_vector = base_rbuf_u32(in);
	if (!keep) {
		atomic_store(&l->events, events);
		atomic_store(&l->sipi_vector, sipi_vector);
	}
	atomic_store(&l->esr_pending, base_rbuf_u32(in));
	lapic_timer_set_deadline(l, in->error ? 0 : deadline);
}

/* What no guest can have written. */
static bool lapic_plausible(const struct vmm_lapic *l)
{
	uint64_t flags = l->base & ~VMM_LAPIC_BASE;
	uint64_t mode = APIC_BASE_ENABLE | APIC_BASE_X2APIC;

	if ((l->base & VMM_LAPIC_BASE) != VMM_LAPIC_BASE || (flags & ~(mode | APIC_BASE_BSP)) ||
	    (flags & mode) == APIC_BASE_X2APIC)
		return false;
	if (l->tpr > 0xff || l->svr > 0x1ff || (l->dfr & 0x0fffffff) != 0x0fffffff)
		return false;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		if (l->lvt[i] & ~(UINT32_C(0x1a7ff) | LVT_MODE))
			return false;
	if ((l->isr[0] | atomic_load(&l->irr[0])) & 0xffff)
		return false;
	if (lapic_timer_mode(l) == LVT_MODE || (l->divide & ~11u))
		return false;
	return atomic_load(&l->sipi_vector) <= 0xff && atomic_load(&l->events) <= 15;
}

int vmm_lapic_load(struct vmm_lapic *l, struct base_rbuf *in, uint32_t version)
{
	uint32_t id = base_rbuf_u32(in);

	if (version != VMM_LAPIC_STATE_VERSION || (!in->error && id != l->id))
		return -EPROTO;
	lapic_take(l, in, false);
	if (in->error || !lapic_plausible(l)) {
		int err = in->error ? in->error : -EPROTO;

		vmm_lapic_reset(l, false);
		return err;
	}
	lapic_publish(l);
	return 0;
}

/* ---- moving ---- */

void vmm_lapic_go_away(struct vmm_lapic *l)
{
	lapic_timer_set_deadline(l, 0);
	atomic_store(&l->enabled, true);
}

static void lapic_put_event(struct vmm_lapic *l, uint32_t events, uint32_t event,
			    struct vmm_irq_msg msg, void (*put)(void *, const struct vmm_irq_msg *),
			    void *arg)
{
	if (!(events & event))
		return;
	msg.dest = msg.source = l->id;
	msg.assert_level = msg.x2apic_dest = true;
	put(arg, &msg);
}

void vmm_lapic_take_requests(struct vmm_lapic *l,
			     void (*put)(void *arg, const struct vmm_irq_msg *msg), void *arg)
{
	uint32_t events = vmm_lapic_events(l);

	lapic_put_event(l, events, VMM_LAPIC_EV_INIT,
			(struct vmm_irq_msg){.delivery = VMM_IRQ_INIT}, put, arg);
	lapic_put_event(l, events, VMM_LAPIC_EV_SIPI,
			(struct vmm_irq_msg){.delivery = VMM_IRQ_SIPI,
					     .vector = vmm_lapic_sipi_vector(l)},
			put, arg);
	lapic_put_event(l, events, VMM_LAPIC_EV_NMI, (struct vmm_irq_msg){.delivery = VMM_IRQ_NMI},
			put, arg);
	lapic_put_event(l, events, VMM_LAPIC_EV_SMI, (struct vmm_irq_msg){.delivery = VMM_IRQ_SMI},
			put, arg);
	/* Who sets a word sets its bit here afterwards, and then kicks. */
	atomic_store(&l->summary, 0);
	for (unsigned i = 0; i < WORDS; i++) {
		uint32_t bits = atomic_exchange(&l->irr[i], 0), level = atomic_load(&l->tmr[i]);

		for (; bits; bits &= bits - 1) {
			unsigned bit = (unsigned)__builtin_ctz(bits);

			lapic_put_event(l, 1, 1,
					(struct vmm_irq_msg){.delivery = VMM_IRQ_FIXED,
							     .vector = (uint8_t)(32 * i + bit),
							     .level_triggered = level >> bit & 1},
					put, arg);
		}
	}
}

int vmm_lapic_move_in(struct vmm_lapic *l, struct base_rbuf *in, uint32_t version)
{
	uint32_t id = base_rbuf_u32(in);

	if (version != VMM_LAPIC_STATE_VERSION || (!in->error && id != l->id))
		return -EPROTO;
	lapic_take(l, in, true);
	if (in->error || !lapic_plausible(l)) {
		vmm_lapic_go_away(l);
		return in->error ? in->error : -EPROTO;
	}
	lapic_publish(l);
	return 0;
}
