/* The interrupt router, the IOAPIC (0xfec00000, VMM_GSI_COUNT pins) and this slice's LAPICs. */
#ifndef VMM_IRQCHIP_H
#define VMM_IRQCHIP_H

#include "node/vmm/bus.h"
#include "node/vmm/irq.h"
#include "node/vmm/lapic.h"

#define VMM_IOAPIC_BASE UINT64_C(0xfec00000)

/* Carries a message to the slices that own the other targets; NULL for a guest on one host. */
typedef void (*vmm_irq_remote_fn)(void *opaque, uint32_t apic_id, const struct vmm_irq_msg *msg);

/* vcpu_count: of the whole guest (APIC ids 0 .. count-1). Adds the IOAPIC's range to `mmio`. */
BASE_MUST_CHECK int vmm_irqchip_new(unsigned vcpu_count, struct vmm_bus *mmio,
				    struct vmm_irqchip **out);
void vmm_irqchip_free(struct vmm_irqchip *chip);
/* Before vCPUs run. The chip does not own the LAPIC. */
void vmm_irqchip_attach(struct vmm_irqchip *chip, uint32_t apic_id, struct vmm_lapic *l);
void vmm_irqchip_set_remote(struct vmm_irqchip *chip, vmm_irq_remote_fn fn, void *opaque);
/* A LAPIC saw the EOI of a level-triggered vector: the IOAPIC's remote IRR clears, lines re-send.
 */
void vmm_irqchip_eoi(struct vmm_irqchip *chip, uint8_t vector);
void vmm_irqchip_reset(struct vmm_irqchip *chip);
void vmm_irqchip_save(struct vmm_irqchip *chip, struct base_wbuf *out);
BASE_MUST_CHECK int vmm_irqchip_load(struct vmm_irqchip *chip, struct base_rbuf *in,
				     uint32_t version);

#endif
