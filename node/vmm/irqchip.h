/* The interrupt router, the IOAPIC (0xfec00000, VMM_GSI_COUNT pins) and this slice's LAPICs. */
#ifndef VMM_IRQCHIP_H
#define VMM_IRQCHIP_H

#include "node/vmm/bus.h"
#include "node/vmm/irq.h"
#include "node/vmm/lapic.h"

#define VMM_IOAPIC_BASE UINT64_C(0xfec00000)

/*
 * The other slices of a spanning guest; all NULL-able as a whole for a guest on one host. Calls
 * come from any thread and must not block.
 */
struct vmm_irq_remote {
	/* Carries a message to the slice of a LAPIC; there: vmm_irqchip_deliver(). */
	void (*send)(void *opaque, uint32_t apic_id, const struct vmm_irq_msg *msg);
	/* A LAPIC of this slice changed its mode or logical id: tell every other slice, which calls
	 * vmm_irqchip_set_ids(). */
	void (*ids)(void *opaque, uint32_t apic_id, uint64_t ids);
	/* Not the IOAPIC's slice: EOIs and lines go there. NULL on the IOAPIC's own slice. */
	void (*eoi)(void *opaque, uint8_t vector);
	void (*line)(void *opaque, unsigned gsi, bool level);
};

/* vcpu_count: of the whole guest (APIC ids 0 .. count-1). Adds the IOAPIC's range to `mmio`. */
BASE_MUST_CHECK int vmm_irqchip_new(unsigned vcpu_count, struct vmm_bus *mmio,
				    struct vmm_irqchip **out);
void vmm_irqchip_free(struct vmm_irqchip *chip);
/*
 * The chip does not own the LAPIC, which lives as long as vCPUs run. Any thread. After a detach its
 * messages go to another slice; one that is under way may still come to the LAPIC.
 */
void vmm_irqchip_attach(struct vmm_irqchip *chip, uint32_t apic_id, struct vmm_lapic *l);
void vmm_irqchip_detach(struct vmm_irqchip *chip, uint32_t apic_id);
/* Before vCPUs run; `ops` is kept by reference. */
void vmm_irqchip_set_remote(struct vmm_irqchip *chip, const struct vmm_irq_remote *ops,
			    void *opaque);
/* What another slice sent for the LAPIC `apic_id` of this one. Out of range or not ours: dropped.
 */
void vmm_irqchip_deliver(struct vmm_irqchip *chip, uint32_t apic_id, const struct vmm_irq_msg *msg);
/*
 * How a LAPIC is addressed, in one word so that routing needs no lock: see VMM_IRQ_IDS_*. Called by
 * the LAPICs of this slice, and for those of the others by the link.
 */
void vmm_irqchip_set_ids(struct vmm_irqchip *chip, uint32_t apic_id, uint64_t ids);
uint64_t vmm_irqchip_ids(const struct vmm_irqchip *chip, uint32_t apic_id);
/* As the register reads. */
#define VMM_IRQ_IDS_LDR(ids) ((uint32_t)(ids))
#define VMM_IRQ_IDS_FLAT     (UINT64_C(1) << 32)
#define VMM_IRQ_IDS_X2APIC   (UINT64_C(1) << 33)
/* Takes interrupts, not only NMI, INIT and SIPI. */
#define VMM_IRQ_IDS_ENABLED (UINT64_C(1) << 34)
/* A LAPIC saw the EOI of a level-triggered vector: the IOAPIC's remote IRR clears, lines re-send.
 */
void vmm_irqchip_eoi(struct vmm_irqchip *chip, uint8_t vector);
void vmm_irqchip_reset(struct vmm_irqchip *chip);
void vmm_irqchip_save(struct vmm_irqchip *chip, struct base_wbuf *out);
BASE_MUST_CHECK int vmm_irqchip_load(struct vmm_irqchip *chip, struct base_rbuf *in,
				     uint32_t version);

#endif
